"""The stock SDKs of OpenAI and Anthropic: plain, streamed, parsed, with tools and thinking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import harness
import openai
import pytest
from official import MESSAGE, RESPONSE, judge, judge_events
from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner
from pydantic import BaseModel
from scripted_provider import Script, Scripted

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.errors import ProviderTimeout, RateLimited

SIGNED = {"index": 0, "type": "thinking", "thinking": "I must look.", "signature": "c2ln"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
#: The first answer of a tool loop: reasoning, text and two calls.
CALLS: list[Item] = [
    Delta(reasoning="I must "),
    Delta(reasoning="look."),
    Delta(extra={"thinking_blocks": [SIGNED]}),
    Delta("Let me "),
    Delta("see."),
    Delta(tool_calls=[ToolCall(0, "call_a", "weather", '{"city":')]),
    Delta(tool_calls=[ToolCall(0, arguments='"Oslo"}')]),
    Delta(tool_calls=[ToolCall(1, "call_b", "weather", '{"city":"Rome"}')]),
    Finish("tool_calls"),
    Usage(50, 20, 30, 5, 7),
]
ANSWER: list[Item] = [Delta("Oslo 3, "), Delta("Rome 21."), Finish(), Usage(90, 8)]
#: The answer to a request for structured output.
STRUCTURED: list[Item] = [Delta('{"city":"Oslo",'), Delta('"degrees":3}'), Finish(), Usage(9, 9)]


@pytest.fixture
def received() -> list[ChatRequest]:
    """The requests that the provider received, in order."""
    return []


@pytest.fixture
def url(
    application: Callable[..., Application],
    serve: Callable[..., harness.Server],
    scripted: Callable[[], Script],
    monkeypatch: pytest.MonkeyPatch,
    received: list[ChatRequest],
) -> str:
    def answer(request: ChatRequest) -> Source:
        received.append(request)
        text = request.last_user_text
        if text == "fail":
            raise RateLimited("not now", retry_after=7)
        if text == "cut":
            return failing()
        if text == "refuse":
            return from_deltas([Delta(refusal="I must "), Delta(refusal="not."), Finish(), Usage()])
        if "response_format" in request.body:
            return from_deltas(STRUCTURED)
        has_results = any(message["role"] == "tool" for message in request.messages)
        if request.body.get("tools") and not has_results:
            return from_deltas(CALLS)
        if text == "long":
            return from_deltas([Delta("as far as"), Finish("length"), Usage(1, 3)])
        return from_deltas(ANSWER)

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    return serve(application({"scripted": {"models": "m"}})).url


def failing() -> Source:
    script = Script()
    script.say("Half an ", ProviderTimeout("silent for too long"))
    return script


@pytest.fixture
def responses(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        yield client.responses


@pytest.fixture
def messages(url: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        yield client.messages


FUNCTION = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
TOOL = {"name": "weather", "description": "how warm it is", "input_schema": WEATHER}


# -- Responses ------------------------------------------------------------------------------


def test_openai_sdk_creates_a_response(responses: Any, received: list[ChatRequest]) -> None:
    response = responses.create(
        model="m",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "In degrees."},
            {"role": "user", "content": [
                {"type": "input_text", "text": "How warm"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
            ]},
        ],
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        max_output_tokens=99,
        temperature=0.5,
        metadata={"a": "b"},
    )  # fmt: skip
    assert response.output_text == "Oslo 3, Rome 21."
    assert (response.status, response.error) == ("completed", None)
    assert response.usage.input_tokens == 90
    assert (response.temperature, response.metadata) == (0.5, {"a": "b"})
    request = received[0]
    assert [message["role"] for message in request.messages] == ["system", "system", "user"]
    assert request.messages[2]["content"][1]["image_url"]["detail"] == "low"
    assert request.max_tokens == 99
    assert request.body["reasoning_effort"] == request.body["verbosity"] == "low"


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_loop_over_responses_sends_all_items_back(
    responses: Any, received: list[ChatRequest], streamed: bool
) -> None:
    """Reasoning, text and two calls are sent back with the results of the calls."""

    def create(input: Any) -> Any:
        members = {"model": "m", "input": input, "tools": [FUNCTION]}
        if not streamed:
            return responses.create(**members)
        with responses.stream(**members) as stream:
            for _ in stream:
                pass
            return stream.get_final_response()

    first = create("How warm is it?")
    kinds = [item.type for item in first.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    usage = first.usage
    assert usage.output_tokens_details.reasoning_tokens == 7
    assert usage.input_tokens_details.cached_tokens == 30
    history = [{"role": "user", "content": "How warm is it?"}, *first.output]
    for call in first.output[2:]:
        city = json.loads(call.arguments)["city"]
        output = [{"type": "input_text", "text": f"{city} is warm"}]
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    assert create(history).output_text == "Oslo 3, Rome 21."
    _, reply, *results = received[1].messages
    assert [call["id"] for call in reply["tool_calls"]] == ["call_a", "call_b"]
    assert reply["content"] == "Let me see."
    assert reply["reasoning_content"] == "I must look."
    assert reply["thinking_blocks"] == [{k: v for k, v in SIGNED.items() if k != "index"}]
    assert [result["content"] for result in results] == ["Oslo is warm", "Rome is warm"]


def pieces(*calls: tuple[int, str]) -> list[Item]:
    """Return the items of *calls*: pairs of a call's index and a piece of its arguments."""
    seen: set[int] = set()
    items: list[Item] = []
    for index, arguments in calls:
        named = () if index in seen else (f"call_{index}", "weather")
        seen.add(index)
        items.append(Delta(tool_calls=[ToolCall(index, *named)]))
        items[-1].tool_calls[0].arguments = arguments  # type: ignore[union-attr]
    return [*items, Finish("tool_calls")]


