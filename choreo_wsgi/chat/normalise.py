"""Makes the chunks of servers that nearly speak OpenAI's API follow its schema.

A :class:`Normaliser` belongs to one stream: for each parsed chunk it returns the chunks that the
provider should have sent.  It keeps the identity and the usage of the stream; the state of each
choice is in a :class:`~choreo_wsgi.chat.choice.Choice`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamInvalid, UpstreamTruncated
from ..late import Late
from .choice import CHANGED, KEPT, MENDED, REPEATABLE, Choice
from .endings import finish_reason, is_finish, reason_in
from .items import Json, Marks, has_many, new_call_id
from .jsontext import whole_number
from .shapes import Members as Chunk
from .shapes import has_content, listed
from .usages import complete_usage, counts_anything, take_usage

if TYPE_CHECKING:
    from . import calls, large
else:
    calls = Late("choreo_wsgi.chat.calls")
    large = Late("choreo_wsgi.chat.large")

_OBJECT = "chat.completion.chunk"
#: Members that alone are no reason to send a chunk.
_FRAME = {
    *("id", "object", "created", "model", "choices", "usage", "system_fingerprint"),
    *("service_tier", "obfuscation", "x_groq", "provider"),
}
#: Limits of bytes in a member of chunks without choices, and of such members.
_MOST_LATE, _MOST_LATE_MEMBERS = 256 * 1024, 64
#: Characters of the longest id or name of a model that is kept: all frames repeat them.
_LONGEST_NAME = 512


@dataclass(eq=False)
class Normaliser:
    """The chunks of one stream of *n* choices.

    *identity* has the ``id``, ``created`` and ``model`` to send where the upstream sends none;
    without it those members are not changed.  *model* replaces the upstream's name of the model
    unless it is empty.  With *repair* False only the usage and the name of the model are changed.
    *new_id* and *tools* are for :class:`~choreo_wsgi.chat.calls.ToolCalls`.

    ``done`` is whether ``[DONE]`` was received.  ``state`` changes when a call begins or a choice
    finishes.
    """

    n: int = 1
    identity: Mapping[str, Json] | None = None
    model: str = ""
    repair: bool = True
    new_id: Callable[[], str] = new_call_id
    tools: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        #: The marks for long strings in the current chunk.
        self.marks: Marks = {}
        self.choices: dict[int, Choice] = {}
        self.done = False
        self.state = 0
        self._finished = 0
        self._ended = False
        self._identity: Chunk = {}
        self._numbered: dict[int, Choice] = {}  # by the upstream's index
        self._usage: Chunk | None = None
        self._reporter: Chunk = {}  # the chunk with that usage
        self._late: Chunk = {}  # members of chunks without choices, for the last chunk

    # -- state -----------------------------------------------------------------------

    @property
    def usage(self) -> Chunk | None:
        """The last ``usage`` object reported, completed as the API requires, or None."""
        return complete_usage(self._usage) if self._usage is not None else None

    @property
    def all_finished(self) -> bool:
        """Whether every choice of the request has its finish reason."""
        return self._finished >= self.n

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """The settings that, with its bytes, decide how a first chunk changes; empty if more do."""
        usual = self.n == 1 and self.repair
        return (self.model, bool(self.tools), self.identity is None) if usual else ()

    @property
    def shared_members(self) -> Mapping[str, Json] | None:
        """The members that are the same in all chunks, if the only choice has the index 0."""
        return self._identity if [*self._numbered] == [0] else None

    def begin(self, identity: Chunk, unread: bool) -> None:
        """Record a first chunk, with *identity* and the role of the only choice.

        *unread* is whether later texts may be forwarded without :meth:`normalise`.
        """
        self._identity = identity
        choice = self._choice(0, 0)
        choice.begun = True
        choice.sent.update(REPEATABLE if unread else ())

    def finish(self) -> None:
        """Record the finish of the only choice, which has no calls."""
        self.choices[0].finished = True
        self._finished += 1
        self.state += 1

    def mark_done(self) -> None:
        """Record ``[DONE]``; raises UpstreamTruncated if no choice was received before it."""
        begun = any(choice.begun for choice in self.choices.values()) or not self.repair
        if not (begun and self.choices):
            raise UpstreamTruncated("the provider's answer ended before it began")
        self.done = True

    def end(self, include_usage: bool = False) -> list[Chunk]:
        """End the stream; return the chunks still to send.

        They are the finishes that the provider left out, and one without choices for the usage (if
        *include_usage*) and late members.  Raises UpstreamTruncated if the answer is incomplete.
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

    def normalise(self, chunk: Chunk) -> tuple[list[Chunk], int]:
        """Return the chunks to send for *chunk* and the verdict: KEPT, MENDED or CHANGED.

        *chunk* may be changed.  Its ``usage`` is removed unless it is null.  Raises
        UpstreamInvalid if it is no chunk, and ProviderError for a finish that is a failure.
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
            return self._check(chunk, choices, reported)
        if not choices and (reason := reason_in(chunk)):
            choices = chunk["choices"] = [{"finish_reason": reason}]  # of the only choice
        if not choices:
            if reported or (self._finished and "choices" in chunk):
                self._keep_late(chunk)
            return [], CHANGED  # keep-alives, Azure's first event: clients read choices[0]
        droppable = reported or not chunk.get("id")
        verdict = max(MENDED if reported else KEPT, self._identify(chunk))
        kept: list[Chunk] = []
        late: list[Chunk] = []
        for place, one in enumerate(choices):
            choice = self._choice(one.get("index"), place)
            if type(one.get("index")) is not int or one["index"] != choice.index:
                one["index"], verdict = choice.index, max(verdict, MENDED)
            state, finished = choice.state, choice.finished
            pieces, piece_verdict = choice.normalise(one, droppable)
            self.state += choice.state - state
            self._finished += choice.finished - finished
            verdict = max(verdict, piece_verdict)
            kept += pieces[:1]
            late += pieces[1:]
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
        """Remove the usage from a chunk, to be sent in its own (Groq, Kimi); return if any."""
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
        """Keep the members of a chunk outside its choices, such as timings and citations."""
        for name in chunk:
            if name in _FRAME:
                continue
            value = chunk[name]
            if self.marks or has_many(value):
                problem = "the provider sent too much beside its choices"
                text = large.dump_at_most(_MOST_LATE, value, self.marks, problem)
                value = json.loads(text) if self.marks else value
            self._late[name] = value
        if len(self._late) > _MOST_LATE_MEMBERS:
            raise UpstreamInvalid("the provider sent too many members beside its choices")

    def _identify(self, chunk: Chunk) -> int:
        """Set the id, object, created and model of the first chunk; return the verdict."""
        identity = self._identity
        if not identity:
            identity = self._identity = _identity(chunk, self.identity)
            if self.model:
                identity["model"] = self.model
        if identity.items() <= chunk.items():
            return KEPT
        if identity.keys() - chunk.keys():  # the missing members come first
            members = dict(chunk)
            chunk.clear()
            chunk.update({**identity, **members})
        chunk.update(identity)
        return MENDED

    def _check(self, chunk: Chunk, choices: list[Chunk], reported: bool) -> tuple[list[Chunk], int]:
        """Do the work of :meth:`normalise` without *repair*."""
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
            has_content(one.get("delta") or {}) or one.get("finish_reason") for one in choices
        ):
            return [], CHANGED
        verdict = MENDED if reported else KEPT
        if self.model and chunk.get("model") != self.model:
            chunk["model"], verdict = self.model, MENDED
        return [chunk], verdict

    def _choice(self, index: Json, place: int) -> Choice:
        """Return the choice with *index*, or, if that is no number, the *place*-th of its chunk.

        If the request has one choice, the first that is received is it, whatever its index.
        """
        number = whole_number(index)
        key = place if number is None else number
        choice = self._numbered.get(key)
        if choice is None and self.n == 1 and number is None and place == 0:
            choice = self.choices.get(0)
        if choice is None:
            if self.n == 1 and not self.choices:
                ours = 0
            elif 0 <= key < self.n and key not in self.choices:
                ours = key
            else:
                raise UpstreamInvalid("the provider sent a choice that was not requested")
            choice = Choice(ours, partial(_new_calls, self.new_id, self.tools, self.marks))
            self._numbered[key] = self.choices[ours] = choice
        return choice


def _new_calls(*arguments: Any) -> calls.ToolCalls:
    return calls.ToolCalls(*arguments)  # a function, as partial() would import the module at once


def _identity(chunk: Chunk, fallback: Mapping[str, Json] | None) -> Chunk:
    """Return the members that all chunks of a stream share, from *chunk*, its first."""
    if fallback is None:
        return {name: chunk[name] for name in ("id", "created") if name in chunk}
    identity = {"id": chunk.get("id"), "object": _OBJECT, "created": chunk.get("created")}
    identity["model"] = chunk.get("model")
    for name, kind in (("id", str), ("created", int), ("model", str)):
        value = identity[name]
        if type(value) is not kind or not value or str(value)[_LONGEST_NAME:]:
            identity[name] = fallback[name]
    return identity
