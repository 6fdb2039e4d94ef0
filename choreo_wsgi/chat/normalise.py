"""Chunks and completions of servers that speak OpenAI's API nearly, made to follow its schema.

A :class:`Normaliser` belongs to one stream: it takes each chunk as a parsed object and returns
the chunks that should have been sent.  It knows of each choice whether its role was sent, which
tool calls have begun, and whether it is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import UpstreamInvalid, UpstreamTruncated
from .calls import ToolCalls, new_call_id
from .endings import finish_reason
from .items import Json
from .shapes import reshape, says, text_of

Chunk = dict[str, Json]

#: What became of a chunk.  A chunk that was mended by what stands in it alone, or to what is the
#: same in a whole stream, would be mended in the same way again; one that was CHANGED would not.
KEPT, MENDED, CHANGED = range(3)

_OBJECT = "chat.completion.chunk"
#: Members of a chunk that say nothing by themselves.
_FRAME = frozenset(
    (
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint"),
        *("service_tier", "obfuscation", "x_groq", "provider"),
    )
)


class Choice:
    """What is known of one choice of a stream."""

    __slots__ = ("begun", "calls", "finished")

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.begun = False  # its role was sent
        self.finished = False
        self.calls = ToolCalls(new_id)

    def listener(self, chunk: Chunk) -> Callable[[bytes], None] | None:
        """Return what is to be told the arguments of chunks like *chunk* that pass unread."""
        pieces = chunk["choices"][0]["delta"].get("tool_calls")
        return self.calls.begun[pieces[0]["index"]].pieces.append if pieces else None


class Normaliser:
    """The chunks of one stream of *n* choices.

    *identity* has the ``id``, ``created`` and ``model`` that stand in for the upstream's where
    it gives none; without an identity those members are left as they come.  *model* is the name to
    write for the upstream's, or empty.  *active* False leaves everything as it comes but usage
    and the model's name.

    ``usage`` is the API's object as it was last reported.  ``done`` is whether ``[DONE]`` came.
    ``state`` counts the calls that began and the choices that finished.
    """

    def __init__(
        self,
        n: int = 1,
        identity: Mapping[str, Json] | None = None,
        model: str = "",
        active: bool = True,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.n = n
        self.choices: dict[int, Choice] = {}
        self.usage: Chunk | None = None
        self.done = False
        self.state = 0
        self._finished = 0
        self._fallback = identity
        self._model = model
        self._active = active
        self._new_id = new_id
        self._identity: Chunk = {}
        self._frame: Chunk = {}  # of the chunk that brought the usage
        self._late: Chunk = {}  # members of chunks without choices, for the last chunk

    # -- how far it has come ---------------------------------------------------------

    @property
    def all_finished(self) -> bool:
        """Whether every choice that was asked for has its finish reason."""
        return self._finished >= self.n

    def take_done(self) -> None:
        """Take note of ``[DONE]``; raises UpstreamTruncated when no choice came before it."""
        if not self.choices:
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
        if self._active:
            for index, choice in sorted(self.choices.items()):
                if not choice.finished:
                    choices = self._finish(choice, index, "stop")
                    chunks += [{**self._identity, "choices": [one]} for one in choices]
        late, self._late = self._late, {}
        usage = {"usage": self.usage} if include_usage and self.usage is not None else {}
        if late or usage:
            chunks.append({**self._frame, **self._identity, "choices": [], **late, **usage})
        return chunks

    # -- chunks ----------------------------------------------------------------------

    def take(self, chunk: Chunk) -> tuple[list[Chunk], int]:
        """Return the chunks to send for *chunk*, and what became of it: KEPT, MENDED, CHANGED.

        *chunk* may be changed.  Its ``usage`` is taken out; null is left as it is.  Raises
        UpstreamInvalid for what is no chunk, and ProviderError for a finish that is a failure.
        """
        choices = chunk.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise UpstreamInvalid("the provider sent an event that is not a chat chunk")
        reported = self._take_usage(chunk, choices)
        if not self._active:
            return self._watch(chunk, choices, reported)
        if not choices:
            if reported or (self._finished and "choices" in chunk):
                self._keep_late(chunk)
            return (
                [],
                CHANGED,
            )  # keep-alives, Azure's prompt filter results: clients read choices[0]
        empty = reported or not chunk.get("id")  # what is left of it may say nothing
        verdict = max(MENDED if reported else KEPT, self._identify(chunk))
        kept: list[Chunk] = []
        late: list[Chunk] = []
        for place, one in enumerate(choices):
            sent, became = self._take_choice(one, place, empty)
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
        found = chunk.get("usage")
        if found is None and "x_groq" in chunk and isinstance(chunk["x_groq"], dict):
            found = chunk["x_groq"].pop("usage", None)
        elif found is not None:
            chunk["usage"] = None
        for one in choices:
            if "usage" in one:
                found = one.pop("usage") or found
        if found is None:
            return False
        if isinstance(found, dict) and found:
            self.usage = complete_usage(found)
            self._frame = {key: value for key, value in chunk.items() if key in _FRAME}
        return True

    def _keep_late(self, chunk: Chunk) -> None:
        """Keep what a chunk says outside of its choices: timings, citations."""
        self._late.update({key: value for key, value in chunk.items() if key not in _FRAME})

    def _identify(self, chunk: Chunk) -> int:
        """Give every chunk the stream's id, object, created and model, as they were first."""
        own = self._identity
        if not own:
            own = self._identity = _identity(chunk, self._fallback)
            if self._model:
                own["model"] = self._model
        if all(chunk.get(name) == value for name, value in own.items()):
            return KEPT
        if own.keys() - chunk.keys():  # those that were missing come first
            given = dict(chunk)
            chunk.clear()
            chunk.update({**own, **given})
        chunk.update(own)
        return MENDED

    def _watch(self, chunk: Chunk, choices: list[Chunk], reported: bool) -> tuple[list[Chunk], int]:
        """Take *chunk* where nothing is to be mended."""
        for one in choices:
            index = one.get("index")
            choice = self._choice(index if type(index) is int else 0)
            if not isinstance(one.get("delta", {}), dict | None):
                raise UpstreamInvalid("the provider's delta is not an object")
            if one.get("finish_reason") and not choice.finished:
                finish_reason(str(one["finish_reason"]))
                self._count_finish(choice)
        if not self._identity and choices:
            self._identity = _identity(chunk, None)
        if reported and not any(
            says(one.get("delta") or {}) or one.get("finish_reason") for one in choices
        ):
            return [], CHANGED
        verdict = MENDED if reported else KEPT
        if self._model and chunk.get("model") != self._model:
            chunk["model"], verdict = self._model, MENDED
        return [chunk], verdict

    def _count_finish(self, choice: Choice) -> None:
        choice.finished = True
        self._finished += 1
        self.state += 1

    # -- choices ---------------------------------------------------------------------

    def _choice(self, index: int) -> Choice:
        choice = self.choices.get(index)
        if choice is None:
            choice = self.choices[index] = Choice(self._new_id)
        return choice

    def _take_choice(self, one: Chunk, place: int, may_be_empty: bool) -> tuple[list[Chunk], int]:
        """Mend the choice *one*, the *place*-th of its chunk, in place.

        Returns the choices to send, each but the first in a chunk of its own, and what became
        of this one.  There are none when nothing is left to say.
        """
        index, delta, reason = one.get("index"), one.get("delta"), one.get("finish_reason")
        verdict = KEPT
        if type(index) is not int:
            index = one["index"] = place
            verdict = MENDED
        choice = self._choice(index)
        if type(delta) is not dict or "message" in one:
            delta = one["delta"] = _delta_of(one, delta, choice)
            verdict = CHANGED
        if reshape(delta):
            verdict = max(verdict, MENDED)
        if "tool_calls" in delta and self._number_calls(choice, delta):
            verdict = CHANGED
        if not reason and (reason is not None or "finish_reason" not in one):
            one["finish_reason"] = None
            verdict = max(verdict, MENDED)
        said = says(delta)
        closing: list[Chunk] = []
        if reason and not choice.finished:
            closing = self._finish(choice, index, reason)
            if not said and len(closing) == 1:  # it is nothing but the finish, and stays that
                if one["finish_reason"] != closing[0]["finish_reason"] or len(closing[0]) > 3:
                    one.update({**closing[0], "delta": delta})
                    verdict = CHANGED
                closing = []
            else:
                # Content in the last chunk (Mistral, Groq) is overlooked by clients that stop
                # at the finish reason.
                one["finish_reason"] = None
        elif (choice.finished or may_be_empty) and not said and not _has_logprobs(one):
            return [], CHANGED
        elif reason:
            one["finish_reason"] = None  # it was finished before
            verdict = CHANGED
        if "role" in delta if choice.begun else delta.get("role") != "assistant":
            delta.pop("role", None)
            one["delta"] = delta if choice.begun else {"role": "assistant", **delta}
            verdict = MENDED if choice.begun and verdict == KEPT else verdict
            verdict = verdict if choice.begun else CHANGED
        choice.begun = True
        return [one, *closing], CHANGED if closing else verdict

    def _number_calls(self, choice: Choice, delta: Chunk) -> bool:
        """Give the calls in *delta* their numbers; return whether that changes anything."""
        given, known = delta["tool_calls"], len(choice.calls.begun)
        pieces = choice.calls.take(given)
        self.state += len(choice.calls.begun) - known
        if pieces == given:
            return False
        delta["tool_calls"] = pieces
        if not pieces:
            del delta["tool_calls"]
        return True

    def _finish(self, choice: Choice, index: int, reason: Json) -> list[Chunk]:
        """Return the choices that finish *choice*: arguments still due, and the finish."""
        word, message = reason, ""
        if isinstance(reason, dict):  # SGLang: {"type": "abort", "message": ...}
            word, message = text_of(reason.get("type")) or "error", text_of(reason.get("message"))
        if not isinstance(word, str):
            raise UpstreamInvalid("the provider's finish reason is not a string")
        calls = choice.calls
        native, extra = finish_reason(word, bool(calls.calls), message)
        due = calls.close() if native == "tool_calls" else []
        self._count_finish(choice)
        finish = {"index": index, "delta": {}, "finish_reason": native, **(extra or {})}
        if not due:
            return [finish]
        return [{"index": index, "delta": {"tool_calls": due}, "finish_reason": None}, finish]


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


