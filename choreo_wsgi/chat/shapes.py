"""The members of a delta or a message in the shapes that OpenAI's schema has.

Servers that speak "OpenAI's API" send text as lists of parts, reasoning under other names, and
null where the schema has no null.  Each function here looks at nothing but what it is given.
"""

from __future__ import annotations

import json
import re

from .items import Json

#: The members of a JSON object.
Members = dict[str, Json]

#: Where reasoning is found, the name that most clients know first.
REASONING = (
    *("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_summary"),
    *("thought", "thoughts", "reasoningContent", "thinking_content", "internal_reasoning"),
)
#: Members that the schema has, but never as null.
_NEVER_NULL = ("role", "tool_calls", "function_call", "audio", *REASONING)
#: Other names of members that the schema has.
_RENAMED = {
    **dict.fromkeys(("text", "output_text"), "content"),
    **dict.fromkeys(("toolCalls", "tool_call"), "tool_calls"),
}
#: Kinds of parts that are calls.
_CALLS = frozenset(("tool_use", "tool_call", "tool-call", "function_call"))
#: Where the arguments of a call stand, the name of OpenAI's API first.
ARGUMENTS = ("arguments", "parameters", "input", "args")
_NUMBER = re.compile(r"[0-9]{1,6}")
_PLAIN = frozenset(("role", "content", "refusal", "reasoning_content"))
_TEXTS = frozenset(("text", "output_text", "input_text", None))
_THOUGHTS = frozenset(("thinking", "reasoning", "thought", "reasoning_text", "summary_text"))
#: Members that hold an error, or say in a word that there is one.
ERROR_HOLDERS = ("error", "errors", "Error", "fault", "exception", "failure")
#: Members that tell of an error by a code in them, of MiniMax, Spark and Groq; and all together.
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
    """Return *value*; an object whose names are numbers is a list that PHP wrote."""
    if isinstance(value, dict) and value and all(map(_NUMBER.fullmatch, value)):
        members = {int(number): one for number, one in value.items()}
        return [{"index": i, **one} if type(one) is dict else one for i, one in members.items()]
    return value


def listed(value: Json) -> list[Json]:
    """Return what *value* has, if it is a list, however that is written, else *value* alone."""
    value = numbered(value)
    return list(filter(None, value if isinstance(value, list) else [value]))


def arguments_in(call: Members) -> Json:
    """Return what *call* has as its arguments, under whatever name; None for nothing."""
    return next((found for name in ARGUMENTS if (found := call.get(name)) is not None), None)


def arguments_of(value: Json) -> str:
    """Return a call's arguments as JSON text; an object that came whole is written as JSON."""
    return value if isinstance(value, str) else "" if value is None else compact(value)


def reshape(said: Members) -> bool:
    """Mend the members of *said*, a delta or a message, in place; return whether any was wrong.

    Parts of the content that are neither text nor reasoning go to ``images`` or
    ``content_parts``, each with an ``index``, as clients that join deltas need it.
    """
    content = said.get("content")
    if (content is None or type(content) is str) and said.keys() <= _PLAIN:
        odd = [name for name, value in said.items() if value is not None and type(value) is not str]
        if (
            not odd
            and said.get("role", "") is not None
            and said.get("reasoning_content", "") is not None
        ):
            return False
    changed = False
    for name, ours in _RENAMED.items():
        if said.get(name) and not said.get(ours):
            said[ours], changed = said.pop(name), True
    content = said.get("content")
    if content is not None and type(content) is not str:
        _take_parts(said, content)
        changed = True
    for name in _NEVER_NULL:
        if name in said and said[name] is None:
            del said[name]
            changed = True
    for name in REASONING:
        if name not in said or (name == "reasoning_content" and type(said[name]) is str):
            continue
        found = said.pop(name)
        changed = True
        if type(found) is not bool and not said.get("reasoning_content"):
            said["reasoning_content"] = text_of(found)
    details = said.get("reasoning_details")  # they stay: a later turn gives them back
    if details and not said.get("reasoning_content") and (text := text_of(details)):
        said["reasoning_content"] = text
        changed = True
    if "refusal" in said and type(said["refusal"]) not in (str, type(None)):
        said["refusal"] = text_of(said["refusal"])
        changed = True
    return changed


def _take_parts(said: Members, content: Json) -> None:
    """Put what *content* holds, a part or a list of parts, where it belongs in *said*.

    An object that is no part is an answer in JSON that was not written out.
    """
    if isinstance(content, dict) and "type" not in content and "text" not in content:
        said["content"] = compact(content)
        return
    found: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    names = ("images", "content_parts", "annotations", "tool_calls")
    others: dict[str, list[Json]] = {name: [] for name in names}
    for part in content if isinstance(content, list) else [content]:
        members = {**part} if isinstance(part, dict) else {}
        kind = members.get("type")
        kind = kind if kind is None else str(kind).lower()
        if kind in _THOUGHTS or (kind in _TEXTS and members.get("thought") is True):  # as Gemini's
            found["reasoning_content"].append(text_of(part))
        elif kind == "refusal":
            found["refusal"].append(text_of(members.get("refusal")))
        elif kind in _TEXTS:
            found["content"].append(text_of(part))
            notes = members.get("annotations")
            others["annotations"] += notes if isinstance(notes, list) else []
        elif kind in _CALLS:
            del members["type"]
            others["tool_calls"].append(members)
        else:
            image = members.get("image_url")
            made = {**members, "image_url": {"url": image}} if isinstance(image, str) else members
            place = others["images" if image else "content_parts"]
            place.append({"index": len(place), **made})
    said["content"] = "".join(found.pop("content"))
    for name, texts in found.items():
        if text := "".join(texts):
            said[name] = text_of(said.get(name)) + text
    for name, several in others.items():
        if several and isinstance(said.setdefault(name, []), list):
            said[name] += several


def has_content(said: Members) -> bool:
    """Return whether *said*, a delta or a message, says anything: its role alone does not."""
    return any(value for name, value in said.items() if name != "role")
