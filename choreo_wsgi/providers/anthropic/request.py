"""Translates a request for Anthropic's Messages API.

The fields are documented at https://docs.anthropic.com/en/api/messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from ...chat.items import FEW, Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..capabilities import Capabilities, requested_effort
from ..conversation import (
    EMPTY,
    Conversation,
    Turn,
    conversation,
    count_parts,
    listed_if_few,
    merged,
)
from ..parts import Call, Media, Part, Result, Text, joined, taken
from ..support import without_empty
from ..tools import Function, choice, functions, schema

IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BUDGETS = {"low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def body(request: ChatRequest, default_max_tokens: int, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    *default_max_tokens* is used if the request sets no limit, because Anthropic requires one.
    Raises InvalidRequest, naming the parameter, if the request cannot be translated.
    """
    chat = conversation(request, "anthropic", caps, ids=IDS, system_anywhere=caps.system_anywhere)
    fields = request.body
    limit = default_max_tokens if request.max_tokens is None else request.max_tokens
    payload: dict[str, Json] = {
        "model": request.model,
        "max_tokens": caps.limit(limit),
        "messages": _messages(chat),
        "stream": True,
        **sampling(request, caps),
    }
    system = chat.instructions
    blocks = [*map(_block, system)] if any(text.cache for text in system) else None
    user = fields.get("safety_identifier") or fields.get("user")
    optional = {
        "system": blocks or joined([text.text for text in system], request.marks, "\n\n"),
        "cache_control": fields.get("cache_control"),
        "top_k": fields.get("top_k"),
        "stop_sequences": [text for text in request.stop if text.strip()],
        "metadata": without_empty({"user_id": user}),
    }
    payload |= without_empty(optional)
    _add_tools(payload, chat)
    if (form := schema(request, "anthropic")) is not None:
        payload["output_config"] = {"format": {"type": "json_schema", "schema": form["schema"]}}
    _add_thinking(payload, chat)
    return payload


def forwarded(request: ChatRequest) -> dict[str, Json]:
    """Return the body to forward for *request*, which came by the Messages API.

    Thinking without a signature comes from another model and is dropped: Anthropic refuses it.
    """
    original = request.original or {}
    messages = []
    for message in original["messages"]:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, list):
            foreign = ("thinking", None), ("thinking", "")
            content = [b for b in content if (b["type"], b.get("signature")) not in foreign]
        if content or not message["content"]:
            messages.append({**message, "content": content})
    return {**original, "model": request.model, "messages": messages}


