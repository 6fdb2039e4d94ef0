"""Requests for the local provider, and readers of the items that it returns."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from choreo_wsgi.chat.items import Delta, Finish, Item, Usage
from choreo_wsgi.chat.request import ChatRequest, parse
from choreo_wsgi.chat.source import Source

DEADLINE = 60.0

#: Forbids SmolLM2's end-of-turn token, so that a reply ends only at its token limit.
ENDLESS = {"logit_bias": {"2": -100}, "temperature": 0}


def request(text: str = "Say hello.", **fields: Any) -> ChatRequest:
    """Return a parsed streaming request whose user message is *text*."""
    messages = [{"role": "user", "content": text}]
    body = {"model": "any", "messages": messages, "stream": True, **fields}
    return parse(json.dumps(body).encode()).whole()


def read_all(source: Source) -> list[Item]:
    """Read *source* to its end, with short timeouts as the server uses them."""
    items: list[Item] = []
    deadline = time.monotonic() + DEADLINE
    try:
        while not source.ended:
            assert time.monotonic() < deadline, f"not ended after {items}"
            items += source.receive(0.25)
    finally:
        source.close()
    return items


def read_first(source: Source) -> list[Item]:
    """Read until *source* returns items; return those."""
    deadline = time.monotonic() + DEADLINE
    while not (items := source.receive(0.25)):
        assert time.monotonic() < deadline, "no items"
    return items


def text(items: list[Item], index: int = 0) -> str:
    """Return the text of a choice."""
    return "".join(i.text for i in items if isinstance(i, Delta) and i.index == index)


def finishes(items: list[Item]) -> dict[int, str]:
    """Return the finish reason of each choice."""
    return {item.index: item.reason for item in items if isinstance(item, Finish)}


def usage(items: list[Item]) -> Usage:
    """Return the usage, which must have been reported once."""
    (only,) = [item for item in items if isinstance(item, Usage)]
    return only


def cpu_ticks(pid: int) -> int:
    """Return the CPU time of the process, user and system, in clock ticks."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def becomes_idle(process: int) -> bool:
    """Return whether the process uses no CPU for half a second, within ten seconds."""
    deadline = time.monotonic() + 10
    ticks, since = cpu_ticks(process), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = cpu_ticks(process)
        if now != ticks:
            ticks, since = now, time.monotonic()
        elif time.monotonic() - since > 0.5:
            return True
    return False
