"""What the local model is asked: the body of the request to its process.

llama.cpp takes many more members than the OpenAI API has, some of which name files and
adapters, and looks at the shape of few.  So the body is made of what is known here, and
nothing else passes.
"""

from __future__ import annotations

import json

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from ..providers.support import check
from ..providers.tools import functions

#: Members that mean the same to llama.cpp as to the OpenAI API.
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias")
_MESSAGE = ("role", "name", "tool_calls", "tool_call_id")

#: No vocabulary has tokens longer than this (runs of blanks are the longest).
_LONGEST_TOKEN = 256

#: A schema becomes a grammar, and the time for that grows with the square of its length:
#: 2,000 optional properties (54 KB) kept every slot waiting for 21 s, 300 (7 KB) for 0.2 s.
_LONGEST_SCHEMA = 8192

#: Seeds of llama.cpp have 32 bits, and the highest one means a random seed.
SEEDS = 2**32 - 1


def chat_body(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return the body for a single choice of *request*, without its tools.

    *context* is what one slot can hold, *default* the max_tokens of a request that names
    none, and *limit* the highest; all in tokens.  Raises InvalidRequest for what is not text
    and InvalidRequest for a conversation that cannot fit.
    """
    check(request, "local")
    asked = default if request.max_tokens is None else request.max_tokens
    given = request.body
    passed = (*SAMPLING, "response_format", "top_k")
    body: dict[str, Json] = {name: given[name] for name in passed if given.get(name) is not None}
    body["messages"] = [_message(at, message) for at, message in enumerate(request.messages)]
    body["max_tokens"] = min(asked, limit)
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    # A sign of life for each piece of the prompt: see the provider's patience.
    body["return_progress"] = True
    if request.stop:
        body["stop"] = list(request.stop)
    if given.get("seed") is not None:
        body["seed"] = int(given["seed"]) % SEEDS
    _check_schema(body.get("response_format"))
    demand_fit(len(json.dumps(body, ensure_ascii=False)), context, "messages")
    return body


def demand_fit(length: int, context: int, param: str) -> None:
    """Raise InvalidRequest if a text of *length* characters cannot be *context* tokens.

    Before it is cut into tokens, which cannot be cancelled.
    """
    if length > context * _LONGEST_TOKEN:
        raise InvalidRequest(
            f"{param}: far longer than the {context} tokens that the local model reads",
            param=param,
            code="context_length_exceeded",
        )


def with_seed(body: dict[str, Json], choice: int) -> dict[str, Json]:
    """Return *body* for the given *choice* (0 to n-1): each has a seed of its own."""
    return {**body, "seed": (body["seed"] + choice) % SEEDS} if "seed" in body else body


def tool_members(request: ChatRequest) -> dict[str, Json]:
    """Return the members of the body for the tools that *request* lets the model call."""
    choice = request.body.get("tool_choice")
    tools = request.body.get("tools")
    if not tools or choice == "none":
        return {}
    if isinstance(choice, dict):
        # llama.cpp cannot be told a name: a single tool that must be called is the same.
        names = {function.name for function in functions(request)}
        if choice["type"] == "function":
            names, choice = {choice["function"]["name"]}, "required"
        else:
            choice = choice["allowed_tools"]["mode"]
        tools = [tool for tool in tools if tool["function"]["name"] in names]
        if not tools:
            return {}
    members = {"tools": tools, "tool_choice": choice or "auto"}
    parallel = request.body.get("parallel_tool_calls")
    return members if parallel is None else {**members, "parallel_tool_calls": parallel}


def _check_schema(response_format: Json) -> None:
    if len(json.dumps(response_format)) > _LONGEST_SCHEMA:
        raise InvalidRequest(
            f"the local model follows no schema of more than {_LONGEST_SCHEMA} characters",
            param="response_format",
        )


def _message(at: int, message: dict[str, Json]) -> dict[str, Json]:
    """Return the *message* of number *at* with text for its content."""
    result = {name: message[name] for name in _MESSAGE if message.get(name) is not None}
    if result["role"] == "developer":  # OpenAI's newer word; the templates know the older one
        result["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        where = f"messages[{at}].content"
        # With line ends, as llama.cpp does for templates that know no parts.
        content = "\n".join(_text(part, f"{where}[{n}]") for n, part in enumerate(content))
    result["content"] = content or ""
    return result


def _text(part: dict[str, Json], where: str) -> str:
    for name in ("text", "refusal"):
        if part.get("type") == name:
            return str(part[name])
    raise InvalidRequest("the local model reads text only", param=where)
