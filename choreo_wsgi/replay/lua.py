"""The Lua scripts of the Redis backend; each runs atomically.

All keys share the hash tag ``{choreo}``, so that they live in one slot:

=================  =====================================================================
``s:<id>``         hash: a stream, all but its frames
``f:<id>``         stream: its blocks, entry ``<last number>-0`` with fields ``f`` (the
                   first number) and ``b`` (the frames)
``k:<digest>``     string: the stream that an idempotency key names, and its body's digest
``p:<producer>``   string: the beat of a producer's lease
``limit:<key>``    string: the counts for the limits of a key, as JSON
``wake``           channel: the ids of streams that have grown
=================  =====================================================================

Every key expires: a running stream unless its producer renews it, an ended one after its TTL.
Redis itself bounds the memory of all streams (``maxmemory``).
"""

from __future__ import annotations

#: The functions that precede each script.
PRELUDE = """
local P = KEYS[1]
local call = redis.call
local function make(id, owner, producer, key)
  call('HSET', P .. 's:' .. id, 'owner', owner, 'producer', producer, 'first', 1, 'last', 0,
    'size', 0, 'ended', 0, 'cancelled', 0, 'key', key)
end
local function expire(id, ms)
  call('PEXPIRE', P .. 's:' .. id, ms)
  call('PEXPIRE', P .. 'f:' .. id, ms)
  local key = call('HGET', P .. 's:' .. id, 'key')
  if key and key ~= '' then call('PEXPIRE', P .. 'k:' .. key, ms) end
end
local function free_key(id)
  local key = call('HGET', P .. 's:' .. id, 'key')
  if key and key ~= '' then
    call('DEL', P .. 'k:' .. key)
    call('HSET', P .. 's:' .. id, 'key', '')
  end
end
"""

#: id, owner, producer, body's digest, key's digest or '', hold ms
INSERT = """
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
make(id, ARGV[2], ARGV[3], key)
if key ~= '' then call('SET', P .. 'k:' .. key, id .. ' ' .. ARGV[4]) end
expire(id, hold)
return false
"""

#: id, owner, producer, last, ends (0 or 1), ttl ms, hold ms, limit, then first, last, frames ...
WRITE = """
local id, producer, final, ends = ARGV[1], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local s, f, limit = P .. 's:' .. id, P .. 'f:' .. id, tonumber(ARGV[8])
if call('EXISTS', s) == 0 then
  call('DEL', f)
  make(id, ARGV[2], producer, '')
end
local known = call('HMGET', s, 'producer', 'first', 'last', 'size', 'ended')
if known[1] ~= producer then return 0 end
if known[5] == '1' then return 1 end
local first, last, size = tonumber(known[2]), tonumber(known[3]), tonumber(known[4])
for i = 9, #ARGV, 3 do
  local from, number, data = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  if number > last then
    if from > last + 1 then
      call('DEL', f)
      first, size = from, 0
    end
    call('XADD', f, ARGV[i + 1] .. '-0', 'f', from, 'b', data)
    last, size = number, size + #data
  end
end
if final > last then
  call('DEL', f)
  first, last, size = final + 1, final, 0
end
while size > limit do
  local row = call('XRANGE', f, '-', '+', 'COUNT', 1)[1]
  call('XDEL', f, row[1])
  first, size = tonumber(string.match(row[1], '^%d+')) + 1, size - #row[2][4]
end
call('HSET', s, 'first', first, 'last', last, 'size', size, 'ended', ends)
expire(id, ends == '1' and ARGV[6] or ARGV[7])
return 1
"""

#: id, after or '', bytes
FETCH = """
local id, after, wanted = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = call('HMGET', P .. 's:' .. id, 'owner', 'first', 'last', 'ended',
  'cancelled', 'producer')
if not known[1] then return false end
local beat = call('GET', P .. 'p:' .. known[6])
local blocks = {}
while after ~= '' and wanted > 0 do
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
"""

#: id, cancelled or read
MARK = """
local s = P .. 's:' .. ARGV[1]
if call('HGET', s, 'ended') == '0' then call('HSET', s, ARGV[2], 1) end
"""

#: id, producer, last, beat or '', ttl ms, then first, last, frames of the end
END = """
local id, producer = ARGV[1], ARGV[2]
local s = P .. 's:' .. id
local known = call('HMGET', s, 'producer', 'last', 'ended')
if known[1] ~= producer or known[2] ~= ARGV[3] or known[3] ~= '0' then return end
if (call('GET', P .. 'p:' .. producer) or '') ~= ARGV[4] then return end
call('XADD', P .. 'f:' .. id, ARGV[7] .. '-0', 'f', ARGV[6], 'b', ARGV[8])
call('HSET', s, 'producer', '', 'last', ARGV[7], 'ended', 1)
expire(id, ARGV[5])
"""

#: id
DELETE = """
free_key(ARGV[1])
call('DEL', P .. 's:' .. ARGV[1], P .. 'f:' .. ARGV[1])
"""

#: key's id, its expected counts, its new counts
SWAP = """
local name = P .. 'limit:' .. ARGV[1]
local counts = call('GET', name) or '{}'
local known = counts == ARGV[2]
if known then call('SET', name, ARGV[3], 'EX', 86400) end
return {known and 1 or 0, counts, unpack(call('TIME'))}
"""

#: id
FREE_KEY = "free_key(ARGV[1])"

#: producer, lease ms, hold ms or '', then the ids of its running streams; the hold renews their
#: expiry, as they may be silent
BEAT = """
local p, cancelled, read = P .. 'p:' .. ARGV[1], {}, {}
local count = call('INCR', p)
call('PEXPIRE', p, ARGV[2])
for i = 4, #ARGV do
  local s = P .. 's:' .. ARGV[i]
  local known = call('HMGET', s, 'ended', 'cancelled', 'read')
  if known[1] == '0' then
    if known[2] == '1' then cancelled[#cancelled + 1] = ARGV[i] end
    if known[3] == '1' then
      read[#read + 1] = ARGV[i]
      call('HSET', s, 'read', 0)
    end
    if ARGV[3] ~= '' then expire(ARGV[i], ARGV[3]) end
  end
end
return {count, cancelled, read}
"""
