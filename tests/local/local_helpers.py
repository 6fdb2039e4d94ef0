"""Asking the local provider, and reading what it hands over."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from choreo_wsgi.chat.items import Delta, Finish, Item, Usage
from choreo_wsgi.chat.request import ChatRequest, parse
from choreo_wsgi.chat.source import Source

PATIENCE = 60.0

#: Keeps SmolLM2 from ending its answer: its end-of-turn token, by number.
NEVER_ENDING = {"logit_bias": {"2": -100}, "temperature": 0}


def request(text: str = "Say hello.", **fields: Any) -> ChatRequest:
    """Return the checked request of a caller who says *text*."""
    messages = [{"role": "user", "content": text}]
    body = {"model": "any", "messages": messages, "stream": True, **fields}
    return parse(json.dumps(body).encode()).whole()


def read_all(source: Source) -> list[Item]:
    """Read *source* to its end, with ticks as the server does."""
    items: list[Item] = []
    deadline = time.monotonic() + PATIENCE
    try:
        while not source.ended:
            assert time.monotonic() < deadline, f"no end after {items}"
            items += source.receive(0.25)
    finally:
        source.close()
    return items


def read_first(source: Source) -> list[Item]:
    """Read until something comes."""
    deadline = time.monotonic() + PATIENCE
    while not (items := source.receive(0.25)):
        assert time.monotonic() < deadline, "nothing came"
    return items


def text(items: list[Item], index: int = 0) -> str:
    """Return the text of a choice."""
    return "".join(i.text for i in items if isinstance(i, Delta) and i.index == index)


def finishes(items: list[Item]) -> dict[int, str]:
    """Return how each choice ended."""
    return {item.index: item.reason for item in items if isinstance(item, Finish)}


def usage(items: list[Item]) -> Usage:
    """Return the one usage that was reported."""
    (only,) = [item for item in items if isinstance(item, Usage)]
    return only


def cpu_ticks(pid: int) -> int:
    """Return the processor time that the process has used, user and system."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def goes_idle(process: int) -> bool:
    """Whether the process stops using the processor, seen by half a second without."""
    deadline = time.monotonic() + 10
    before, since = cpu_ticks(process), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = cpu_ticks(process)
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > 0.5:
            return True
    return False
