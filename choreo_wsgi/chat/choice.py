"""Mends the pieces of one choice of a stream: its deltas, its tool calls and its finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UpstreamInvalid
from .endings import finish_reason, is_finish, reason_in
from .items import Json
from .shapes import Members, arguments_of, has_content, reshape

if TYPE_CHECKING:
    from .calls import ToolCalls

#: Verdicts on a piece: it is unchanged; it is changed in a way that depends only on itself and on
#: members that are the same in the whole stream (and so will similar pieces be); or otherwise.
KEPT, MENDED, CHANGED = range(3)
#: Members of a choice that may hold its message or text; the first that is not empty counts.
HOLDERS = (
    *("message", "messages", "delta", "text", "content", "output", "response"),
    *("generated_text", "completion", "answer"),
)
#: Members of a delta that a complete message at the end of a stream may repeat.
REPEATABLE = ("content", "reasoning_content", "refusal", "tool_calls")


def message_in(one: Members) -> Json:
    """Return the message of the choice *one*, None without any.

    It is taken out of *one* unless it is in ``message``.  A text, or parts of it, becomes
    ``content``; a list with one message stands for the message.
    """
    name = next(filter(one.get, HOLDERS), "")
    name = name or next((name for name in HOLDERS if one.get(name) is not None), "")
    message = one[name] if name == "message" else one.pop(name, None)
    if isinstance(message, list) and len(message) == 1 and isinstance(message[0], dict):
        message = message if "type" in message[0] else message[0]
    return {"content": message} if isinstance(message, str | list) else message


@dataclass(slots=True, eq=False)
class Choice:
    """The choice *index* of a stream; *new_calls* makes its :class:`ToolCalls` at the first."""

    index: int
    new_calls: Callable[[], ToolCalls]
    _calls: ToolCalls | None = None
    begun: bool = False  # its role was sent
    in_messages: bool = False  # its first piece had a message instead of a delta
    finished: bool = False
    sent: set[str] = field(default_factory=set)  # the members of REPEATABLE that were sent

    @property
    def state(self) -> int:
        """A number that changes with the meaning of later pieces: with calls and the finish."""
        return self.finished + (self._calls.state if self._calls is not None else 0)

    @property
    def calls(self) -> ToolCalls:
        """The tool calls; most choices have none."""
        if self._calls is None:
            self._calls = self.new_calls()
        return self._calls

    def normalise(self, one: Members, droppable: bool) -> tuple[list[Members], int]:
        """Mend *one*, the piece of this choice in a chunk, in place.

        Return the pieces to send, each but the first in a chunk of its own, and the verdict.  An
        empty piece is dropped if it is *droppable*, after the finish, and, if it has no delta,
        before the role was sent.
        """
        has_delta = type(one.get("delta")) is dict or "message" in one
        delta, verdict = self._delta(one)
        reason = reason_in(one)
        if reason and not is_finish(reason):
            reason = ""
        closing: list[Members] = []
        if not reason or self.finished:
            # A piece without a delta cannot begin a choice.
            may_drop = self.finished or droppable or not (has_delta or self.begun)
            logprobs = one.get("logprobs") or {}
            if may_drop and not has_content(delta) and not any(logprobs.values()):
                return [], CHANGED
            if reason is not None or "finish_reason" not in one:
                one["finish_reason"] = None  # it was "", or a second finish
                verdict = max(verdict, CHANGED if reason else MENDED)
        else:
            closing = self.finish(reason)
            if len(closing) > 1 and not has_content(delta):
                delta = one["delta"] = closing.pop(0)["delta"]
            if has_content(delta):
                # Some clients stop reading at the finish reason and miss content beside it
                # (Mistral, Groq).
                one["finish_reason"] = None
                verdict = CHANGED
            else:
                finish = {**one, **closing.pop()}
                if finish != one:
                    one.update(finish)
                    delta, verdict = one["delta"], CHANGED
        if self.begun:
            if "role" in delta:
                del delta["role"]
                verdict = max(verdict, MENDED)
        elif delta.get("role") != "assistant":
            delta.pop("role", None)
            one["delta"] = {"role": "assistant", **delta}
            verdict = CHANGED
        self.begun = True
        return [one, *closing], verdict

    def finish(self, reason: Json) -> list[Members]:
        """Return the pieces that finish this choice: arguments still to send, and the finish.

        Raises ProviderError for a *reason* that means failure, and UpstreamInvalid for incomplete
        calls.
        """
        called = self._calls is not None and bool(self._calls.calls)
        ours, native = finish_reason(reason, called)
        due = self.calls.close() if ours == "tool_calls" else []
        self.finished = True
        finish = {"index": self.index, "delta": {}, "finish_reason": ours, **(native or {})}
        if not due:
            return [finish]
        return [{"index": self.index, "delta": {"tool_calls": due}, "finish_reason": None}, finish]

    def listener(self, one: Members) -> Callable[[bytes], None] | None:
        """Return a function that records the arguments in unparsed pieces like *one*, or None."""
        pieces = one["delta"].get("tool_calls")
        return self.calls.begun[pieces[0]["index"]].add if pieces else None

    def _delta(self, one: Members) -> tuple[Members, int]:
        """Return the delta of *one*, mended, and the verdict."""
        delta, verdict = one.get("delta"), KEPT
        repeats = False  # a complete message at the end (MiniMax) repeats the chunks before
        if type(delta) is not dict or type(one.get("message")) is dict:
            repeats = self.begun and not self.in_messages and type(one.get("message")) is dict
            delta = one["delta"] = self._delta_from_message(one)
            verdict = CHANGED
        if one.get("tool_calls"):
            beside = one.pop("tool_calls")
            delta["tool_calls"], verdict = delta.get("tool_calls") or beside, CHANGED
        if "finish_reason" in delta:
            reason, verdict = delta.pop("finish_reason"), CHANGED
            one["finish_reason"] = one.get("finish_reason") or reason
        if type(one.get("logprobs")) not in (dict, type(None)):
            one["logprobs"], verdict = None, max(verdict, MENDED)
        if reshape(delta):
            verdict = max(verdict, MENDED)
        if repeats:
            new = [name for name in REPEATABLE if delta.get(name) and name not in self.sent]
            delta = one["delta"] = {name: delta[name] for name in new}
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            if self.calls.tools and "tool_calls" not in delta:  # the request used ``tools``
                delta["tool_calls"] = {"function": delta.pop("function_call")}
            elif not isinstance(legacy.get("arguments", ""), str):
                legacy["arguments"], verdict = arguments_of(legacy["arguments"]), CHANGED
        calls = delta.get("tool_calls")
        if calls is not None:
            pieces = self.calls.normalise(calls)
            if pieces != calls or not all(type(one["index"]) is int for one in calls):
                verdict = CHANGED
                delta["tool_calls"] = pieces
            if not pieces:
                del delta["tool_calls"]
                verdict = max(verdict, MENDED)
        self.sent.update(filter(delta.get, REPEATABLE))
        return delta, verdict

    def _delta_from_message(self, one: Members) -> Members:
        """Return a delta for *one*, which has a message or a text instead."""
        is_message = type(one.get("message")) is dict
        message = message_in(one)
        one.pop("message", None)
        if not isinstance(message, dict | None):
            raise UpstreamInvalid("the provider's delta is not an object")
        if not self.begun:
            self.in_messages = is_message
        return message or {}
