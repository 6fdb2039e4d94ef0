"""A conversation in OpenAI's form, taken apart for the providers that have another.

:func:`conversation` returns system texts and turns made of :class:`Text`, :class:`Media`,
:class:`Call` and :class:`Result`; an adapter only writes each of these in its own words.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..errors import InvalidRequest

# RFC 2397; only base64 occurs, and only that is taken.
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII)


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class Media:
    """A picture, a recording or a document: base64 *data* of *media_type*, or a *url*.

    *kind* is ``image``, ``audio`` or ``file``; *param* where it stood in the request.
    """

    kind: str
    param: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""


@dataclass(frozen=True)
class Call:
    """A tool call that the model made."""

    id: str
    name: str
    arguments: dict[str, Json]
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What the call *id* of the tool *name* came to."""

    id: str
    name: str
    text: str


Part = Union[Text, Media, Call, Result]


@dataclass
class Turn:
    """What ``user``, ``assistant`` or ``tool`` said; *message* has what has no part of its own."""

    role: str
    parts: list[Part]
    message: dict[str, Json]


def conversation(request: ChatRequest) -> tuple[list[str], list[Turn]]:
    """Return the texts of the system and developer messages, and the turns in order.

    Raises InvalidRequest, naming the field, for what is not a conversation or what only
    OpenAI's own models can be told.
    """
    system: list[str] = []
    turns: list[Turn] = []
    names: dict[str, str] = {}  # of the tools, by the call's id: results do not say it
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        role = message["role"]
        if role in ("system", "developer"):
            system += [part.text for part in _parts(message, where) if isinstance(part, Text)]
        elif role == "assistant":
            parts: list[Part] = [*_parts(message, where), *_calls(message, where)]
            names.update((part.id, part.name) for part in parts if isinstance(part, Call))
            turns.append(Turn(role, parts, message))
        elif role == "tool":
            turns.append(Turn(role, [_result(message, names, where)], message))
        elif role == "user":
            turns.append(Turn(role, list(_parts(message, where)), message))
        else:
            raise InvalidRequest(
                f"role {role!r} is not supported here",
                param=f"{where}.role",
                code="invalid_messages_format",
            )
    return system, turns


