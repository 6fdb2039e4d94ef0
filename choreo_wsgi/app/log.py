"""The log: one line for each record, as text or as JSON, on standard error.

The reader of standard error may be slow, or stop reading: then lines are dropped and counted, and
no thread that serves requests waits.
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

#: The most lines that wait to be written (more are dropped), the seconds between two writes (all
#: waiting lines are written at once), and the seconds that the exit waits for the last lines.
MOST, PAUSE, LAST = 10_000, 0.05, 1.0

_PLAIN = r"[!#-<>-~]+"  # visible ASCII without = and "
_plain = re.compile(_PLAIN).fullmatch
_plain_line = re.compile(rf"(?:\w+={_PLAIN} )*").fullmatch


def set_up(logger: logging.Logger, settings: Settings) -> None:
    """Write the records of *logger* to standard error, in the format of *settings*.

    A logger that already has handlers is left as it is.
    """
    if logger.handlers:
        return
    lines = Lines()
    lines.setFormatter(JSONLine() if settings.log_format == "json" else TextLine())
    logger.addHandler(lines)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False  # waitress-serve's handler would write every line again


class Members(dict[str, "str | int | float | None"]):
    """The members of a request's log line; as text ``name=value``, separated by spaces."""

    def __str__(self) -> str:
        members = [(name, value) for name, value in self.items() if value is not None]
        line = "".join([f"{name}={value} " for name, value in members])
        if not _plain_line(line):  # checked at once, as nearly always no value needs quotes
            words = [f"{name}={_quoted(str(value))} " for name, value in members]
            line = "".join(words)
        return line[:-1]


def _quoted(text: str) -> str:
    """Return *text* in quotes, if it needs any."""
    if _plain(text):
        return text
    return json.dumps(text).replace("\x7f", r"\u007f")  # the one control character json leaves


def write_account(members: Members) -> None:
    """Log the *members* of a request's account."""
    logger = access
    while logger.propagate and logger.parent is not None and not logger.handlers:
        logger = logger.parent
    handler = logger.handlers[0] if logger.handlers else None
    if (
        type(handler) is Lines
        and type(handler.formatter) is TextLine
        and handler.level <= logging.INFO
        and not (logger.handlers[1:] or access.filters or handler.filters)
        and not (logger.propagate and logger.parent)
        and logging.getLogRecordFactory() is logging.LogRecord
    ):
        # Only our handler would see the record, and making one costs as much as the line itself.
        handler.write(f"{_timestamp(time.time())} INFO {access.name}: {members}\n")
    else:
        access.info(members, extra={"account": members})


class TextLine(logging.Formatter):
    """Formats ``time LEVEL logger: message``; text of a caller cannot start a new line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback below it if there is one."""
        when = _timestamp(record.created)
        line = f"{when} {record.levelname} {record.name}: {record.getMessage()}"
        if not line.isprintable():  # control characters could also steer a terminal
            line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _timestamp(now: float) -> str:
    return f"{_whole_second(int(now))},{int(now % 1 * 1000):03d}"


@lru_cache(2)  # several lines have the same second
def _whole_second(now: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class JSONLine(logging.Formatter):
    """Formats a JSON object in one line of ASCII; its time is UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"time": self.formatTime(record), "level": record.levelname.lower()}
        line |= {"logger": record.name}
        line |= getattr(record, "account", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Lines(logging.Handler):
    """Writes each record as a line to standard error, on a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self.dropped = 0
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of *record*."""
        try:
            self.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Queue *line*, or drop it if too many lines wait."""
        if len(self._lines) >= MOST:
            self.dropped += 1
            return
        self._lines.append(line)
        if self._thread is None:
            with self._starting:  # two threads would write each line twice
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                    self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Wait at most LAST seconds until all lines are written."""
        deadline = time.monotonic() + LAST
        while self._lines and time.monotonic() < deadline:
            time.sleep(PAUSE / 5)

    def _run(self) -> None:
        while self._wake.wait():
            self._wake.clear()
            lines = tuple(self._lines)
            text = "".join(lines)
            if self.dropped:
                text += f"{self.dropped} lines of the log were dropped\n"
                self.dropped = 0
            # Write to the descriptor: a thread stuck in sys.stderr.write() holds a lock for which
            # the exit of the process would wait.  There is no place to report a failure to.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
                data = text.encode("utf-8", "backslashreplace")
                while data:
                    data = data[os.write(descriptor, data) :]
            for _ in lines:  # only now: flush() waits for them
                self._lines.popleft()
            time.sleep(PAUSE)
