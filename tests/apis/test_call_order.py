"""Nothing stands between calls and their results in the request that a provider receives.

OpenAI's Responses find the call of a result by its id, wherever it is; chat completions,
Anthropic, Gemini and Bedrock reject a history with anything in between.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from adapter_requests import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st
from nightly import examples
from raw_server import RawServer
from wsgi_calls import call

from choreo_wsgi import apis
from choreo_wsgi.apis.responses.request import read_request
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

#: A step of a history, as ``call3``: the words before the number say what it is.
Step = str
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + CHUNK
BY_ASSISTANT = ("thought", "signed", "text", "call")
KINDS = ("user", "system", "developer", "result", *BY_ASSISTANT)


def kind_of(step: Step) -> str:
    return step.rstrip("0123456789")


def number_of(step: Step) -> str:
    return step[len(kind_of(step)) :]


def response_item(step: Step, custom: bool = False) -> dict[str, Any]:
    kind, id = kind_of(step), f"c{number_of(step)}"
    prefix = "custom_tool" if custom else "function"
    block = {"type": "thinking", "thinking": f"{step};", "signature": "s"}
    signed = "choreo." + base64.b64encode(json.dumps([block]).encode()).decode()
    items: dict[str, dict[str, Any]] = {
        "text": {"role": "assistant", "content": f"{step};"},
        "call": {"type": f"{prefix}_call", "call_id": id, "name": "f", "input": f"{step};",
                 "arguments": json.dumps({"input": f"{step};"})},
        "result": {"type": f"{prefix}_call_output", "call_id": id, "output": f"{step};"},
        "thought": {"type": "reasoning", "summary": [{"text": f"{step};"}]},
        "signed": {"type": "reasoning", "summary": [], "encrypted_content": signed},
    }  # fmt: skip
    if custom:
        items["call"].pop("arguments")
    return items.get(kind) or {"role": kind, "content": f"{step};"}


def message_block(step: Step) -> dict[str, Any]:
    kind, id = kind_of(step), f"c{number_of(step)}"
    signature = {"signature": "s"} if kind == "signed" else {}
    thought = {"type": "thinking", "thinking": f"{step};", **signature}
    blocks: dict[str, dict[str, Any]] = {
        "call": {"type": "tool_use", "id": id, "name": "f", "input": {"input": f"{step};"}},
        "result": {"type": "tool_result", "tool_use_id": id, "content": f"{step};"},
        **dict.fromkeys(("thought", "signed"), thought),
    }
    return blocks.get(kind) or {"type": "text", "text": f"{step};"}


def messages(steps: list[Step]) -> Iterator[dict[str, Any]]:
    """Yield messages of Anthropic's API: one for each side, a new one also after a ``/``."""
    message: dict[str, Any] = {"role": ""}
    for step in steps:
        kind = kind_of(step)
        role = {"system": kind}.get(kind, "assistant" if kind in BY_ASSISTANT else "user")
        if message["role"] and (step == "/" or role != message["role"]):
            yield message
            message = {"role": ""}
        if step != "/":
            message = {"content": [], **message, "role": role}
            message["content"].append(message_block(step))
    if message["role"]:
        yield message


def chat_messages(steps: list[Step]) -> Iterator[dict[str, Any]]:
    """Yield messages of chat; a call joins the assistant's message before, unless after a ``/``."""
    message: dict[str, Any] = {}
    for step in (*steps, "/"):
        kind, id = kind_of(step), f"c{number_of(step)}"
        if message and not (kind == "call" and message["role"] == "assistant"):
            yield message
            message = {}
        if kind == "call":
            function = {"name": "f", "arguments": json.dumps({"input": f"{step};"})}
            member = {"id": id, "type": "function", "function": function}
            message = {"role": "assistant", "content": None, **message}
            message["tool_calls"] = [*message.get("tool_calls", ()), member]
        elif kind == "result":
            message = {"role": "tool", "tool_call_id": id, "content": f"{step};"}
        elif kind in ("text", "user", "system"):
            role = "assistant" if kind == "text" else kind
            message = {"role": role, "content": f"{step};"}


def request(api: str, steps: list[Step], custom: bool = False) -> dict[str, Any]:
    """Return a request of *api* whose history has *steps*."""
    if api == "responses":
        input = [response_item(step, custom) for step in steps if step != "/"]
        return {"model": "m", "input": input}
    made = messages(steps) if api == "messages" else chat_messages(steps)
    return {"model": "m", "max_tokens": 9, "messages": [*made]}


def steps_in(value: Any) -> list[Step]:
    """Return the steps whose texts are in the JSON *value*, in order."""
    return re.findall(rf"((?:{'|'.join(KINDS)})\d+);", json.dumps(value))


