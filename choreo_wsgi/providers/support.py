"""Three tables of the parts of OpenAI's API that each provider with its own API supports.

They list the parameters of a request, the members of its messages (both in ``support.txt``), and
the kinds of content in each place.  The adapters check requests against them, see :func:`check`,
and ``docs/providers.rst`` shows them.
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

#: The columns.  OpenAI and compatible providers get the request unchanged.
PROVIDERS = ("anthropic", "bedrock", "gemini", "ollama")
#: The columns of the table of parameters.
COLUMNS = (*PROVIDERS, "local")


@dataclass(frozen=True)
class Cell:
    """The handling of a parameter: ``sent``, ``done`` here, ``dropped`` or ``refused``."""

    how: str
    note: str = ""
    maximum: float | None = None


@dataclass(frozen=True)
class Row:
    """A parameter; its *neutral* values have no effect and are never refused."""

    name: str
    cells: dict[str, Cell]
    neutral: list[Json]


def _rows(table: str) -> tuple[Row, ...]:
    """Parse the rows of *table*: names, neutral values, and the cells, ``how maximum: note``.

    A single cell is for all columns; the last of four is for ``local`` too.
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
#: Parameters that every provider supports.
_COMMON = frozenset(("model", "messages", "stream", "stream_options", "max_completion_tokens"))

#: The kinds of content, and the places (roles of messages) for them.
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
_IMAGE, _IMAGE_LINK, _AUDIO, _PDF, _TEXT, _OTHER, _FILE_LINK = KINDS
_ANTHROPIC = {_IMAGE, _IMAGE_LINK, _PDF, _TEXT, _FILE_LINK}
_SUPPORTED: Mapping[tuple[str, str], Iterable[str]] = {
    ("anthropic", "user"): _ANTHROPIC,
    ("anthropic", "tool"): _ANTHROPIC,
    ("bedrock", "user"): {_IMAGE, _AUDIO, _PDF, _TEXT, _OTHER},
    ("bedrock", "tool"): {_IMAGE, _PDF, _TEXT, _OTHER},
    ("gemini", "user"): KINDS,
    ("gemini", "tool"): KINDS,
    ("gemini", "assistant"): KINDS,
    **{("ollama", place): {_IMAGE} for place in PLACES},
}


def accepts(provider: str, place: str, kind: str) -> bool:
    """Return whether *provider* accepts content of *kind* in messages of the role *place*."""
    return kind in _SUPPORTED.get((provider, place), ())


def _refuse(value: Json) -> None:
    if value:
        raise Fault("is not supported here")


_NUMBERS = {"top_k": integer(1, 2**31 - 1)}
_FUNCTION = {"type": "function", "cache_control": dict}
_THINKING = {"type!": "thinking redacted_thinking", "thinking signature data": str}
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
    "thinking_blocks": [_THINKING],
    "function_call audio": _refuse,
}
#: Members that OpenAI's schema does not have, or for which the adapters accept fewer values.
_CHECK = check_of(
    {
        "messages": [_MESSAGE],
        **_TOOLS,
        "response_format": {"type": "text json_object json_schema"},
        "reasoning_effort": " ".join(EFFORTS),
        "thinking cache_control": dict,
        **_NUMBERS,
    }
)
_CHECK_LOCAL = check_of({**_TOOLS, **_NUMBERS})


def check(request: ChatRequest, provider: str, caps: Capabilities | None = None) -> None:
    """Raise InvalidRequest, naming the parameter, if *provider* does not support *request*.

    *caps* are the capabilities of the model, None if they are unknown.
    """
    for name, value in request.body.items():
        row = _ROWS.get(name)
        if value is None or name in _COMMON or (row and value in row.neutral):
            continue
        if row is None:
            if provider == "local":
                continue  # its server ignores parameters that it does not know
            raise InvalidRequest(f"{provider} does not know {name[:200]!r}", param=name[:200])
        if name == "parallel_tool_calls" and caps and caps.parallel == "one":
            continue
        cell = row.cells[provider]
        if cell.how == "refused":
            raise InvalidRequest(f"{provider} does not support {name}", param=name)
        if cell.maximum is not None and value > cell.maximum:
            raise InvalidRequest(f"{provider} takes {name} up to {cell.maximum:g}", param=name)
    demand(_CHECK_LOCAL if provider == "local" else _CHECK, request.body)


def check_media(media: Iterable[Media], provider: str) -> None:
    """Raise InvalidRequest, naming the part, if *provider* does not accept one of *media*."""
    for each in media:
        if not accepts(provider, each.place, kind_of(each)):
            raise InvalidRequest(
                f"{provider} does not support this in {each.place} messages: {kind_of(each)}",
                param=each.param,
            )


def kind_of(media: Media) -> str:
    """Return the kind of content of *media*."""
    if media.kind == "image":
        return _IMAGE_LINK if media.url else _IMAGE
    if media.kind == "audio":
        return _AUDIO
    if media.url:
        return _FILE_LINK
    if media.media_type == "application/pdf":
        return _PDF
    return _TEXT if media.media_type.startswith("text/") else _OTHER


def without_empty(members: Mapping[str, Json]) -> dict[str, Json]:
    """Return *members* without the values that are None or empty."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}
