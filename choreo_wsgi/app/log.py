"""The log: one line for each record, as text or as JSON, on standard error.

Whoever reads standard error may be slow, or stop reading: then lines are dropped and counted,
and nobody who serves waits for that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any

from ..settings import Settings

#: Lines that wait to be written; more are dropped.
MOST = 10_000

#: Seconds between two writes: lines that come together are written together.
PAUSE = 0.05

#: Seconds that the end of the process waits for the last lines.
LAST = 1.0


def set_up(logger: logging.Logger, settings: Settings) -> None:
    """Write what *logger* is given to standard error, in the format that *settings* ask for.

    A logger that has handlers already is somebody's choice and stays as it is.
    """
    if logger.handlers:
        return
    handler = Lines()
    handler.setFormatter(JSONLines() if settings.log_format == "json" else TextLines())
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False  # waitress-serve's handler would write every line again


class Lines(logging.Handler):
    """Writes each record as a line to standard error, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._lines: deque[str] = deque()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._writing = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def emit(self, record: logging.LogRecord) -> None:
        """Have the line of *record* written, unless too many wait already."""
        if len(self._lines) >= MOST:
            self.dropped += 1
            return
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
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


class _Dated(logging.Formatter):
    """Writes the date and time once for all the records of a second."""

    _written = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the date and time of *record*, with milliseconds behind the mark *datefmt*."""
        second = int(record.created)
        if second != self._written[0]:
            self._written = (
                second,
                time.strftime(self.default_time_format, self.converter(second)),
            )
        return f"{self._written[1]}{datefmt or ','}{int(record.msecs):03d}"


class TextLines(_Dated):
    """``time LEVEL logger: message``, in which nothing that a caller sent makes a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without control characters, which could colour a terminal too."""
        text = f"{record.asctime} {record.levelname} {record.name}: {record.message}"
        if text.isprintable():
            return text
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class JSONLines(_Dated):
    """One JSON object a line: time (UTC), level, logger, and the message or a request's account."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, ".") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        account = getattr(record, "account", None)
        line |= {"message": record.getMessage()} if account is None else account
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
