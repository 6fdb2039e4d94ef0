"""Replay logs in an SQLite file: they survive a restart, and processes of a host share them."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError
from ..settings import Settings
from .backend import READ_BYTES, Backend, Beat, Block, Change, Status, Write
from .database import Database, connect

# Seconds between two polls for frames of other processes.
_POLL = 0.04
_STATUS = (
    "SELECT owner, first, last, ended, cancelled, producer, "
    "(SELECT beat FROM producer WHERE producer.id = stream.producer), number "
    "FROM stream WHERE id = ? AND (expires IS NULL OR expires > ?)"
)
_INSERT = "INSERT OR IGNORE INTO stream (id, owner, key, digest, producer) VALUES (?, ?, ?, ?, ?)"


def open_counts(url: str) -> Change:
    """Return the function that changes counts, in a separate file without frames to wait for."""
    file = Database(Path(f"{url.partition(':')[2]}-limits"))

    def change(key: str, step: Callable[[Any, float], Any]) -> Any:
        with file.transaction() as db:
            row = db.execute("SELECT counts FROM limits WHERE key = ?", (key,)).fetchone()
            counts = json.loads(row[0]) if row else {}
            result = step(counts, time.time())
            db.execute("REPLACE INTO limits VALUES (?, ?)", (key, json.dumps(counts)))
        return result

    weakref.finalize(change, file.close)
    return change


class SQLiteBackend(Backend):
    """The streams in the file of *url*, ``sqlite:PATH``, which is created if needed."""

    def __init__(self, url: str, settings: Settings) -> None:
        path = Path(url.partition(":")[2])
        if not path.name or re.match(r"sqlite://[^/]", url):
            raise ConfigurationError(f"replay: {url!r} names no file: write sqlite:PATH")
        if not path.absolute().parent.is_dir():
            raise ConfigurationError(f"replay: there is no directory {str(path.parent)!r}")
        try:
            connect(path).close()
        except (sqlite3.Error, OSError) as error:
            # A busy file or a failing disk does not stop the server: other requests still work.
            if not re.search("locked|malformed|disk", str(error)):
                raise ConfigurationError(f"replay: {url!r} cannot be used: {error}") from error
        # Two connections for all threads: one for each would mean a cache and file descriptors
        # for each of a thousand streams.
        self._file = Database(path)
        self._snapshots = Database(path, "BEGIN")
        self.ttl = settings.replay_ttl_seconds
        self.stream_bytes = settings.replay_stream_bytes
        self.total_bytes = settings.replay_total_bytes
        self._version = -1

    def insert(
        self, id: str, owner: str, key: str | None, digest: str, producer: str
    ) -> tuple[str, str] | None:
        with self._file.transaction() as db:
            if key is not None:
                self._remove_expired(db)
                known: tuple[str, str] | None = db.execute(
                    "SELECT id, digest FROM stream WHERE owner = ? AND key = ?", (owner, key)
                ).fetchone()
                if known is not None:
                    return known
            db.execute(_INSERT, (id, owner, key, digest, producer))
        return None

    def write(self, producer: str, writes: Sequence[Write]) -> list[bool]:
        with self._file.transaction() as db:
            return [self._append(db, producer, write) for write in writes]

    def _append(self, db: sqlite3.Connection, producer: str, write: Write) -> bool:
        db.execute(_INSERT, (write.id, write.owner, None, "", producer))
        number, writer, first, last, size, ended = db.execute(
            "SELECT number, producer, first, last, size, ended FROM stream WHERE id = ?",
            (write.id,),
        ).fetchone()
        if writer != producer or ended:
            return bool(writer == producer)
        for block in write.blocks:
            if block.last <= last:
                continue
            if block.first > last + 1:
                db.execute("DELETE FROM block WHERE stream = ?", (number,))
                first, size = block.first, 0
            for part, at in enumerate(range(0, len(block.data), READ_BYTES)):
                piece = block.data[at : at + READ_BYTES]
                row = (number, block.last, part, block.first, piece)
                db.execute("INSERT INTO block VALUES (?, ?, ?, ?, ?)", row)
            last = block.last
            size += len(block.data)
        if write.last > last:
            db.execute("DELETE FROM block WHERE stream = ?", (number,))
            first, last, size = write.last + 1, write.last, 0
        if size > self.stream_bytes:
            first, size = self._trim(db, number, size, self.stream_bytes)
        expires = time.monotonic() + self.ttl if write.end else None
        db.execute(
            "UPDATE stream SET first = ?, last = ?, size = ?, ended = ?, expires = ? "
            "WHERE number = ?",
            (first, last, size, write.end, expires, number),
        )
        return True

    @staticmethod
    def _trim(db: sqlite3.Connection, number: int, size: int, limit: int) -> tuple[int, int]:
        """Drop the oldest blocks; return the first number and the size that remain."""
        dropped = -1
        rows = db.execute(
            "SELECT last, sum(length(data)) FROM block WHERE stream = ? GROUP BY last", (number,)
        )
        for last, length in rows:
            if size <= limit:
                break
            dropped = last
            size -= length
        rows.close()
        db.execute("DELETE FROM block WHERE stream = ? AND last <= ?", (number, dropped))
        return dropped + 1, size

    def fetch(self, id: str, after: int | None) -> tuple[Status, list[Block]] | None:
        with self._snapshots.transaction() as db:
            row = db.execute(_STATUS, (id, time.monotonic())).fetchone()
            if row is None:
                return None
            owner, first, last, ended, cancelled, *rest, number = row
            status = Status(owner, first, last, bool(ended), bool(cancelled), *rest)
            blocks: list[Block] = []
            if after is not None and status.last > after:
                size = 0
                rows = db.execute(
                    "SELECT first, last, data FROM block WHERE stream = ? AND last > ? "
                    "ORDER BY last, part",
                    (number, after),
                )
                for (first, last), parts in groupby(rows, itemgetter(0, 1)):
                    data = io.BytesIO()
                    data.writelines(part for _, _, part in parts)
                    blocks.append(Block(first, last, data.getvalue()))
                    size += len(blocks[-1].data)
                    if size >= READ_BYTES:
                        break
                rows.close()
            return status, blocks

    def mark(self, id: str, mark: Literal["cancelled", "read"]) -> None:
        with self._file.transaction() as db:
            db.execute(f"UPDATE stream SET {mark} = 1 WHERE id = ? AND NOT ended", (id,))

    def end(self, id: str, seen: Status, block: Block) -> None:
        expires = time.monotonic() + self.ttl
        with self._file.transaction() as db:
            updated = db.execute(
                "UPDATE stream SET producer = '', ended = 1, last = ?, size = size + ?, "
                "expires = ? WHERE id = ? AND producer = ? AND last = ? AND NOT ended "
                "AND (SELECT beat FROM producer WHERE producer.id = stream.producer) IS ?",
                (block.last, len(block.data), expires, id, seen.producer, seen.last, seen.beat),
            )
            if updated.rowcount:
                db.execute(
                    "INSERT INTO block SELECT number, ?, 0, ?, ? FROM stream WHERE id = ?",
                    (block.last, block.first, block.data, id),
                )

    def delete(self, id: str) -> None:
        with self._file.transaction() as db:
            self._remove(db, "id = ?", (id,))

    def free_key(self, id: str) -> None:
        with self._file.transaction() as db:
            db.execute("UPDATE stream SET key = NULL WHERE id = ?", (id,))

    def beat(self, producer: str, running: Sequence[str]) -> Beat:
        with self._file.transaction() as db:
            known = db.execute("UPDATE producer SET beat = beat + 1 WHERE id = ?", (producer,))
            if fresh := not known.rowcount:
                db.execute("INSERT INTO producer VALUES (?, 0)", (producer,))
            marked = "SELECT id FROM stream WHERE producer = ? AND NOT ended AND"
            cancelled, read = (
                [id for (id,) in db.execute(f"{marked} {mark}", (producer,))]
                for mark in ("cancelled", "read")
            )
            if read:
                db.execute("UPDATE stream SET read = 0 WHERE producer = ? AND read", (producer,))
        return Beat(fresh, cancelled, read)

    def sweep(self, lost: Callable[[str, int | None], bool]) -> None:
        with self._file.transaction() as db:
            self._remove_expired(db)
            producers = db.execute(
                "SELECT id, beat FROM producer UNION "
                "SELECT producer, NULL FROM stream WHERE NOT ended "
                "AND producer NOT IN (SELECT id FROM producer)"
            ).fetchall()
            for producer, beat in producers:
                if lost(producer, beat):
                    # Its streams stay until they expire, for readers that may end them.
                    db.execute(
                        "UPDATE stream SET expires = ? "
                        "WHERE producer = ? AND NOT ended AND expires IS NULL",
                        (time.monotonic() + self.ttl, producer),
                    )
                    db.execute(
                        "DELETE FROM producer WHERE id = ? AND NOT EXISTS "
                        "(SELECT 1 FROM stream WHERE producer = ? AND NOT ended)",
                        (producer, producer),
                    )
            self._enforce_limit(db)

    def _enforce_limit(self, db: sqlite3.Connection) -> None:
        """If all streams exceed the limit, drop streams and frames until they are 10 % below."""
        (total,) = db.execute("SELECT coalesce(sum(size), 0) FROM stream").fetchone()
        if total <= self.total_bytes:
            return
        goal = self.total_bytes * 9 // 10
        ended = db.execute("SELECT id, size FROM stream WHERE ended ORDER BY expires").fetchall()
        for id, size in ended:
            if total <= goal:
                return
            self._remove(db, "id = ?", (id,))
            total -= size
        largest = db.execute("SELECT number, size FROM stream ORDER BY size DESC").fetchall()
        for number, size in largest:
            if total <= goal:
                return
            first, rest = self._trim(db, number, size, size // 2)
            db.execute(
                "UPDATE stream SET first = ?, size = ? WHERE number = ?", (first, rest, number)
            )
            total -= size - rest

    def _remove_expired(self, db: sqlite3.Connection) -> None:
        now = time.monotonic()
        self._remove(db, "expires <= ?", (now,))
        # A time further ahead than the TTL was set before the machine was restarted.
        db.execute("UPDATE stream SET expires = ? WHERE expires > ?", (now + self.ttl,) * 2)

    @staticmethod
    def _remove(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> None:
        condition = f"SELECT number FROM stream WHERE {where}"
        db.execute(f"DELETE FROM block WHERE stream IN ({condition})", values)
        db.execute(f"DELETE FROM stream WHERE {where}", values)

    def wait_for_changes(
        self, waiting: Callable[[], Mapping[str, int]], stop: threading.Event
    ) -> Iterable[str]:
        stop.wait(_POLL)
        with self._snapshots.transaction() as db:
            # data_version changes when another connection has written; it is cheap to read.
            (version,) = db.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return []
            self._version = version
            found = []
            for id, last in waiting().items():
                row = db.execute("SELECT last, ended FROM stream WHERE id = ?", (id,)).fetchone()
                if row is None or row[0] > last or row[1]:
                    found.append(id)
            return found

    def release_lease(self, producer: str) -> None:
        with self._file.transaction() as db:
            db.execute("UPDATE producer SET beat = -1 WHERE id = ?", (producer,))

    def close(self) -> None:
        self._snapshots.close()
        self._file.close()