def shown(messages: list[Any]) -> str:
    """Return the steps in *messages*; within one, thinking comes first, and calls last."""
    found = (
        sorted(steps_in(message), key=lambda step: KINDS.index(kind_of(step)))
        for message in messages
    )
    return " | ".join(map(" ".join, found))


@pytest.fixture
def forwarded(application: Callable[..., Application]) -> Callable[..., str]:
    """Return a function that shows the messages that a chat upstream of type *kind* receives."""

    def forwarded(api: str, body: Any, kind: str = "openai") -> str:
        with RawServer.playing(ANSWER) as upstream:
            section = {"type": kind, "models": "*", "base_url": upstream.url, "api_key": "k"}
            answer = call(application({"up": section}), "POST", f"/v1/{api}", body)
            assert answer.status == 200, answer.body
            return shown(json.loads(upstream.requests[-1].body)["messages"])

    return forwarded


BOTH = {
    "call1 text2 result1": "text2 call1 | result1",
    "call1 user2 result1": "call1 | result1 | user2",
    "call1 system2 result1": "call1 | result1 | system2",
    "call1 result1 call2 result2": "call1 | result1 | call2 | result2",
    "call1 call2 result2 result1": "call1 call2 | result2 | result1",
    "call1 call2 result1 user3 / result2": "call1 call2 | result1 | result2 | user3",
    "text1 call2 / text3 call4 result4 / result2":
        "text1 text3 call2 call4 | result4 | result2",
    "call1 user2 text3 result1 user4": "call1 | result1 | user2 | text3 | user4",
    # No chat ends with a text of the assistant, which many providers refuse.
    "call1 user2 text3 result1": "user2 | text3 | call1 | result1",
    "text1 call2 user3 call4 result4 text5 result2":
        "user3 | call4 | result4 | text5 | text1 call2 | result2",
    # Nothing is lost or invented if calls and results do not match.
    "call1 user2": "call1 | user2",
    "result1 call1 user2": "result1 | call1 | user2",
    "call1 result9 result1": "call1 | result1 | result9",
}  # fmt: skip
#: By API: steps of a history, and those in each message of the chat.
WIRE = {
    "messages": {
        **BOTH,
        "call1 / text2 result1": "text2 call1 | result1",
        "thought1 call2 text3 result2": "thought1 text3 call2 | result2",
    },
    "responses": {
        **BOTH,
        "call1 thought2 call3 result1 result3": "thought2 call1 call3 | result1 | result3",
        "call1 developer2 result1": "call1 | result1 | developer2",
        "thought1 call2 call3 thought4 result3 result2":
            "thought1 thought4 call2 call3 | result3 | result2",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("api", "steps", "expected"),
    [(api, *case) for api in WIRE for case in WIRE[api].items()],
)
def test_results_follow_their_calls_on_the_wire(
    forwarded: Callable[..., str], api: str, steps: str, expected: str
) -> None:
    assert forwarded(api, request(api, steps.split())) == expected


@pytest.mark.parametrize("kind", ["groq", "mistral"])
def test_custom_calls_and_strict_servers_have_the_same_order_on_the_wire(
    forwarded: Callable[..., str], kind: str
) -> None:
    for steps, expected in BOTH.items():
        custom = request("responses", steps.split(), custom=True)
        assert forwarded("responses", custom, kind) == expected


def test_signed_thinking_stays_before_its_call(forwarded: Callable[..., str]) -> None:
    """The provider that signed it rejects it elsewhere."""
    steps = ["signed1", "call2", "signed3", "call4", "result2", "user5", "result4"]
    expected = "signed1 call2 | result2 | signed3 call4 | result4 | user5"
    assert forwarded("responses", request("responses", steps)) == expected


def test_result_without_a_call_is_sent_as_the_users(forwarded: Callable[..., str]) -> None:
    """OpenAI's Responses accept outputs without a ``call_id``, and Codex sends them."""
    body = request("responses", ["call1", "result2", "result1"])
    for value in ({}, {"call_id": None}):
        item = {"type": "function_call_output", "output": "result2;", **value}
        body["input"][1] = item
        assert forwarded("responses", body) == "call1 | result1 | result2"
        parsed = apis.load("responses").read(json.dumps(body).encode())
        assert parsed.messages[2] == {"role": "user", "content": "result2;"}
        assert parsed.original and parsed.original["input"][1] == item


def test_results_follow_calls_of_a_previous_response() -> None:
    past, items = (
        [response_item(step) for step in steps.split()]
        for steps in ("user1 text2 call3", "user4 result3")
    )
    body = {"model": "m", "input": items, "previous_response_id": "resp_1"}
    found = read_request(body, {}, past).messages
    assert shown(found) == "user1 | text2 call3 | result3 | user4"


def test_texts_and_other_content_of_one_reply_are_joined() -> None:
    """As parts, if one of them has parts."""
    body = request("messages", ["call1", "/", "text2", "result1"])
    cached = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    body["messages"][0]["content"].insert(0, cached)
    reply, _ = apis.load("messages").read(json.dumps(body).encode()).messages
    assert reply["content"] == [cached, {"type": "text", "text": "text2;"}]
    body["messages"][1]["content"] = "text2;"
    reply, _ = apis.load("messages").read(json.dumps(body).encode()).messages
    assert reply["content"] == [cached, {"type": "text", "text": "text2;"}]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Return steps from the user's first; each call has one result, anywhere behind it."""
    steps, unanswered = ["user0"], list[int]()
    kinds = st.sampled_from(("user", "system", *BY_ASSISTANT, "call", "result", "result", "/"))
    for number in range(1, draw(st.integers(2, 14))):
        kind = draw(kinds)
        if kind == "result" and unanswered:
            at = draw(st.integers(0, len(unanswered) - 1))
            steps.append(f"result{unanswered.pop(at)}")
        elif kind != "result":
            steps.append(f"{kind}{number}" if kind != "/" else kind)
        unanswered += [number] if kind == "call" else []
    return [*steps, *(f"result{number}" for number in draw(st.permutations(unanswered)))]


def of(kinds: str, steps: list[Step]) -> list[Step]:
    return [step for step in steps if kind_of(step) in kinds.split()]


def demand_order(sent: list[list[Step]], steps: list[Step], one_message: bool) -> None:
    """Check the steps in the messages *sent* for a history of *steps*.

    *one_message* says whether all results of a message are in the next one.
    """
    flat = [step for message in sent for step in message]
    for at, message in enumerate(sent):
        results = [f"result{number_of(step)}" for step in of("call", message)]
        later = [step for message in sent[at + 1 :] for step in message]
        following = sent[at + 1] if results and one_message else later
        assert sorted(following[: len(results)]) == sorted(results)
        assert following[: len(results)] == results or not one_message
    for same in ("user text", "user call", "signed", "thought", "system"):
        if of(same, flat):
            demand_kept(same, sent, steps)
    assert sorted(of("user text call result", flat)) == sorted(of("user text call result", steps))


def last_of(steps: list[Step]) -> Step:
    return next(step for step in reversed(steps) if step != "/")


def demand_kept(kinds: str, sent: list[list[Step]], steps: list[Step]) -> None:
    """Check the order of *kinds* in the messages *sent* for a history of *steps*.

    A history that ends with a result may have the message with its call at its end.
    """
    flat, last = [step for message in sent for step in message], last_of(steps)
    moved = next((message for message in sent if f"call{number_of(last)}" in message), [])
    is_moved = kind_of(last) == kind_of(flat[-1]) == "result"
    if not (is_moved and of("text thought signed", steps)) or of(kinds, flat) == of(kinds, steps):
        moved = []
    found, expected = ([one for one in of(kinds, all) if one not in moved] for all in (flat, steps))
    assert found == expected


def body_of(kind: str, parsed: ChatRequest) -> Any:
    """Return the body that a provider of type *kind* is sent for the request *parsed*."""
    provider = provider_class(kind)(kind, {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    try:
        return json.loads(provider.encode(parsed.with_model(MODELS[kind])).body)
    finally:
        provider.close()


@pytest.mark.parametrize("api", ["responses", "messages"])
@given(steps=histories())
@settings(max_examples=examples(150))
def test_any_history_becomes_a_valid_chat(api: str, steps: list[Step]) -> None:
    found = apis.load(api).read(json.dumps(request(api, steps)).encode()).messages
    for message in found:
        if message["role"] == "tool":
            assert [f"result{message['tool_call_id'][1:]}"] == steps_in(message)
    sent = [list(dict.fromkeys(steps_in(message))) for message in found]
    demand_order(sent, steps, False)
    flat = [step for message in sent for step in message]
    assert sorted(flat) == sorted(step for step in steps if step != "/")
    demand_kept("user system call", sent, steps)
    if api == "responses":
        demand_kept("signed call", sent, steps)
    if kind_of(last_of(steps)) == "result":
        assert found[-1]["role"] != "assistant" or "tool_calls" in found[-1]


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        (api, kind)
        for api in ("chat", "responses", "messages")
        for kind in MODELS
        if (api, kind) != ("chat", "ollama")  # it accepts the caller's messages of the assistant
    ],
)
@given(steps=histories())
@settings(max_examples=examples(60))
def test_any_history_becomes_valid_for_providers(api: str, kind: str, steps: list[Step]) -> None:
    parsed = apis.load(api).read(json.dumps(request(api, steps)).encode())
    body = body_of(kind, parsed)
    sent = [*map(steps_in, body["contents" if kind == "gemini" else "messages"])]
    demand_order(sent, steps, one_message=kind != "ollama")
    assert set(of("system", steps_in(body))) == set(of("system", steps))
