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
from functools import lru_cache

from ..settings import Settings

#: Gets one line for each request; the record's ``account`` has its members.
access = logging.getLogger("choreo_wsgi.access")

#: Lines that wait to be written (more are dropped), the seconds between two writes (lines that
#: come together are written together), and those that the end of the process waits for the last.
MOST, PAUSE, LAST = 10_000, 0.05, 1.0

_plain = re.compile(r"[!#-<>-~]+").fullmatch  # visible ASCII without = and "


def set_up(logger: logging.Logger, settings: Settings) -> None:
    """Write what *logger* is given to standard error, in the format that *settings* ask for.

    A logger that has handlers already is somebody's choice and stays as it is.
    """
    if logger.handlers:
        return
    lines = Lines()
    lines.setFormatter(JSONLine() if settings.log_format == "json" else TextLine())
    logger.addHandler(lines)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False  # waitress-serve's handler would write every line again


class Members(dict[str, "str | int | float | None"]):
    """What the log tells of a request; as text ``name=value`` with spaces between."""

    def __str__(self) -> str:
        words = [f"{name}={value} " for name, value in self.items() if value is not None]
        line = "".join(words)
        if not (
            line.isascii()
            and line.isprintable()
            and line.count("=") == line.count(" ") == len(words)
            and "= " not in line
            and '"' not in line
        ):
            words = [
                f"{name}={value if type(value) is not str or _plain(value) else _quoted(value)} "
                for name, value in self.items()
                if value is not None
            ]
        return "".join(words)[:-1]


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", r"\u007f")  # the one control character it leaves


def write_account(members: Members) -> None:
    """Log the *members* of a request's account."""
    last = access
    while last.propagate and last.parent is not None and not last.handlers:
        last = last.parent
    own = last.handlers[0] if last.handlers else None
    if (
        type(own) is Lines
        and type(own.formatter) is TextLine
        and own.level <= logging.INFO
        and not (last.handlers[1:] or access.filters or own.filters)
        and not (last.propagate and last.parent)
        and logging.getLogRecordFactory() is logging.LogRecord
    ):
        # Nobody else would see a record, which costs as much as the line itself.
        own.write(f"{_moment(time.time())} INFO {access.name}: {members}\n")
    else:
        access.info(members, extra={"account": members})


class TextLine(logging.Formatter):
    """Writes ``time LEVEL logger: message``, in which nothing that a caller sent makes a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, more with a traceback."""
        line = f"{_moment(record.created)} {record.levelname} {record.name}: {record.getMessage()}"
        if not line.isprintable():  # control characters could colour a terminal too
            line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _moment(now: float) -> str:
    return f"{_second(int(now))},{int(now % 1 * 1000):03d}"


@lru_cache(2)  # most lines of a second follow each other
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class JSONLine(logging.Formatter):
    """Writes a JSON object in one line of ASCII; its time is UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {"time": self.formatTime(record), "level": record.levelname.lower()}
        told |= {"logger": record.name}
        told |= getattr(record, "account", None) or {"message": record.getMessage()}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class Lines(logging.Handler):
    """Writes each record as a line to standard error, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.dropped = 0
        self._lines: deque[str] = deque()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Have the line of *record* written."""
        try:
            self.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Have *line* written, unless too many wait already."""
        if len(self._lines) >= MOST:
            self.dropped += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        if not self._news.is_set():
            self._news.set()

    def flush(self) -> None:
        """Wait a moment for the lines to be written."""
        deadline = time.monotonic() + LAST
        while self._lines and time.monotonic() < deadline:
            time.sleep(PAUSE / 5)

    def _run(self) -> None:
        while self._news.wait():
            self._news.clear()
            lines = tuple(self._lines)
            text = "".join(lines)
            if self.dropped:
                text += f"{self.dropped} lines of the log were dropped\n"
                self.dropped = 0
            # To the descriptor: the end of the process would wait for the lock of a stream's
            # buffer, in which a thread is stuck.  Where it fails there is nobody to tell.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
                data = text.encode("utf-8", "backslashreplace")
                while data:
                    data = data[os.write(descriptor, data) :]
            for _ in lines:  # only now: flush() waits for them
                self._lines.popleft()
            time.sleep(PAUSE)
