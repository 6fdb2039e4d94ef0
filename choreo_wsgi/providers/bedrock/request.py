"""A request in the words of Amazon Bedrock's Converse API.

Every field is that of
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html.
"""

from __future__ import annotations

import json
import re

from ...chat.items import Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..anthropic.request import can_think, sampling, thinking
from ..capabilities import Capabilities, asked_effort
from ..conversation import EMPTY, Conversation, Turn, conversation, merged
from ..parts import Call, Media, Part, Result, Text, cache_control
from ..support import check, check_media, number
from ..tools import Function, choice, functions, schema

#: The pattern of ``toolUseId`` in AWS's description of the service.
IDS = re.compile(r"[a-zA-Z0-9_.:-]{1,64}", re.ASCII)
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_SOUNDS = ("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "webm", "pcm")
_OFFICE = "application/vnd.openxmlformats-officedocument."
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    _OFFICE + "wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    _OFFICE + "spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_CHOICES: dict[str, dict[str, Json]] = {"auto": {"auto": {}}, "required": {"any": {}}}
# Document names may have letters, digits, single blanks, hyphens, brackets.
_UNNAMABLE = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_MAX_NAME = 180  # of 200: a number may follow
#: Room for thinking where the limit that a model has when none is set is not known.
_DEFAULT_LIMIT = 16384


def body(request: ChatRequest, able: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model that is *able* to do so much.

    The model's id is in the URL.  Raises InvalidRequest, naming the parameter, for what cannot
    be sent.
    """
    check(request, "bedrock", able)
    talk = conversation(request, IDS)
    check_media(talk.media, "bedrock")
    blocks = _Blocks()
    made: dict[str, Json] = {
        "messages": [{"role": role, "content": blocks.of(run)} for role, run in merged(talk.turns)]
    }
    last = made["messages"][-1]["content"]
    cache = cache_control(request.body, "")
    if cache is not None and "cachePoint" not in last[-1]:
        last.append(_point(cache))
    if talk.instructions:
        made["system"] = [
            block
            for text in talk.instructions
            for block in _marked({"text": text.text}, text.cache)
        ]
    inference = {
        "maxTokens": able.limit(request.max_tokens),
        **_sampling(request, able),
        "stopSequences": [text for text in request.stop if text.strip()] or None,
    }
    inference = {name: value for name, value in inference.items() if value is not None}
    if inference:
        made["inferenceConfig"] = inference
    _add_tools(made, request, talk, able)
    _add_format(made, request)
    _add_own_fields(made, request, talk, able)
    return made


def _sampling(request: ChatRequest, able: Capabilities) -> dict[str, Json]:
    if "claude" in request.model:
        given = sampling(request, able)
    else:
        given = {name: request.body.get(name) for name in ("temperature", "top_p")}
    return {"temperature": given.get("temperature"), "topP": given.get("top_p")}


def _add_tools(
    made: dict[str, Json], request: ChatRequest, talk: Conversation, able: Capabilities
) -> None:
    tools = functions(request)
    wanted = choice(request)
    if wanted is not None and wanted.mode == "none":
        if talk.called and tools:
            raise InvalidRequest("bedrock has no 'none' after tool calls", param="tool_choice")
        tools, wanted = [], None
    # Calls in the history are refused without the tools that they are of.
    tools = tools or [Function(name) for name in talk.called]
    if not tools:
        return
    specs = []
    for function in tools:
        spec: dict[str, Json] = {"name": function.name, "inputSchema": {"json": function.schema}}
        if function.description:
            spec["description"] = function.description
        if function.strict:
            spec["strict"] = True
        specs += _marked({"toolSpec": spec}, function.cache)
    made["toolConfig"] = {"tools": specs}
    if wanted is not None:
        if wanted.mode != "auto" and not able.forced_tools:
            raise InvalidRequest(
                f"{request.model[:200]} cannot be made to call a tool", param="tool_choice"
            )
        named = {"tool": {"name": wanted.name}}
        made["toolConfig"]["toolChoice"] = _CHOICES.get(wanted.mode, named)


def _add_format(made: dict[str, Json], request: ChatRequest) -> None:
    wanted = schema(request)
    if wanted is None:
        return
    if wanted.schema is None:
        raise InvalidRequest(
            "bedrock has no json_object; use json_schema", param="response_format.type"
        )
    about = {"schema": json.dumps(wanted.schema, ensure_ascii=False, separators=(",", ":"))}
    if wanted.name:
        about["name"] = wanted.name
    if wanted.description:
        about["description"] = wanted.description
    form = {"type": "json_schema", "structure": {"jsonSchema": about}}
    made["outputConfig"] = {"textFormat": form}


def _add_own_fields(
    made: dict[str, Json], request: ChatRequest, talk: Conversation, able: Capabilities
) -> None:
    """Add what Converse has no words for: they are the model's own."""
    own: dict[str, Json] = {}
    claude = "claude" in request.model
    oss = "gpt-oss" in request.model
    for name in ("top_k", "reasoning_effort"):
        known = claude or (oss and name == "reasoning_effort")
        if request.body.get(name) is not None and not known:
            raise InvalidRequest(f"bedrock has no {name} for {request.model[:200]}", param=name)
    if (top_k := number(request, "top_k")) is not None:
        own["top_k"] = top_k
    object, level, limit = thinking(request, able, _DEFAULT_LIMIT)
    if oss:
        if (effort := asked_effort(request)) is not None:
            own["reasoning_effort"] = able.effort(effort)
    elif claude and request.body.get("thinking") is not None:
        own["thinking"] = request.body["thinking"]
    elif object is not None and not (limit and not can_think(talk)):
        own["thinking"] = object
        if limit:
            made.setdefault("inferenceConfig", {})["maxTokens"] = limit
            made["inferenceConfig"].pop("temperature", None)  # refused beside thinking
    if claude and level:
        made.setdefault("outputConfig", {})["effort"] = level
    if own:
        made["additionalModelRequestFields"] = own


def _point(cache: dict[str, Json]) -> dict[str, Json]:
    point = {"type": "default"}
    if cache.get("ttl") in ("5m", "1h"):
        point["ttl"] = cache["ttl"]
    return {"cachePoint": point}


def _marked(block: dict[str, Json], cache: Json) -> list[dict[str, Json]]:
    return [block] if cache is None else [block, _point(cache)]


class _Blocks:
    """The blocks of the messages; the names of documents must all be different."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def of(self, run: list[Turn]) -> list[dict[str, Json]]:
        """Return the blocks of what one side said in a *run* of turns."""
        blocks: list[dict[str, Json]] = []
        for turn in run:
            blocks += [_reasoning(block) for block in turn.thoughts]
            for part in turn.parts:
                blocks += _marked(self._block(part), part.cache)
        # A document alone is refused too.
        if not blocks or (_has(blocks, "document") and not _has(blocks, "text")):
            blocks.insert(0, {"text": EMPTY})
        return blocks

    def _block(self, part: Part) -> dict[str, Json]:
        if isinstance(part, Text):
            return {"text": part.text}
        if isinstance(part, Media):
            return self._media(part)
        if isinstance(part, Call):
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
        return self._result(part)

    def _result(self, result: Result) -> dict[str, Json]:
        said = [self._block(part) for part in result.parts] or [{"text": EMPTY}]
        made: dict[str, Json] = {"toolUseId": result.id, "content": said}
        if result.failed:
            made["status"] = "error"
        return {"toolResult": made}

    def _media(self, media: Media) -> dict[str, Json]:
        source = {"bytes": media.data}
        kinds = {"image": _IMAGES, "file": _DOCUMENTS}.get(media.kind)
        if kinds is None:
            form = media.media_type.removeprefix("audio/")
            form = form if form in _SOUNDS else ""
        else:
            form = kinds.get(media.media_type, "")
        if not form:
            raise InvalidRequest(f"bedrock takes no {media.media_type[:200]}", param=media.param)
        if media.kind == "file":
            name = self._name(media.name)
            return {"document": {"format": form, "name": name, "source": source}}
        return {media.kind: {"format": form, "source": source}}

    def _name(self, given: str) -> str:
        stem = given.rpartition(".")[0] or given
        name = _UNNAMABLE.sub(" ", stem).strip()[:_MAX_NAME].strip() or "document"
        number, made = 1, name
        while made in self._names:
            number += 1
            made = f"{name} {number}"
        self._names.add(made)
        return made


def _has(blocks: list[dict[str, Json]], kind: str) -> bool:
    return any(kind in block for block in blocks)


def _reasoning(block: dict[str, Json]) -> dict[str, Json]:
    if block["type"] == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": block["data"]}}
    said = {"text": block["thinking"], "signature": block["signature"]}
    return {"reasoningContent": {"reasoningText": said}}


def invocation(request: ChatRequest) -> dict[str, Json]:
    """Return the body that Claude is invoked with for *request*, one of the Messages API.

    https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html
    """
    made = {"anthropic_version": "bedrock-2023-05-31", **(request.original or {})}
    for name in ("model", "stream"):  # the URL says both
        made.pop(name, None)
    if betas := [beta for word in request.betas.split(",") if (beta := word.strip())]:
        made["anthropic_beta"] = betas
    return made