@pytest.mark.parametrize("interleaved", [False, True])
def test_call_ends_before_the_next_begins_unless_interleaved(
    url: str, monkeypatch: pytest.MonkeyPatch, interleaved: bool
) -> None:
    """Anthropic's Node SDK relies on that; interleaved calls end with the answer."""
    calls = [(0, '{"a":'), (0, "1}"), (1, '{"b":'), (1, "2}")]
    if interleaved:
        calls[1:3] = calls[2:0:-1]
    monkeypatch.setattr(Scripted, "script", staticmethod(lambda _: from_deltas(pieces(*calls))))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        events: list[Any] = list(client.responses.create(model="m", input="x", stream=True))
    items = [(e.type[21:], e.output_index) for e in events if ".output_item." in e.type]
    ends = [("added", 0), ("done", 0), ("added", 1), ("done", 1)]
    assert items == ([ends[0], ends[2], ends[1], ends[3]] if interleaved else ends)
    hello: Any = [{"role": "user", "content": "x"}]
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as other:
        blocks: list[Any] = list(
            other.messages.create(model="m", max_tokens=9, messages=hello, stream=True)
        )
        whole = other.messages.create(model="m", max_tokens=9, messages=hello)
    kinds = [(e.type[14:], e.index) for e in blocks if e.type[14:] in ("start", "stop")]
    ends = [("start", 0), ("stop", 0), ("start", 1), ("stop", 1)]
    assert kinds == ([ends[0], ends[2], ends[1], ends[3]] if interleaved else ends)
    assert [call.arguments for call in events[-1].response.output] == ['{"a":1}', '{"b":2}']
    assert [block.input for block in whole.content] == [{"a": 1}, {"b": 2}]  # type: ignore[union-attr]


def test_reasoning_is_sent_as_a_summary_if_requested(responses: Any) -> None:
    stream = responses.create(
        model="m", input="hi", tools=[FUNCTION], reasoning={"summary": "auto"}, stream=True
    )
    events = list(stream)
    deltas = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == "I must look."
    assert events[-1].response.output[0].summary[0].text == "I must look."


