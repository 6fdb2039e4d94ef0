"""A chat completion request: parsed from bytes and checked, for a provider."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from ..late import Late
from . import jsontext
from .items import Json, Marks, dump

if TYPE_CHECKING:
    from . import checks, cutting, large, longtext
else:
    checks = Late("choreo_wsgi.chat.checks")
    cutting = Late("choreo_wsgi.chat.cutting")
    large = Late("choreo_wsgi.chat.large")
    longtext = Late("choreo_wsgi.chat.longtext")


@dataclass(slots=True)
class ChatRequest:
    """A checked request; *body* is its JSON object, with unknown fields.

    It is not changed once a provider has it; ``replace`` makes a changed copy.

    *stop* has no empty strings, which would match everywhere.  Of a request of another API,
    *original* is the body, *native* the body for a provider that speaks that API if it differs,
    *version* and *betas* are the headers for it, and *native_only* is the error for all other
    providers.  *answer_id* is the id of an answer that this server stores, and *log* the writer
    (:mod:`~choreo_wsgi.replay.writer`) of the log that gets the frames of an answer.
    """

    model: str
    messages: list[dict[str, Json]]
    body: dict[str, Json]
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    max_tokens: int | None = None  # max_completion_tokens, or else max_tokens
    stop: tuple[str, ...] = ()
    original: dict[str, Json] | None = None
    native: dict[str, Json] | None = None
    version: str = ""
    betas: str = ""
    answer_id: str = ""
    log: Any = field(default=None, repr=False)
    native_only: InvalidRequest | None = None
    #: The marks (placeholders) in *body* and the long strings that they replace.
    marks: Marks = field(default_factory=dict, repr=False)
    #: Headers that the provider can log, to correlate its log with ours.
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def threaded(self) -> bool:
        """Whether the provider stores the conversation, as Anthropic's ``thread`` requests."""
        return bool(self.original and self.original.get("thread"))

    @property
    def last_user_text(self) -> str:
        """The text of the last user message, ``""`` without one."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return content_text(message["content"])
        return ""

    def whole(self) -> ChatRequest:
        """Return the same request with its long strings in place of their marks."""
        if not self.marks:
            return self
        body, original = (
            _decode(longtext.restore(dump(value), self.marks).decode())
            for value in (self.body, self.original)
        )
        return self.with_body(body, original=original, marks={})

    def with_body(self, body: dict[str, Json], **more: Any) -> ChatRequest:
        """Return the same request with *body*, whose strings may be restored, and *more* fields."""
        messages = body.get("messages", self.messages)
        return replace(self, body=body, messages=messages, stop=_stop_of(body), **more)

    def drop_original(self) -> None:
        """Free the input in another API's format: only a provider that speaks that API needs it."""
        self.native = None
        for name in ("input", "messages"):
            (self.original or {}).pop(name, None)

    def with_model(self, name: str) -> ChatRequest:
        """Return the same request with *name* for its model."""
        if name == self.model == self.body.get("model"):
            return self
        return replace(self, model=name, body={**self.body, "model": name})