def sampling(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return those of temperature and top_p that the model accepts."""
    # 1 is the default, so it need not be sent; models without sampling would refuse it.
    names = ("temperature", "top_p") if caps.sampling != "none" else ()
    values = {name: request.body[name] for name in names if request.body.get(name) not in (None, 1)}
    if caps.sampling == "one" and len(values) == 2:
        del values["top_p"]
    return values


def thinking(chat: Conversation, default: int) -> tuple[dict[str, Json] | None, str, int]:
    """Return the ``thinking`` object, the ``effort`` and the token limit for ``reasoning_effort``.

    They are None, ``""`` and 0 if they are not to be sent.  *default* is the token limit if the
    request sets none; it is raised by the budget, up to the model's own limit, in such a way that
    more effort never means a smaller budget.  A thinking budget counts towards the limit and must
    be smaller; if the limit leaves no room for it, thinking is disabled.
    """
    request, caps = chat.request, chat.caps
    effort = requested_effort(request)
    if effort is None or request.body.get("reasoning_effort") is None:
        return None, "", 0  # a ``thinking`` member of the request is sent unchanged
    if caps.thinking == "none":
        if effort == "none":
            return None, "", 0
        text = f"{request.model[:200]} does not support thinking"
        raise InvalidRequest(text, param="reasoning_effort")
    if effort == "none" and caps.off != "no":
        return {"type": caps.off}, "", 0
    if caps.thinking != "budget":
        # reasoning_content shows the summaries; some models send them only on request.
        level = caps.effort("low" if effort == "none" else effort)
        level = "low" if level == "minimal" else level
        return {"type": "adaptive", "display": "summarized"}, level, 0
    budget = _BUDGETS.get(effort, caps.least)
    limit = caps.limit(request.max_tokens)
    if limit is None:
        most = caps.max_tokens or default + budget
        budget = min(budget, max(most - default, most // 2))
        limit = min(default + budget, most)
    budget = min(budget, limit - 1)
    if budget < caps.least:
        return {"type": "disabled"}, "", 0
    last = next((turn for turn in reversed(chat.turns) if turn.role in ("assistant", "user")), None)
    if last and not last.thoughts and any(isinstance(part, Call) for part in last.parts):
        return None, "", 0  # Anthropic refuses thinking if a pending tool call lacks its thinking
    return {"type": "enabled", "budget_tokens": budget}, "", limit


def _add_thinking(payload: dict[str, Json], chat: Conversation) -> None:
    explicit = chat.request.body.get("thinking")
    object, level, limit = thinking(chat, payload["max_tokens"])
    if level:
        payload.setdefault("output_config", {})["effort"] = level
    if explicit is not None:
        payload["thinking"] = explicit
    elif object is not None:
        payload["thinking"] = object
        if limit:
            payload["max_tokens"] = limit
            payload.pop("temperature", None)  # refused together with a budget


def _add_tools(payload: dict[str, Json], chat: Conversation) -> None:
    tools = functions(chat.request)
    mode, name = choice(chat.request, chat.caps) if tools else ("none", "")
    # Anthropic refuses a history with calls of tools that are not declared.
    tools = tools or [Function(called) for called in chat.called]
    if not tools:
        return
    declared = (
        _cached({**function.named, "input_schema": function.schema}, function.cache)
        for function in tools
    )
    payload["tools"] = listed_if_few(declared, len(tools))
    parallel = chat.request.body.get("parallel_tool_calls")
    single = parallel is False and chat.caps.parallel != "one" and mode != "none"
    if mode or single:
        members: dict[str, Json] = {"type": _MODES[mode or "auto"], "name": name}
        members["disable_parallel_tool_use"] = single or None
        payload["tool_choice"] = without_empty(members)


def _messages(chat: Conversation) -> Iterator[dict[str, Json]]:
    for role, run in merged(chat.turns):
        # Anthropic allows one system message, directly after a message of the user.
        texts = [part for turn in run if turn.role == "system" for part in turn.parts]
        run[:] = [turn for turn in run if turn.role != "system"]
        yield {"role": role, "content": _content(run)}
        if texts:
            yield {"role": "system", "content": [_block(part) for part in texts]}


def _content(run: list[Turn]) -> str | Iterable[dict[str, Json]]:
    if count_parts(run) > FEW:
        parts = (chain(turn.thoughts, map(_block, taken(turn.parts))) for turn in taken(run))
        return chain.from_iterable(parts)
    blocks = [block for turn in run for block in (*turn.thoughts, *map(_block, turn.parts))]
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks or EMPTY


def _cached(block: dict[str, Json], cache: Json) -> dict[str, Json]:
    return block if cache is None else {**block, "cache_control": cache}


def _block(part: Part) -> dict[str, Json]:
    block: dict[str, Json]
    if isinstance(part, Text):
        block = {"type": "text", "text": part.text}
    elif isinstance(part, Media):
        block = _media(part)
    elif isinstance(part, Call):
        block = {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    else:
        block = _result(part)
    return _cached(block, part.cache)


def _result(result: Result) -> dict[str, Json]:
    block: dict[str, Json] = {"type": "tool_result", "tool_use_id": result.id}
    if result.media:
        block["content"] = [_block(replace(part, cache=None)) for part in result.parts]
    elif result.parts:
        block["content"] = result.text
    return {**block, "is_error": True} if result.failed else block


def _media(media: Media) -> dict[str, Json]:
    titled = {"title": media.name} if media.name else {}
    if media.url:
        source = {"type": "url", "url": media.url}
    elif media.kind == "file" and media.media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": media.text}
    else:
        source = {"type": "base64", "media_type": media.media_type, "data": media.data}
    if media.kind == "file":
        return {"type": "document", "source": source, **titled}
    if media.data and media.media_type not in _IMAGES:
        text = f"anthropic does not support the media type {media.media_type[:200]}"
        raise InvalidRequest(text, param=media.param)
    return {"type": "image", "source": source}