def _delta_of(one: Chunk, delta: Json, choice: Choice) -> Chunk:
    """Return the delta of a choice that has none: null, a whole message, or plain text."""
    message = one.pop("message", None)
    if isinstance(message, dict):
        # A document at the end (MiniMax) repeats what its chunks said.
        return {} if choice.begun else dict(message)
    if delta is None:
        text = one.pop("text", None)
        return {"content": text} if isinstance(text, str) else {}
    raise UpstreamInvalid("the provider's delta is not an object")


def _has_logprobs(one: Chunk) -> bool:
    found = one.get("logprobs")
    return any(found.values()) if isinstance(found, dict) else bool(found)


def complete_usage(usage: Chunk) -> Chunk:
    """Return *usage* with the three counts that the schema requires.

    A total that the provider gives stands, also where it is not the sum.
    """
    prompt, completion, total = (
        next((count for name in names if type(count := usage.get(name)) is int), None)
        for names in (
            ("prompt_tokens", "input_tokens"),
            ("completion_tokens", "output_tokens"),
            ("total_tokens",),
        )
    )
    if total is None:
        total = (prompt or 0) + (completion or 0)
    counts = {"prompt_tokens": prompt or 0, "completion_tokens": completion or 0}
    counts["total_tokens"] = total
    return {**usage, **counts}
