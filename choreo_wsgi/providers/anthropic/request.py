"""A request in the words of Anthropic's Messages API.

Every field is that of https://docs.anthropic.com/en/api/messages.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...chat.items import Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..capabilities import Capabilities, asked_effort
from ..conversation import EMPTY, Conversation, Turn, conversation, merged
from ..parts import Call, Media, Part, Result, Text, cache_control
from ..support import check, check_media, number
from ..tools import Choice, Function, choice, functions, schema

IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BUDGETS = {"low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def body(request: ChatRequest, default_max_tokens: int, able: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model that is *able* to do so much.

    *default_max_tokens* stands in where the request sets no limit, which Anthropic demands.
    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    check(request, "anthropic", able)
    talk = conversation(request, IDS, system_anywhere=able.system_anywhere)
    check_media(talk.media, "anthropic")
    asked = request.body
    given = request.max_tokens
    limit = able.limit(default_max_tokens if given is None else given)
    made: dict[str, Json] = {
        "model": request.model,
        "max_tokens": limit,
        "messages": _messages(talk),
        "stream": True,
    }
    if system := _system(talk.instructions):
        made["system"] = system
    if (cache := cache_control(asked, "")) is not None:
        made["cache_control"] = cache
    made.update(sampling(request, able))
    if (top_k := number(request, "top_k")) is not None:
        made["top_k"] = top_k
    if stops := [text for text in request.stop if text.strip()]:
        made["stop_sequences"] = stops
    user = asked.get("safety_identifier") or asked.get("user")
    if user:
        made["metadata"] = {"user_id": user}
    _add_tools(made, request, talk, able)
    _add_format(made, request)
    _add_thinking(made, request, talk, able)
    return made


def sampling(request: ChatRequest, able: Capabilities) -> dict[str, Json]:
    """Return temperature and top_p as the model takes them."""
    # 1 is the default, and refused by models and versions that have no sampling.
    names = ("temperature", "top_p") if able.sampling != "none" else ()
    made = {name: request.body[name] for name in names if request.body.get(name) not in (None, 1)}
    if able.sampling == "one" and len(made) == 2:
        del made["top_p"]
    return made


def thinking(
    request: ChatRequest, able: Capabilities, default: int
) -> tuple[dict[str, Json] | None, str, int]:
    """Return the ``thinking`` object, the ``effort`` and the limit of tokens for the effort asked
    for; None, ``""`` and 0 where there is nothing to say.

    *default* is the limit of a request that sets none.  A budget of thinking is a part of the limit
    and stays below it; without room for it there is no thinking.  The limit that is made up for
    it stays below the model's, and more effort is never a smaller budget.
    """
    effort = asked_effort(request)
    if effort is None or request.body.get("reasoning_effort") is None:
        return None, "", 0  # ``thinking`` is sent as it came
    if able.thinking == "none":
        if effort == "none":
            return None, "", 0
        raise InvalidRequest(f"{request.model[:200]} does not think", param="reasoning_effort")
    if effort == "none" and able.off:
        return {"type": able.off}, "", 0
    if able.thinking != "budget":
        # Summaries are what reasoning_content shows; some models leave them out unasked.
        level = able.effort("low" if effort == "none" else effort)
        level = "low" if level == "minimal" else level
        return {"type": "adaptive", "display": "summarized"}, level, 0
    budget = _BUDGETS.get(effort, able.least)
    limit = able.limit(request.max_tokens)
    if limit is None:
        most = able.max_tokens or default + budget
        budget = min(budget, max(most - default, most // 2))
        limit = min(default + budget, most)
    budget = min(budget, limit - 1)
    if budget < able.least:
        return {"type": "disabled"}, "", 0
    return {"type": "enabled", "budget_tokens": budget}, "", limit


def can_think(talk: Conversation) -> bool:
    """Return whether a budget of thinking may be given: not within a round of tool calls that came
    back without its thinking, which is refused."""
    for turn in reversed(talk.turns):
        if turn.role == "assistant":
            return bool(turn.thoughts) or not any(isinstance(part, Call) for part in turn.parts)
        if turn.role == "user":
            return True
    return True


def _add_thinking(
    made: dict[str, Json], request: ChatRequest, talk: Conversation, able: Capabilities
) -> None:
    given = request.body.get("thinking")
    object, level, limit = thinking(request, able, made["max_tokens"])
    if level:
        made.setdefault("output_config", {})["effort"] = level
    if given is not None:
        made["thinking"] = given
    if object is None or given is not None or (limit and not can_think(talk)):
        return
    made["thinking"] = object
    if limit:
        made["max_tokens"] = limit
        made.pop("temperature", None)  # refused beside thinking


def _add_tools(
    made: dict[str, Json], request: ChatRequest, talk: Conversation, able: Capabilities
) -> None:
    tools = functions(request)
    if not tools and talk.called:
        # Calls in the history are refused without the tools that they are of.
        made["tools"] = [_tool(Function(name)) for name in talk.called]
        made["tool_choice"] = {"type": "none"}
        return
    if not tools:
        return
    made["tools"] = [_tool(function) for function in tools]
    wanted = choice(request)
    single = request.body.get("parallel_tool_calls") is False and able.parallel != "one"
    if wanted is None and not single:
        return
    wanted = wanted or Choice()
    if wanted.mode in ("required", "named") and not able.forced_tools:
        raise InvalidRequest(
            f"{request.model[:200]} cannot be made to call a tool", param="tool_choice"
        )
    object: dict[str, Json] = {"type": _MODES[wanted.mode]}
    if wanted.name:
        object["name"] = wanted.name
    if single and wanted.mode != "none":
        object["disable_parallel_tool_use"] = True
    made["tool_choice"] = object


def _tool(function: Function) -> dict[str, Json]:
    tool: dict[str, Json] = {"name": function.name, "input_schema": function.schema}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        tool["strict"] = True
    return _cached(tool, function.cache)


def _add_format(made: dict[str, Json], request: ChatRequest) -> None:
    wanted = schema(request)
    if wanted is None:
        return
    if wanted.schema is None:
        raise InvalidRequest(
            "anthropic has no json_object; use json_schema", param="response_format.type"
        )
    form = {"type": "json_schema", "schema": wanted.schema}
    made["output_config"] = {"format": form}


def _system(texts: list[Text]) -> str | list[dict[str, Json]]:
    if any(text.cache for text in texts):
        return [_block(text) for text in texts]
    return "\n\n".join(text.text for text in texts)


def _messages(talk: Conversation) -> list[dict[str, Json]]:
    messages: list[dict[str, Json]] = []
    for role, run in merged(talk.turns):
        said = [turn for turn in run if turn.role != "system"]
        messages.append({"role": role, "content": _content(said)})
        # A system message follows a turn of the user, and no other system message.
        texts = [part for turn in run if turn.role == "system" for part in turn.parts]
        if texts:
            messages.append({"role": "system", "content": [_block(part) for part in texts]})
    return messages


def _content(run: list[Turn]) -> str | list[dict[str, Json]]:
    blocks: list[dict[str, Json]] = []
    for turn in run:
        blocks += turn.thoughts
        blocks += [_block(part) for part in turn.parts]
    return _plain(blocks) or EMPTY


def _plain(blocks: list[dict[str, Json]]) -> str | list[dict[str, Json]]:
    """Return *blocks*, or the text if that is all they are."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


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
    if result.failed:
        block["is_error"] = True
    return block


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