class Weather(BaseModel):
    """The format of the structured output."""

    city: str
    degrees: int


def test_structured_output_is_parsed(responses: Any, received: list[ChatRequest]) -> None:
    parsed = responses.parse(model="m", input="hi", text_format=Weather).output_parsed
    assert parsed == Weather(city="Oslo", degrees=3)
    assert received[0].body["response_format"]["json_schema"]["name"] == "Weather"
    with responses.stream(model="m", input="hi", text_format=Weather) as events:
        assert events.get_final_response().output_parsed == parsed


class City(BaseModel):
    """The arguments of the function, as the SDK parses them."""

    city: str


def test_both_sdks_read_a_refusal(responses: Any, messages: Any) -> None:
    response = responses.parse(model="m", input="refuse", text_format=Weather)
    part = response.output[0].content[0]
    assert (part.type, part.refusal, response.output_parsed) == ("refusal", "I must not.", None)
    with messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "refuse"}]
    ) as stream:
        message = stream.get_final_message()
    assert (message.content[0].text, message.stop_reason) == ("I must not.", "end_turn")


def test_openai_sdk_parses_the_arguments_of_calls(responses: Any) -> None:
    tool = openai.pydantic_function_tool(City, name="weather")
    members: dict[str, Any] = {"model": "m", "input": "hi", "tools": [tool]}
    with responses.stream(**members) as events:
        streamed = events.get_final_response()
    for response in (responses.parse(**members), streamed):
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.parsed_arguments for call in calls] == [City(city="Oslo"), City(city="Rome")]


def test_custom_tool_becomes_a_function_with_one_text(
    responses: Any, received: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ToolCall(0, "call_a", "patch", '{"input":"*** Begin\\n"}')
    items: list[Item] = [Delta(tool_calls=[call]), Finish("tool_calls")]

    def answer(request: ChatRequest) -> Source:
        received.append(request)
        return from_deltas(items if len(request.messages) == 1 else ANSWER)

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tools = [{"type": "custom", "name": "patch", "description": "Edits.", "format": grammar}]
    with responses.stream(model="m", input="go", tools=tools) as stream:
        kinds = [event.type for event in stream]
        item = stream.get_final_response().output[0]
    assert "response.custom_tool_call_input.done" in kinds
    assert (item.type, item.input, item.call_id) == ("custom_tool_call", "*** Begin\n", "call_a")
    assert "start: /.+/" in received[0].body["tools"][0]["function"]["description"]
    output = {"type": "custom_tool_call_output", "call_id": "call_a", "output": "done"}
    history = [{"role": "user", "content": "go"}, item, output]
    responses.create(model="m", input=history, tools=tools)
    function = received[1].messages[1]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"input": "*** Begin\n"}


