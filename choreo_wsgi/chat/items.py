"""Items: the pieces of a model's answer, as values that belong to no API.

A provider's source returns :class:`Delta`, :class:`Finish` and :class:`Usage`; an API writes each
as its own events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

from ..ids import random_hex
from ..late import Late

if TYPE_CHECKING:
    from . import large
    from .longtext import LazyJson
else:
    large = Late("choreo_wsgi.chat.large")

#: Most values that are encoded at once.
FEW = 64

#: A value that ``json.loads`` returns.
Json = Any

#: Marks (placeholders) with the bytes that they replace: parts of JSON strings, with their
#: escapes, or values that are yet to be encoded; see :mod:`~choreo_wsgi.chat.longtext`.
Marks = dict[bytes, Union[memoryview, bytes, "LazyJson"]]
#: The end of the mark of a string; no string without a mark is so long.
FILLING = "~~more~~"


def new_call_id() -> str:
    """Return a new id for a tool call whose provider sent none."""
    return "call_" + random_hex()[:24]


@dataclass(slots=True)
class ToolCall:
    """A piece of a tool call.

    *index* counts the calls of a choice from 0.  The first piece of a call has its *id* and
    *name*; the *arguments* of all its pieces, joined, are one JSON document.  *extra* has further
    members, such as Google's ``extra_content``.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Mapping[str, Json] | None = None


@dataclass(slots=True)
class Delta:
    """A piece of an answer; *index* is the choice (0 to n-1) that it belongs to.

    *extra* has further members of the delta, with *marks* for long strings.  *logprobs* is the
    API's object of lists, for the tokens in the piece.
    """

    text: str = ""
    index: int = 0
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCall] = ()
    extra: Mapping[str, Json] | None = None
    logprobs: Mapping[str, Json] | None = None
    marks: Marks | None = None


@dataclass(slots=True)
class Finish:
    """The end of a choice: ``stop``, ``length``, ``tool_calls`` or ``content_filter``.

    *extra* has further members of the choice, such as the provider's own stop reason.  *stop* is
    the stop string, where this server found it.
    """

    reason: str = "stop"
    index: int = 0
    extra: Mapping[str, Json] | None = None
    stop: str = field(default="", compare=False)


@dataclass(slots=True)
class Usage:
    """Numbers of tokens; None for a number that the provider did not report.

    *prompt_tokens* includes cached tokens and *completion_tokens* reasoning.  *total_tokens* is the
    provider's own total, if reported: it may count tokens that are in no other number.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def total(self) -> int:
        """All tokens, as the provider counts them."""
        if self.total_tokens is not None:
            return self.total_tokens
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        reported = self.total_tokens is not None or other.total_tokens is not None
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            _sum(self.cached_tokens, other.cached_tokens),
            _sum(self.cache_write_tokens, other.cache_write_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
            self.total + other.total if reported else None,
        )

    def to_dict(self) -> dict[str, Json]:
        """Return the ``usage`` object of the API; an explicit 0 stays 0."""
        usage: dict[str, Json] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total,
        }
        names = ("cached_tokens", "cache_write_tokens")
        prompt = {name: count for name in names if (count := getattr(self, name)) is not None}
        if prompt:
            usage["prompt_tokens_details"] = prompt
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage


Item = Union[Delta, Finish, Usage]


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


#: Encodes a JSON string, in C where possible.
quote = json.encoder.encode_basestring


def _make_encoder() -> Callable[[Json], str]:
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return encoder.encode
    # JSONEncoder makes an encoder for each document, which takes longer than encoding a chunk.
    pieces = make(None, encoder.default, quote, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


_encode = _make_encoder()


def dump(value: Json) -> bytes:
    """Return *value* as compact UTF-8 JSON, without spaces and needless escapes.

    Half of a surrogate pair is escaped: the other half may be in the next piece of the text.
    """
    return _encode(value).encode("utf-8", "backslashreplace")


def dump_large(value: Json) -> bytes:
    """Return :func:`dump` of *value*, encoded in parts if it is large; iterators are arrays."""
    return large.write(value, dump) if has_many(value) else dump(value)


#: The types of values that hold no others.
SCALARS = {str, int, float, bool, type(None)}


def has_many(value: Json) -> bool:
    """Whether *value* holds more than FEW values, or an iterator of values."""
    values = [value]
    for one in values:  # the list grows meanwhile by the values within
        if type(one) in SCALARS:  # most are, and isinstance(one, Iterator) is slow
            continue
        if isinstance(one, (dict, list)):
            values += one.values() if isinstance(one, dict) else one
        elif isinstance(one, Iterator):
            return True
        if len(values) > FEW:
            return True
    return False
