"""Translates a request for Amazon Bedrock's Converse API.

The fields are documented at
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from ...chat.aside import json_text
from ...chat.items import Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..anthropic.request import forwarded, sampling, thinking
from ..capabilities import Capabilities, requested_effort
from ..conversation import EMPTY, Conversation, Turn, conversation, listed_if_few, merged
from ..parts import Call, Media, Part, Text, taken
from ..support import without_empty
from ..tools import Function, choice, functions, schema

#: The pattern of ``toolUseId`` in AWS's description of the service.
IDS = re.compile(r"[a-zA-Z0-9_.:-]{1,64}", re.ASCII)
_AUDIO = ("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "webm", "pcm")
_OFFICE = "application/vnd.openxmlformats-officedocument."
#: Bedrock's names of media formats, by kind and media type.
_FORMATS: dict[str, dict[str, str]] = {
    "image": {f"image/{form}": form for form in ("png", "jpeg", "gif", "webp")},
    "audio": {f"audio/{form}": form for form in _AUDIO},
    "file": {
        "application/pdf": "pdf",
        "text/csv": "csv",
        "application/msword": "doc",
        _OFFICE + "wordprocessingml.document": "docx",
        "application/vnd.ms-excel": "xls",
        _OFFICE + "spreadsheetml.sheet": "xlsx",
        "text/html": "html",
        "text/plain": "txt",
        "text/markdown": "md",
    },
}
_CHOICES: dict[str, dict[str, Json]] = {"auto": {"auto": {}}, "required": {"any": {}}}
# A document's name may have letters, digits, single spaces, hyphens, parentheses and brackets.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_MAX_NAME = 180  # of the 200 allowed: a number may be appended
#: The token limit, beside thinking, of a request that sets none: the model's default is unknown.
_DEFAULT_LIMIT = 16384


def body(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    The URL has the model's id.  Raises InvalidRequest, naming the parameter, if the request cannot
    be translated.
    """
    chat = conversation(request, "bedrock", caps, ids=IDS)
    payload: dict[str, Json] = {"messages": _messages(chat, request.body.get("cache_control"))}
    values = sampling(request, caps) if "claude" in request.model else request.body
    inference = {
        "maxTokens": caps.limit(request.max_tokens),
        "temperature": values.get("temperature"),
        "topP": values.get("top_p"),
        "stopSequences": [text for text in request.stop if text.strip()],
    }
    system = [
        block for text in chat.instructions for block in _cached({"text": text.text}, text.cache)
    ]
    payload |= without_empty({"system": system, "inferenceConfig": without_empty(inference)})
    _add_tools(payload, chat)
    if (form := schema(request, "bedrock")) is not None:
        members = without_empty({name: form.get(name) for name in ("name", "description")})
        members["schema"] = json_text(form["schema"], request.marks)
        text_format = {"type": "json_schema", "structure": {"jsonSchema": members}}
        payload["outputConfig"] = {"textFormat": text_format}
    _add_model_fields(payload, chat)
    return payload


def _add_tools(payload: dict[str, Json], chat: Conversation) -> None:
    tools = functions(chat.request)
    mode, chosen = choice(chat.request, chat.caps) if tools else ("", "")
    if mode == "none":
        if chat.called:
            text = "bedrock does not support tool_choice 'none' after tool calls"
            raise InvalidRequest(text, param="tool_choice")
        return
    # Bedrock refuses a history with calls of tools that are not declared.
    tools = tools or [Function(name) for name in chat.called]
    if not tools:
        return
    specs = (block for function in tools for block in _spec(function))
    payload["toolConfig"] = {"tools": listed_if_few(specs, len(tools))}
    if mode:
        named = {"tool": {"name": chosen}}
        payload["toolConfig"]["toolChoice"] = _CHOICES.get(mode, named)


def _spec(function: Function) -> list[dict[str, Json]]:
    spec = {**function.named, "inputSchema": {"json": function.schema}}
    return _cached({"toolSpec": spec}, function.cache)


