"""Converts the members of a delta or a message to the shapes of OpenAI's schema.

Servers that speak "OpenAI's API" send text as lists of parts, reasoning under other names, and
null where the schema has no null.  The functions here have no state.
"""

from __future__ import annotations

import json
import re

from .items import Json

#: The members of a JSON object.
Members = dict[str, Json]

#: Names of the member that holds reasoning, first the one that most clients know.
REASONING = (
    *("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_summary"),
    *("thought", "thoughts", "reasoningContent", "thinking_content", "internal_reasoning"),
)
#: Members that the schema does not allow to be null.
_NEVER_NULL = ("role", "tool_calls", "function_call", "audio", *REASONING)
#: Other names for members of the schema.
_RENAMED = {
    **dict.fromkeys(("text", "output_text"), "content"),
    **dict.fromkeys(("toolCalls", "tool_call"), "tool_calls"),
}
#: Names of the member that holds the arguments of a call, first that of OpenAI's API.
ARGUMENTS = ("arguments", "parameters", "input", "args")
_NUMBER = re.compile(r"[0-9]{1,6}")
_PLAIN = frozenset(("role", "content", "refusal", "reasoning_content"))
_NULLABLE = ("content", "refusal")
_TEXTS = frozenset(("text", "output_text", "input_text", None))
#: Kinds of parts by their types.
_KINDS: dict[str | None, str] = {
    **dict.fromkeys(_TEXTS, "text"),
    "refusal": "refusal",
    **dict.fromkeys(("tool_use", "tool_call", "tool-call", "function_call"), "call"),
}
_THOUGHTS = frozenset(("thinking", "reasoning", "thought", "reasoning_text", "summary_text"))
#: Members that hold an error, as an object or a word.
ERROR_HOLDERS = ("error", "errors", "Error", "fault", "exception", "failure")
#: Members of MiniMax, Spark and Groq with an error code inside; and both kinds together.
ERROR_STATES = ("base_resp", "header", "x_groq")
ERRORS = frozenset((*ERROR_HOLDERS, *ERROR_STATES))
_INSIDE = ("text", "thinking", "reasoning", "summary", "content", "value")


def compact(value: Json) -> str:
    """Return *value* as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def text_of(value: Json) -> str:
    """Return the text in *value*: a string, null, a part, or parts in parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text_of, value))
    if isinstance(value, dict):
        return next((text for name in _INSIDE if (text := text_of(value.get(name)))), "")
    return compact(value)


def numbered(value: Json) -> Json:
    """Return *value*, as a list if it is an object with numbers as names, as PHP sends lists."""
    if isinstance(value, dict) and value and all(map(_NUMBER.fullmatch, value)):
        members = {int(number): one for number, one in value.items()}
        return [{"index": i, **one} if type(one) is dict else one for i, one in members.items()]
    return value


def listed(value: Json) -> list[Json]:
    """Return *value* as a list without empty values: itself, or a list of it alone."""
    value = numbered(value)
    return list(filter(None, value if isinstance(value, list) else [value]))


def arguments_in(call: Members) -> Json:
    """Return the arguments of *call*, under any of their names, or None."""
    return next((found for name in ARGUMENTS if (found := call.get(name)) is not None), None)


def arguments_of(value: Json) -> str:
    """Return the arguments of a call as JSON text; an object is encoded."""
    return value if isinstance(value, str) else "" if value is None else compact(value)


def reshape(message: Members) -> bool:
    """Mend the members of *message*, or of a delta, in place; return whether any changed.

    Parts of the content that are neither text nor reasoning move to ``images`` or
    ``content_parts``, each with an ``index``, which clients that merge deltas need.
    """
    if message.keys() <= _PLAIN:
        odd = [
            name
            for name, value in message.items()
            if type(value) is not str and (value is not None or name not in _NULLABLE)
        ]
        if not odd:
            return False
    changed = rename(message)
    content = message.get("content")
    if content is not None and type(content) is not str:
        _take_parts(message, content)
        changed = True
    for name in _NEVER_NULL:
        if name in message and message[name] is None:
            del message[name]
            changed = True
    for name in REASONING:
        if name not in message or (name == "reasoning_content" and type(message[name]) is str):
            continue
        found = message.pop(name)
        changed = True
        if type(found) is not bool and not message.get("reasoning_content"):
            message["reasoning_content"] = text_of(found)
    details = message.get("reasoning_details")  # kept: clients send them back
    if details and not message.get("reasoning_content") and (text := text_of(details)):
        message["reasoning_content"] = text
        changed = True
    if "refusal" in message and type(message["refusal"]) not in (str, type(None)):
        message["refusal"] = text_of(message["refusal"])
        changed = True
    return changed


def rename(message: Members) -> bool:
    """Give the members of *message* their names in the schema; return whether any changed."""
    changed = False
    for name, ours in _RENAMED.items():
        if message.get(name) and not message.get(ours):
            message[ours], changed = message.pop(name), True
    return changed


def part_kind(part: Json) -> str:
    """Return the kind of *part* of a content: text, thought, refusal, call or ``""`` for others."""
    members = part if isinstance(part, dict) else {}
    kind = members.get("type")
    kind = kind if kind is None else str(kind).lower()
    if kind in _THOUGHTS or (kind in _TEXTS and members.get("thought") is True):  # as Gemini's
        return "thought"
    return _KINDS.get(kind, "")


def _take_parts(message: Members, content: Json) -> None:
    """Distribute *content*, a part or a list of parts, among the members of *message*.

    An object that is no part is an answer in JSON, which is encoded as text.
    """
    if isinstance(content, dict) and "type" not in content and "text" not in content:
        message["content"] = compact(content)
        return
    found: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    names = ("images", "content_parts", "annotations", "tool_calls")
    others: dict[str, list[Json]] = {name: [] for name in names}
    for part in content if isinstance(content, list) else [content]:
        members = {**part} if isinstance(part, dict) else {}
        kind = part_kind(part)
        if kind == "thought":
            found["reasoning_content"].append(text_of(part))
        elif kind == "refusal":
            found["refusal"].append(text_of(members.get("refusal")))
        elif kind == "text":
            found["content"].append(text_of(part))
            notes = members.get("annotations")
            others["annotations"] += notes if isinstance(notes, list) else []
        elif kind == "call":
            del members["type"]
            others["tool_calls"].append(members)
        else:
            image = members.get("image_url")
            if isinstance(image, str):
                members["image_url"] = {"url": image}
            place = others["images" if image else "content_parts"]
            place.append({"index": len(place), **members})
    message["content"] = "".join(found.pop("content"))
    for name, texts in found.items():
        if text := "".join(texts):
            message[name] = text_of(message.get(name)) + text
    for name, several in others.items():
        if several and isinstance(message.setdefault(name, []), list):
            message[name] += several


def has_content(message: Members) -> bool:
    """Return whether *message*, or a delta, has a value in any member but its role."""
    return any(value for name, value in message.items() if name != "role")
