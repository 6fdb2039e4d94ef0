"""A request in the words of Amazon Bedrock's Converse API.

Every field is that of
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...chat.items import Json
from ...chat.request import ChatRequest
from ...chat.shapes import compact
from ...errors import InvalidRequest
from ..anthropic.request import passed, sampling, thinking
from ..capabilities import Capabilities, requested_effort
from ..conversation import EMPTY, Conversation, Turn, conversation, merged
from ..parts import Call, Media, Part, Text
from ..support import without_empty
from ..tools import Function, choice, functions, schema

#: The pattern of ``toolUseId`` in AWS's description of the service.
IDS = re.compile(r"[a-zA-Z0-9_.:-]{1,64}", re.ASCII)
_SOUNDS = ("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "webm", "pcm")
_OFFICE = "application/vnd.openxmlformats-officedocument."
#: What the formats of media are called, by their kinds and types.
_FORMS: dict[str, dict[str, str]] = {
    "image": {f"image/{form}": form for form in ("png", "jpeg", "gif", "webp")},
    "audio": {f"audio/{form}": form for form in _SOUNDS},
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
# Document names may have letters, digits, single blanks, hyphens, brackets.
_UNNAMABLE = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_MAX_NAME = 180  # of 200: a number may follow
#: Room for thinking where the limit that a model has when none is set is not known.
_DEFAULT_LIMIT = 16384


def body(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    The model's id is in the URL.  Raises InvalidRequest, naming the parameter, for what cannot
    be sent.
    """
    chat = conversation(request, "bedrock", caps, ids=IDS)
    made: dict[str, Json] = {"messages": _messages(chat, request.body.get("cache_control"))}
    asked = sampling(request, caps) if "claude" in request.model else request.body
    inference = {
        "maxTokens": caps.limit(request.max_tokens),
        "temperature": asked.get("temperature"),
        "topP": asked.get("top_p"),
        "stopSequences": [text for text in request.stop if text.strip()],
    }
    texts = [_marked({"text": text.text}, text.cache) for text in chat.instructions]
    system = [block for blocks in texts for block in blocks]
    made |= without_empty({"system": system, "inferenceConfig": without_empty(inference)})
    _add_tools(made, chat)
    if (wanted := schema(request, "bedrock")) is not None:
        about = without_empty({name: wanted.get(name) for name in ("name", "description")})
        about["schema"] = compact(wanted["schema"])
        form = {"type": "json_schema", "structure": {"jsonSchema": about}}
        made["outputConfig"] = {"textFormat": form}
    _add_own_fields(made, chat)
    return made


def _add_tools(made: dict[str, Json], chat: Conversation) -> None:
    tools = functions(chat.request)
    mode, chosen = choice(chat.request, chat.caps) if tools else ("", "")
    if mode == "none":
        if chat.called:
            raise InvalidRequest("bedrock has no 'none' after tool calls", param="tool_choice")
        return
    # Calls in the history are refused without the tools that they are of.
    tools = tools or [Function(name) for name in chat.called]
    if not tools:
        return
    specs: list[dict[str, Json]] = []
    for function in tools:
        spec = {**function.named, "inputSchema": {"json": function.schema}}
        specs += _marked({"toolSpec": spec}, function.cache)
    made["toolConfig"] = {"tools": specs}
    if mode:
        named = {"tool": {"name": chosen}}
        made["toolConfig"]["toolChoice"] = _CHOICES.get(mode, named)


def _add_own_fields(made: dict[str, Json], chat: Conversation) -> None:
    """Add what Converse has no words for: they are the model's own."""
    request, own = chat.request, dict[str, Json]()
    claude = "claude" in request.model
    oss = "gpt-oss" in request.model
    for name in ("top_k", "reasoning_effort"):
        known = claude or (oss and name == "reasoning_effort")
        if request.body.get(name) is not None and not known:
            raise InvalidRequest(f"bedrock has no {name} for {request.model[:200]}", param=name)
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


def _messages(chat: Conversation, cache: Json) -> Iterator[dict[str, Json]]:
    """Yield the messages; for *cache*, the ``cache_control`` of all, the last has a point."""
    names: set[str] = set()
    last: dict[str, Json] = {}
    for role, run in merged(chat.turns):
        if last:
            yield last
        last = {"role": role, "content": _content(run, names)}
    if cache is not None and "cachePoint" not in last["content"][-1]:
        last["content"].append(_point(cache))
    yield last


def _content(run: list[Turn], names: set[str]) -> list[dict[str, Json]]:
    """Return the blocks of what one side said in a *run* of turns.

    The *names* of documents must all be different.
    """
    blocks: list[dict[str, Json]] = []
    for turn in run:
        for thought in turn.thoughts:
            told: dict[str, Json] = {"redactedContent": thought.get("data")}
            if thought["type"] == "thinking":
                said = {"text": thought["thinking"], "signature": thought["signature"]}
                told = {"reasoningText": said}
            blocks.append({"reasoningContent": told})
        for part in turn.parts:
            blocks += _marked(_block(part, names), part.cache)
    # A document alone is refused too.
    kinds = {kind for block in blocks for kind in block}
    if not blocks or ("document" in kinds and "text" not in kinds):
        blocks.insert(0, {"text": EMPTY})
    return blocks


def _block(part: Part, names: set[str]) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Media):
        return _media(part, names)
    if isinstance(part, Call):
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
    said = [_block(one, names) for one in part.parts] or [{"text": EMPTY}]
    status = {"status": "error"} if part.failed else {}
    return {"toolResult": {"toolUseId": part.id, "content": said, **status}}


def _media(media: Media, names: set[str]) -> dict[str, Json]:
    form = _FORMS[media.kind].get(media.media_type)
    if not form:
        raise InvalidRequest(f"bedrock takes no {media.media_type[:200]}", param=media.param)
    made = {"format": form, "source": {"bytes": media.data}}
    if media.kind != "file":
        return {media.kind: made}
    stem = media.name.rpartition(".")[0] or media.name
    stem = _UNNAMABLE.sub(" ", stem).strip()[:_MAX_NAME].strip() or "document"
    number, name = 1, stem
    while name in names:
        number += 1
        name = f"{stem} {number}"
    names.add(name)
    return {"document": {**made, "name": name}}


def invocation(request: ChatRequest) -> dict[str, Json]:
    """Return the body that Claude is invoked with for *request*, one of the Messages API.

    https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html
    """
    made = {"anthropic_version": "bedrock-2023-05-31", **passed(request)}
    for name in ("model", "stream"):  # the URL says both
        made.pop(name, None)
    if betas := [beta for word in request.betas.split(",") if (beta := word.strip())]:
        made["anthropic_beta"] = betas
    return made