def test_namespace_becomes_a_prefix_of_the_function_name(
    responses: Any, received: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the answer the name is split again."""
    call = ToolCall(0, "call_a", "agents__stop", "{}")
    items: list[Item] = [Delta(tool_calls=[call]), Finish("tool_calls")]

    def answer(request: ChatRequest) -> Source:
        received.append(request)
        return from_deltas(items)

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    stop = {"type": "function", "name": "stop", "parameters": {}, "strict": False}
    space = {"type": "namespace", "name": "agents", "description": "x", "tools": [stop]}
    item = responses.create(model="m", input="go", tools=[space]).output[0]
    assert (item.name, item.namespace) == ("stop", "agents")
    output = {"type": "function_call_output", "call_id": "call_a", "output": "done"}
    history = [{"role": "user", "content": "go"}, item, output]
    responses.create(model="m", input=history, tools=[space])
    assert received[1].messages[1]["tool_calls"][0]["function"]["name"] == "agents__stop"


def test_tools_that_the_caller_searches_for_are_called(
    responses: Any, received: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Codex does: the search is a call of its own type, and its output has the tools found."""
    calls = [ToolCall(0, "call_a", "tool_search", '{"query":\n"read", "n": 3}')]
    calls += [ToolCall(0, f"call_{id}", "docs__read", "{}") for id in "bc"]

    def answer(request: ChatRequest) -> Source:
        received.append(request)
        return from_deltas([Delta(tool_calls=[calls[len(received) - 1]]), Finish("tool_calls")])

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    schema = {"type": "object", "properties": {"query": {"type": "string"}}}
    search = {"type": "tool_search", "execution": "client", "description": "Find tools."}
    tools: list[Any] = [{**search, "parameters": schema}, {"type": "function", "name": "shell"}]
    asked: dict[str, Any] = {"model": "m", "tools": tools, "store": True}
    with responses.stream(input="go", **asked) as stream:
        added, done = [event for event in stream if "output_item" in event.type]
        first = stream.get_final_response()
    assert (added.item.status, added.item.arguments) == ("in_progress", {})
    (item,) = first.output
    assert item == done.item == responses.retrieve(first.id).output[0]
    assert (item.type, item.execution, item.call_id) == ("tool_search_call", "client", "call_a")
    assert (item.status, item.arguments) == ("completed", {"query": "read", "n": 3})
    read = {"type": "function", "name": "read", "parameters": schema, "defer_loading": True}
    space = {"type": "namespace", "name": "docs", "description": "x", "tools": [read]}
    found = {"type": "tool_search_output", "call_id": "call_a", "execution": "client",
             "status": "completed", "tools": [space, tools[1], {"type": "web_search"}]}  # fmt: skip
    history = [{"role": "user", "content": "go"}, item, found]
    second = responses.create(input=history, **asked)
    output = {"type": "function_call_output", "call_id": "call_b", "output": "text"}
    third = responses.create(input=[output], previous_response_id=second.id, **asked)
    for response in (second, third):
        assert (response.output[0].name, response.output[0].namespace) == ("read", "docs")
        assert [tool.type for tool in response.tools] == ["tool_search", "function"]
    names = ["tool_search", "shell", "docs__read"]
    functions = [[tool["function"] for tool in request.body["tools"]] for request in received]
    assert [[one["name"] for one in some] for some in functions] == [names[:2], names, names]
    assert functions[0][0] == {"name": names[0], "description": "Find tools.", "parameters": schema}
    call, result = received[2].messages[1:3]
    function = call["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("tool_search", item.arguments)
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_a")
    assert json.loads(result["content"]) == {"tools": ["docs__read", "shell"]}


def test_searches_by_a_provider_are_left_out(responses: Any, received: list[ChatRequest]) -> None:
    """It searched in the tools of the request, all of which a chat gets."""
    later = {"type": "function", "name": "later", "parameters": {}, "defer_loading": True}
    search: Any = {"type": "tool_search_call", "execution": "server", "arguments": {"paths": ["x"]}}
    found = {"type": "tool_search_output", "execution": "server", "tools": [later]}
    added = {"type": "additional_tools", "role": "developer", "tools": [{**later, "name": "more"}]}
    history = [{"role": "user", "content": "go"}, search, {**found, "call_id": None}, added]
    responses.create(model="m", input=history, tools=[later, {"type": "tool_search"}])
    assert [message["role"] for message in received[0].messages] == ["user"]
    assert [tool["function"]["name"] for tool in received[0].body["tools"]] == ["later", "more"]


def test_finish_by_length_makes_the_response_incomplete(responses: Any) -> None:
    response = responses.create(model="m", input="long")
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert response.output[0].status == "incomplete"


def test_provider_error_becomes_a_status_or_response_failed(responses: Any) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        responses.create(model="m", input="fail", stream=True)
    assert raised.value.response.headers["retry-after"] == "7"
    with responses.stream(model="m", input="cut") as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error.message == "silent for too long"
    assert last.response.output[0].content[0].text == "Half an "
    with pytest.raises(openai.APIError):
        responses.create(model="m", input="cut")


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({"input": [{"type": "local_shell_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
        ({"input": 5}, "input"),
        ({"temperature": "hot"}, "temperature"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 2**31}, "max_output_tokens"),
        ({"tools": [{**FUNCTION, "name": ""}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "", "tools": []}]}, "tools[0].name"),
        *(({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": kind}]}]},
           "tools[0].tools[0].type") for kind in ("web_search", "namespace")),
        ({"input": [{"type": "", "role": "user", "content": "x"}]}, None),
        ({"input": [{"id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"name": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": None}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "filename": "x"}]}]},
         "input[0].content[0].file_data"),
    ],
)  # fmt: skip
def test_rejected_response_names_the_param(responses: Any, members: Any, param: str | None) -> None:
    if param is None:
        assert responses.create(**{"model": "m", "input": "hi", **members}).output_text
        return
    with pytest.raises(openai.BadRequestError) as raised:
        responses.create(**{"model": "m", "input": "hi", **members})
    assert raised.value.param == param


