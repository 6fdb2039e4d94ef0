"""The SQLite file: what is in it, and how it is opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

# Seconds to wait for another process's transaction.  All of ours are short.
_BUSY = 1.0
# WAL: readers and the writer do not wait for each other.  In it, synchronous=NORMAL loses
# nothing when a process is killed, and cannot corrupt the file when the machine is.
_PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=1048576;"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS stream (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    digest TEXT NOT NULL,
    producer TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    fork INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 1,
    last INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    expires REAL  -- seconds since the epoch; NULL while there is a producer
);
CREATE UNIQUE INDEX IF NOT EXISTS stream_key ON stream (owner, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS stream_running ON stream (producer) WHERE NOT ended;
CREATE INDEX IF NOT EXISTS stream_expires ON stream (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS block (
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (stream, last)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS producer (id TEXT PRIMARY KEY, beat INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
    producer TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (producer, id)
) WITHOUT ROWID;
"""
_VERSION = 1  # of the schema, in PRAGMA user_version


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to the file *path*, which is made if needed; raises sqlite3.Error."""
    # What callers wrote and read is in it: nobody else's business.  Only when it is not
    # there: closing a second descriptor of a file drops the locks that SQLite holds.
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
            # Making it a WAL file does not wait for another process that just does so.
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
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise sqlite3.DatabaseError(f"written by a newer version ({version})")
    if version < _VERSION:
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
