"""The SQLite file: its schema and its connections."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .backend import Unreachable

# Seconds to wait for another process's transaction.  All of ours are short.
_BUSY = 1.0
# WAL: readers and the writer do not wait for each other.  In it, synchronous=NORMAL loses
# nothing when a process is killed, and cannot corrupt the file when the machine is.
_PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=1048576;"
_SCHEMA = """
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    digest TEXT NOT NULL,
    producer TEXT NOT NULL,
    first INTEGER NOT NULL DEFAULT 1,
    last INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    expires REAL  -- by the steady clock of the machine; NULL while there is a producer
);
CREATE UNIQUE INDEX stream_key ON stream (owner, key) WHERE key IS NOT NULL;
CREATE INDEX stream_running ON stream (producer) WHERE NOT ended;
CREATE INDEX stream_expires ON stream (expires) WHERE expires IS NOT NULL;
CREATE TABLE block (
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (stream, last)
) WITHOUT ROWID;
CREATE TABLE producer (id TEXT PRIMARY KEY, beat INTEGER NOT NULL);
CREATE TABLE seen (
    producer TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (producer, id)
) WITHOUT ROWID;
CREATE TABLE limits (key TEXT PRIMARY KEY, counts TEXT NOT NULL);
"""
_VERSION = 4  # of the schema, in PRAGMA user_version
_TABLES = ("stream", "request", "block", "producer", "seen", "limits")


class Database:
    """The file *path*; every failure raises Unreachable.

    One connection writes and one reads, each under its lock: with a connection a thread, a
    thousand streams would be a thousand caches and file descriptors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one transaction, which an exception rolls back.

        Without *wait* it fails at once while there is another.
        """
        if not self._write_lock.acquire(wait):
            raise Unreachable("another thread is at it")
        try:
            with _translated():
                self._writing = self._writing or connect(self._path)
                self._writing.execute(f"PRAGMA busy_timeout={1000 * _BUSY * wait:.0f}")
                with _within(self._writing, "BEGIN IMMEDIATE"):
                    yield self._writing
        finally:
            self._write_lock.release()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that reads one snapshot of the file."""
        with self.reading() as db, _within(db, "BEGIN"):
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose statements each read the current state."""
        with self._read_lock, _translated():
            self._reading = self._reading or connect(self._path)
            yield self._reading

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            for connection in (self._reading, self._writing):
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            self._reading = self._writing = None


@contextlib.contextmanager
def _within(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to the file *path*, created if needed; raises sqlite3.Error."""
    # Created for its owner alone, as it holds conversations.  Not opened if it exists: closing a
    # second descriptor of a file drops the locks that SQLite holds.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    deadline = time.monotonic() + _BUSY
    while True:
        try:
            db.executescript(_PRAGMAS)
            _prepare(db)
            return db
        except sqlite3.OperationalError:
            # The switch to WAL does not wait for another process that does it just now.
            if db.in_transaction:
                db.execute("ROLLBACK")
            if time.monotonic() >= deadline:
                db.close()
                raise
            time.sleep(0.02)
        except BaseException:
            db.close()
            raise


def _prepare(db: sqlite3.Connection) -> None:
    def version() -> int:
        (number,) = db.execute("PRAGMA user_version").fetchone()
        if number > _VERSION:
            raise sqlite3.DatabaseError(f"written by a newer version ({number})")
        return int(number)

    if version() == _VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    if version() < _VERSION:  # checked again: another process may have been faster
        for name in _TABLES:  # not converted: logs live for minutes
            db.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={_VERSION}")
    db.execute("COMMIT")
