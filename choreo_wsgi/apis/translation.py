"""Helpers that translate requests of the Responses and Messages APIs into chat requests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..chat import large
from ..chat.aside import pieces
from ..chat.checks import check_tool_choice
from ..chat.collected import merge
from ..chat.items import Json, Marks
from ..chat.longtext import LazyJson, find_marks, restored
from ..chat.request import ChatRequest, request_of
from ..chat.schema import Check, Fault, demand
from ..errors import InvalidRequest


def to_chat(
    fields: dict[str, Json],
    names: Mapping[str, str],
    supported: Check,
    translate: Callable[[dict[str, Json]], None],
    **more: Any,
) -> ChatRequest:
    """Return the chat request for the checked *fields*; *more* are further attributes of it.

    *names* maps the members that chat has too, also nested ones (``a.b``), to chat's names.
    *supported* rejects members that chat lacks and that must not be dropped, by a Fault;
    *translate* adds the remaining members to the chat body, or raises InvalidRequest.  Such an
    error is kept as ``native_only``: a provider that speaks the API may still accept the request.
    """
    body: dict[str, Json] = {"model": fields["model"], "messages": []}
    for name, chat_name in names.items():
        value: Json = fields
        for step in name.split("."):
            value = (value or {}).get(step)
        if value is not None and value != "":
            body[chat_name] = value
    native_only: InvalidRequest | None = None
    try:
        supported(fields)
        translate(body)
        body["messages"] = _results_behind_calls(body["messages"])
        for message in body["messages"]:
            if not (message["content"] or "tool_calls" in message):
                message["content"] = ""  # only a message with tool calls may have null
    except Fault as fault:
        fault.text += " with this model"
        native_only = fault.error()
    except InvalidRequest as error:
        native_only = error
    return request_of(body, original=fields, native_only=native_only, **more)


def _results_behind_calls(messages: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Return *messages* with each result of a call directly behind the message with its call.

    Chat refuses any other order.  What stood between follows, in its order.  But a conversation
    that ends with a result must not end with the assistant's text, which a model continues or
    refuses.  So messages of the assistant directly after one with calls join that; and if the last
    one is a text of a later turn, the call moves behind it instead.
    """
    if not any("tool_calls" in message for message in messages):
        return messages
    groups: list[list[dict[str, Json]]] = []
    by_call: dict[str, list[dict[str, Json]]] = {}  # by id: the message with the call, its results
    last: dict[str, Json] = {}
    for message in messages:
        results = by_call.get(message["tool_call_id"]) if message["role"] == "tool" else None
        # The provider that signed thinking checks its place among the calls.
        joins = message["role"] == "assistant" and "thinking_blocks" not in message
        if results is not None:
            results.append(message)
        elif joins and "tool_calls" in last:
            _join(last, message)
            message = last
        else:
            groups.append([message])
        by_call |= {call["id"]: groups[-1] for call in message.get("tool_calls") or ()}
        last = message
    end = groups[-1][-1]
    if last["role"] == "tool" and end["role"] == "assistant" and "tool_calls" not in end:
        moved = by_call[last["tool_call_id"]]
        groups = [*(group for group in groups if group is not moved), moved]
    return [message for group in groups for message in group]


def _join(message: dict[str, Json], more: dict[str, Json]) -> None:
    """Add *more*, the next message, to the assistant's *message*."""
    added = {**more}
    del added["role"]
    if message["content"] and added["content"]:
        if isinstance(message["content"], str) and isinstance(added["content"], str):
            added["content"] = "\n\n" + added["content"]
        else:
            for holder in (message, added):
                if isinstance(holder["content"], str):
                    holder["content"] = [{"type": "text", "text": holder["content"]}]
    for name, value in added.items():
        extend_member(message, name, value)


def unsupported(value: Json) -> None:
    """Reject any value but an empty one."""
    if value:
        raise Fault("is not supported")


def members(holder: Mapping[str, Json], names: str) -> dict[str, Json]:
    """Return the members *names* (separated by spaces) of *holder* that are present, not null."""
    return {name: holder[name] for name in names.split() if holder.get(name) is not None}


#: Translates a content part, found at a path of the request, to chat's.
TranslatePart = Callable[[dict[str, Json], str], Json]


def translate_content(content: Json, where: str, translate: TranslatePart) -> Json:
    """Return *content*, a text or a list of parts at the path *where*, as chat content."""
    if isinstance(content, str):
        return content
    return [translate(part, f"{where}[{at}]") for at, part in enumerate(content)]


class LazyMember(LazyJson):
    """The JSON of *value*, which holds *marks*, for the mark of a number."""

    def __init__(self, value: Json, marks: Marks) -> None:
        super().__init__(value)
        self._marks = marks

    def escaped(self, marks: Marks) -> Iterator[bytes | memoryview]:
        return large.restored_parts(self.value, self._marks)


def restore_once(texts: Iterable[bytes], marks: Marks) -> bytes:
    """Return *texts* joined, with *marks* restored; views of the result replace them."""
    whole, places = io.BytesIO(), dict[bytes, slice]()
    for text in texts:
        at = 0
        for found in find_marks(text, marks):
            whole.write(text[at : found.start()])
            mark, begin, at = found[0], whole.tell(), found.end()
            if mark in places:
                marks[mark] = bytes(whole.getbuffer()[places[mark]])
            whole.writelines(restored(mark, marks))
            places[mark] = slice(begin, whole.tell())
            if not isinstance(marks[mark], LazyJson):
                marks[mark] = b""  # so that not all are in memory twice
        whole.write(text[at:])
    result = whole.getvalue()
    marks |= {mark: memoryview(result)[place] for mark, place in places.items()}
    return result


def unsupported_tool(kind: str, where: str) -> InvalidRequest:
    """Return the error for an unsupported built-in tool of type *kind* at the path *where*."""
    text = f"this model supports no tools of type {kind!r}, only those defined in the request"
    return InvalidRequest(text, param=where)


def add_tools(body: dict[str, Json], tools: list[Json], choice: Json) -> None:
    """Put *tools* and the ``tool_choice`` into *body*; raises InvalidRequest."""
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
        demand(check_tool_choice, body)
    elif choice == "required" or isinstance(choice, dict):
        raise InvalidRequest("tool_choice requires a tool, but there is none", param="tool_choice")
    else:
        body.pop("parallel_tool_calls", None)  # chat accepts it only together with tools


def extend_member(message: dict[str, Json], name: str, more: Json) -> None:
    """Append *more*, a text or a list, to the member *name* of *message*."""
    if more:
        merge(message, {name: more})


#: Types of parts whose tokens do not depend on their number of bytes.
_MEDIA = ("image", "document", "input_image", "input_file", "input_audio")


def estimate_tokens(turns: Sequence[Json], more: list[Json], marks: Marks) -> int:
    """Return an estimate of the tokens in *turns* and *more*, for providers that do not count.

    They may hold *marks*.
    Four bytes of UTF-8 count as one token, a turn as four more, and an image or a document as
    1,600, Anthropic's figure for an image of the largest size.
    """
    tokens, waiting = 4 * len(turns), [*turns, *more]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            tokens += (sum(len(piece.encode()) for piece in pieces(value, marks)) + 3) // 4
        elif isinstance(value, dict):
            if value.get("type") in _MEDIA:
                tokens += 1600
            else:
                waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return tokens


def api_param(param: str | None, names: Mapping[str, str]) -> str | None:
    """Return chat's *param* of an error by its name in an API whose *names* map to chat's."""
    first = (param or "").partition("[")[0].partition(".")[0]
    return next((own for own, chat in names.items() if chat == first != own), param)
