"""The scripts of the Redis backend: each is one atomic step.

All keys share the hash tag ``{choreo}``, so that they live in one slot:

=================  =====================================================================
``s:<id>``         hash: a stream, all but its frames
``f:<id>``         stream: its blocks, entry ``<last number>-0`` with fields ``f`` (the
                   first number) and ``b`` (the frames)
``k:<digest>``     string: the stream that an idempotency key names, and its body's digest
``p:<producer>``   string: the beat of a producer's lease
``c:<producer>``   set: its streams that are cancelled
``r:<producer>``   set: its streams that were read since it last looked
``wake``           channel: which streams have grown
=================  =====================================================================

Everything expires by itself: what is running unless its producer cares, what has ended by
its TTL.  How much all of it may take is for Redis to bound (``maxmemory``).
"""

from __future__ import annotations

import hashlib

_PRELUDE = """
local P = KEYS[1]
local call = redis.call
local function expire(id, ms)
  call('PEXPIRE', P .. 's:' .. id, ms)
  call('PEXPIRE', P .. 'f:' .. id, ms)
  local key = call('HGET', P .. 's:' .. id, 'key')
  if key and key ~= '' then call('PEXPIRE', P .. 'k:' .. key, ms) end
end
local function free_key(id)
  local key = call('HGET', P .. 's:' .. id, 'key')
  if key and key ~= '' then
    local known = call('GET', P .. 'k:' .. key)
    if known and string.sub(known, 1, #id) == id then call('DEL', P .. 'k:' .. key) end
    call('HSET', P .. 's:' .. id, 'key', '')
  end
end
local function trim(id, size, limit)
  local first
  while size > limit do
    local rows = call('XRANGE', P .. 'f:' .. id, '-', '+', 'COUNT', 64)
    if #rows == 0 then break end
    for _, row in ipairs(rows) do
      if size <= limit then break end
      call('XDEL', P .. 'f:' .. id, row[1])
      first = tonumber(string.match(row[1], '^%d+')) + 1
      size = size - #row[2][4]
    end
  end
  return first, size
end
"""


class Script:
    """A script, and the digest by which the server knows it."""

    def __init__(self, text: str) -> None:
        self.text = _PRELUDE + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: id, owner, producer, body's digest, key's digest or '', hold ms
INSERT = Script("""
local id, key, hold = ARGV[1], ARGV[5], ARGV[6]
if key ~= '' then
  local known = call('GET', P .. 'k:' .. key)
  if known then
    local at = string.find(known, ' ', 1, true)
    local other = string.sub(known, 1, at - 1)
    if call('EXISTS', P .. 's:' .. other) == 1 then
      return {other, string.sub(known, at + 1)}
    end
  end
end
if call('EXISTS', P .. 's:' .. id) == 1 then return false end
call('HSET', P .. 's:' .. id, 'owner', ARGV[2], 'producer', ARGV[3],
  'first', 1, 'last', 0, 'size', 0, 'ended', 0, 'cancelled', 0,
  'key', key)
if key ~= '' then call('SET', P .. 'k:' .. key, id .. ' ' .. ARGV[4]) end
expire(id, hold)
return false
""")

#: id, producer, last, ends (0 or 1), ttl ms, hold ms, limit, then previous, first, last, frames ...
WRITE = Script("""
local id, producer, final, ends = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local s, f = P .. 's:' .. id, P .. 'f:' .. id
local known = call('HMGET', s, 'producer', 'first', 'last', 'size', 'ended')
if not known[1] then return 'missing' end
if known[1] ~= producer then return 'fenced' end
if known[5] == '1' then return 'done' end
local first, last, size = tonumber(known[2]), tonumber(known[3]), tonumber(known[4])
for i = 8, #ARGV, 4 do
  local number, data = tonumber(ARGV[i + 2]), ARGV[i + 3]
  if number > last then
    if tonumber(ARGV[i]) > last then
      call('DEL', f)
      first, size = tonumber(ARGV[i + 1]), 0
    end
    call('XADD', f, ARGV[i + 2] .. '-0', 'f', ARGV[i + 1], 'b', data)
    last, size = number, size + #data
  end
end
if final > last then
  call('DEL', f)
  first, last, size = final + 1, final, 0
end
local from, left = trim(id, size, tonumber(ARGV[7]))
first, size = from or first, left
call('HSET', s, 'first', first, 'last', last, 'size', size, 'ended', ends)
if ends == '1' then call('SREM', P .. 'c:' .. producer, id) end
expire(id, ends == '1' and ARGV[5] or ARGV[6])
return 'done'
""")

#: id, after or '', bytes
FETCH = Script("""
local id, after, wanted = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = call('HMGET', P .. 's:' .. id, 'owner', 'first', 'last', 'ended',
  'cancelled', 'producer')
if not known[1] then return false end
local beat = call('GET', P .. 'p:' .. known[6])
local blocks = {}
while after ~= '' and tonumber(known[3]) > tonumber(after) and wanted > 0 do
  local rows = call('XRANGE', P .. 'f:' .. id, after .. '-1', '+', 'COUNT', 64)
  if #rows == 0 then break end
  for _, row in ipairs(rows) do
    if wanted <= 0 then break end
    after = string.match(row[1], '^%d+')
    blocks[#blocks + 1] = {row[2][2], after, row[2][4]}
    wanted = wanted - #row[2][4]
  end
end
return {known, beat, blocks}
""")

#: id
CANCEL = Script("""
local known = call('HMGET', P .. 's:' .. ARGV[1], 'ended', 'producer')
if known[1] == '0' then
  call('HSET', P .. 's:' .. ARGV[1], 'cancelled', 1)
  call('SADD', P .. 'c:' .. known[2], ARGV[1])
  call('PEXPIRE', P .. 'c:' .. known[2], 3600000)
end
""")

#: id, producer, last, beat or '', ttl ms, then first, last, frames of the end
END = Script("""
local id, producer = ARGV[1], ARGV[2]
local s = P .. 's:' .. id
local known = call('HMGET', s, 'producer', 'last', 'ended')
if known[1] ~= producer or known[2] ~= ARGV[3] or known[3] ~= '0' then return end
if (call('GET', P .. 'p:' .. producer) or '') ~= ARGV[4] then return end
call('XADD', P .. 'f:' .. id, ARGV[7] .. '-0', 'f', ARGV[6], 'b', ARGV[8])
call('HINCRBY', s, 'size', #ARGV[8])
call('HSET', s, 'producer', '', 'last', ARGV[7], 'ended', 1)
call('SREM', P .. 'c:' .. producer, id)
expire(id, ARGV[5])
""")

#: id
DELETE = Script("""
free_key(ARGV[1])
call('DEL', P .. 's:' .. ARGV[1], P .. 'f:' .. ARGV[1])
""")

#: id
FREE_KEY = Script("free_key(ARGV[1])")

#: producer, lease ms
BEAT = Script("""
local p, c, r = P .. 'p:' .. ARGV[1], P .. 'c:' .. ARGV[1], P .. 'r:' .. ARGV[1]
local count = call('INCR', p)
call('PEXPIRE', p, ARGV[2])
call('PEXPIRE', c, 3600000)
local read = call('SMEMBERS', r)
if #read > 0 then call('DEL', r) end
return {count, call('SMEMBERS', c), read}
""")

#: hold ms, then ids: streams whose producer is there, though it may be silent
HOLD = Script("""
for i = 2, #ARGV do
  if call('HGET', P .. 's:' .. ARGV[i], 'ended') == '0' then expire(ARGV[i], ARGV[1]) end
end
""")
