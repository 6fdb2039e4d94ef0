"""A request of another API as a chat request: what Responses and Messages have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..chat.aside import has_marks
from ..chat.checks import check_tool_choice
from ..chat.items import Json, Marks, dump
from ..chat.longtext import LazyJson, new_mark
from ..chat.request import ChatRequest, request_of
from ..chat.schema import Check, Fault
from ..errors import InvalidRequest

#: Characters of arguments that are there as a text.
_LONG = 300


def to_chat(
    fields: dict[str, Json],
    names: Mapping[str, str],
    possible: Check,
    translate: Callable[[dict[str, Json]], None],
    **more: Any,
) -> ChatRequest:
    """Return the chat request for the checked *fields*; *more* are further members of it.

    *names* are chat's names of the members that it has too, also inside another (``a.b``).
    *possible* checks for members that no chat API has and that must not be dropped, *translate*
    adds the others to the request's body.  The Fault or InvalidRequest that either raises stays
    in the request as ``native_only``: a provider that speaks the API may take it.
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
        try:
            possible(fields)
        except Fault as fault:
            raise Fault(f"{fault.text} with this model", fault.path, fault.code) from None
        translate(body)
        for message in body["messages"]:
            if not (message["content"] or "tool_calls" in message):
                message["content"] = ""  # nothing alone is null
    except Fault as fault:
        native_only = fault.error()
    except InvalidRequest as error:
        native_only = error
    return request_of(body, original=fields, native_only=native_only, **more)


def nothing(value: Json) -> None:
    """Check for an empty value of a member that only a provider which speaks the API has."""
    if value:
        raise Fault("is not supported")


def members(holder: Mapping[str, Json], names: str) -> dict[str, Json]:
    """Return those of the members *names* that *holder* has."""
    return {name: holder[name] for name in names.split() if holder.get(name) is not None}


#: Returns a part of a message, which stands at a place, as chat has it.
Part = Callable[[dict[str, Json], str], Json]


def parts(content: Json, where: str, part: Part) -> Json:
    """Return *content*, a text or a list at *where*, with each *part* as chat has it."""
    if isinstance(content, str):
        return content
    return [part(each, f"{where}[{at}]") for at, each in enumerate(content)]


def arguments_of(value: Json, marks: Marks) -> str:
    """Return *value* as the text of a call's arguments; if it is long a mark, put into *marks*."""
    text = "" if _is_long(value) else dump(value).decode("utf-8", "surrogatepass")
    if text and not has_marks(text):
        return text
    marks[(mark := new_mark()).encode()] = LazyJson(value)
    return mark


def _is_long(value: Json) -> bool:
    size, waiting = 0, [value]
    while waiting and size <= _LONG:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        size += len(one) if isinstance(one, str) else 4
    return size > _LONG


def no_tool(kind: str, where: str) -> InvalidRequest:
    """Return the error for a tool of a *kind* that a provider or its model must know."""
    text = f"this model has no tool {kind!r}, only those that a request describes itself"
    return InvalidRequest(text, param=where)


def add_tools(body: dict[str, Json], tools: list[Json], choice: Json) -> None:
    """Put *tools* and the ``tool_choice`` into *body*; raises InvalidRequest or Fault."""
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
        check_tool_choice(body)
    elif choice == "required" or isinstance(choice, dict):
        raise InvalidRequest("tool_choice asks for a tool, and there are none", param="tool_choice")
    else:
        body.pop("parallel_tool_calls", None)  # chat takes it beside tools alone


def say(spoken: dict[str, Json], name: str, more: Json) -> None:
    """Add *more*, a text or a list, to the member *name* of what an assistant has *spoken*."""
    if not more:
        return
    old = spoken.pop(name, None)  # what nobody else has grows without being copied
    if old is None:
        spoken[name] = more
    else:
        old += more
        spoken[name] = old


#: Parts whose tokens are not those of their bytes.
_MEDIA = ("image", "document", "input_image", "input_file", "input_audio")


def estimate(turns: Sequence[Json], more: list[Json]) -> int:
    """Return about how many tokens *turns* and *more* have, for a provider that does not count.

    Four bytes of UTF-8 count as a token, a turn as four more, and a picture or a document as
    1,600, Anthropic's figure for a picture of the largest size.
    """
    tokens, waiting = 4 * len(turns), [*turns, *more]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            tokens += (len(value.encode("utf-8", "replace")) + 3) // 4
        elif isinstance(value, dict):
            if value.get("type") in _MEDIA:
                tokens += 1600
            else:
                waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return tokens


def own_param(param: str | None, names: Mapping[str, str]) -> str | None:
    """Return what an API that has chat's parameters by other *names* calls *param* of an error."""
    first = (param or "").partition("[")[0].partition(".")[0]
    return next((own for own, chat in names.items() if chat == first != own), param)
