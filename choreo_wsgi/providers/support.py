"""What each provider with its own API can do of OpenAI's, in one table.

The adapters check requests against it (:func:`check`, :func:`check_media`) and
``docs/providers.rst`` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from .conversation import Media

#: The columns.  OpenAI and everything compatible with it is sent a request as it came.
PROVIDERS = ("anthropic", "bedrock", "gemini", "ollama")


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
    neutral: tuple[Json, ...] = field(default=())


SENT, DONE = Cell("sent"), Cell("done", "by the server")
DROPPED, REFUSED = Cell("dropped"), Cell("refused")


def _row(name: str, *cells: Cell, neutral: tuple[Json, ...] = ()) -> Row:
    cells = cells * len(PROVIDERS) if len(cells) == 1 else cells
    return Row(name, dict(zip(PROVIDERS, cells, strict=True)), neutral)


def _note(text: str) -> Cell:
    return Cell("sent", text)


_TO_ONE = Cell("sent", "0 to 1", 1.0)
_UNLESS_ONE = Cell("sent", "0 to 1; the default 1 is not sent", 1.0)
_HINT = Cell("dropped", "a hint")
_OURS = Cell("dropped", "bookkeeping at OpenAI")

TABLE: tuple[Row, ...] = (
    _row("temperature", _UNLESS_ONE, _TO_ONE, SENT, SENT),
    _row("top_p", _note("the default 1 is not sent"), SENT, SENT, SENT),
    _row(
        "max_tokens",
        _note("required there: the option ``max_tokens`` stands in"),
        SENT,
        SENT,
        SENT,
    ),
    _row("stop", SENT),
    _row("seed", _HINT, _HINT, SENT, SENT),
    _row(
        "n",
        Cell("done", "that many requests at once"),
        Cell("done", "that many requests at once"),
        _note("as ``candidateCount``"),
        Cell("done", "that many requests at once"),
    ),
    _row("tools", SENT),
    _row(
        "tool_choice",
        SENT,
        _note("``none`` leaves the tools out; refused after tool calls"),
        SENT,
        Cell("done", "``auto``; ``none`` leaves the tools out; others refused"),
    ),
    _row("parallel_tool_calls", SENT, REFUSED, REFUSED, REFUSED, neutral=(True,)),
    _row(
        "response_format",
        _note("``json_schema``; ``json_object`` refused"),
        _note("``json_schema``; ``json_object`` refused"),
        SENT,
        SENT,
    ),
    _row(
        "reasoning_effort",
        _note("as ``effort``, or as a thinking budget for older models"),
        _note("Claude and gpt-oss; refused for others"),
        _note("as ``thinkingLevel``, or as a budget for Gemini 2.5"),
        _note("as ``think``"),
    ),
    _row("frequency_penalty", REFUSED, REFUSED, SENT, SENT, neutral=(0,)),
    _row("presence_penalty", REFUSED, REFUSED, SENT, SENT, neutral=(0,)),
    _row("logit_bias", REFUSED, neutral=({},)),
    _row("logprobs", REFUSED, neutral=(False,)),
    _row("top_logprobs", REFUSED, neutral=(0,)),
    _row("modalities", REFUSED, neutral=(["text"], [])),
    _row("audio", REFUSED),
    _row("functions", REFUSED, neutral=([],)),
    _row("function_call", REFUSED, neutral=("none", "auto")),
    _row("web_search_options", REFUSED),
    _row("prediction", _HINT),
    _row("verbosity", _HINT),
    _row("prompt_cache_key", _HINT),
    _row("prompt_cache_retention", _HINT),
    _row("service_tier", _HINT),
    _row("safety_identifier", _note("as ``metadata.user_id``"), _OURS, _OURS, _OURS),
    _row("user", _note("as ``metadata.user_id``"), _OURS, _OURS, _OURS),
    _row("metadata", _OURS),
    _row("store", _OURS),
    _row("image, data: URL", SENT),
    _row("image, https: URL", SENT, REFUSED, SENT, REFUSED),
    _row("audio input", REFUSED, REFUSED, SENT, REFUSED),
    _row("file, data: URL", _note("PDF"), _note("PDF"), SENT, REFUSED),
)
_ROWS = {row.name: row for row in TABLE}


def check(request: ChatRequest, provider: str) -> None:
    """Raise InvalidRequest, naming the parameter, for what *provider* cannot do."""
    for name, value in request.body.items():
        row = _ROWS.get(name)
        if row is None or value is None or value in row.neutral:
            continue
        cell = row.cells[provider]
        if cell.how == "refused":
            raise InvalidRequest(f"{provider} does not support {name}", param=name)
        if cell.maximum is not None and value > cell.maximum:
            raise InvalidRequest(f"{provider} takes {name} up to {cell.maximum:g}", param=name)


def check_media(media: Media, provider: str) -> None:
    """Raise InvalidRequest, naming the part, when *provider* does not take *media*."""
    scheme = "data:" if media.data else "https:"
    name = "audio input" if media.kind == "audio" else f"{media.kind}, {scheme} URL"
    row = _ROWS.get(name)
    if row is None or row.cells[provider].how == "refused":
        raise InvalidRequest(f"{provider} does not support {name}", param=media.param)
