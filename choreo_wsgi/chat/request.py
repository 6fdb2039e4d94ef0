"""A chat completion request: parsed from bytes, checked, and ready for a provider."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from ..errors import InvalidRequest
from . import checks
from .items import Json


@dataclass(frozen=True)
class ChatRequest:
    """A checked request; *body* is the JSON object as it came, unknown fields included.

    *stop* has no empty strings: they would match everywhere.  *original* is the body of a
    request of another API, and *native_only* what only a provider that speaks that API can do:
    the error for all others.
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
    native_only: InvalidRequest | None = None

    @property
    def last_user_text(self) -> str:
        """The text of the last user message, its text parts joined; ``""`` without one."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return content_text(message["content"])
        return ""

    def with_model(self, name: str) -> ChatRequest:
        """Return the same request for the model *name*, as another provider calls it."""
        return replace(self, model=name, body={**self.body, "model": name})


def content_text(content: str | list[dict[str, Json]] | None) -> str:
    """Return the text of a message's *content*: its text parts joined, other parts left out."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")


def parse(body: bytes) -> ChatRequest:
    """Return the request in *body*, raising InvalidRequest for whatever is wrong with it."""
    fields = loads(body)
    checks.check(fields)
    get = fields.get
    stream = bool(get("stream"))
    options = get("stream_options") or {}
    stop = get("stop") or ()
    limit = get("max_completion_tokens")
    if limit is None:
        limit = get("max_tokens")
    return ChatRequest(
        model=fields["model"],
        messages=fields["messages"],
        body=fields,
        stream=stream,
        include_usage=stream and bool(options.get("include_usage")),
        n=int(get("n") or 1),
        max_tokens=None if limit is None else int(limit),
        stop=(stop,) if isinstance(stop, str) else tuple(filter(None, stop)),
    )


#: How deep arrays and objects may nest.  Requests need about 10; recursive code needs a bound.
MAX_DEPTH = 64

# Digits of an integer: more than a float can hold (309), far below Python's limit for int().
_MAX_DIGITS = 400

_QUOTED = re.compile(rb'"[^"]*"')
# A high surrogate that no low one follows, or a low one that no high one precedes.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_TOO_DEEP = b"[" * (MAX_DEPTH + 1)
_TO_ARRAYS = bytes.maketrans(b"{}", b"[]")


def loads(body: bytes) -> dict[str, Json]:
    """Return the JSON object in *body*.

    Raises InvalidRequest for text that is not UTF-8 or not JSON, for NaN, Infinity and numbers
    too big for a double, duplicate names in an object, nesting over :data:`MAX_DEPTH`, lone
    surrogates, and anything but an object at the top.
    """
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")
    try:
        value = _decode(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not UTF-8: byte {error.start} is wrong", code="invalid_json"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(_described(error), code="invalid_json") from None
    if type(value) is not dict:
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    # An escaped backslash begins no escape; the filler keeps its neighbours apart.
    if b"\\u" in body and _LONE_SURROGATE.search(body.replace(rb"\\", b"__")):
        raise InvalidRequest(
            "the body has half of a surrogate pair, which is no text", code="invalid_json"
        )
    return value


def _depth(body: bytes) -> int:
    """Return how deep *body* nests, at the speed of memory and without recursion.

    What is not JSON may be counted wrongly, but never lower than a JSON reader would get
    before it gives up.
    """
    if b"\\" in body:  # without escapes quotes pair up
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = _QUOTED.sub(b"", body.translate(_TO_ARRAYS, _NOT_STRUCTURE))
    brackets = brackets.partition(b'"')[0]  # a string that never ends hides the rest
    depth = 0
    while b"[]" in brackets and depth <= MAX_DEPTH and _TOO_DEEP not in brackets:
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level away
        depth += 1
    return depth + brackets.count(b"[")


def _described(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "the body is empty; it must be a JSON object"
    return f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidRequest(
            f"the body has an object with two members named {_twice(pairs)!r}", code="invalid_json"
        )
    return members


def _twice(pairs: list[tuple[str, Json]]) -> str:
    count = Counter(name for name, _ in pairs)
    return max(count, key=count.__getitem__)[:64]


def _constant(text: str) -> None:
    raise InvalidRequest(f"the body is not JSON: {text} is no number there", code="invalid_json")


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise InvalidRequest(
            f"the body has an integer of more than {_MAX_DIGITS} digits", code="invalid_json"
        )
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidRequest("the body has a number too big for a double", code="invalid_json")
    return value


_decode = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_constant,
    parse_int=_int,
    parse_float=_float,
).decode
