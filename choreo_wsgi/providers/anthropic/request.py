"""A request in the words of Anthropic's Messages API.

Every field is that of https://docs.anthropic.com/en/api/messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ...chat.items import Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..capabilities import Capabilities, requested_effort
from ..conversation import EMPTY, Conversation, Turn, conversation, merged
from ..parts import Call, Media, Part, Result, Text
from ..support import without_empty
from ..tools import Function, choice, functions, schema

IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BUDGETS = {"low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def body(request: ChatRequest, default_max_tokens: int, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    *default_max_tokens* stands in where the request sets no limit, which Anthropic demands.
    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    chat = conversation(request, "anthropic", caps, ids=IDS, system_anywhere=caps.system_anywhere)
    asked = request.body
    limit = default_max_tokens if request.max_tokens is None else request.max_tokens
    made: dict[str, Json] = {
        "model": request.model,
        "max_tokens": caps.limit(limit),
        "messages": _messages(chat),
        "stream": True,
        **sampling(request, caps),
    }
    said = chat.instructions
    marked = any(text.cache for text in said)
    more = {
        "system": [*map(_block, said)] if marked else "\n\n".join(text.text for text in said),
        "cache_control": asked.get("cache_control"),
        "top_k": request.body.get("top_k"),
        "stop_sequences": [text for text in request.stop if text.strip()],
        "metadata": without_empty({"user_id": asked.get("safety_identifier") or asked.get("user")}),
    }
    made |= without_empty(more)
    _add_tools(made, chat)
    if (wanted := schema(request, "anthropic")) is not None:
        made["output_config"] = {"format": {"type": "json_schema", "schema": wanted["schema"]}}
    _add_thinking(made, chat)
    return made


def passed(request: ChatRequest) -> dict[str, Json]:
    """Return *request*, one of the Messages API, as Claude takes it.

    Thinking without a signature, which is another model's, is left out: Anthropic refuses it.
    """
    original = request.original or {}
    messages = []
    for message in original["messages"]:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, list):
            others = ("thinking", None), ("thinking", "")
            content = [one for one in content if (one["type"], one.get("signature")) not in others]
        if content or not message["content"]:
            messages.append({**message, "content": content})
    return {**original, "model": request.model, "messages": messages}


def sampling(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return temperature and top_p as the model takes them."""
    # 1 is the default, and refused by models and versions that have no sampling.
    names = ("temperature", "top_p") if caps.sampling != "none" else ()
    made = {name: request.body[name] for name in names if request.body.get(name) not in (None, 1)}
    if caps.sampling == "one" and len(made) == 2:
        del made["top_p"]
    return made


def thinking(chat: Conversation, default: int) -> tuple[dict[str, Json] | None, str, int]:
    """Return the ``thinking`` object, the ``effort`` and the limit of tokens for the effort asked
    for; None, ``""`` and 0 where there is nothing to say.

    *default* is the limit of a request that sets none.  A budget of thinking is a part of the limit
    and stays below it; without room for it there is no thinking.  The limit that is made up for
    it stays below the model's, and more effort is never a smaller budget.
    """
    request, caps = chat.request, chat.caps
    effort = requested_effort(request)
    if effort is None or request.body.get("reasoning_effort") is None:
        return None, "", 0  # ``thinking`` is sent as it came
    if caps.thinking == "none":
        if effort == "none":
            return None, "", 0
        raise InvalidRequest(f"{request.model[:200]} does not think", param="reasoning_effort")
    if effort == "none" and caps.off != "no":
        return {"type": caps.off}, "", 0
    if caps.thinking != "budget":
        # Summaries are what reasoning_content shows; some models leave them out unasked.
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
        return None, "", 0  # refused in a round of tool calls that came back without its thinking
    return {"type": "enabled", "budget_tokens": budget}, "", limit


def _add_thinking(made: dict[str, Json], chat: Conversation) -> None:
    own = chat.request.body.get("thinking")
    object, level, limit = thinking(chat, made["max_tokens"])
    if level:
        made.setdefault("output_config", {})["effort"] = level
    if own is not None:
        made["thinking"] = own
    if object is None or own is not None:
        return
    made["thinking"] = object
    if limit:
        made["max_tokens"] = limit
        made.pop("temperature", None)  # refused beside thinking


def _add_tools(made: dict[str, Json], chat: Conversation) -> None:
    tools = functions(chat.request)
    mode, name = choice(chat.request, chat.caps) if tools else ("none", "")
    # Calls in the history are refused without the tools that they are of.
    tools = tools or [Function(called) for called in chat.called]
    if not tools:
        return
    made["tools"] = [
        _cached({**function.named, "input_schema": function.schema}, function.cache)
        for function in tools
    ]
    asked = chat.request.body.get("parallel_tool_calls")
    single = asked is False and chat.caps.parallel != "one" and mode != "none"
    if mode or single:
        chosen = {"type": _MODES[mode or "auto"], "name": name}
        made["tool_choice"] = without_empty(chosen | {"disable_parallel_tool_use": single or None})


def _messages(chat: Conversation) -> Iterator[dict[str, Json]]:
    for role, run in merged(chat.turns):
        said = [turn for turn in run if turn.role != "system"]
        yield {"role": role, "content": _content(said)}
        # A system message follows a turn of the user, and no other system message.
        texts = [part for turn in run if turn.role == "system" for part in turn.parts]
        if texts:
            yield {"role": "system", "content": [_block(part) for part in texts]}


def _content(run: list[Turn]) -> str | list[dict[str, Json]]:
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
        raise InvalidRequest(f"anthropic takes no {media.media_type[:200]}", param=media.param)
    return {"type": "image", "source": source}
