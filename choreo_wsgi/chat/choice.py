"""One choice of a stream: what it has said so far, and what its next piece should have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UpstreamInvalid
from .endings import finish_reason, is_finish, reason_in
from .items import Json
from .shapes import Members, arguments_of, reshape, says

if TYPE_CHECKING:
    from .calls import ToolCalls

#: What became of a piece.  One that was MENDED by what stands in it alone, or to what stays the
#: same in a whole stream, would be mended in the same way again; one that was CHANGED would not.
KEPT, MENDED, CHANGED = range(3)
#: Where a choice says something, if it does not in a delta.
_SAID = (
    *("message", "messages", "delta", "text", "content", "output", "response"),
    *("generated_text", "completion", "answer"),
)
#: What a whole message at the end of a stream may say again.
TOLD = ("content", "reasoning_content", "refusal", "tool_calls")


def said_in(one: Members) -> Json:
    """Return what *one*, a choice, says instead of a delta, None for nothing; only a message stays.

    Text, or parts of it, is content; a list may hold the one message.
    """
    name = next(filter(one.get, _SAID), "")
    name = name or next((name for name in _SAID if one.get(name) is not None), "")
    said = one[name] if name == "message" else one.pop(name, None)
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
        said = said if "type" in said[0] else said[0]
    return {"content": said} if isinstance(said, str | list) else said


@dataclass(slots=True, eq=False)
class Choice:
    """The choice *index*; *new_calls* makes what puts its tool calls together, if there are any."""

    index: int
    new_calls: Callable[[], ToolCalls]
    _calls: ToolCalls | None = None
    begun: bool = False  # its role was sent
    in_messages: bool = False  # that is how it began, not with a delta
    finished: bool = False
    told: set[str] = field(default_factory=set)  # the members of TOLD that it has said

    @property
    def state(self) -> int:
        """A count of what changes the meaning of later pieces: calls, and the finish."""
        return self.finished + (self._calls.state if self._calls is not None else 0)

    @property
    def calls(self) -> ToolCalls:
        """The tool calls; most choices have none."""
        if self._calls is None:
            self._calls = self.new_calls()
        return self._calls

    def take(self, one: Members, may_be_empty: bool) -> tuple[list[Members], int]:
        """Mend *one*, this choice in a chunk, in place; return what to send and what it became.

        What is to be sent are pieces of this choice, each but the first in a chunk of its own.
        There are none when nothing is left to say, which matters after the finish, and where
        the piece *may_be_empty*.
        """
        told = type(one.get("delta")) is dict or "message" in one
        delta, verdict = self._delta(one)
        reason = reason_in(one)
        if reason and not is_finish(reason):
            reason = ""
        closing: list[Members] = []
        if not reason or self.finished:
            # Before anything was said, what has no delta says nothing that is known.
            nothing = self.finished or may_be_empty or not (told or self.begun)
            if nothing and not says(delta) and not any((one.get("logprobs") or {}).values()):
                return [], CHANGED
            if reason is not None or "finish_reason" not in one:
                one["finish_reason"] = None  # "" for null, or one more finish
                verdict = max(verdict, CHANGED if reason else MENDED)
        else:
            closing = self.finish(reason)
            if len(closing) > 1 and not says(delta):
                delta = one["delta"] = closing.pop(0)["delta"]
            if says(delta):
                # Content in the last chunk (Mistral, Groq) is overlooked by clients that stop
                # at the finish reason.
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
        """Return the pieces that finish this choice: arguments still due, and the finish.

        Raises ProviderError for a *reason* that says failure, and UpstreamInvalid for calls
        that are not whole.
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
        """Return what is to be told the arguments in pieces like *one* that pass unread."""
        pieces = one["delta"].get("tool_calls")
        return self.calls.begun[pieces[0]["index"]].add if pieces else None

    def _delta(self, one: Members) -> tuple[Members, int]:
        """Return the delta of *one* in the right shape, and what became of it."""
        delta, verdict = one.get("delta"), KEPT
        again = False  # a document at the end (MiniMax) repeats what its chunks said
        if type(delta) is not dict or type(one.get("message")) is dict:
            again = self.begun and not self.in_messages and type(one.get("message")) is dict
            delta = one["delta"] = self._delta_instead(one)
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
        if again:
            new = [name for name in TOLD if delta.get(name) and name not in self.told]
            delta = one["delta"] = {name: delta[name] for name in new}
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            if self.calls.tools and "tool_calls" not in delta:  # answers to ``tools``
                delta["tool_calls"] = {"function": delta.pop("function_call")}
            elif not isinstance(legacy.get("arguments", ""), str):
                legacy["arguments"], verdict = arguments_of(legacy["arguments"]), CHANGED
        given = delta.get("tool_calls")
        if given is not None:
            pieces = self.calls.take(given)
            if pieces != given or not all(type(one["index"]) is int for one in given):
                verdict = CHANGED
                delta["tool_calls"] = pieces
            if not pieces:
                del delta["tool_calls"]
                verdict = max(verdict, MENDED)
        self.told.update(filter(delta.get, TOLD))
        return delta, verdict

    def _delta_instead(self, one: Members) -> Members:
        """Return the delta of *one*, which has none, or a message, perhaps a whole one."""
        is_message = type(one.get("message")) is dict
        said = said_in(one)
        one.pop("message", None)
        if not isinstance(said, dict | None):
            raise UpstreamInvalid("the provider's delta is not an object")
        if not self.begun:
            self.in_messages = is_message
        return said or {}
