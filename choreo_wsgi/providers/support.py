"""What each provider with its own API can do of OpenAI's, in three tables.

One has the parameters of a request, one the members of its messages (both in ``support.txt``), one
the kinds of content in each place.  The adapters check requests against them (:func:`check`) and
``docs/providers.rst`` shows them.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..chat.schema import Fault, check_of, demand, either, integer, text_or
from ..errors import InvalidRequest
from .capabilities import EFFORTS, Capabilities
from .parts import Media

#: The columns.  OpenAI and everything compatible with it is sent a request as it came.
PROVIDERS = ("anthropic", "bedrock", "gemini", "ollama")
#: Those of the table of parameters.
COLUMNS = (*PROVIDERS, "local")


@dataclass(frozen=True)
class Cell:
    """What becomes of a parameter: ``sent``, ``done`` here, ``dropped`` or ``refused``."""

    how: str
    note: str = ""
    maximum: float | None = None


@dataclass(frozen=True)
class Row:
    """A parameter; the *neutral* values ask for nothing and are never refused."""

    name: str
    cells: dict[str, Cell]
    neutral: list[Json]


def _rows(table: str) -> tuple[Row, ...]:
    """Return the rows of *table*: names, neutral values, and the cells, ``how maximum: note``.

    One cell is for all, the last of four for ``local`` too.
    """
    rows: list[Row] = []
    for line in re.sub(r"\n    |^#.*\n", " ", table, flags=re.M).strip().splitlines():
        head, *texts = line.split(" | ")
        texts *= len(PROVIDERS) if len(texts) == 1 else 1
        texts += texts[-1:]
        names, _, neutral = head.partition(" ")
        cells = {}
        for column, text in zip(COLUMNS, texts, strict=False):
            word, _, note = text.partition(": ")
            how, _, maximum = word.partition(" ")
            cells[column] = Cell(how, note, float(maximum) if maximum else None)
        rows += [Row(name, cells, json.loads(neutral or "[]")) for name in names.split(",")]
    return tuple(rows)


_text = (pkgutil.get_data(__package__, "support.txt") or b"").decode()
TABLE, MESSAGES = map(_rows, _text.split("\n---\n"))
_ROWS = {row.name: row for row in TABLE}
#: What every request has, or says how its answer comes.
_PLUMBING = frozenset(("model", "messages", "stream", "stream_options", "max_completion_tokens"))

#: The kinds of content, and the places (roles) where each may stand.
KINDS = (
    "image, data: URL",
    "image, https: URL",
    "audio",
    "PDF file, data: URL",
    "text file, data: URL",
    "other file, data: URL",
    "file, https: URL",
)
PLACES = ("user", "tool", "assistant", "system")
_PICTURE, _LINK, _SOUND, _PDF, _TEXT, _OTHER, _FILE_LINK = KINDS
_CLAUDES = {_PICTURE, _LINK, _PDF, _TEXT, _FILE_LINK}
_TAKEN: Mapping[tuple[str, str], Iterable[str]] = {
    ("anthropic", "user"): _CLAUDES,
    ("anthropic", "tool"): _CLAUDES,
    ("bedrock", "user"): {_PICTURE, _SOUND, _PDF, _TEXT, _OTHER},
    ("bedrock", "tool"): {_PICTURE, _PDF, _TEXT, _OTHER},
    ("gemini", "user"): KINDS,
    ("gemini", "tool"): KINDS,
    ("gemini", "assistant"): KINDS,
    **{("ollama", place): {_PICTURE} for place in PLACES},
}


def takes(provider: str, place: str, kind: str) -> bool:
    """Return whether *provider* takes content of *kind* in messages of the role *place*."""
    return kind in _TAKEN.get((provider, place), ())


def _refuse(value: Json) -> None:
    if value:
        raise Fault("is not supported here")


_NUMBERS = {"top_k": integer(1, 2**31 - 1)}
_FUNCTION = {"type": "function", "cache_control": dict}
_THOUGHT = {"type!": "thinking redacted_thinking", "thinking signature data": str}
_CHOICE = {
    "type": "function allowed_tools",
    "allowed_tools": {"mode": "auto required", "tools": [{"function!": {"name!": str}}]},
}
_TOOLS = {
    "tools": [{**_FUNCTION, "function": {"cache_control": dict}}],
    "tool_choice": either(str, str, dict, _CHOICE),
}
_MESSAGE = {
    "role": "system developer user assistant tool",
    "content": text_or(
        {"type": "text refusal image_url input_audio file", "cache_control": dict},
    ),
    "cache_control": dict,
    "tool_calls": [_FUNCTION],
    "images": [{"image_url!": {"url!": str}}],
    "thinking_blocks": [_THOUGHT],
    "function_call audio": _refuse,
}
#: What the adapters read beside OpenAI's schema, and where they take less than that allows.
_READ = check_of(
    {
        "messages": [_MESSAGE],
        **_TOOLS,
        "response_format": {"type": "text json_object json_schema"},
        "reasoning_effort": " ".join(EFFORTS),
        "thinking cache_control": dict,
        **_NUMBERS,
    }
)
_READ_LOCALLY = check_of({**_TOOLS, **_NUMBERS})


def check(request: ChatRequest, provider: str, caps: Capabilities | None = None) -> None:
    """Raise InvalidRequest, naming the parameter, if *provider* does not support *request*.

    *caps* are the capabilities of the model, None if they are unknown.
    """
    for name, value in request.body.items():
        row = _ROWS.get(name)
        if value is None or name in _PLUMBING or (row and value in row.neutral):
            continue
        if row is None and provider == "local":
            continue  # what its server does not know it does not read either
        if row is None:
            raise InvalidRequest(f"{provider} does not know {name[:200]!r}", param=name[:200])
        if name == "parallel_tool_calls" and caps and caps.parallel == "one":
            continue
        cell = row.cells[provider]
        if cell.how == "refused":
            raise InvalidRequest(f"{provider} does not support {name}", param=name)
        if cell.maximum is not None and value > cell.maximum:
            raise InvalidRequest(f"{provider} takes {name} up to {cell.maximum:g}", param=name)
    demand(_READ_LOCALLY if provider == "local" else _READ, request.body)


def check_media(media: Iterable[Media], provider: str) -> None:
    """Raise InvalidRequest, naming the part, for the first of *media* that *provider* does not
    take where it stands."""
    for each in media:
        if not takes(provider, each.place, kind_of(each)):
            raise InvalidRequest(
                f"{provider} does not support this in {each.place} messages: {kind_of(each)}",
                param=each.param,
            )


def kind_of(media: Media) -> str:
    """Return the kind of content that *media* is."""
    if media.kind == "image":
        return _LINK if media.url else _PICTURE
    if media.kind == "audio":
        return _SOUND
    if media.url:
        return _FILE_LINK
    if media.media_type == "application/pdf":
        return _PDF
    return _TEXT if media.media_type.startswith("text/") else _OTHER


def without_empty(members: Mapping[str, Json]) -> dict[str, Json]:
    """Return *members* without the values that are None or empty."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}
