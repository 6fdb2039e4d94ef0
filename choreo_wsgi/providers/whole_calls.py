"""Tool calls that a provider sends whole, with an object as their arguments."""

from __future__ import annotations

from collections.abc import Iterable

from ..chat import aside
from ..chat.items import Delta, Item, Json, Marks, ToolCall, dump_large
from ..chat.longtext import WINDOW, LazyJson, new_mark, restore
from ..errors import UpstreamInvalid
from .reading import decode


def arguments(value: Json, marks: Marks | None = None, later: Marks | None = None) -> list[str]:
    """Return the complete arguments of a call as compact JSON text, in pieces.

    *later*, if given, gets the marks that stand for the text, if it is long.  Raises
    UpstreamInvalid if *value* is neither an object nor the JSON text of one.
    """
    marks = marks or {}
    pieces: list[str] = []
    if isinstance(value, str):
        pieces = list(aside.pieces(value, marks)) if value.strip() else []
        try:
            value = aside.parse_pieces(pieces, {}, decode) if pieces else {}
        except ValueError:
            value = [value]
    value = {} if value in (None, []) else value
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
    if pieces and value:
        return pieces
    encoded = dump_large(value)
    inside = {} if later is None else aside.marks_in(encoded, marks)
    if later is not None and (inside or len(encoded) > WINDOW):
        later |= {} if later is marks else inside
        later[(mark := new_mark()).encode()] = LazyJson(value)
        return [mark]
    return list(aside.decode_pieces(restore(encoded, marks)))


def whole_call(
    number: int,
    id: str,
    name: str,
    pieces: Iterable[str],
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a complete tool call as deltas: first its name, then the *pieces* of arguments."""
    calls = [ToolCall(number, id, name, "", extra)]
    calls += [ToolCall(number, arguments=piece) for piece in pieces]
    return [Delta(index=index, tool_calls=[call]) for call in calls]
