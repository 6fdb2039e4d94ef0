"""Replay logs in Redis or Valkey (5 or newer), shared by any number of replicas."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import redis

from ..errors import ConfigurationError
from ..settings import Settings
from . import lua
from .backend import READ_BYTES, Backend, Beat, Block, Change, Status, Unreachable, Write

_PREFIX = "{choreo}:"
_CHANNEL = _PREFIX + "wake"
# Seconds to wait for a connection, a reply, or a free connection of the pool.
_TIMEOUT = 1.0
# One for the keeper, one for the watcher; readers and requests share the others, as each of
# their queries takes well under a millisecond.
_CONNECTIONS = 16
# Seconds for which a stream outlives its time to live while its producer is silent.
_HOLD_SECONDS = 60.0
_HOLD_INTERVAL = 10.0
_LEASE_MS = 60_000  # for cleanup only: LeaseObserver detects lost producers much earlier
_POLL_SECONDS = 0.25


def open_counts(url: str) -> Change:
    """Return the function that changes counts in the Redis at *url*, by compare and swap.

    The step is repeated if another process was faster; mostly one round trip is enough.
    """
    client = connect(url)
    known: dict[str, bytes] = {}  # the last known counts of each key
    clock_offset = 0.0  # seconds by which the clock of Redis is ahead of ours

    def change(key: str, step: Callable[[Any, float], Any]) -> Any:
        nonlocal clock_offset
        swapped = 0
        while not swapped:
            # The default never matches, so that the clock is read before the first change.
            old = known.get(key, b" {}")
            counts = json.loads(old)
            result = step(counts, time.time() + clock_offset)
            new = json.dumps(counts).encode()
            swapped, old, seconds, microseconds = run(client, lua.SWAP, key, old, new)
            known[key] = new if swapped else old
            clock_offset = int(seconds) + int(microseconds) / 1e6 - time.time()
        return result

    weakref.finalize(change, client.connection_pool.disconnect)
    return change


def connect(url: str) -> Any:
    """Return a client for the Redis at *url*, which connects at its first use.

    Raises ConfigurationError for an invalid address.
    """
    scheme, colon, rest = url.partition(":")
    if not re.fullmatch(r"[^?#]*//[^/?#]*(/[0-9]*)?([?#].*)?|unix:.*", url, re.S):
        raise ConfigurationError("replay: a redis address is redis://HOST:PORT/NUMBER")
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    try:
        pool = redis.BlockingConnectionPool.from_url(
            scheme + colon + rest,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
        )
    except (ValueError, TypeError):
        # Without the cause: the address may contain a password.
        raise ConfigurationError("replay: the redis address is invalid") from None
    return redis.Redis(connection_pool=pool)


class RedisBackend(Backend):
    """The database at *url*: ``redis://``, ``rediss://`` (TLS) or ``unix://``."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._client = connect(url)
        self._run = partial(run, self._client)
        self._append = self._client.register_script(lua.PRELUDE + lua.WRITE)
        self._ttl = str(int(settings.replay_ttl_seconds * 1000))
        self._hold = str(int((settings.replay_ttl_seconds + _HOLD_SECONDS) * 1000))
        self._stream_bytes = str(settings.replay_stream_bytes)
        self._origin = secrets.token_hex(8).encode()
        self._held_at = time.monotonic()
        self._subscription: Any = None

    def insert(
        self, id: str, owner: str, key: str | None, digest: str, producer: str
    ) -> tuple[str, str] | None:
        name = ""
        if key is not None:
            # Hashed, as owner and key may contain any character.
            name = hashlib.sha256(f"{len(owner)}:{owner}{key}".encode()).hexdigest()
        known = self._run(lua.INSERT, id, owner, producer, digest, name, self._hold)
        return (known[0].decode(), known[1].decode()) if known else None

    def write(self, producer: str, writes: Sequence[Write]) -> list[bool]:
        with _raising_unreachable():
            replies = self._write(producer, writes)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                self._client.script_load(self._append.script)
                replies = self._write(producer, writes)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return [reply == 1 for reply in replies]

    def _write(self, producer: str, writes: Sequence[Write]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for write in writes:
            blocks = [part for block in write.blocks for part in block]
            pipeline.evalsha(
                self._append.sha,
                1,
                _PREFIX,
                *(write.id, write.owner, producer, write.last, int(write.end)),
                *(self._ttl, self._hold, self._stream_bytes),
                *blocks,
            )
        pipeline.publish(_CHANNEL, b" ".join([self._origin, *(w.id.encode() for w in writes)]))
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies[:-1]

    def fetch(self, id: str, after: int | None) -> tuple[Status, list[Block]] | None:
        reply = self._run(lua.FETCH, id, "" if after is None else after, READ_BYTES)
        if not reply:
            return None
        fields, beat, rows = reply
        owner, first, last, ended, cancelled, producer = fields
        status = Status(
            owner=owner.decode(),
            first=int(first),
            last=int(last),
            ended=ended == b"1",
            cancelled=cancelled == b"1",
            producer=producer.decode(),
            beat=None if beat is None else int(beat),
        )
        return status, [Block(int(first), int(last), data) for first, last, data in rows]

    def mark(self, id: str, mark: Literal["cancelled", "read"]) -> None:
        self._run(lua.MARK, id, mark)

    def end(self, id: str, seen: Status, block: Block) -> None:
        beat = "" if seen.beat is None else seen.beat
        self._run(lua.END, id, seen.producer, seen.last, beat, self._ttl, *block)
        with _raising_unreachable():
            self._client.publish(_CHANNEL, b" ".join([self._origin, id.encode()]))

    def delete(self, id: str) -> None:
        self._run(lua.DELETE, id)

    def free_key(self, id: str) -> None:
        self._run(lua.FREE_KEY, id)

    def has_lease(self, producer: str) -> bool:
        with _raising_unreachable():
            return bool(self._client.exists(f"{_PREFIX}p:{producer}"))

    def beat(self, producer: str, running: Sequence[str]) -> Beat:
        now = time.monotonic()
        hold = self._hold if now >= self._held_at + _HOLD_INTERVAL else ""
        count, *marked = self._run(lua.BEAT, producer, _LEASE_MS, hold, *running)
        self._held_at = now if hold else self._held_at
        cancelled, read = ([id.decode() for id in ids] for ids in marked)
        return Beat(count == 1, cancelled, read)

    def wait_for_changes(
        self, waiting: Callable[[], Mapping[str, int]], stop: threading.Event
    ) -> Iterable[str]:
        try:
            with _raising_unreachable():
                if self._subscription is None:
                    self._subscription = self._client.pubsub()
                    self._subscription.subscribe(_CHANNEL)
                return self._listen(waiting)
        except Unreachable:
            self._subscription.close()
            self._subscription = None
            raise

    def _listen(self, waiting: Callable[[], Iterable[str]]) -> set[str]:
        """Return the ids of the streams that other replicas have written to."""
        grown: set[str] = set()
        message = self._subscription.get_message(timeout=_POLL_SECONDS)
        while message is not None:
            if message["type"] == "subscribe":  # at first, or redis-py has connected again
                grown.update(waiting())  # earlier messages were missed
            else:
                writer, *ids = message["data"].split(b" ")
                if writer != self._origin:
                    grown.update(id.decode() for id in ids)
            message = self._subscription.get_message(timeout=0) if len(grown) < 1000 else None
        return grown

    def release_lease(self, producer: str) -> None:
        with _raising_unreachable():
            self._client.set(f"{_PREFIX}p:{producer}", -1, px=_LEASE_MS)
            self._client.publish(_CHANNEL, self._origin)  # ignored by our own watcher

    def close(self) -> None:
        self._client.connection_pool.disconnect()


def run(client: Any, script: str, *values: object) -> Any:
    """Run *script* through *client* and return its reply; raises Unreachable."""
    with _raising_unreachable():
        return client.register_script(lua.PRELUDE + script)([_PREFIX], values)


@contextlib.contextmanager
def _raising_unreachable() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error
