"""The log: one line for each record, as text or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from ..settings import Settings


def set_up(logger: logging.Logger, settings: Settings) -> None:
    """Write what *logger* is given to standard error, in the format that *settings* ask for.

    A logger that has handlers already is somebody's choice and stays as it is.
    """
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines() if settings.log_format == "json" else TextLines())
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())


class TextLines(logging.Formatter):
    """``time LEVEL logger: message``, in which nothing that a caller sent makes a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without control characters, which could colour a terminal too."""
        text = super().formatMessage(record)
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class JSONLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, and the message or a request's account."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        account = getattr(record, "account", None)
        line |= {"message": record.getMessage()} if account is None else account
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
