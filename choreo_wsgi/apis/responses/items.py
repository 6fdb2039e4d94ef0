"""Translates the input of a response, a list of items, to the messages of a chat."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from ...chat import jsontext
from ...chat.aside import beginning, has_marks, join, json_text, whole
from ...chat.items import FEW, Json, Marks
from ...chat.request import MOST_SHORT_FILES
from ...chat.schema import check_of, passes
from ...errors import InvalidRequest
from ..translation import (
    extend_member,
    members,
    translate_content,
    unsupported_tool,
)

#: Begins the ``encrypted_content`` that this server wrote; base64 of JSON follows.
THINKING_PREFIX = "choreo."
#: Stands for the type of an item without one, if its members do not imply it either.
UNTYPED = "untyped"
#: The id of an item of a stored response: its id at the provider, if that made it, then the
#: response's id and the item's index.
STORED_ID = re.compile(r"(?:[a-z]{2,3}|(.+))_([A-Za-z0-9_-]{32})_([0-9]{1,5})")
#: The types of tools that the caller runs.
CALLER_TOOLS = ("function", "custom", "tool_search")
_WITH_TOOLS = ("tool_search_output", "additional_tools")
_OF_TOOLS = ("tool_search_call", *_WITH_TOOLS)
_TEXTS = ("input_text", "output_text", "text", "refusal")
_PICTURE = "image_generation_call"
_THINKING = check_of([{"type!": "thinking redacted_thinking"}])


def chat_name(item: Mapping[str, Json]) -> str:
    """Return a tool's name as a function of chat, with its namespace, if any, as a prefix."""
    space, name = item.get("namespace"), item.get("name", "tool_search")  # which has no name
    return f"{space}__{name}" if space else str(name)


def kind_of(item: Mapping[str, Json]) -> str:
    """Return the type of an item; messages and references may omit it."""
    inferred = "message" if "role" in item else "item_reference" if "id" in item else UNTYPED
    return str(item.get("type") or inferred)


def caller_tools(
    tools: Iterable[dict[str, Json]], strict: bool = True, space: str = "", where: str = "tools"
) -> Iterator[dict[str, Json]]:
    """Yield the tools that the caller runs of *tools*, each with its ``namespace`` if it has one.

    *space* is the namespace of all *tools*, or empty.  *where* is their path in the request.
    Built-in tools of a provider are skipped, or raise InvalidRequest if *strict*.
    """
    for index, tool in enumerate(tools):
        if tool["type"] == "tool_search" and tool.get("execution") != "client":
            continue  # the provider would search in the tools, but a chat gets them all
        if tool["type"] in CALLER_TOOLS:
            yield {**tool, "namespace": space} if space else tool
        elif tool["type"] == "namespace" and not space:
            yield from caller_tools(tool["tools"], strict, tool["name"], f"{where}[{index}].tools")
        elif strict:
            raise unsupported_tool(tool["type"], f"{where}[{index}].type")


def all_tools(
    fields: Mapping[str, Json], items: Iterable[Mapping[str, Json]], strict: bool = True
) -> Iterator[dict[str, Json]]:
    """Yield :func:`caller_tools` of a request, then those that searches in *items* have found."""
    given = fields.get("tools") or ()
    yield from caller_tools(given, strict)
    found = list(filter(None, map(found_tools, items)))
    names = set(map(chat_name, caller_tools(given, strict=False))) if found else set()
    for tool in chain.from_iterable(caller_tools(tools, strict=False) for tools in found):
        if (name := chat_name(tool)) not in names:
            names.add(name)
            yield tool