def merged(turns: list[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """Yield the turns as ``user`` and ``assistant`` alternate: results are the user's.

    An assistant that said nothing is passed over: no provider takes an empty turn.
    """
    run: list[Turn] = []
    for turn in turns:
        if turn.role == "assistant" and not turn.parts and not turn.message.get("thinking_blocks"):
            continue
        if run and (run[0].role == "assistant") != (turn.role == "assistant"):
            yield _speaker(run), run
            run = []
        run.append(turn)
    if run:
        yield _speaker(run), run


def _speaker(run: list[Turn]) -> str:
    return "assistant" if run[0].role == "assistant" else "user"


def _parts(message: dict[str, Json], where: str) -> Iterator[Text | Media]:
    content = message.get("content")
    if isinstance(content, str):
        if content:
            yield Text(content)
    elif content is not None:
        for index, part in enumerate(content):
            yield from _part(part, f"{where}.content[{index}]")
    if message.get("refusal"):
        yield Text(message["refusal"])


def _part(part: dict[str, Json], where: str) -> Iterator[Text | Media]:
    kind = part["type"]
    if kind in ("text", "refusal"):
        if part[kind]:
            yield Text(part[kind])
    elif kind == "image_url":
        yield _located("image", part["image_url"]["url"], f"{where}.image_url.url")
    elif kind == "input_audio":
        audio = part["input_audio"]
        media_type = {"mp3": "audio/mp3"}.get(audio["format"], f"audio/{audio['format']}")
        where = f"{where}.input_audio.data"
        yield Media("audio", where, media_type, _base64(audio["data"], where))
    elif kind == "file":
        yield _file(part["file"], f"{where}.file")
    else:
        raise InvalidRequest(
            f"content of type {kind!r} is not supported here", param=f"{where}.type"
        )


def _file(file: dict[str, Json], where: str) -> Media:
    if not file.get("file_data"):
        raise InvalidRequest("only files with file_data can be passed on", param=f"{where}.file_id")
    name = file.get("filename") or ""
    found = _located("file", file["file_data"], f"{where}.file_data")
    return Media("file", found.param, found.media_type, found.data, found.url, name)


def _located(kind: str, url: str, where: str) -> Media:
    """Return what *url* holds, or names if it begins with https; nothing is fetched here."""
    match = _DATA_URL.match(url)
    if match:
        return Media(kind, where, match[1].lower(), _base64(url[match.end() :], where))
    if url.startswith("https://"):
        return Media(kind, where, url=url)
    raise InvalidRequest("only data: URLs in base64 and https: URLs are supported", param=where)


def _base64(data: str, where: str) -> str:
    try:
        b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the data is not base64", param=where) from None
    return data


def _calls(message: dict[str, Json], where: str) -> Iterator[Call]:
    if message.get("function_call"):
        raise InvalidRequest("use tool_calls", param=f"{where}.function_call")
    for index, call in enumerate(message.get("tool_calls") or ()):
        place = f"{where}.tool_calls[{index}]"
        if call.get("type", "function") != "function":
            raise InvalidRequest("only function tools are supported here", param=f"{place}.type")
        function = call["function"]
        arguments = _object(function.get("arguments"), f"{place}.function.arguments")
        extra = call.get("extra_content")
        extra = extra if isinstance(extra, dict) else {}
        yield Call(call["id"], function["name"], arguments, extra)


def _object(arguments: str | None, where: str) -> dict[str, Json]:
    try:
        value = json.loads(arguments) if arguments else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("the arguments are not a JSON object", param=where)
    return value


def _result(message: dict[str, Json], names: Mapping[str, str], where: str) -> Result:
    id = message["tool_call_id"]
    if id not in names:
        raise InvalidRequest(
            f"no tool call before has the id {id!r}",
            param=f"{where}.tool_call_id",
            code="invalid_messages_format",
        )
    parts = list(_parts(message, where))
    text = "".join(part.text for part in parts if isinstance(part, Text))
    return Result(id, names[id], text)


#: The parameters of a function that has none.
_NOTHING = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Function:
    """A function that the model may call; *parameters* is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Json]
    strict: bool = False


@dataclass(frozen=True)
class Choice:
    """How to choose among the functions: ``auto``, ``required``, ``none`` or ``named``."""

    mode: str = "auto"
    name: str = ""


@dataclass(frozen=True)
class Schema:
    """The JSON schema that the answer must follow; None for any JSON object."""

    schema: dict[str, Json] | None
    name: str = ""
    description: str = ""


def functions(request: ChatRequest) -> list[Function]:
    """Return the functions of *request* that its ``tool_choice`` allows."""
    found = []
    for index, tool in enumerate(request.body.get("tools") or ()):
        if tool["type"] != "function":
            raise InvalidRequest(
                f"tools of type {tool['type']!r} are not supported here",
                param=f"tools[{index}].type",
            )
        function = tool["function"]
        found.append(
            Function(
                function["name"],
                function.get("description") or "",
                function.get("parameters") or _NOTHING,
                function.get("strict") is True,
            )
        )
    wanted = request.body.get("tool_choice")
    if isinstance(wanted, dict) and wanted["type"] == "allowed_tools":
        allowed = {tool["function"]["name"] for tool in wanted["allowed_tools"]["tools"]}
        found = [function for function in found if function.name in allowed]
    return found


def choice(request: ChatRequest) -> Choice | None:
    """Return how to choose among the functions; None when *request* does not say."""
    wanted = request.body.get("tool_choice")
    if wanted is None:
        return None
    if isinstance(wanted, str):
        return Choice(wanted)
    if wanted["type"] == "allowed_tools":
        return Choice(wanted["allowed_tools"]["mode"])
    if wanted["type"] == "function":
        return Choice("named", wanted["function"]["name"])
    raise InvalidRequest(
        f"tools of type {wanted['type']!r} are not supported here", param="tool_choice.type"
    )


def schema(request: ChatRequest) -> Schema | None:
    """Return the schema that ``response_format`` asks for; None for plain text."""
    wanted = request.body.get("response_format")
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object":
        return Schema(None)
    about = wanted["json_schema"]
    given = about.get("schema") or {"type": "object"}
    return Schema(given, about.get("name") or "", about.get("description") or "")
