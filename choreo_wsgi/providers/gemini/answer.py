"""Translates Gemini's answer, a stream of ``GenerateContentResponse`` objects, into items.

The fields are documented at https://ai.google.dev/api/generate-content.  There is no end marker:
the answer is complete when every candidate has a ``finishReason`` and the stream ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ... import sse
from ...chat import jsontext
from ...chat.aside import beside, signature, word
from ...chat.endings import finish_reason, is_finish
from ...chat.items import Delta, Finish, Item, Json, Marks, Usage, new_call_id
from ...errors import ProviderError, UpstreamInvalid, UpstreamTruncated
from ..failures import provider_error, stream_error
from ..reading import Counts, find_error, parse_object, text
from ..translating import EventTranslator, image_delta
from ..unfolding import document_values, unfolded
from ..whole_calls import arguments, check_parts, whole_call

_COUNTS = Counts(
    "promptTokenCount toolUsePromptTokenCount",
    "candidatesTokenCount thoughtsTokenCount",
    cached="cachedContentTokenCount",
    reasoning="thoughtsTokenCount",
    total="totalTokenCount",
)
#: Limit of calls, of images and of other parts in a candidate.
_MOST_PARTS = 4096
_STRAY_BYTES = 64 * 1024
#: Finish reasons of an empty answer that is not a failure: the model chose not to answer.
_NO_ANSWER = ("OTHER", "NO_IMAGE")
#: The members of a candidate that name its sources.
_SOURCES = ("citationMetadata", "groundingMetadata", "urlContextMetadata")
#: A response has one of these members; an error has none.
_ANSWERS = {"candidates", "promptFeedback"}
#: The members of a part that may be without content.
_EMPTY = {"text", "thought", "thoughtSignature"}
#: Names in snake case, as in protocol buffers.
_SNAKE, _SNAKES = re.compile("(?<=[a-z])_([a-z])"), r'"[a-z]+_[a-z_]+"\s*:'
_SNAKES_IN: dict[type, re.Pattern[Any]] = {
    str: re.compile(_SNAKES),
    bytes: re.compile(_SNAKES.encode()),
}
_MEMBERS = {*_ANSWERS, "usageMetadata", "modelVersion", "responseId"}


class _Events(sse.Decoder):
    """Decodes events and keeps all other lines: an error may come as JSON between events."""

    stray = b""

    def unknown(self, line: bytes) -> None:
        if len(self.stray) + len(line) < _STRAY_BYTES:
            self.stray += line + b"\n"


class GeminiTranslator(EventTranslator):
    """Translates the answer to ``:streamGenerateContent?alt=sse`` with *n* candidates.

    *new_call_id* returns an id for a call that has none.
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
        self._usage: dict[str, Json] = {}  # the latest; every chunk has the totals
        self._part_counts: Counter[tuple[str, int]] = Counter()  # by kind and candidate
        # By candidate: the latest signature of its text, its finish reason, its sources.
        self._signatures: dict[int, str] = {}
        self._reasons: dict[int, str] = {}
        self._sources: dict[int, dict[str, Json]] = {}
        self._has_content: set[int] = set()  # the candidates with any content
        self._block_reason = ""  # of a blocked prompt: there are no candidates then

    @property
    def usage(self) -> Usage | None:
        return _COUNTS.read(self._usage)

    def translate(self, data: bytes, items: list[Item]) -> None:
        for body in self.objects(data):
            usage = body.get("usageMetadata") or {}
            if "totalTokenCount" in usage or "promptTokenCount" in usage:
                self._usage = usage
            candidates = body.get("candidates") or ()
            contents = (candidate.get("content") or {} for candidate in candidates)
            check_parts(sum(len(content.get("parts") or ()) for content in contents))
            for candidate in candidates:
                self._candidate(candidate, items)
            if body.get("error"):
                raise stream_error(body["error"])
            reason = word(text((body.get("promptFeedback") or {}).get("blockReason")), self.marks)
            if reason and reason != "BLOCKED_REASON_UNSPECIFIED":
                self._reasons = dict.fromkeys(range(self._n), reason)
                self._block_reason = reason
            if body.keys().isdisjoint(_MEMBERS) and (found := find_error(body)) is not None:
                raise provider_error(found)
        if self._decoder.stray:
            error = None
            with suppress(ValueError):  # incomplete, or not JSON
                error = find_error(jsontext.parse(self._decoder.stray))
            if error is not None:
                raise stream_error(error)

    @staticmethod
    def parse(text: str | bytes) -> dict[str, Json]:
        """Return the response in *text*, its names in camel case."""
        body: dict[str, Json] = parse_object(text)
        return _camel(body) if _SNAKES_IN[type(text)].search(text) else body

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return *body*, a whole response or an array of responses, as SSE frames."""
        marks: Marks = {}
        responses = _camel(document_values(body, marks))
        if not any(isinstance(each, dict) and _ANSWERS & each.keys() for each in responses):
            return None
        return unfolded(responses, marks)

    def finish(self) -> list[Item]:
        """Return the finish of each candidate, and the usage."""
        items: list[Item] = []
        if len(self._reasons) < self._n:
            with suppress(UpstreamInvalid):  # the last event may lack its blank line, or be cut
                last: list[Item] = []
                self.translate(b"\n\n", last)
                items += last
        if len(self._reasons) < self._n:
            raise UpstreamTruncated("the provider's stream ended without a finish reason")
        self.ended = True
        for index, found in self._signatures.items():
            items.append(Delta(index=index, extra=_signature_member(found)))
        items += [self._finish(index, reason) for index, reason in self._reasons.items()]
        return [*items, usage] if (usage := self.usage) else items

    def _candidate(self, candidate: dict[str, Json], items: list[Item]) -> None:
        index = candidate.get("index") or 0
        if type(index) is not int or not 0 <= index < self._n:
            raise UpstreamInvalid("the provider sent a candidate that was not requested")
        content = candidate.get("content")
        if content:
            for part in content.get("parts") or ():
                if translated := self._part(part, index):
                    self._has_content.add(index)
                    items += translated
        sources = {name: candidate[name] for name in _SOURCES if candidate.get(name)}
        self._sources[index] = self._sources.get(index, {}) | beside(sources, self.marks)
        reason = text(candidate.get("finishReason"))
        if is_finish(reason):
            self._reasons[index] = reason
            if reason in _NO_ANSWER and index not in self._has_content:
                return
            message = text(candidate.get("finishMessage")) or "the model's answer was unusable"
            meaning, _ = finish_reason(reason, message=f"{reason}: {message}")
            if meaning == "stop" and reason.upper() != "STOP":  # an unknown reason
                raise ProviderError(f"{reason}: {message}")

    def _part(self, part: dict[str, Json], index: int) -> list[Item]:
        output = text(part.get("text"))
        found = signature(text(part.get("thoughtSignature")), self.marks)
        extra = _signature_member(found)
        items: list[Item] = []
        if output and part.get("thought"):
            items.append(Delta("", index, reasoning=output))
        elif output:
            items.append(Delta(output, index))
        if data := part.get("inlineData"):
            media_type = word(text(data.get("mimeType")), self.marks)
            if part.get("thought"):
                return items  # Google's SDK leaves out images in thoughts, too
            if not media_type.startswith("image/"):
                raise UpstreamInvalid(
                    f"the model answered with {media_type}, which cannot be translated"
                )
            number = self._next("image", index)
            items.append(image_delta(number, media_type, text(data["data"]), index, extra))
        elif (call := part.get("functionCall")) is not None:
            id, name = (word(text(one), self.marks) for one in (call.get("id"), call["name"]))
            number, id = self._next("call", index), id or self._new_call_id()
            given = arguments(call.get("args"), self.marks, self.marks)
            items += whole_call(number, id, name, given, index, extra or None)
        elif extra:
            self._signatures[index] = found
        elif not output and part.keys() - _EMPTY:
            other = {"index": self._next("other", index), **part}
            items.append(Delta(index=index, extra={"content_parts": [other]}))
        return items

    def _next(self, kind: str, index: int) -> int:
        """Return the number, from 0, of the next part of this *kind* in candidate *index*."""
        self._part_counts[kind, index] += 1
        if self._part_counts[kind, index] > _MOST_PARTS:
            raise UpstreamInvalid(f"the provider sent more than {_MOST_PARTS:,} parts of one kind")
        return self._part_counts[kind, index] - 1

    def _finish(self, index: int, word: str) -> Finish:
        if self._block_reason or word in _NO_ANSWER:
            reason = "content_filter" if self._block_reason else "stop"
            return Finish(reason, index, {"native_finish_reason": word})
        # An answer with tool calls ends with STOP, too, perhaps in a later chunk.
        reason, extra = finish_reason(word, self._part_counts["call", index] > 0)
        return Finish(reason, index, {**(extra or {}), **self._sources.get(index, {})} or None)


def _camel(value: Json) -> Json:
    """Return *value*, changed to have names in camel case at any depth but in arguments of calls.

    Some servers write names in snake case, as in protocol buffers: ``finish_reason``.
    """
    if isinstance(value, list):
        value[:] = map(_camel, value)
    elif isinstance(value, dict):
        members = list(value.items())
        value.clear()
        for name, one in members:
            name = _SNAKE.sub(lambda found: found[1].upper(), name)
            value[name] = one if name == "args" else _camel(one)
    return value


def _signature_member(signature: str) -> dict[str, Json]:
    """Return the member for *signature* in Google's OpenAI-compatible API; {} if it is empty."""
    member = {"extra_content": {"google": {"thought_signature": signature}}}
    return member if signature else {}
