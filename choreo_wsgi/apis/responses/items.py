"""The input of a response, a list of items, as the messages of a chat."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from ...chat import jsontext
from ...chat.aside import whole
from ...chat.items import Json, Marks
from ...errors import InvalidRequest
from ..translation import arguments_of, members, parts, say

#: Begins the ``encrypted_content`` that this server wrote: base64 of JSON follows.
SEALED = "choreo."


#: The type of an item that has none, and does not tell it otherwise.
UNTYPED = "untyped"


def chat_name(item: Mapping[str, Json]) -> str:
    """Return the name of a tool as a function of chat: that of its namespace stands before it."""
    space = item.get("namespace")
    return f"{space}__{item['name']}" if space else str(item["name"])


def kind_of(item: Mapping[str, Json]) -> str:
    """Return the type of an item; messages and references may come without."""
    inferred = "message" if "role" in item else "item_reference" if "id" in item else UNTYPED
    return str(item.get("type") or inferred)


def messages_of(items: Sequence[dict[str, Json]], marks: Marks) -> list[dict[str, Json]]:
    """Return the messages of *items* with *marks*."""
    messages: list[dict[str, Json]] = []
    spoken: dict[str, Json] = {}  # what the assistant says: reasoning, text and calls are items
    for index, item in enumerate(items):
        where, kind = f"input[{index}]", kind_of(item)
        is_call = kind in ("function_call", "custom_tool_call")
        is_text = kind == "message" and item["role"] == "assistant"
        is_picture = kind == "image_generation_call"
        if not (is_call or is_text or is_picture or kind == "reasoning"):
            spoken = {}
            messages.append(_other(kind, item, where))
            continue
        if not spoken or (not is_call and (spoken["content"] or "tool_calls" in spoken)):
            spoken = {"role": "assistant", "content": None}
            messages.append(spoken)
        if is_call:
            say(spoken, "tool_calls", [_call(item, marks)])
        elif is_picture:
            say(spoken, "images", _drawn(item))
        elif kind == "reasoning":
            texts = [*(item.get("content") or ()), *(item.get("summary") or ())]
            say(spoken, "reasoning_content", "".join(part["text"] for part in texts))
            sealed = whole(item.get("encrypted_content") or "", marks)
            say(spoken, "thinking_blocks", _unsealed(sealed))
        else:
            spoken["content"] = _content(item["content"], f"{where}.content")
    return messages


def is_sealed(item: Mapping[str, Json], marks: Marks) -> bool:
    """Return whether an *item* with *marks* is reasoning that this server sealed."""
    sealed = item.get("encrypted_content") if kind_of(item) == "reasoning" else None
    return whole(sealed or "", marks).startswith(SEALED)


def listed_item(item: Mapping[str, Json], id: str) -> dict[str, Json]:
    """Return an *item* of the input as a list of them shows it; *id* is that of one without."""
    content, kind = item.get("content"), kind_of(item)
    told = {name: value for name, value in item.items() if value is not None}
    if isinstance(content, str) and item["role"] == "assistant":
        told["content"] = [{"type": "output_text", "text": content, "annotations": []}]
    elif isinstance(content, str):
        told["content"] = [{"type": "input_text", "text": content}]
    prefix = {"message": "msg", "reasoning": "rs"}.get(kind, "item")
    return {"id": f"{prefix}_{id}", "type": kind, "status": "completed", **told}


def _other(kind: str, item: dict[str, Json], where: str) -> dict[str, Json]:
    if kind == "message" and item["role"] != "developer" and isinstance(item["content"], str):
        return item if len(item) == 2 else {name: item[name] for name in ("role", "content")}
    if kind == "message":
        role = "user" if item["role"] == "user" else "system"
        return {"role": role, "content": _content(item["content"], f"{where}.content")}
    if kind in ("function_call_output", "custom_tool_call_output"):
        content = _content(item["output"], f"{where}.output")
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    if kind == "item_reference":
        raise InvalidRequest(
            f"{where}: the item {item['id'][:100]!r} is not kept here; send it itself",
            param=f"{where}.id",
        )
    text = f"{where}: this model takes no items of type {kind!r}"
    raise InvalidRequest(text, param=f"{where}.type")


def _call(item: dict[str, Json], marks: Marks) -> dict[str, Json]:
    arguments = item.get("arguments")
    if arguments is None:
        arguments = arguments_of({"input": item["input"]}, marks)
    function = {"name": chat_name(item), "arguments": arguments}
    more = members(item, "extra_content")
    return {"id": item["call_id"], "type": "function", "function": function, **more}


def _drawn(item: dict[str, Json]) -> list[Json]:
    """Return the picture in an *item*, which has none if it was not finished."""
    if not item.get("result"):
        return []
    url = f"data:image/{item.get('output_format') or 'png'};base64,{item['result']}"
    picture = {"type": "image_url", "image_url": {"url": url}, **members(item, "extra_content")}
    return [picture]


def _unsealed(text: str) -> list[Json]:
    """Return the signed thinking in *text*, which is a provider's own unless it was sealed here."""
    if not text.startswith(SEALED):
        return []
    try:
        blocks = jsontext.parse(base64.b64decode(text.removeprefix(SEALED), validate=True))
    except ValueError:
        return []
    kinds = ("thinking", "redacted_thinking")
    is_right = isinstance(blocks, list) and all(
        isinstance(block, dict) and block.get("type") in kinds for block in blocks
    )
    return blocks if is_right else []


def _content(content: Json, where: str) -> Json:
    told = parts(content, where, _part)
    if isinstance(told, list) and all(part["type"] == "text" for part in told):
        return "".join(part["text"] for part in told)
    return told


def _part(part: dict[str, Json], where: str) -> dict[str, Json]:
    kind = part["type"]
    if kind in ("input_text", "output_text", "text", "refusal"):
        return {"type": "text", "text": part["refusal" if kind == "refusal" else "text"]}
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
    raise InvalidRequest(f"this model takes no content of type {kind!r}", param=f"{where}.type")
