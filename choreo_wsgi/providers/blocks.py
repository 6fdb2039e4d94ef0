"""Answers that come as numbered blocks of text, thinking and tool calls.

Anthropic's Messages and Bedrock's Converse tell the same story in other words: a block starts,
grows by deltas and stops; then the message stops with a reason.  :class:`Blocks` keeps what
has to be remembered in between.
"""

from __future__ import annotations

from dataclasses import replace

from ..chat.aside import is_object, pieces, set_aside, whole
from ..chat.endings import finish_reason
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, new_call_id
from ..chat.shapes import arguments_of
from ..errors import UpstreamInvalid, UpstreamTruncated
from .translating import arguments


class Blocks:
    """The blocks of one answer; its methods return the items that each step completes.

    What is told may have marks of *marks* in it.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.stopped: Finish | None = None
        self._arguments: list[list[str]] = []  # the pieces of each call's, in order
        self._whole: list[list[str]] = []  # those that came with the start of each call
        self._open: dict[int, int] = {}  # the open calls: block's index -> number of the call
        self._thinking: list[str] = []
        self._signature = ""
        self._thoughts = 0

    def call(self, index: int, id: str, name: str, given: Json = None) -> list[Item]:
        """Begin a tool call in block *index*; *given* are its arguments where none are streamed."""
        number = self._open[index] = len(self._arguments)
        self._arguments.append([])
        self._whole.append(arguments(given, self._marks))
        return [Delta(tool_calls=[ToolCall(number, id or new_call_id(), name)])]

    def arguments(self, index: int, given: Json) -> list[Item]:
        """Go on with the call in block *index*; nothing for a tool that the provider runs."""
        number, piece = self._open.get(index), arguments_of(given)
        if number is None or not piece:
            return []
        self._arguments[number] += pieces(piece, self._marks)
        return [Delta(tool_calls=[ToolCall(number, arguments=piece)])]

    def think(self, piece: str) -> list[Item]:
        """Go on with the thinking block that is open."""
        self._thinking += pieces(piece, self._marks)
        return [Delta(reasoning=piece)] if piece else []

    def sign(self, piece: str) -> None:
        """Take the thinking block's signature, or a piece of it."""
        self._signature += whole(piece, self._marks)

    def redacted(self, data: str) -> list[Item]:
        """Return a thinking block whose text is hidden."""
        return [self._thought({"type": "redacted_thinking", "data": data})]

    def close(self, index: int) -> list[Item]:
        """End block *index*.

        A thinking block that is signed goes to the caller whole, as ``thinking_blocks``: a later
        turn must give it back unchanged.  A call without arguments gets ``{}``, for what clients
        parse must be JSON.
        """
        items: list[Item] = []
        marks: Marks = {}
        thinking, signature = set_aside(self._thinking, marks), self._signature
        self._thinking, self._signature = [], ""
        if signature:
            block = {"type": "thinking", "thinking": thinking, "signature": signature}
            items.append(replace(self._thought(block), marks=marks))
        number = self._open.get(index)
        if number is not None and not self._arguments[number]:
            for piece in self._whole[number]:
                items += self.arguments(index, piece)
        self._open.pop(index, None)
        return items

    def stop(self, word: str, sequence: str = "") -> None:
        """Take the message's stop reason; *sequence* is the stop string that ended it, if any.

        Raises ProviderError for a reason that is a failure.
        """
        reason, extra = finish_reason(word, bool(self._arguments))
        if sequence:
            extra = {**(extra or {}), "stop_sequence": sequence}
        self.stopped = Finish(reason, extra=extra)

    def end(self, usage: Usage | None) -> list[Item]:
        """Return the end of the message; raises UpstreamTruncated if no stop reason came."""
        finish = self.stopped
        if finish is None:
            raise UpstreamTruncated("the provider's stream ended without a stop reason")
        items = [item for index in sorted(self._open) for item in self.close(index)]
        if finish.reason == "tool_calls" and not all(map(is_object, self._arguments)):
            raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
        return [*items, finish, *([usage] if usage else [])]

    def _thought(self, block: dict[str, Json]) -> Delta:
        # The index keeps the blocks apart in a client that folds deltas.
        block = {"index": self._thoughts, **block}
        self._thoughts += 1
        return Delta(extra={"thinking_blocks": [block]})
