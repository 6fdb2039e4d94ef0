"""The SQLite file: its schema, and a connection to it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .backend import Unreachable

# Seconds to wait for another process's transaction; all transactions are short.
_BUSY = 1.0
# WAL: readers and the writer do not wait for each other.  With it, synchronous=NORMAL loses
# nothing if a process is killed, and does not corrupt the file if the machine fails.  The cache of
# 512 KiB would be filled by one large stored response, whatever its size.
_PRAGMAS = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; "
    "PRAGMA journal_size_limit=1048576; PRAGMA cache_size=-512;"
)
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
    read INTEGER NOT NULL DEFAULT 0,
    expires REAL  -- by the machine's monotonic clock; NULL while the producer is alive
);
CREATE UNIQUE INDEX stream_key ON stream (owner, key) WHERE key IS NOT NULL;
CREATE INDEX stream_running ON stream (producer) WHERE NOT ended;
CREATE INDEX stream_expires ON stream (expires) WHERE expires IS NOT NULL;
CREATE TABLE block (
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL,
    part INTEGER NOT NULL,  -- from 0: SQLite holds several copies of a value that it writes
    first INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (stream, last, part)
) WITHOUT ROWID;
CREATE TABLE producer (id TEXT PRIMARY KEY, beat INTEGER NOT NULL);
CREATE TABLE limits (key TEXT PRIMARY KEY, counts TEXT NOT NULL);
"""
_VERSION = 6  # of the schema, in PRAGMA user_version
_TABLES = ("stream", "request", "block", "producer", "seen", "limits")


class Database:
    """A connection to the file *path*; each transaction starts with the statement *begin*.

    It is opened at the first use, and again after a failure.  Every failure raises Unreachable.
    """

    def __init__(self, path: Path, begin: str = "BEGIN IMMEDIATE") -> None:
        self._path = path
        self._begin = begin
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._inode = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for one transaction; an exception rolls it back."""
        with self._lock:
            try:
                if self._db is None:
                    self._db = connect(self._path)
                    self._inode = self._path.stat().st_ino
                self._check_file()
                self._db.execute(self._begin)
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                self._close()
                raise Unreachable(f"{type(error).__name__}: {error}") from error

    def _check_file(self) -> None:
        """Raise OSError if the path is another file now, where others would miss our frames."""
        found = self._path.stat()
        if found.st_ino == self._inode and found.st_size:
            return
        if found.st_ino == self._inode:
            # The file was truncated, and stays locked while a process has it open: delete it.
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        raise OSError("the file was replaced")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        # SQLite itself reuses the write-ahead log only from 4 MB on.  If the disk is full before
        # that, every later transaction would fail too.
        for step in (partial(db.execute, "PRAGMA wal_checkpoint"), db.close):
            with contextlib.suppress(sqlite3.Error):
                step()


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to the file *path*, created if needed; raises sqlite3.Error."""
    # Readable by its owner only, as it holds conversations.  An existing file is not opened here:
    # closing a second descriptor of a file drops the locks that SQLite holds on it.
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
            # The switch to WAL fails at once while another process does the same.
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
    if version() < _VERSION:  # checked again, as another process may have been faster
        for name in _TABLES:  # dropped, not migrated: logs live for minutes
            db.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={_VERSION}")
    db.execute("COMMIT")
