"""Gemini's answer: a stream of ``GenerateContentResponse`` objects, as items.

The fields are those of https://ai.google.dev/api/generate-content.  There is no end
marker: the answer is complete when every candidate has its ``finishReason`` and the bytes
end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from ... import sse
from ...chat import jsontext
from ...chat.aside import whole
from ...chat.endings import finish_reason, is_finish
from ...chat.items import Delta, Finish, Item, Json, Usage, dump, new_call_id
from ...errors import ProviderError, UpstreamInvalid, UpstreamTruncated
from ..failures import provider_error, stream_error
from ..reading import Counts, find_error, parse_object, text
from ..translating import EventTranslator, arguments, image_delta, json_values, whole_call

_COUNTS = Counts(
    "promptTokenCount toolUsePromptTokenCount",
    "candidatesTokenCount thoughtsTokenCount",
    cached="cachedContentTokenCount",
    reasoning="thoughtsTokenCount",
    total="totalTokenCount",
)
_STRAY_BYTES = 64 * 1024
#: These end an answer of nothing without a failure: the model chose to say nothing.
_NOTHING_TO_SAY = ("OTHER", "NO_IMAGE")
#: What a candidate tells of its sources.
_SOURCES = ("citationMetadata", "groundingMetadata", "urlContextMetadata")
#: A response has one of these; an error has not.
_ANSWERS = {"candidates", "promptFeedback"}
#: What a part may have that says nothing.
_EMPTY = {"text", "thought", "thoughtSignature"}
#: How a word goes on in the protocol buffers' names.
_SNAKE, _SNAKES = re.compile("(?<=[a-z])_([a-z])"), re.compile(r'"[a-z]+_[a-z_]+"\s*:')
_MEMBERS = {*_ANSWERS, "usageMetadata", "modelVersion", "responseId"}


class _Events(sse.Decoder):
    """Events, and the lines that are none: an error may come as bare JSON between them."""

    stray = b""

    def unknown(self, line: bytes) -> None:
        if len(self.stray) < _STRAY_BYTES:
            self.stray += line + b"\n"


class GeminiTranslator(EventTranslator):
    """Reads ``:streamGenerateContent?alt=sse`` with *n* candidates.

    *new_call_id* makes the id of a call that came without one.
    """

    _decoder: _Events

    def __init__(
        self,
        n: int = 1,
        limit: int = 8 * 1024 * 1024,
        new_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        super().__init__(limit, _Events)
        self._n = n
        self._new_call_id = new_call_id
        self._told: dict[str, Json] = {}  # the latest usage
        self._numbers: Counter[tuple[str, int]] = Counter()  # of parts, by kind and candidate
        self._signatures: dict[int, str] = {}  # of text, by candidate
        self._stops: dict[int, str] = {}  # finish reasons, by candidate
        self._sources: dict[int, dict[str, Json]] = {}  # by candidate
        self._spoke: set[int] = set()  # the candidates that said anything
        self._refused = ""  # why there are no candidates at all

    @property
    def usage(self) -> Usage | None:
        """What was reported so far: every chunk tells the totals."""
        return _COUNTS.read(self._told)

    def translate(self, data: bytes, items: list[Item]) -> None:
        for body in self.objects(data):
            told = body.get("usageMetadata") or {}
            if "totalTokenCount" in told or "promptTokenCount" in told:
                self._told = told
            for candidate in body.get("candidates") or ():
                self._candidate(candidate, items)
            if body.get("error"):
                raise stream_error(body["error"])
            blocked = text((body.get("promptFeedback") or {}).get("blockReason"))
            if blocked and blocked != "BLOCKED_REASON_UNSPECIFIED":  # there are no candidates
                self._stops = dict.fromkeys(range(self._n), blocked) | self._stops
                self._refused = blocked
            if body.keys().isdisjoint(_MEMBERS) and (found := find_error(body)) is not None:
                raise provider_error(found)
        if self._decoder.stray:
            told = None
            with suppress(ValueError):  # it is not complete, or something else
                told = find_error(jsontext.parse(self._decoder.stray))
            if told is not None:
                raise stream_error(told)

    @staticmethod
    def parse(text: str) -> dict[str, Json]:
        """Return the response *text*, with the names of Google's JSON."""
        body: dict[str, Json] = parse_object(text)
        return _camel(body) if _SNAKES.search(text) else body

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return the events of *body*: a whole response, or the array of a call without SSE."""
        responses = _camel(json_values(body))
        if not any(isinstance(each, dict) and _ANSWERS & each.keys() for each in responses):
            return None
        return b"".join(sse.frame(dump(each)) for each in responses)

    def finish(self) -> list[Item]:
        """Return the finish of each candidate, and the usage."""
        items: list[Item] = []
        if len(self._stops) < self._n:
            with suppress(UpstreamInvalid):  # an event that the bytes ended in, unless it was cut
                last: list[Item] = []
                self.translate(b"\n\n", last)
                items += last
        if len(self._stops) < self._n:
            raise UpstreamTruncated("the provider's stream ended without a finish reason")
        self.ended = True
        for index, signature in self._signatures.items():
            items.append(Delta(index=index, extra=_signed(signature)))
        items += [self._finish(index, reason) for index, reason in sorted(self._stops.items())]
        return [*items, usage] if (usage := self.usage) else items

    def _candidate(self, candidate: dict[str, Json], items: list[Item]) -> None:
        index = candidate.get("index") or 0
        if type(index) is not int or not 0 <= index < self._n:
            raise UpstreamInvalid("the provider sent a candidate that was not asked for")
        content = candidate.get("content")
        if content:
            for part in content.get("parts") or ():
                said = self._part(part, index)
                self._spoke |= {index} if said else set()
                items += said
        told = {name: candidate[name] for name in _SOURCES if candidate.get(name)}
        self._sources[index] = self._sources.get(index, {}) | told
        reason = text(candidate.get("finishReason"))
        if is_finish(reason):
            self._stops[index] = reason
            if reason in _NOTHING_TO_SAY and index not in self._spoke:
                return
            message = text(candidate.get("finishMessage")) or "the model's answer was unusable"
            meaning, _ = finish_reason(reason, message=f"{reason}: {message}")
            if meaning == "stop" and reason.upper() != "STOP":  # only that one is a natural end
                raise ProviderError(f"{reason}: {message}")

    def _part(self, part: dict[str, Json], index: int) -> list[Item]:
        words, signed = text(part.get("text")), _signed(text(part.get("thoughtSignature")))
        items: list[Item] = []
        if words and part.get("thought"):
            items.append(Delta("", index, reasoning=words))
        elif words:
            items.append(Delta(words, index))
        if data := part.get("inlineData"):
            media_type = text(data.get("mimeType"))
            if part.get("thought"):
                return items  # a picture that is only a thought is left out by Google's SDK too
            if not media_type.startswith("image/"):
                raise UpstreamInvalid(
                    f"the model answered with {media_type}, which has no place here"
                )
            number = self._next("picture", index)
            items.append(image_delta(number, media_type, text(data["data"]), index, signed))
        elif (call := part.get("functionCall")) is not None:
            number, id = self._next("call", index), text(call.get("id")) or self._new_call_id()
            given = arguments(call.get("args"), self.marks)
            items += whole_call(number, id, text(call["name"]), given, index, signed or None)
        elif signed:
            self._signatures[index] = whole(text(part["thoughtSignature"]), self.marks)
        elif not words and part.keys() - _EMPTY:
            other = {"index": self._next("other", index), **part}
            items.append(Delta(index=index, extra={"content_parts": [other]}))
        return items

    def _next(self, kind: str, index: int) -> int:
        """Return the number of a part of this *kind* among those of a candidate, from 0."""
        self._numbers[kind, index] += 1
        return self._numbers[kind, index] - 1

    def _finish(self, index: int, word: str) -> Finish:
        if self._refused or word in _NOTHING_TO_SAY:
            reason = "content_filter" if self._refused else "stop"
            return Finish(reason, index, {"native_finish_reason": word})
        # STOP is also what ends an answer that calls tools, even in a later chunk.
        reason, extra = finish_reason(word, self._numbers["call", index] > 0)
        return Finish(reason, index, {**(extra or {}), **self._sources.get(index, {})} or None)


def _camel(value: Json) -> Json:
    """Return *value* with the names of Google's JSON, which some write as they are in the protocol
    buffers: ``finish_reason``.  The arguments of a call have names of their own."""
    if isinstance(value, list):
        return [*map(_camel, value)]
    if not isinstance(value, dict):
        return value
    return {
        _SNAKE.sub(lambda found: found[1].upper(), name): one if name == "args" else _camel(one)
        for name, one in value.items()
    }


def _signed(signature: str) -> dict[str, Json]:
    """Return the field for a signature, if any, that Google's OpenAI-compatible endpoint has."""
    signed = {"extra_content": {"google": {"thought_signature": signature}}}
    return signed if signature else {}