def content_text(content: str | list[dict[str, Json]] | None) -> str:
    """Return the text of a message's *content*: its text parts joined, other parts left out."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")


def parse(body: bytes) -> ChatRequest:
    """Return the request in *body*; raises InvalidRequest."""
    return checked(*loads_marked(body))


def checked(fields: dict[str, Json], marks: Marks) -> ChatRequest:
    """Return the request for *fields*, which may hold *marks*; raises InvalidRequest."""
    checks.check(fields)
    return request_of(fields, marks=marks)


def request_of(body: dict[str, Json], **more: Any) -> ChatRequest:
    """Return the request for *body*, already checked; *more* are fields of ChatRequest."""
    get = body.get
    stream = bool(get("stream"))
    options = get("stream_options") or {}
    limit = get("max_completion_tokens")
    if limit is None:
        limit = get("max_tokens")
    return ChatRequest(
        model=body["model"],
        messages=body["messages"],
        body=body,
        stream=stream,
        include_usage=stream and bool(options.get("include_usage")),
        n=int(get("n") or 1),
        max_tokens=None if limit is None else int(limit),
        stop=_stop_of(body),
        **more,
    )


def _stop_of(body: dict[str, Json]) -> tuple[str, ...]:
    stop = body.get("stop") or ()
    return (stop,) if isinstance(stop, str) else tuple(filter(None, stop))


# Limit of digits in an integer: more than a float has (309), far below Python's limit for int().
_MAX_DIGITS = 400
# Limit of values in a body: _FEW_VALUES and one more for each _BYTES_A_VALUE bytes, up to
# _MOST_VALUES.  200 tools with ten optional parameters each have 19,000 values of ten bytes.
_FEW_VALUES, _BYTES_A_VALUE, _MOST_VALUES = 20_000, 128, 30_000
# So many bytes for each value, and so many for each byte of the body, fit in _ROOM, or in four
# times the body.
_BYTES_OF_VALUE, _BYTES_OF_BYTE, _ROOM = 160, 2.05, 8 * 1024 * 1024
# The same for a text or a list of tokens, which are forwarded; so many values are always allowed.
_OF_TEXT, _FEWEST_VALUES = 120, 1_000
#: Limit of files in base64 that are too short to be set aside, as each is copied.
MOST_SHORT_FILES = 500
#: Limit of tools of a request that is translated: each takes several objects, whatever its size.
MOST_TOOLS = 2048
# Bytes of a body that are searched at once, and of the longest body without marks.
_WINDOW, _LARGE = 256 * 1024, 64 * 1024
# The bytes of a UTF-8 character after its first.
_CONTINUATIONS = bytes(range(0x80, 0xC0))

# A high surrogate without a low one after it, or a low one without a high one before it.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)


def loads(body: bytes) -> dict[str, Json]:
    """Return the JSON object in *body*, without marks; see :func:`loads_marked`."""
    return loads_marked(body, longest=len(body))[0]


def loads_marked(
    body: bytes, values: int = 0, longest: int = _LARGE
) -> tuple[dict[str, Json], Marks]:
    """Return the JSON object in *body*, with marks for its long strings.

    *values* may raise the limit of values, if few of them are texts or lists.  A body of at most
    *longest* bytes has no marks.  Raises InvalidRequest for anything but a JSON object in UTF-8,
    for NaN, numbers too big for a double, duplicate names, lone surrogates, and more values or
    levels than a conversation has.
    """
    most = max(_ROOM, 4 * len(body))
    room = (most - int(_BYTES_OF_BYTE * len(body))) // _BYTES_OF_VALUE
    few = min(_MOST_VALUES, _FEW_VALUES + len(body) // _BYTES_A_VALUE)
    short, marks, odd = body, Marks(), 0
    try:
        if len(body) > longest:  # a mark, or a wide string, takes as much as 3.5 more
            short, marks = cutting.shorten(body, most=2 * room // 9)
            odd = cutting.count_more(short, marks)
            if cutting.is_little(body, short, marks):  # rather than another copy of the rest
                short, marks = body, {}
        few = max(_FEWEST_VALUES, min(few, room - odd))
        texts = (most - 2 * len(body)) // _OF_TEXT - odd
        if values and cutting.count_holders(short) > texts:
            values = 0
        decode = _decode if len(body) <= _LARGE else _decoder(large.Sharing(_object))
        value = jsontext.parse(short, decode, max(few, values))
    except jsontext.TooMuch as error:
        raise _invalid(f"the body {error}") from None
    except UnicodeDecodeError as error:
        start = longtext.original_offset(short, marks, error.start)
        raise _invalid(f"the body is not UTF-8: byte {start} is wrong") from None
    except json.JSONDecodeError as error:
        start = longtext.original_offset(short, marks, len(error.doc[: error.pos].encode()))
        raise _invalid(_not_json(error.msg, body, start)) from None
    if type(value) is not dict:
        raise _invalid("the body must be a JSON object")
    if len(short) > _LARGE:
        files = short.count(b";base64,") + short.count(b'"base64"')
        if files > MOST_SHORT_FILES + len(marks):
            text = f"the body has more than {MOST_SHORT_FILES} files of less than 2 KiB"
            raise InvalidRequest(text)
    if _has_lone_surrogate(body):
        raise _invalid("the body has half of a surrogate pair, which is not text")
    return value, marks


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_json")


def _has_lone_surrogate(body: bytes) -> bool:
    """Return whether *body* has the escape of a single surrogate."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return False
    # An escaped backslash begins no escape; the filler keeps its neighbours from joining.
    text = body.replace(rb"\\", b"__")
    for at in range(0, len(text), _WINDOW):  # other threads run in between
        found = _LONE_SURROGATE.search(text, at, at + _WINDOW + 12)
        if found and found.start() < at + _WINDOW:
            return True
    return False


def _not_json(problem: str, body: bytes, offset: int) -> str:
    """Return the message for a *problem* at *offset* in *body*."""
    if not body.strip():
        return "the body is empty; it must be a JSON object"
    line = body.count(b"\n", 0, offset) + 1
    before = body[body.rfind(b"\n", 0, offset) + 1 : offset]
    column = len(before.translate(None, _CONTINUATIONS)) + 1
    return f"the body is not JSON: {problem} (line {line}, column {column})"


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _invalid(f"the body has an object with two members named {name[:64]!r}")
    return members


def _constant(text: str) -> None:
    raise _invalid(f"the body is not JSON: {text} is not a JSON number")


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _invalid(f"the body has an integer of more than {_MAX_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _invalid("the body has a number too big for a double")
    return value


def _decoder(make: Callable[[list[tuple[str, Json]]], Json]) -> jsontext.Decoder:
    return jsontext.Decoder(
        object_pairs_hook=make,
        parse_constant=_constant,
        parse_int=_int,
        parse_float=_float,
    )


_decode = _decoder(_object)
