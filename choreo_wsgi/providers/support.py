"""What each provider with its own API can do of OpenAI's, in three tables.

One has the parameters of a request, one the members of its messages, one the kinds of content
in each place.  The adapters check requests against them (:func:`check`) and
``docs/providers.rst`` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from .capabilities import Capabilities
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
    neutral: tuple[Json, ...] = field(default=())


SENT, REFUSED = Cell("sent"), Cell("refused")


def _row(name: str, *cells: Cell, local: Cell | None = None, neutral: tuple[Json, ...] = ()) -> Row:
    """Return a row of one cell for all, or one for each of the providers; *local* if it differs
    from the last."""
    cells = cells * len(PROVIDERS) if len(cells) == 1 else cells
    return Row(name, dict(zip(COLUMNS, (*cells, local or cells[-1]), strict=True)), neutral)


def _note(text: str) -> Cell:
    return Cell("sent", text)


_CLAUDE = "where the model has it; the default 1 is not sent"
_ONE = "where the model has it, and beside temperature; the default 1 is not sent"
_ONE_CALL = Cell("refused", "but for models that call one tool at a time")
_MOST = "up to what the model writes at most; 0 is done here"
_HINT = Cell("dropped", "a hint")
_OURS = Cell("dropped", "bookkeeping at OpenAI")
_EACH = Cell("done", "that many requests at once")

_HINTS = (
    *("prediction", "verbosity", "prompt_cache_key", "prompt_cache_options"),
    *("prompt_cache_retention", "service_tier"),
)

TABLE: tuple[Row, ...] = (
    _row(
        "temperature",
        Cell("sent", f"0 to 1; {_CLAUDE}", 1.0),
        Cell("sent", "0 to 1; to Claude as at Anthropic", 1.0),
        SENT,
        SENT,
    ),
    _row("top_p", _note(_ONE), _note("to Claude as at Anthropic"), SENT, SENT),
    _row("top_k", SENT, _note("Claude; refused for others"), SENT, SENT),
    _row(
        "max_tokens",
        _note(f"{_MOST}; required there: the option ``max_tokens`` stands in"),
        _note(_MOST),
        _note(_MOST),
        _note(_MOST),
        local=_note("up to ``local_max_tokens_limit``"),
    ),
    _row(
        "stop",
        _note("strings of blanks are done here"),
        _note("strings of blanks are done here"),
        SENT,
        SENT,
    ),
    _row("seed", _HINT, _HINT, SENT, SENT),
    _row("n", _EACH, _EACH, _note("as ``candidateCount``"), _EACH),
    _row("tools", SENT),
    _row(
        "tool_choice",
        _note("refused where the model cannot be made to call one"),
        _note("``none`` leaves the tools out; refused after tool calls"),
        SENT,
        Cell("done", "``auto``; ``none`` leaves the tools out; others refused"),
        local=SENT,
    ),
    _row("parallel_tool_calls", SENT, _ONE_CALL, _ONE_CALL, _ONE_CALL, local=SENT, neutral=(True,)),
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
        local=_HINT,
    ),
    _row(
        "thinking",
        _note("as it came"),
        _note("Claude, as it came; to gpt-oss as an effort; dropped for others"),
        _note("as ``reasoning_effort``, where the model thinks"),
        _note("as ``reasoning_effort``"),
        local=_HINT,
    ),
    _row(
        "cache_control",
        SENT,
        _note("as ``cachePoint`` at the end"),
        _HINT,
        _HINT,
    ),
    _row("frequency_penalty", REFUSED, REFUSED, SENT, SENT, neutral=(0,)),
    _row("presence_penalty", REFUSED, REFUSED, SENT, SENT, neutral=(0,)),
    _row("logit_bias", REFUSED, local=SENT, neutral=({},)),
    _row("logprobs", REFUSED, REFUSED, REFUSED, SENT, local=REFUSED, neutral=(False,)),
    _row("top_logprobs", REFUSED, REFUSED, REFUSED, SENT, local=REFUSED, neutral=(0,)),
    _row(
        "modalities",
        REFUSED,
        REFUSED,
        _note("``text`` and ``image``; others refused"),
        REFUSED,
        neutral=(["text"], []),
    ),
    _row("audio", REFUSED),
    _row("functions", REFUSED, neutral=([],)),
    _row("function_call", REFUSED, neutral=("none", "auto")),
    _row("web_search_options", REFUSED),
    _row("moderation", REFUSED),
    *(_row(name, _HINT) for name in _HINTS),
    _row("safety_identifier", _note("as ``metadata.user_id``"), _OURS, _OURS, _OURS),
    _row("user", _note("as ``metadata.user_id``"), _OURS, _OURS, _OURS),
    _row("metadata", _OURS),
    _row("store", _OURS),
)
_ROWS = {row.name: row for row in TABLE}
#: What every request has, or says how its answer comes.
_PLUMBING = frozenset(("model", "messages", "stream", "stream_options", "max_completion_tokens"))

#: The members of messages that not every provider has.
MESSAGES: tuple[Row, ...] = (
    _row("name", _HINT),
    _row("refusal", _note("as text")),
    _row("reasoning_content", _HINT, _HINT, _HINT, _note("as ``thinking``")),
    _row("thinking_blocks", SENT, SENT, _HINT, _HINT),
    _row("extra_content", _HINT, _HINT, _note("Google's thought signatures"), _HINT),
    _row("cache_control", SENT, _note("as ``cachePoint``"), _HINT, _HINT),
    _row("is_error", SENT, _note("as ``status``"), _note("as ``error``"), _HINT),
    _row("function_call", REFUSED),
    _row("audio", REFUSED),
)

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


def check(request: ChatRequest, provider: str, able: Capabilities | None = None) -> None:
    """Raise InvalidRequest, naming the parameter, for what *provider* cannot do with a model that
    is *able* to do so much (None: nothing is known of it)."""
    for name, value in request.body.items():
        row = _ROWS.get(name)
        if value is None or name in _PLUMBING or (row and value in row.neutral):
            continue
        if row is None and provider == "local":
            continue  # what its server does not know it does not read either
        if row is None:
            raise InvalidRequest(f"{provider} does not know {name[:200]!r}", param=name[:200])
        if name == "parallel_tool_calls" and able and able.parallel == "one":
            continue
        cell = row.cells[provider]
        if cell.how == "refused":
            raise InvalidRequest(f"{provider} does not support {name}", param=name)
        if cell.maximum is not None and value > cell.maximum:
            raise InvalidRequest(f"{provider} takes {name} up to {cell.maximum:g}", param=name)


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


def number(request: ChatRequest, name: str) -> int | None:
    """Return the parameter *name*, which OpenAI's API does not have, if it is there.

    Raises InvalidRequest unless it is a positive integer.
    """
    value = request.body.get(name)
    if value is not None and not (type(value) is int and 0 < value < 2**31):
        raise InvalidRequest(f"{name} must be a positive integer", param=name)
    return value