def _add_model_fields(payload: dict[str, Json], chat: Conversation) -> None:
    """Add the fields that Converse passes to the model, and the thinking of Claude."""
    request, own = chat.request, dict[str, Json]()
    claude = "claude" in request.model
    oss = "gpt-oss" in request.model
    for name in ("top_k", "reasoning_effort"):
        known = claude or (oss and name == "reasoning_effort")
        if request.body.get(name) is not None and not known:
            text = f"bedrock does not support {name} for {request.model[:200]}"
            raise InvalidRequest(text, param=name)
    if (top_k := request.body.get("top_k")) is not None:
        own["top_k"] = top_k
    object, level, limit = thinking(chat, _DEFAULT_LIMIT)
    if oss:
        if (effort := requested_effort(request)) is not None:
            own["reasoning_effort"] = chat.caps.effort(effort)
    elif claude and request.body.get("thinking") is not None:
        own["thinking"] = request.body["thinking"]
    elif object is not None:
        own["thinking"] = object
        if limit:
            payload.setdefault("inferenceConfig", {})["maxTokens"] = limit
            payload["inferenceConfig"].pop("temperature", None)  # refused together with a budget
    if claude and level:
        payload.setdefault("outputConfig", {})["effort"] = level
    if own:
        payload["additionalModelRequestFields"] = own


def _cache_point(cache: dict[str, Json]) -> dict[str, Json]:
    point = {"type": "default"}
    if cache.get("ttl") in ("5m", "1h"):
        point["ttl"] = cache["ttl"]
    return {"cachePoint": point}


def _cached(block: dict[str, Json], cache: Json) -> list[dict[str, Json]]:
    return [block] if cache is None else [block, _cache_point(cache)]


def _messages(chat: Conversation, cache: Json) -> Iterator[dict[str, Json]]:
    """Yield the messages; *cache*, the request's ``cache_control``, adds a point to the last."""
    names: set[str] = set()
    last: dict[str, Json] = {}
    for role, run in merged(chat.turns):
        if last:
            yield last
        last = {"role": role, "content": _content(run, names)}
    if cache is not None:
        last["content"] = [*last["content"]]
        if "cachePoint" not in last["content"][-1]:
            last["content"].append(_cache_point(cache))
    yield last


def _content(run: list[Turn], names: set[str]) -> Iterable[dict[str, Json]]:
    """Return the blocks of a *run* of turns of one side.

    *names* collects the names of documents, which must be unique in the request.
    """
    parts = [part for turn in run for part in turn.parts]
    has_documents = any(isinstance(part, Media) and part.kind == "file" for part in parts)
    has_text = any(isinstance(part, Text) for part in parts)
    blocks = _blocks(run, names)
    # Bedrock refuses an empty message, and a document without a text.
    if has_documents:  # which are named in the order in which they are encoded
        return blocks if has_text else chain([{"text": EMPTY}], blocks)
    return listed_if_few(blocks, len(parts)) or [{"text": EMPTY}]


def _blocks(run: list[Turn], names: set[str]) -> Iterator[dict[str, Json]]:
    for turn in taken(run):
        for thought in turn.thoughts:
            reasoning: dict[str, Json] = {"redactedContent": thought.get("data")}
            if thought["type"] == "thinking":
                signed = {"text": thought["thinking"], "signature": thought["signature"]}
                reasoning = {"reasoningText": signed}
            yield {"reasoningContent": reasoning}
        for part in taken(turn.parts):
            yield from _cached(_block(part, names), part.cache)


def _block(part: Part, names: set[str]) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Media):
        return _media(part, names)
    if isinstance(part, Call):
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
    blocks = [_block(inner, names) for inner in part.parts] or [{"text": EMPTY}]
    status = {"status": "error"} if part.failed else {}
    return {"toolResult": {"toolUseId": part.id, "content": blocks, **status}}


def _media(media: Media, names: set[str]) -> dict[str, Json]:
    form = _FORMATS[media.kind].get(media.media_type)
    if not form:
        text = f"bedrock does not support the media type {media.media_type[:200]}"
        raise InvalidRequest(text, param=media.param)
    members = {"format": form, "source": {"bytes": media.data}}
    if media.kind != "file":
        return {media.kind: members}
    stem = media.name.rpartition(".")[0] or media.name
    stem = _NOT_IN_NAMES.sub(" ", stem).strip()[:_MAX_NAME].strip() or "document"
    number, name = 1, stem
    while name in names:
        number += 1
        name = f"{stem} {number}"
    names.add(name)
    return {"document": {**members, "name": name}}


def invocation(request: ChatRequest) -> dict[str, Json]:
    """Return the InvokeModel body for Claude for *request*, which came by the Messages API.

    https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html
    """
    payload = {"anthropic_version": "bedrock-2023-05-31", **forwarded(request)}
    for name in ("model", "stream"):  # both are in the URL
        payload.pop(name, None)
    if betas := [beta for word in request.betas.split(",") if (beta := word.strip())]:
        payload["anthropic_beta"] = betas
    return payload
