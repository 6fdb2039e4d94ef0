"""Restores the long strings of a request that a translation has to read.

See :mod:`~choreo_wsgi.chat.longtext`.  All others stay set aside: a string takes up to four bytes
for each of the request's, and is copied by what reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..errors import InvalidRequest
from . import inparts
from .aside import has_marks, pieces, whole
from .cutting import weight
from .growing import Base64
from .items import Json, Marks, dump
from .longtext import PI, LazyJson, find_marks
from .request import ChatRequest

#: Matches the URL of data that every translation forwards.
_DATA = re.compile("data:(?:application|audio|image|text|video)/[a-z0-9.+-]+;base64,")
#: Bytes of memory of the longest strings that are restored for a translation, together.
MAX_RESTORED = 3 * 1024 * 1024
#: Bytes of memory for a restored string beside its characters: its header, a copy of its object.
_OF_STRING = 400
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")


def restore_request(request: ChatRequest) -> ChatRequest:
    """Return *request* for a translating provider, with its long strings restored.

    Those in fields that every translation forwards without reading them (texts of messages,
    images, files, arguments of calls, functions, the schema of the answer) stay marks.  Raises
    InvalidRequest if the others would take more than MAX_RESTORED bytes.
    """
    marks = request.marks
    if not marks:
        return request
    kept: set[bytes] = set()
    for message in request.messages:
        for text in _forwarded(message, marks):
            kept.update(found[0] for found in find_marks(text.encode("utf-8", "replace"), marks))
    for tool in _listed(request.body, "tools"):
        function = tool["function"] if tool["type"] == "function" else {}
        members = [function.get("description"), function.get("parameters")]
        kept |= _marks_of(members, marks)
    form = request.body.get("response_format") or {}
    kept |= _marks_of((form.get("json_schema") or {}).get("schema"), marks)
    others = {mark: marks[mark] for mark in _marks_of(request.body, marks) - kept}
    if not others:
        return request
    if sum(_weight(mark, others[mark]) for mark in others) > MAX_RESTORED:
        raise InvalidRequest(
            f"beside texts, tools, schemas, calls and base64, this model takes at most "
            f"{MAX_RESTORED >> 20} MiB of long strings and numbers"
        )
    return request.with_body(_with_restored(request.body, others), marks=marks if kept else {})


def _marks_of(value: Json, marks: Marks) -> set[bytes]:
    """Return those of *marks* that are in *value*."""
    parts = inparts.parts(value, lambda part: (dump(part),))
    return {found[0] for part in parts for found in find_marks(bytes(part), marks)}


def _weight(mark: bytes, original: bytes | memoryview | LazyJson) -> int:
    """Return about how many bytes the *original* of *mark* takes once it is restored."""
    if isinstance(original, LazyJson):
        return 0
    text = bytes(original)
    return 44 * text.count(b",") if mark.startswith(PI.encode()) else weight(text) + _OF_STRING


def _with_restored(value: Json, marks: Marks) -> Json:
    """Return *value* with *marks* restored in its strings and lists; itself if it has none."""
    if isinstance(value, str):
        return whole(value, marks) if has_marks(value) else value
    if isinstance(value, dict):
        changed: Json = {
            whole(name, marks) if has_marks(name) else name: _with_restored(one, marks)
            for name, one in value.items()
        }
    elif isinstance(value, list):
        changed = []
        for one in value:
            run = marks.get(b"%d" % one, b"") if type(one) is int else b""
            numbers = isinstance(run, (bytes, memoryview)) and bytes(run)
            changed += json.loads(b"[%b]" % numbers) if numbers else [_with_restored(one, marks)]
    else:
        return value
    return value if changed == value else changed


def _forwarded(message: dict[str, Json], marks: Marks) -> Iterator[str]:
    """Yield the strings in *message* that every translation forwards without reading them."""
    content: Json = message.get("content")
    parts = [{"text": content}] if isinstance(content, str) else content or ()
    for part in [*parts, *_listed(message, "images")]:
        url, data = _text(part, "image_url", "url"), _text(part, "file", "file_data")
        if text := _text(part, "text"):
            yield text
        elif url and _is_base64(url, marks):
            yield url
        elif _DATA.match(data) and _is_base64(data, marks):
            yield data
    yield _text(message, "reasoning_content")
    for thought in _listed(message, "thinking_blocks"):
        yield from (_text(thought, name) for name in ("thinking", "signature", "data"))
    for call in _listed(message, "tool_calls"):
        yield _text(call, "function", "arguments")


def _listed(holder: Json, name: str) -> list[Json]:
    value = holder.get(name)
    return value if isinstance(value, list) else []


def _text(value: Json, *names: str) -> str:
    """Return the string that *names* lead to from *value*; empty if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _is_base64(url: str, marks: Marks) -> bool:
    """Whether the data of *url* is valid base64, so that it can be forwarded unchanged."""
    data = url.partition(",")[2]
    if isinstance(marks.get(data.encode("utf-8", "replace")), Base64):
        return True
    size = sum(len(piece) for piece in pieces(data, marks))
    return size % 4 == 0 and all(map(_BASE64.fullmatch, pieces(data.rstrip("="), marks)))
