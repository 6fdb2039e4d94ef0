"""A request in the words of Anthropic's Messages API.

Every field is that of https://docs.anthropic.com/en/api/messages.
"""

from __future__ import annotations

import re

from ...chat.items import Json
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..conversation import (
    Call,
    Choice,
    Function,
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

#: Models that think by a budget of tokens; all later ones by an effort.
_BY_BUDGET = re.compile(r"claude-3|claude-(opus|sonnet|haiku)-4(-[015])?(-\d{8}|@\d{8}|-v\d|$)")
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768}
_LOWEST_BUDGET = 1024
_EFFORTS = {"minimal": "low"}
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def body(request: ChatRequest, default_max_tokens: int) -> dict[str, Json]:
    """Return the JSON object to send for *request*.

    *default_max_tokens* stands in where the request sets no limit, which Anthropic demands.
    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    check(request, "anthropic")
    system, turns = conversation(request)
    asked = request.body
    limit = request.max_tokens
    made: dict[str, Json] = {
        "model": request.model,
        "max_tokens": default_max_tokens if limit is None else limit,
        "messages": [{"role": role, "content": _content(run)} for role, run in merged(turns)],
        "stream": True,
    }
    if system:
        made["system"] = "\n\n".join(system)
    for name in ("temperature", "top_p"):
        # 1 is the default, and refused by models and versions that have no sampling.
        if asked.get(name) not in (None, 1):
            made[name] = asked[name]
    if request.stop:
        made["stop_sequences"] = list(request.stop)
    user = asked.get("safety_identifier") or asked.get("user")
    if user:
        made["metadata"] = {"user_id": user}
    _add_tools(made, request)
    _add_format(made, request)
    _add_thinking(made, request, turns, limit is not None)
    return made


def thinking(model: str, effort: str, max_tokens: int) -> tuple[dict[str, Json], str, int]:
    """Return the ``thinking`` object, the ``effort`` and the budget for *effort*.

    The effort is ``""`` and the budget 0 where *model* does not know them; the budget stays
    below *max_tokens*, of which it is a part, and without room for it there is no thinking.
    """
    if effort == "none":
        return {"type": "disabled"}, "", 0
    if not _BY_BUDGET.search(model):
        # Summaries are what reasoning_content shows; some models leave them out unasked.
        return {"type": "adaptive", "display": "summarized"}, _EFFORTS.get(effort, effort), 0
    budget = min(_BUDGETS.get(effort, _BUDGETS["high"]), max_tokens - 1)
    if budget < _LOWEST_BUDGET:
        return {"type": "disabled"}, "", 0
    return {"type": "enabled", "budget_tokens": budget}, "", budget


def _add_tools(made: dict[str, Json], request: ChatRequest) -> None:
    tools = functions(request)
    if not tools:
        return
    made["tools"] = [_tool(function) for function in tools]
    wanted = choice(request)
    single = request.body.get("parallel_tool_calls") is False
    if wanted is None and not single:
        return
    wanted = wanted or Choice()
    object: dict[str, Json] = {"type": _MODES[wanted.mode]}
    if wanted.name:
        object["name"] = wanted.name
    if single and wanted.mode != "none":
        object["disable_parallel_tool_use"] = True
    made["tool_choice"] = object


def _tool(function: Function) -> dict[str, Json]:
    tool: dict[str, Json] = {"name": function.name, "input_schema": function.parameters}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        tool["strict"] = True
    return tool


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


def _add_thinking(
    made: dict[str, Json], request: ChatRequest, turns: list[Turn], limited: bool
) -> None:
    effort = request.body.get("reasoning_effort")
    if effort is None:
        return
    room = made["max_tokens"] if limited else made["max_tokens"] + max(_BUDGETS.values())
    object, level, budget = thinking(request.model, effort, room)
    if budget and not _can_think(turns):
        return
    made["thinking"] = object
    if level:
        made.setdefault("output_config", {})["effort"] = level
    if not limited:
        made["max_tokens"] += budget


def _can_think(turns: list[Turn]) -> bool:
    """Whether a budget of thinking may be given: not within a round of tool calls that came
    back without its thinking, which is refused."""
    for turn in reversed(turns):
        if turn.role == "assistant":
            called = any(isinstance(part, Call) for part in turn.parts)
            return not called or bool(turn.message.get("thinking_blocks"))
        if turn.role == "user":
            return True
    return True


def _content(run: list[Turn]) -> str | list[dict[str, Json]]:
    blocks: list[dict[str, Json]] = []
    # Results come before whatever the user says with them.
    for turn in sorted(run, key=lambda turn: turn.role == "user"):
        blocks += [_thinking_block(block) for block in turn.message.get("thinking_blocks") or ()]
        blocks += [_block(part) for part in turn.parts]
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        text: str = blocks[0]["text"]
        return text
    return blocks or ""


def _thinking_block(block: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in block.items() if name != "index"}


def _block(part: Part) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Media):
        return _media(part)
    if isinstance(part, Call):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    assert isinstance(part, Result)
    return {"type": "tool_result", "tool_use_id": part.id, "content": part.text}


def _media(media: Media) -> dict[str, Json]:
    check_media(media, "anthropic")
    if media.kind == "file" and media.media_type != "application/pdf":
        raise InvalidRequest("anthropic takes PDF files only", param=media.param)
    if media.url:
        source = {"type": "url", "url": media.url}
    else:
        source = {"type": "base64", "media_type": media.media_type, "data": media.data}
    return {"type": "document" if media.kind == "file" else "image", "source": source}
