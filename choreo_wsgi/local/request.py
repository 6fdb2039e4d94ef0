"""Builds the body of the request to the local model's process.

llama.cpp accepts many members that the OpenAI API does not have, some of which name files and
adapters, and checks few of them.  So only the members named here are forwarded.
"""

from __future__ import annotations

import json

from ..chat.items import Json
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from ..providers.support import check
from ..providers.tools import functions

#: Members that llama.cpp and the OpenAI API have in common.
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias")
_MESSAGE = ("role", "name", "tool_calls", "tool_call_id")

#: Characters in the longest token of any vocabulary (a run of spaces).
_MAX_TOKEN = 256

#: Limit of a schema's characters.  The time in which llama.cpp compiles it to a grammar grows with
#: the square of its length: 2,000 optional properties (54 KB) blocked every slot for 21 s, 300
#: (7 KB) for 0.2 s.
_MAX_SCHEMA = 8192

#: llama.cpp's seeds have 32 bits, and the highest one means a random seed.
SEEDS = 2**32 - 1


def chat_body(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return the body for a single choice of *request*, without its tools.

    *context* is the size of a slot, *default* the max_tokens of a request that sets none, and
    *limit* the highest; all in tokens.  Raises InvalidRequest for content that is not text, and for
    a conversation that is too long.
    """
    check(request, "local")
    max_tokens = default if request.max_tokens is None else request.max_tokens
    fields = request.body
    names = (*SAMPLING, "response_format", "top_k")
    body: dict[str, Json] = {name: fields[name] for name in names if fields.get(name) is not None}
    body["messages"] = [_message(at, message) for at, message in enumerate(request.messages)]
    body["max_tokens"] = min(max_tokens, limit)
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    # A chunk for each processed batch of the prompt, which shows that the process is not stuck, and
    # the count of tokens in each chunk, which is the usage of an answer that ends early.
    body["return_progress"] = body["timings_per_token"] = True
    if fields.get("seed") is not None:
        body["seed"] = int(fields["seed"]) % SEEDS
    if len(json.dumps(body.get("response_format"))) > _MAX_SCHEMA:
        raise InvalidRequest(
            f"the local model supports schemas of at most {_MAX_SCHEMA} characters",
            param="response_format",
        )
    demand_fit(len(json.dumps(body, ensure_ascii=False)), context, "messages")
    return body


def demand_fit(length: int, context: int, param: str) -> None:
    """Raise InvalidRequest if *length* characters are certainly more than *context* tokens.

    llama.cpp would find out by splitting the text into tokens, which cannot be cancelled.
    """
    if length > context * _MAX_TOKEN:
        raise InvalidRequest(
            f"{param}: far longer than the {context} tokens that the local model reads",
            param=param,
            code="context_length_exceeded",
        )


def with_seed(body: dict[str, Json], choice: int) -> dict[str, Json]:
    """Return *body* for *choice* (0 to n-1): each has another seed."""
    return {**body, "seed": (body["seed"] + choice) % SEEDS} if "seed" in body else body


def tool_members(request: ChatRequest) -> dict[str, Json]:
    """Return the members of the body for the tools that *request* allows the model to call."""
    choice = request.body.get("tool_choice")
    tools = request.body.get("tools")
    if not tools or choice == "none":
        return {}
    if isinstance(choice, dict):
        # llama.cpp's tool_choice cannot name a tool: send that tool alone and require a call.
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


def _message(at: int, message: dict[str, Json]) -> dict[str, Json]:
    """Return *message*, whose index is *at*, with its content as one text."""
    result = {name: message[name] for name in _MESSAGE if message.get(name) is not None}
    if result["role"] == "developer":  # OpenAI's new name of the role; templates have the old one
        result["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        where = f"messages[{at}].content"
        # Joined by line ends, as llama.cpp does for templates without support for parts.
        content = "\n".join(_text(part, f"{where}[{n}]") for n, part in enumerate(content))
    result["content"] = content or ""
    return result


def _text(part: dict[str, Json], where: str) -> str:
    for name in ("text", "refusal"):
        if part.get("type") == name:
            return str(part[name])
    raise InvalidRequest("the local model reads text only", param=where)
