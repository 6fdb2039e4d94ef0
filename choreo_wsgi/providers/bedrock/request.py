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
from ..anthropic.request import thinking
from ..conversation import (
    Call,
    Media,
    Part,
    Result,
    Text,
    Turn,
    choice,
    conversation,
    functions,
    merged,
    schema,
)
from ..support import check, check_media

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_CHOICES: dict[str, dict[str, Json]] = {"auto": {"auto": {}}, "required": {"any": {}}}
# Document names may have letters, digits, blanks, hyphens, brackets.
_UNNAMABLE = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")


def body(request: ChatRequest) -> dict[str, Json]:
    """Return the JSON object to send for *request*; the model's id is in the URL.

    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    check(request, "bedrock")
    system, turns = conversation(request)
    made: dict[str, Json] = {
        "messages": [{"role": role, "content": _content(run)} for role, run in merged(turns)]
    }
    if system:
        made["system"] = [{"text": text} for text in system]
    inference = _inference(request)
    if inference:
        made["inferenceConfig"] = inference
    _add_tools(made, request, turns)
    _add_format(made, request)
    _add_thinking(made, request)
    return made


def _inference(request: ChatRequest) -> dict[str, Json]:
    asked = request.body
    named = {
        "maxTokens": request.max_tokens,
        "temperature": asked.get("temperature"),
        "topP": asked.get("top_p"),
        "stopSequences": list(request.stop) or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _add_tools(made: dict[str, Json], request: ChatRequest, turns: list[Turn]) -> None:
    tools = functions(request)
    wanted = choice(request)
    if wanted is not None and wanted.mode == "none":
        if any(isinstance(part, Call) for turn in turns for part in turn.parts):
            raise InvalidRequest("bedrock has no 'none' after tool calls", param="tool_choice")
        return
    if not tools:
        return
    specs = []
    for function in tools:
        spec: dict[str, Json] = {
            "name": function.name,
            "inputSchema": {"json": function.parameters},
        }
        if function.description:
            spec["description"] = function.description
        if function.strict:
            spec["strict"] = True
        specs.append({"toolSpec": spec})
    made["toolConfig"] = {"tools": specs}
    if wanted is not None:
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


def _add_thinking(made: dict[str, Json], request: ChatRequest) -> None:
    effort = request.body.get("reasoning_effort")
    if effort is None:
        return
    if "gpt-oss" in request.model:
        made["additionalModelRequestFields"] = {"reasoning_effort": effort}
        return
    if "claude" not in request.model:
        raise InvalidRequest(
            f"bedrock has no reasoning_effort for {request.model}", param="reasoning_effort"
        )
    # Unlike at Anthropic, the limit that a model has when none is set is not known here.
    room = 1 << 30 if request.max_tokens is None else request.max_tokens
    object, level, budget = thinking(request.model, effort, room)
    if budget and request.max_tokens is None:
        made.setdefault("inferenceConfig", {})["maxTokens"] = 2 * budget
    made["additionalModelRequestFields"] = {"thinking": object}
    if level:
        made.setdefault("outputConfig", {})["effort"] = level


def _content(run: list[Turn]) -> list[dict[str, Json]]:
    blocks: list[dict[str, Json]] = []
    for turn in run:
        blocks += [_reasoning(block) for block in turn.message.get("thinking_blocks") or ()]
        blocks += [_block(part) for part in turn.parts]
    return blocks


def _reasoning(block: dict[str, Json]) -> dict[str, Json]:
    if block.get("type") == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": block["data"]}}
    said = {"text": block.get("thinking", ""), "signature": block.get("signature", "")}
    return {"reasoningContent": {"reasoningText": said}}


def _block(part: Part) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Media):
        return _media(part)
    if isinstance(part, Call):
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
    assert isinstance(part, Result)
    return {"toolResult": {"toolUseId": part.id, "content": [{"text": part.text}]}}


def _media(media: Media) -> dict[str, Json]:
    check_media(media, "bedrock")
    source = {"bytes": media.data}
    if media.kind == "file":
        if media.media_type != "application/pdf":
            raise InvalidRequest("bedrock takes PDF files only", param=media.param)
        name = _UNNAMABLE.sub(" ", media.name.removesuffix(".pdf")).strip() or "document"
        return {"document": {"format": "pdf", "name": name, "source": source}}
    if media.media_type not in _IMAGES:
        raise InvalidRequest(f"bedrock takes no {media.media_type}", param=media.param)
    return {"image": {"format": _IMAGES[media.media_type], "source": source}}