def test_async_openai_sdk_reads_a_stream(url: str) -> None:
    async def run() -> str:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client,
            client.responses.stream(model="m", input="hi") as stream,
        ):
            async for _ in stream:
                pass
            return str((await stream.get_final_response()).output_text)

    assert asyncio.run(run()) == "Oslo 3, Rome 21."


# -- Messages -------------------------------------------------------------------------------


def test_anthropic_sdk_creates_a_message(messages: Any, received: list[ChatRequest]) -> None:
    message = messages.create(
        model="m",
        max_tokens=99,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [
                {"type": "text", "text": "How warm"},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "document", "title": "a.txt", "source":
                    {"type": "text", "media_type": "text/plain", "data": "hello"}},
            ]},
        ],
        stop_sequences=["END", "FIN", "STOP", "HALT", "OUT"],
        extra_body={"top_k": 5},
        metadata={"user_id": "u"},
    )  # fmt: skip
    assert message.content[0].text == "Oslo 3, Rome 21."
    assert (message.stop_reason, message.usage.input_tokens) == ("end_turn", 90)
    assert str(message._request_id).startswith("req_")
    request = received[0]
    system, user = request.messages
    assert system["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "file"]
    assert request.stop == ("END", "FIN", "STOP", "HALT", "OUT")
    assert (request.body["user"], request.body["top_k"], request.max_tokens) == ("u", 5, 99)


@pytest.mark.parametrize("stream", [False, True])
def test_messages_tool_runner_sends_the_whole_conversation(
    url: str, received: list[ChatRequest], stream: bool
) -> None:
    """It first asks for a thread on the server, which is rejected."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Return how warm it is in *city*."""
        return f"{city} warm"

    hello: Any = [{"role": "user", "content": "How warm is it?"}]
    members: dict[str, Any] = {"tools": [weather], "messages": hello, "stream": stream}
    members["max_iterations"] = 4
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        runner = client.beta.messages.tool_runner(model="m", max_tokens=99, **members)
        last = [turn.get_final_message() if stream else turn for turn in runner][-1]
        assert last.content[0].text == "Oslo 3, Rome 21."
        with pytest.raises(anthropic.BadRequestError, match="thread is not supported") as raised:
            thread: Any = {"type": "create"}
            client.beta.messages.create(model="m", max_tokens=9, messages=hello, thread=thread)
    assert raised.value.body["error"]["details"]["error_code"] == "thread_unsupported_request"  # type: ignore[index,call-overload]
    roles = [[message["role"] for message in request.messages] for request in received]
    assert roles == [["user"], ["user", "assistant", "tool", "tool"]]


@pytest.mark.parametrize("way", [{}, {"stream": True}, {"stream": True, "eager": True}])
def test_responses_tool_runner_finishes(url: str, received: list[ChatRequest], way: Any) -> None:
    """It compares each event with the response at the end."""
    weather: Any = RegisteredFunction(FUNCTION, lambda arguments: f"{arguments['city']} warm")  # type: ignore[arg-type]
    runner = ResponsesToolRunner(functions=[weather])
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        last = runner.run(client, {"model": "m", "input": "How warm is it?"}, max_steps=3, **way)
    assert last.output_text == "Oslo 3, Rome 21."
    roles = [[message["role"] for message in request.messages] for request in received]
    assert roles == [["user"], ["user", "assistant", "tool", "tool"]]
    assert received[1].messages[1]["thinking_blocks"][0]["signature"] == SIGNED["signature"]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_loop_over_messages_sends_all_blocks_back(
    messages: Any, received: list[ChatRequest], streamed: bool
) -> None:
    def create(history: Any) -> Any:
        members = {"model": "m", "max_tokens": 2000, "messages": history, "tools": [TOOL]}
        members["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        if not streamed:
            return messages.create(**members)
        with messages.stream(**members) as stream:
            return stream.get_final_message()

    history: list[Any] = [{"role": "user", "content": "How warm is it?"}]
    first = create(history)
    kinds = [block.type for block in first.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert (first.content[0].thinking, first.content[0].signature) == ("I must look.", "c2ln")
    assert first.stop_reason == "tool_use"
    usage = first.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (15, 30)
    assert usage.cache_creation_input_tokens == 5
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"{block.input['city']} warm"}
        for block in first.content[2:]
    ]
    results[1]["is_error"] = True
    question = {"type": "text", "text": "And now?"}
    history += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [*results, question]},
    ]
    assert create(history).content[0].text == "Oslo 3, Rome 21."
    _, reply, one, two, again = received[1].messages
    assert [call["id"] for call in reply["tool_calls"]] == ["call_a", "call_b"]
    assert reply["thinking_blocks"] == [{k: v for k, v in SIGNED.items() if k != "index"}]
    assert (one["content"], one.get("is_error"), two["is_error"]) == ("Oslo warm", None, True)
    assert again["content"] == [question]
    assert received[1].body["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_failed_message_raises_anthropics_error_class(messages: Any) -> None:
    members: Any = {"model": "m", "max_tokens": 9}
    with pytest.raises(anthropic.RateLimitError) as raised:
        extra = {"x-request-id": "mine"}
        messages.create(
            messages=[{"role": "user", "content": "fail"}], extra_headers=extra, **members
        )
    assert raised.value.request_id == "mine"
    assert raised.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index,call-overload]
    cut = messages.stream(messages=[{"role": "user", "content": "cut"}], **members)
    with pytest.raises(anthropic.APIError, match="silent for too long"), cut as stream:
        stream.get_final_message()
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        messages.create(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=-1)
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        tools = [{"type": "web_search_20250305", "name": "web_search"}]
        messages.create(messages=[{"role": "user", "content": "x"}], tools=tools, **members)
    message = messages.create(messages=[{"role": "user", "content": "long"}], **members)
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema is required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thread": {"type": "create"}}, "thread is not supported"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "x"}}]}, "system[0]"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"tools": [{**TOOL, "name": ""}]}, "tools[0].name"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"messages": []}, "messages must not be empty"),
        ({"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}},
        ]}]}, "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_rejected_message_names_the_param(messages: Any, members: Any, text: str) -> None:
    hello = [{"role": "user", "content": "hi"}]
    with pytest.raises(anthropic.BadRequestError) as raised:
        messages.create(model="m", max_tokens=5000, messages=hello, extra_body=members)
    assert raised.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index,call-overload]
    assert text in str(raised.value)


