"""Tool calls that a provider sends whole, with an object as their arguments; their number."""

from __future__ import annotations

from ..chat import aside
from ..chat.growing import utf8_or_mark
from ..chat.items import Delta, Item, Json, Marks, ToolCall, dump_large
from ..errors import UpstreamInvalid
from .reading import decode

#: Limit of the calls, images and citations in one event, and of Gemini's texts with them.
MOST_PARTS = 256
#: Texts that stand for no arguments.
_NOTHING = (b"", b"null", b"[]", b"{}")


def arguments(value: Json, marks: Marks, later: Marks) -> str:
    """Return the complete arguments of a call as compact JSON text, or a mark in *later* for it.

    The *marks* in an object are removed from them: they are in the text.  Raises UpstreamInvalid
    if *value* is neither an object nor the JSON text of one.
    """
    text = aside.utf8_of(aside.pieces(value, marks)) if isinstance(value, str) else bytearray()
    if text.strip() in _NOTHING if isinstance(value, str) else value in (None, []):
        value, text = {}, bytearray()
    if not (aside.is_object(text, decode) if text else isinstance(value, dict)):
        raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
    # The text takes less memory than the values.
    return utf8_or_mark(text or aside.absorb(dump_large(value), marks), later)


def whole_call(
    number: int,
    id: str,
    name: str,
    arguments: str,
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a complete tool call as deltas: first its name, then its *arguments*."""
    calls = [ToolCall(number, id, name, "", extra), ToolCall(number, arguments=arguments)]
    return [Delta(index=index, tool_calls=[call]) for call in calls]


def check_parts(number: int) -> None:
    """Raise UpstreamInvalid if *number*, of the parts in one event, is above the limit."""
    if number > MOST_PARTS:
        raise UpstreamInvalid(f"the provider sent more than {MOST_PARTS} parts in one event")
