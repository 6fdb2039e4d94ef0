"""The counters of limits in an SQLite file, so that the processes of a host share them."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from .limits import STREAM_RETRY, Rule, State
from .shared_limits import LEASE, SharedCounters

# Counts that the machine loses with its power are no loss: nothing waits for the disk.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS used (
    key TEXT, rule TEXT, used INTEGER, ends REAL, PRIMARY KEY (key, rule)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stream (
    key TEXT, lease TEXT, count INTEGER, ends REAL, PRIMARY KEY (key, lease)
) WITHOUT ROWID;
"""


class SQLiteCounters(SharedCounters):
    """Counts in the file *path*, which is made at the first use.

    Each call is one short transaction, so the limits are exact over all processes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(sqlite3.Error)
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._one = threading.Lock()

    def admit(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[int, list[State]]:
        with self._transaction() as db:
            now = time.time()
            states = [_state(db, key, rule, now) for rule in rules]
            for number, (rule, state) in enumerate(zip(rules, states, strict=True), 1):
                if rule.cost > state.left:
                    return number, states
            for rule, state in zip(rules, states, strict=True):
                if rule.seconds:
                    used = rule.limit - state.left + rule.cost
                    row = (key, rule.name, used, now + state.reset)
                    db.execute("REPLACE INTO used VALUES (?, ?, ?, ?)", row)
                else:
                    row = (key, lease, rule.cost, now + LEASE)
                    db.execute("INSERT INTO stream VALUES (?, ?, ?, ?)", row)
            return 0, states

    def give_back(self, key: str, rules: Sequence[Rule], lease: str, patience: float = 1.0) -> None:
        with self._transaction(patience) as db:
            for rule in rules:
                if rule.seconds:
                    db.execute(
                        "UPDATE used SET used = max(0, used + ?) WHERE key = ? AND rule = ?",
                        (rule.cost, key, rule.name),
                    )
            db.execute("DELETE FROM stream WHERE key = ? AND lease = ?", (key, lease))

    def give_back_now(self, key: str, rules: Sequence[Rule], lease: str) -> bool:
        """Give back unless another process is at it: the next request finds the place free."""
        try:
            self.give_back(key, rules, lease, patience=0.0)
        except sqlite3.Error:
            return False
        return True

    def renew(self, key: str, leases: Sequence[tuple[str, int]]) -> None:
        ends = time.time() + LEASE
        with self._transaction() as db:
            db.executemany(
                "UPDATE stream SET ends = ? WHERE key = ? AND lease = ?",
                [(ends, key, lease) for lease, _ in leases],
            )

    @contextlib.contextmanager
    def _transaction(self, patience: float = 1.0) -> Iterator[sqlite3.Connection]:
        """Give the connection, within *patience* seconds: the others' turns are as short."""
        if not self._one.acquire(timeout=patience):
            raise sqlite3.OperationalError("another thread does not end")
        try:
            if self._db is None:
                self._db = _connect(self._path)
                weakref.finalize(self, self._db.close)
            self._db.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield self._db
        finally:
            self._one.release()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _state(db: sqlite3.Connection, key: str, rule: Rule, now: float) -> State:
    if not rule.seconds:
        db.execute("DELETE FROM stream WHERE ends <= ?", (now,))
        (used,) = db.execute("SELECT total(count) FROM stream WHERE key = ?", (key,)).fetchone()
        return State(rule.limit - int(used), STREAM_RETRY)
    used, ends = db.execute(
        "SELECT used, ends FROM used WHERE key = ? AND rule = ? AND ends > ?",
        (key, rule.name, now),
    ).fetchone() or (0, now + rule.seconds)
    return State(rule.limit - used, ends - now)