def found_tools(item: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return the tools that *item*, such as the output of a search, adds to the request's."""
    return (item.get("tools") or []) if kind_of(item) in _WITH_TOOLS else []


def messages_of(items: Sequence[dict[str, Json]], marks: Marks) -> list[dict[str, Json]]:
    """Return *items*, which may hold *marks*, as chat messages.

    Adjacent reasoning, text, image and call items of the assistant become one message.
    """
    pictures = [item.get("result") or "" for item in items if kind_of(item) == _PICTURE]
    if len(pictures) - sum(map(has_marks, pictures)) > MOST_SHORT_FILES:
        text = f"the input has more than {MOST_SHORT_FILES} generated images of less than 2 KiB"
        raise InvalidRequest(text, param="input")
    messages: list[dict[str, Json]] = []
    reply: dict[str, Json] = {}
    for index, item in enumerate(items):
        where, kind = f"input[{index}]", kind_of(item)
        if kind in _OF_TOOLS and item.get("call_id") is None:
            continue  # added tools, or a provider's search: a chat gets all tools at once
        is_call = kind in ("function_call", "custom_tool_call", "tool_search_call")
        is_text = kind == "message" and item["role"] == "assistant"
        is_picture = kind == _PICTURE
        if not (is_call or is_text or is_picture or kind == "reasoning"):
            reply = {}
            messages.append(_other_message(kind, item, where, marks))
            continue
        if not reply or (not is_call and (reply["content"] or "tool_calls" in reply)):
            # A plain text is its own message: thousands of copies take as much as the texts.
            is_message = is_text and len(item) == 2 and isinstance(item["content"], str)
            reply = item if is_message else {"role": "assistant", "content": None}
            messages.append(reply)
            if is_message:
                continue
        if is_call and "tool_calls" not in reply:
            messages[-1] = reply = {**reply}  # it may be the item itself
        if is_call:
            extend_member(reply, "tool_calls", [_tool_call(item, marks)])
        elif is_picture:
            extend_member(reply, "images", _image_parts(item))
        elif kind == "reasoning":
            texts = [*(item.get("content") or ()), *(item.get("summary") or ())]
            extend_member(reply, "reasoning_content", "".join(part["text"] for part in texts))
            encrypted = whole(item.get("encrypted_content") or "", marks)
            extend_member(reply, "thinking_blocks", _decode_thinking(encrypted))
        else:
            reply["content"] = _content(item["content"], f"{where}.content", marks)
    return messages


def _is_own_thinking(item: Mapping[str, Json], marks: Marks) -> bool:
    """Return whether *item* is reasoning whose ``encrypted_content`` this server wrote."""
    encrypted = item.get("encrypted_content") if kind_of(item) == "reasoning" else None
    return isinstance(encrypted, str) and whole(encrypted, marks).startswith(THINKING_PREFIX)


def for_provider(item: dict[str, Json], marks: Marks, is_past: bool) -> dict[str, Json] | None:
    """Return *item* as the provider that made it knows it, or None if it cannot read the item.

    That is reasoning in this server's own encoding, and reasoning without text of an answer that
    is stored here, if *is_past* or by its id: it refers to state of the provider.
    """
    found = STORED_ID.fullmatch(str(item.get("id")))
    if kind_of(item) == "reasoning":
        is_state = not (item.get("encrypted_content") or item.get("content"))
        if _is_own_thinking(item, marks) or (is_state and (is_past or found)):
            return None
    return {**item, "id": found[1]} if found and found[1] else item


def listed_item(item: Mapping[str, Json], id: str) -> dict[str, Json]:
    """Return *item* in the form of the list of input items; *id* completes a missing id."""
    content, kind = item.get("content"), kind_of(item)
    listed = {name: value for name, value in item.items() if value is not None}
    if isinstance(content, str) and item.get("role") == "assistant":
        listed["content"] = [{"type": "output_text", "text": content, "annotations": []}]
    elif isinstance(content, str) and kind == "message":
        listed["content"] = [{"type": "input_text", "text": content}]
    prefix = {"message": "msg", "reasoning": "rs"}.get(kind, "item")
    return {"id": f"{prefix}_{id}", "type": kind, "status": "completed", **listed}


def _other_message(kind: str, item: dict[str, Json], where: str, marks: Marks) -> dict[str, Json]:
    if kind == "message" and item["role"] != "developer" and isinstance(item["content"], str):
        return item if len(item) == 2 else {name: item[name] for name in ("role", "content")}
    if kind == "message":
        role = "user" if item["role"] == "user" else "system"
        return {"role": role, "content": _content(item["content"], f"{where}.content", marks)}
    if kind in ("function_call_output", "custom_tool_call_output"):
        content = _content(item["output"], f"{where}.output", marks)
        if item.get("call_id") is None:  # of no call in the conversation
            return {"role": "user", "content": content}
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    if kind == "tool_search_output":
        names = [chat_name(tool) for tool in caller_tools(found_tools(item), strict=False)]
        content = json_text({"tools": names}, marks)
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    if kind == "item_reference":
        raise InvalidRequest(
            f"{where}: the item {beginning(item['id'], marks)[:100]!r} is not stored here; "
            "send the item itself",
            param=f"{where}.id",
        )
    text = f"{where}: this model does not support items of type {kind!r}"
    raise InvalidRequest(text, param=f"{where}.type")


def _tool_call(item: dict[str, Json], marks: Marks) -> dict[str, Json]:
    arguments = item.get("arguments")
    if not isinstance(arguments, str):
        value = {"input": item["input"]} if arguments is None else arguments
        arguments = json_text(value, marks)
    function = {"name": chat_name(item), "arguments": arguments}
    more = members(item, "extra_content")
    return {"id": item["call_id"], "type": "function", "function": function, **more}


def _image_parts(item: dict[str, Json]) -> list[Json]:
    """Return the image in *item* as a list; it is empty if the image was not finished."""
    if not item.get("result"):
        return []
    url = f"data:image/{item.get('output_format') or 'png'};base64,{item['result']}"
    image = {"type": "image_url", "image_url": {"url": url}, **members(item, "extra_content")}
    return [image]


def _decode_thinking(text: str) -> list[Json]:
    """Return the thinking blocks in *text*; an empty list unless this server encoded it."""
    if not text.startswith(THINKING_PREFIX):
        return []
    try:
        blocks = jsontext.parse(base64.b64decode(text.removeprefix(THINKING_PREFIX), validate=True))
    except ValueError:
        return []
    return blocks if passes(_THINKING, blocks) else []


def _content(content: Json, where: str, marks: Marks) -> Json:
    if isinstance(content, list) and all(part["type"] in _TEXTS for part in content):
        texts = list(map(_text, content))
        return join(texts, marks) if len(texts) > FEW else "".join(texts)
    return translate_content(content, where, _part)


def _text(part: dict[str, Json]) -> str:
    return str(part["refusal" if part["type"] == "refusal" else "text"])


def _part(part: dict[str, Json], where: str) -> dict[str, Json]:
    kind = part["type"]
    if kind in _TEXTS:
        return {"type": "text", "text": _text(part)}
    if kind == "input_image" and part.get("image_url"):
        image = {"url": part["image_url"], **members(part, "detail")}
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": kind, kind: part[kind]}
    if kind == "input_file" and (data := part.get("file_data") or part.get("file_url")):
        file = {"file_data": data, "filename": part.get("filename") or "file"}
        return {"type": "file", "file": file}
    if part.get("file_id"):
        raise InvalidRequest("this model cannot read stored files", param=f"{where}.file_id")
    if kind in ("input_image", "input_file"):
        missing = f"{where}.{'image_url' if kind == 'input_image' else 'file_data'}"
        raise InvalidRequest(f"{missing} is required", param=missing, code="missing_parameter")
    text = f"this model does not support content of type {kind!r}"
    raise InvalidRequest(text, param=f"{where}.type")
