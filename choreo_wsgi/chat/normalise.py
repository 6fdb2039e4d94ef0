"""Chunks and completions of servers that speak OpenAI's API nearly, made to follow its schema.

A :class:`Normaliser` belongs to one stream: it takes each chunk as a parsed object and returns
the chunks that should have been sent.  It keeps the stream's identity and usage; what a
:class:`~choreo_wsgi.chat.choice.Choice` has said so far is kept there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamInvalid, UpstreamTruncated
from ..late import Late
from .choice import CHANGED, KEPT, MENDED, TOLD, Choice
from .endings import finish_reason, is_finish, reason_in
from .items import Json, Marks, new_call_id
from .jsontext import whole_number
from .shapes import Members as Chunk
from .shapes import listed, says
from .usages import complete_usage, counts_anything, take_usage

if TYPE_CHECKING:
    from . import calls
else:
    calls = Late("choreo_wsgi.chat.calls")

_OBJECT = "chat.completion.chunk"
#: Members of a chunk that say nothing by themselves.
_FRAME = {
    *("id", "object", "created", "model", "choices", "usage", "system_fingerprint"),
    *("service_tier", "obfuscation", "x_groq", "provider"),
}


@dataclass(eq=False)
class Normaliser:
    """The chunks of one stream of *n* choices.

    *identity* has the ``id``, ``created`` and ``model`` that stand in for the upstream's where
    it gives none; without an identity those members are left as they come.  *model* is the name to
    write for the upstream's, or empty.  *repair* False leaves everything as it comes but usage
    and the model's name.  *new_id* and *tools* are for :class:`~choreo_wsgi.chat.calls.ToolCalls`.

    ``done`` is whether ``[DONE]`` came.  ``state`` counts the calls that began and the choices
    that finished.
    """

    n: int = 1
    identity: Mapping[str, Json] | None = None
    model: str = ""
    repair: bool = True
    new_id: Callable[[], str] = new_call_id
    tools: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        #: What the marks stand for that are in a chunk in the place of long strings.
        self.marks: Marks = {}
        self.choices: dict[int, Choice] = {}
        self.done = False
        self.state = 0
        self._finished = 0
        self._ended = False
        self._identity: Chunk = {}
        self._numbered: dict[int, Choice] = {}  # by the upstream's numbers
        self._usage: Chunk | None = None
        self._reporter: Chunk = {}  # the chunk that brought the usage
        self._late: Chunk = {}  # members of chunks without choices, for the last chunk

    # -- how far it has come ---------------------------------------------------------

    @property
    def usage(self) -> Chunk | None:
        """The API's ``usage`` object as it was last reported, complete; None for none."""
        return complete_usage(self._usage) if self._usage is not None else None

    @property
    def all_finished(self) -> bool:
        """Whether every choice that was asked for has its finish reason."""
        return self._finished >= self.n

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What decides, beside its bytes, what becomes of a first chunk; empty: more than this."""
        usual = self.n == 1 and self.repair
        return (self.model, bool(self.tools), self.identity is None) if usual else ()

    @property
    def own(self) -> Mapping[str, Json] | None:
        """The members that all chunks have in common, if the one choice is called 0."""
        return self._identity if [*self._numbered] == [0] else None

    def begin(self, own: Chunk, unread: bool) -> None:
        """Take note of a first chunk, with the role of the one choice.

        *unread* is whether texts may pass that are not taken here.
        """
        self._identity = own
        choice = self._choice(0, 0)
        choice.begun = True
        choice.told.update(TOLD if unread else ())

    def finish(self) -> None:
        """Take note of the finish of the one choice, which has no calls."""
        self.choices[0].finished = True
        self._finished += 1
        self.state += 1

    def take_done(self) -> None:
        """Take note of ``[DONE]``; raises UpstreamTruncated when no choice came before it."""
        begun = any(choice.begun for choice in self.choices.values()) or not self.repair
        if not (begun and self.choices):
            raise UpstreamTruncated("the provider's answer ended before it began")
        self.done = True

    def end(self, include_usage: bool = False) -> list[Chunk]:
        """Say that the stream is over; return the chunks still due.

        They are the finishes that ``[DONE]`` stood for, and one without choices for usage (when
        *include_usage*) and whatever came late.  Raises UpstreamTruncated when it was too early.
        """
        if not (self.done or self.all_finished):
            raise UpstreamTruncated("the provider's answer ended before it was complete")
        chunks: list[Chunk] = []
        if self._ended:
            return chunks
        self._ended = True
        for _, choice in sorted(self.choices.items()):
            if self.repair and not choice.finished:
                closing = choice.finish("stop")
                if not choice.begun:
                    closing[0]["delta"] = {"role": "assistant", **closing[0]["delta"]}
                chunks += [{**self._identity, "choices": [one]} for one in closing]
        late = self._late
        usage = {"usage": self.usage} if include_usage and self._usage is not None else {}
        if late or usage:
            frame = {key: value for key, value in self._reporter.items() if key in _FRAME}
            if "id" not in frame:  # the identity comes first
                frame = {**self._identity, "choices": [], **frame}
            chunks.append({**frame, **self._identity, "choices": [], **late, **usage})
        return chunks

    # -- chunks ----------------------------------------------------------------------

    def take(self, chunk: Chunk) -> tuple[list[Chunk], int]:
        """Return the chunks to send for *chunk*, and what became of it: KEPT, MENDED, CHANGED.

        *chunk* may be changed.  Its ``usage`` is taken out; null is left as it is.  Raises
        UpstreamInvalid for what is no chunk, and ProviderError for a finish that is a failure.
        """
        choices = chunk.get("choices")
        if not isinstance(choices, list) or None in choices:
            choices = listed(choices)
            if "choices" in chunk:
                chunk["choices"] = choices
        for one in choices:
            if not isinstance(one, dict):
                raise UpstreamInvalid("the provider sent an event that is not a chat chunk")
        reported = self._take_usage(chunk, choices)
        if not self.repair:
            return self._watch(chunk, choices, reported)
        if not choices and (reason := reason_in(chunk)):
            choices = chunk["choices"] = [{"finish_reason": reason}]  # the only choice's
        if not choices:
            if reported or (self._finished and "choices" in chunk):
                self._keep_late(chunk)
            return [], CHANGED  # keep-alives, Azure's first event: clients read choices[0]
        empty = reported or not chunk.get("id")  # what is left of it may say nothing
        verdict = max(MENDED if reported else KEPT, self._identify(chunk))
        kept: list[Chunk] = []
        late: list[Chunk] = []
        for place, one in enumerate(choices):
            choice = self._choice(one.get("index"), place)
            if type(one.get("index")) is not int or one["index"] != choice.index:
                one["index"], verdict = choice.index, max(verdict, MENDED)
            state, finished = choice.state, choice.finished
            sent, became = choice.take(one, empty)
            self.state += choice.state - state
            self._finished += choice.finished - finished
            verdict = max(verdict, became)
            kept += sent[:1]
            late += sent[1:]
        if len(kept) < len(choices):
            chunk["choices"] = kept
            if not kept:
                self._keep_late(chunk)
                return [], CHANGED
        if not late:
            return [chunk], verdict
        frame = {key: value for key, value in chunk.items() if key in _FRAME}
        return [chunk, *({**frame, "choices": [one]} for one in late)], CHANGED

    def _take_usage(self, chunk: Chunk, choices: list[Chunk]) -> bool:
        """Take usage out of a chunk; it is sent in a chunk of its own (Groq, Kimi)."""
        found = take_usage(chunk)
        for one in choices:
            for holder in (one, one.get("delta")):
                if isinstance(holder, dict) and "usage" in holder:
                    found = holder.pop("usage") or found
        if found is None:
            return False
        if counts_anything(found):
            self._usage, self._reporter = found, chunk
        return True

    def _keep_late(self, chunk: Chunk) -> None:
        """Keep what a chunk says outside of its choices: timings, citations."""
        self._late.update({key: value for key, value in chunk.items() if key not in _FRAME})

    def _identify(self, chunk: Chunk) -> int:
        """Give every chunk the stream's id, object, created and model, as they were first."""
        own = self._identity
        if not own:
            own = self._identity = _identity(chunk, self.identity)
            if self.model:
                own["model"] = self.model
        if own.items() <= chunk.items():
            return KEPT
        if own.keys() - chunk.keys():  # those that were missing come first
            given = dict(chunk)
            chunk.clear()
            chunk.update({**own, **given})
        chunk.update(own)
        return MENDED

    def _watch(self, chunk: Chunk, choices: list[Chunk], reported: bool) -> tuple[list[Chunk], int]:
        """Take *chunk* where nothing is to be mended."""
        for place, one in enumerate(choices):
            choice = self._choice(one.get("index"), place)
            if not isinstance(one.get("delta", {}), dict | None):
                raise UpstreamInvalid("the provider's delta is not an object")
            if is_finish(one.get("finish_reason")) and not choice.finished:
                finish_reason(str(one["finish_reason"]))
                choice.finished = True
                self._finished += 1
                self.state += 1
        if not self._identity and choices:
            self._identity = _identity(chunk, None)
        if reported and not any(
            says(one.get("delta") or {}) or one.get("finish_reason") for one in choices
        ):
            return [], CHANGED
        verdict = MENDED if reported else KEPT
        if self.model and chunk.get("model") != self.model:
            chunk["model"], verdict = self.model, MENDED
        return [chunk], verdict

    def _choice(self, index: Json, place: int) -> Choice:
        """Return the choice *index*, or the *place*-th of its chunk if that is no number.

        Where one choice was asked for, the one that comes is it, whatever its number.
        """
        given = whole_number(index)
        number = place if given is None else given
        choice = self._numbered.get(number)
        if choice is None and self.n == 1 and given is None and place == 0:
            choice = self.choices.get(0)
        if choice is None:
            if self.n == 1 and not self.choices:
                ours = 0
            elif 0 <= number < self.n and number not in self.choices:
                ours = number
            else:
                raise UpstreamInvalid("the provider sent a choice that was not asked for")
            new_calls = partial(_new_calls, self.new_id, self.tools, self.marks)
            choice = Choice(ours, new_calls)
            self._numbered[number] = self.choices[ours] = choice
        return choice


def _new_calls(*given: Any) -> calls.ToolCalls:
    return calls.ToolCalls(*given)  # which is imported now


def _identity(chunk: Chunk, fallback: Mapping[str, Json] | None) -> Chunk:
    """Return the members that all chunks of a stream share, after *chunk*, its first."""
    if fallback is None:
        return {name: chunk[name] for name in ("id", "created") if name in chunk}
    own = {"id": chunk.get("id"), "object": _OBJECT, "created": chunk.get("created")}
    own["model"] = chunk.get("model")
    for name, kind in (("id", str), ("created", int), ("model", str)):
        if type(own[name]) is not kind or not own[name]:
            own[name] = fallback[name]
    return own