def test_search_results_become_text_and_documents_become_files(
    messages: Any, received: list[ChatRequest]
) -> None:
    text = {"type": "text", "text": "It rains."}
    result = {"type": "search_result", "title": "Oslo", "source": "https://x", "content": [text]}
    source = {"type": "content", "content": [text]}
    content: Any = [result, {"type": "document", "source": source, "title": "a.txt"}]
    messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])
    (message,) = received[0].messages
    assert message["content"][0] == {"type": "text", "text": "Oslo\nhttps://x\nIt rains."}
    assert message["content"][1]["file"] == {
        "file_data": "data:text/plain;base64,SXQgcmFpbnMu",
        "filename": "a.txt",
    }


# -- logprobs, citations, omitted parts -----------------------------------------------------


TOKEN = {"token": "Oslo", "logprob": -0.5, "bytes": [79, 115, 108, 195]}  # half a character
LOGPROBS = {"content": [{**TOKEN, "top_logprobs": [TOKEN, {**TOKEN, "token": "Rome"}]}]}
CITATION = {"start_index": 1, "end_index": 4, "title": "Oslo", "url": "https://oslo.example"}


@pytest.fixture
def noted_url(
    scripted: Callable[[], Script],
    received: list[ChatRequest],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> str:
    """The URL of a server whose model sends a citation and logprobs."""
    annotation = {"type": "url_citation", "url_citation": CITATION}
    items = [Delta("Oslo", logprobs=LOGPROBS), Delta(extra={"annotations": [annotation]})]

    def answer(request: ChatRequest) -> Source:
        received.append(request)
        return from_deltas([*items, Finish("stop", stop="END"), Usage(1, 2)])

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    return url


def test_response_has_logprobs_and_annotations(noted_url: str, received: list[ChatRequest]) -> None:
    members: Any = {"model": "m", "input": "hi", "top_logprobs": 2}
    members["include"] = ["message.output_text.logprobs"]
    with openai.OpenAI(base_url=f"{noted_url}/v1", api_key="k", max_retries=0) as client:
        whole: Any = client.responses.create(**members)
        events: list[Any] = list(client.responses.create(**members, stream=True))
    judge(RESPONSE, whole.to_dict(mode="json"))
    judge_events([event.to_dict(mode="json") for event in events])
    assert (received[0].body["logprobs"], received[0].body["top_logprobs"]) == (True, 2)
    kinds = [event.type.removeprefix("response.output_text.") for event in events]
    delta, note = events[kinds.index("delta")], events[kinds.index("annotation.added")]
    assert [one.token for one in delta.logprobs[0].top_logprobs] == ["Oslo", "Rome"]
    for response in (whole, events[-1].response):
        part = response.output[0].content[0]
        assert part.logprobs[0].to_dict() == LOGPROBS["content"][0]
        assert part.annotations[0].to_dict() == {"type": "url_citation", **CITATION}
        assert note.annotation.to_dict() == {"type": "url_citation", **CITATION}


def test_message_has_citations_and_the_stop_sequence(noted_url: str) -> None:
    members: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=noted_url, api_key="k", max_retries=0) as client:
        whole = client.messages.create(**members)
        with client.messages.stream(**members) as stream:
            streamed = stream.get_final_message()
    judge(MESSAGE, whole.to_dict(mode="json"))
    for message in (whole, streamed):
        block: Any = message.content[0]
        cited = block.citations[0]
        assert (block.text, cited.url, cited.title) == ("Oslo", CITATION["url"], CITATION["title"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_unsupported_parts_become_a_note(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages cannot hold images, Responses no image URLs, and neither unknown parts."""
    pictures = [
        {"image_url": {"url": link}} for link in ("data:image/png;base64,AAAA", "https://x")
    ]
    extra = {"images": pictures, "content_parts": [{"index": 0, "type": "smell"}]}
    items = [Delta("See "), Delta(extra=extra), Delta("this."), Finish()]
    monkeypatch.setattr(Scripted, "script", staticmethod(lambda request: from_deltas(items)))
    left_out = ["[left out: the picture https://x]", "[left out: a part of the type 'smell']"]
    members: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        whole = client.messages.create(**members)
        with client.messages.stream(**members) as stream:
            streamed = stream.get_final_message()
    expected = ["See ", "[left out: a picture of the type image/png]", *left_out, "this."]
    for message in (whole, streamed):
        judge(MESSAGE, message.to_dict(mode="json"))
        assert [block.text for block in message.content] == expected  # type: ignore[union-attr]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as other:
        response: Any = other.responses.create(model="m", input="hi")
    judge(RESPONSE, response.to_dict(mode="json"))
    first, picture, *others = response.output
    assert picture.result == "AAAA"
    texts = [item.content[0].text for item in (first, *others)]
    assert texts == ["See ", *left_out, "this."]


def test_redacted_thinking_is_sent_and_late_arguments_are_dropped(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {"type": "redacted_thinking", "data": "c2Vl"}
    items = [
        Delta(extra={"thinking_blocks": [hidden, SIGNED]}),
        Delta(tool_calls=[ToolCall(0, "a", "weather", "{}")]),
        Delta(tool_calls=[ToolCall(1, "b", "note", "no JSON")]),
        Delta(tool_calls=[ToolCall(0, arguments="{}")]),  # call 0 was complete before
        Finish("tool_calls"),
    ]
    monkeypatch.setattr(Scripted, "script", staticmethod(lambda request: from_deltas(items)))
    members: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        whole = client.messages.create(**members)
        events = list(client.messages.create(**members, stream=True))
    kinds = [event.content_block.type for event in events if event.type == "content_block_start"]
    judge(MESSAGE, whole.to_dict(mode="json"))
    redacted, thought, first, second = (block.to_dict() for block in whole.content)
    assert (redacted, thought["signature"]) == (hidden, SIGNED["signature"])
    assert (first["input"], second["input"]) == ({}, {"raw": "no JSON"})
    assert kinds == ["redacted_thinking", "thinking", "tool_use", "tool_use"]
    tools: Any = [{"type": "custom", "name": "note"}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as other:
        response: Any = other.responses.create(model="m", input="hi", tools=tools)
    judge(RESPONSE, response.to_dict(mode="json"))
    *sealed, first, second = response.output
    assert [item.type for item in sealed] == ["reasoning", "reasoning"]
    assert (first.arguments, second.input) == ("{}", "no JSON")


# -- pings ------------------------------------------------------------------------------------


def test_both_sdks_ignore_pings(
    application: Callable[..., Application],
    serve: Callable[..., harness.Server],
    scripted: Callable[[], Script],
) -> None:
    """Pings are sent before the first event and between two events."""
    one, two = scripted(), scripted()
    app = application({"scripted": {"models": "m"}}, heartbeat_seconds="0.05")
    seen: list[bytes] = []
    ping = b": ping\n"

    def pings() -> int:
        return seen.count(ping)

    def produce(script: Script) -> None:
        for item in ("Oslo ", "is cold."):
            assert script.asked.wait(harness.DEADLINE)
            enough = pings() + 2
            harness.wait_until(lambda enough=enough: pings() >= enough, "two pings")
            script.say(item)
        script.finish(Finish(), Usage(1, 2))

    def tapped(environ: Any, start_response: Any) -> Iterator[bytes]:
        for block in app(environ, start_response):
            seen.append(block)
            yield block

    url = serve(tapped).url
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(produce, one)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            events = list(client.responses.create(model="m", input="x", stream=True))
        future.result(harness.DEADLINE)
        assert events[-1].response.output_text == "Oslo is cold."  # type: ignore[union-attr]
        ping = b'event: ping\ndata: {"type":"ping"}\n\n'
        future = pool.submit(produce, two)
        with (
            anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as other,
            other.messages.stream(
                model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]
            ) as stream,
        ):
            assert stream.get_final_text() == "Oslo is cold."
        future.result(harness.DEADLINE)
