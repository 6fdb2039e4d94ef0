"""The lists of a text's part, log probabilities and annotations, which grow with its deltas."""

from __future__ import annotations

from collections.abc import Mapping

from ...chat.growing import JsonText
from ...chat.items import Json, Marks
from ...chat.longtext import new_number
from ...errors import UpstreamInvalid

#: Limit of characters of the tokens in a delta: each byte becomes a number.
_MOST_IN_TOKENS = 128 * 1024


class JsonList:
    """A list whose elements are kept as JSON, as thousands of them take much more as values."""

    def __init__(self) -> None:
        self.count = 0
        self._text = bytearray(b"[")

    def add(self, element: bytes) -> None:
        """Append *element*, JSON in UTF-8 without marks."""
        self._text += b"," + element if self.count else element
        self.count += 1

    def end(self, marks: Marks) -> Json:
        """Return the complete list: a number that is a new mark in *marks*, if it is not empty."""
        if not self.count:
            return []
        self._text += b"]"
        number = new_number()
        marks[number.encode()] = JsonText(self._text)
        return int(number)


def check_tokens(tokens: Json) -> None:
    """Raise UpstreamInvalid if the *tokens* of a delta's ``logprobs`` are too long."""
    entries = (one for entry in _objects(tokens) for one in (entry, *_tops(entry)))
    if sum(len(str(one.get("token") or "")) for one in entries) > _MOST_IN_TOKENS:
        raise UpstreamInvalid("the provider sent too long tokens with log probabilities")


def logprobs(tokens: Json) -> list[dict[str, Json]]:
    """Return the *tokens* of chat's ``logprobs``."""

    def convert(entry: Mapping[str, Json]) -> dict[str, Json]:
        token = str(entry.get("token") or "")
        in_bytes = entry.get("bytes") or list(token.encode("utf-8", "replace"))
        return {"token": token, "logprob": entry.get("logprob") or 0.0, "bytes": in_bytes}

    return [
        {**convert(entry), "top_logprobs": list(map(convert, _tops(entry)))}
        for entry in _objects(tokens)
    ]


def long_bytes(token: Mapping[str, Json]) -> int:
    """Return the bytes of *token* and its alternatives beyond 16 in each, as usual ones have."""
    entries = (token, *_tops(token))
    return sum(max(0, len(one["bytes"]) - 16) for one in entries if isinstance(one["bytes"], list))


def _tops(entry: Mapping[str, Json]) -> list[dict[str, Json]]:
    return _objects(entry.get("top_logprobs"))


def _objects(value: Json) -> list[dict[str, Json]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
