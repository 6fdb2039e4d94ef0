"""The log: one line for each record, as text or as JSON, on standard error.

Whoever reads standard error may be slow, or stop reading: then lines are dropped and counted,
and nobody who serves waits for that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..settings import Settings

#: Gets one line for each request; the record's ``account`` has its members.
access = logging.getLogger("choreo_wsgi.access")

#: Lines that wait to be written; more are dropped.
MOST = 10_000

#: Seconds between two writes: lines that come together are written together.
PAUSE = 0.05

#: Seconds that the end of the process waits for the last lines.
LAST = 1.0

Members = Mapping[str, "str | int | float | None"]

_PLAIN = re.compile(r"[!#-<>-~]+")  # visible ASCII without = and "


def set_up(logger: logging.Logger, settings: Settings) -> None:
    """Write what *logger* is given to standard error, in the format that *settings* ask for.

    A logger that has handlers already is somebody's choice and stays as it is.
    """
    if logger.handlers:
        return
    logger.addHandler(Lines(json_line if settings.log_format == "json" else text_line))
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False  # waitress-serve's handler would write every line again


def write_account(members: Members) -> None:
    """Log the *members* of a request's account."""
    above = access.parent
    lines = above.handlers[0] if above is not None and above.handlers else None
    if (
        isinstance(lines, Lines)
        and not (lines.formatter or lines.level or lines.filters)
        and not (access.handlers or access.filters)
        and above is not None
        and len(above.handlers) == 1
        and access.propagate > above.propagate
        and logging.getLogRecordFactory() is logging.LogRecord
    ):
        # As set_up() left it: nobody sees the record, which takes longer to make than the line.
        lines.put(lines.form(time.time(), "INFO", access.name, members))
        return
    # Not by logger.info(), which looks through the stack for who calls.
    text = words(members)
    record = access.makeRecord(access.name, logging.INFO, "", 0, text, (), None)
    record.account = members
    access.handle(record)


def words(members: Members) -> str:
    """Return *members* as text in one line, with the tokens as ``usage=IN+OUT``."""
    told = []
    for name, value in members.items():
        if value is None or name == "tokens_out":
            continue
        if name == "tokens_in":
            told.append(f"usage={value}+{members['tokens_out']}")
        elif type(value) is str and not _PLAIN.fullmatch(value):
            told.append(f"{name}={json.dumps(value)}")
        else:
            told.append(f"{name}={value}")
    return " ".join(told)


#: Writes a line: from seconds since 1970, level, logger, and a message or an account.
Form = Callable[[float, str, str, Members], str]


def text_line(now: float, level: str, name: str, members: Members) -> str:
    """Return ``time LEVEL logger: message``, in which nothing that a caller sent makes a line."""
    text = members["message"] if "message" in members else words(members)
    line = f"{_second(int(now), utc=False)},{int(now % 1 * 1000):03d} {level} {name}: {text}"
    if not line.isprintable():  # control characters could colour a terminal too
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return f"{line}\n{members['traceback']}" if "traceback" in members else line


def json_line(now: float, level: str, name: str, members: Members) -> str:
    """Return a JSON object in one line of ASCII; its time is UTC."""
    moment = f"{_second(int(now), utc=True)}.{int(now % 1 * 1000):03d}Z"
    return json.dumps({"time": moment, "level": level.lower(), "logger": name, **members})


@lru_cache(2)
def _second(now: int, *, utc: bool) -> str:
    if utc:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class Lines(logging.Handler):
    """Writes each record as a line to standard error, from a thread of its own.

    *form* is the form of a line, unless somebody sets a formatter.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.dropped = 0
        self._lines: deque[str] = deque()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._writing = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*, or more with a traceback."""
        if self.formatter is not None:
            return super().format(record)
        account = getattr(record, "account", None) if self.form is json_line else None
        members = account or {"message": record.getMessage()}
        if record.exc_info:
            members["traceback"] = logging.Formatter().formatException(record.exc_info)
        return self.form(record.created, record.levelname, record.name, members)

    def emit(self, record: logging.LogRecord) -> None:
        """Have the line of *record* written."""
        try:
            self.put(self.format(record))
        except Exception:
            self.handleError(record)

    def put(self, line: str) -> None:
        """Have *line* written, unless too many wait already."""
        if len(self._lines) >= MOST:
            self.dropped += 1
            return
        self._lines.append(line + "\n")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        if not self._news.is_set():
            self._news.set()

    def flush(self) -> None:
        """Wait a moment for the lines to be written."""
        deadline = time.monotonic() + LAST
        while (self._lines or self._writing) and time.monotonic() < deadline:
            time.sleep(PAUSE / 5)

    def _run(self) -> None:
        while self._news.wait():
            self._news.clear()
            self._writing = True
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self.dropped:
                lines.append(f"{self.dropped} lines of the log were dropped\n")
                self.dropped = 0
            with contextlib.suppress(OSError):  # there is nobody to tell
                _write("".join(lines))
            self._writing = False
            time.sleep(PAUSE)

    def _forked(self) -> None:
        self._thread = None
        self._news = threading.Event()
        self._writing = False


def _write(text: str) -> None:
    """Write *text* to standard error.

    Not through its buffer: the end of the process would wait for the lock of a thread that is
    stuck there.
    """
    try:
        descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]
