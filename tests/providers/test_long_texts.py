"""Long texts of requests and answers are forwarded in pieces; the result stays the same."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_requests import MODELS
from aws_events import encode
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.apis import load
from choreo_wsgi.chat import restoring
from choreo_wsgi.chat.items import Delta
from choreo_wsgi.chat.longtext import LONG
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

PROVIDERS = ("anthropic", "gemini", "ollama", "bedrock")
#: Characters that JSON can write in several ways, or that must not be split.
PIECE = '\U0001f600 é "q" \\ \n {"a": [1, "\\n"]}, x'
TEXT = PIECE * (9 * LONG // 4 // len(PIECE))
IMAGE = "iVBORw0KGgo" + "A" * (2 * LONG + 1)
URL = f"data:image/png;base64,{IMAGE}"
PDF = f"data:application/pdf;base64,{'JVBE' * (LONG // 2)}"
ARGUMENTS = {"text": TEXT, "list": [1, {"x": [None]}]}
CALLED = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": json.dumps(ARGUMENTS)},
}


def dumped(value: Any, is_ascii: bool) -> bytes:
    return json.dumps(value, ensure_ascii=is_ascii).encode()


REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {
        "messages": [
            {"role": "user", "content": TEXT},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": json.dumps(ARGUMENTS)},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"found": TEXT})},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": TEXT},
                    {"type": "image_url", "image_url": {"url": URL}},
                ],
            },
        ]
    },
    "messages": {
        "max_tokens": 9,
        "system": TEXT,
        "messages": [
            {"role": "user", "content": TEXT},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": ARGUMENTS}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": TEXT},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": IMAGE},
                    },
                ],
            },
        ],
    },
    "responses": {
        "instructions": TEXT,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": TEXT}]},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "f",
                "arguments": json.dumps(ARGUMENTS),
            },
            {"type": "function_call_output", "call_id": "c1", "output": TEXT},
            {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
        ],
    },
}
#: Requests whose long texts are converted, so that they must not be set aside.
CONVERTED: dict[str, dict[str, Any]] = {
    "messages": {
        "max_tokens": 9,
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": TEXT},
                    }
                ],
            }
        ],
    },
    "responses": {
        "tools": [{"type": "custom", "name": "f"}],
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": TEXT},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        ],
    },
}


def provider(name: str) -> HTTPProvider:
    made = provider_class(name)(name, {"api_key": "k"}, Settings())
    assert isinstance(made, HTTPProvider)
    return made


def expect_long(value: Any) -> int:
    """Check the long strings in *value*; return how many there are."""
    if isinstance(value, list):
        return sum(map(expect_long, value))
    if isinstance(value, dict):
        return sum(map(expect_long, value.values()))
    if not isinstance(value, str) or len(value) < LONG:
        return 0
    if value.startswith("{"):
        assert json.loads(value) in (ARGUMENTS, {"found": TEXT}, {"input": TEXT})
    elif value.startswith("choreo."):
        assert expect_long(json.loads(b64decode(value.removeprefix("choreo."))))
    elif value.partition("[left out: ")[0] not in (TEXT, 2 * TEXT, IMAGE, URL):
        assert b64decode(value).decode() == TEXT  # a document
    return 1


@pytest.mark.parametrize(
    ("api", "body", "name", "is_ascii"),
    [
        (api, body, name, (row + column) % 2 == 0)
        for row, (api, body) in enumerate([*REQUESTS.items(), *CONVERTED.items()])
        for column, name in enumerate(PROVIDERS)
        if name != "ollama" or body is not CONVERTED["messages"]  # it accepts no documents
    ],
    ids=lambda one: str(one)[:20],
)
def test_translates_requests_as_if_no_text_were_long(
    api: str, body: dict[str, Any], name: str, is_ascii: bool
) -> None:
    """Texts, images, arguments as text and as JSON, JSON in tool results."""
    given = dumped({"model": MODELS[name], **body}, is_ascii)
    adapter = provider(name)
    sent = []
    for request in (
        adapter.restored(load(api).read(given)),
        load(api).read(given).whole(),
    ):
        made = b"".join(adapter.encode(request).pieces)
        sent.append(json.loads(made))
        expect_long(sent[-1])
    assert sent[0] == sent[1]


def objects(value: Any) -> Iterator[Any]:
    """Yield the objects in *value*, and those whose JSON text is in it."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from objects(one)


#: Arguments of half a megabyte.
LARGE_ARGUMENTS: dict[str, Any] = {
    "a text": {"a": "x" * 500_000},
    "lines": {"a": "line of code\n" * 37_000},
    "quotes": {"a": 'say "hi"' * 50_000},
    "an emoji": {"a": "\U0001f600" + "x" * 500_000},
    "long texts": {"a": ["y" * 3000] * 160},
    "numbers": {"a": [12345.75] * 20_000},
    "short texts": {"a": [{"k": "v" * 400}] * 1_000},
    "emoji in many": {"a": ["\U0001f600" + "y" * 1_000] * 450},
}


# Each kind for a provider that is sent the text and for one of two that are sent the object; the
# three APIs take turns.
@pytest.mark.parametrize(
    ("arguments", "api", "name"),
    [
        pytest.param(arguments, list(REQUESTS)[(row + column) % 3], name, id=f"{kind}-{name}")
        for row, (kind, arguments) in enumerate(LARGE_ARGUMENTS.items())
        for column, name in enumerate(("openai", ("gemini", "bedrock")[row % 2]))
    ],
)
def test_large_arguments_take_under_four_times_the_request(
    arguments: dict[str, Any], api: str, name: str
) -> None:
    """The request received, the body sent, and one copy or the provider's objects between them."""
    body = json.loads(json.dumps(REQUESTS[api]).replace(json.dumps(TEXT)[1:-1], "ok"))
    for holder in (*body.get("messages", ()), *body.get("input", ())):
        for part in (holder, *(holder.get("tool_calls") or ()), *(holder.get("content") or ())):
            if isinstance(part, dict) and part.get("type") in ("function", "function_call"):
                part.get("function", part)["arguments"] = json.dumps(arguments)
            elif isinstance(part, dict) and part.get("type") == "tool_use":
                part["input"] = arguments
    given = dumped({"model": MODELS.get(name, "m"), **body}, False)
    adapter: Any = provider_class(name)(name, {"api_key": "k"}, Settings())
    sent: list[bytes] = []

    def send(request: ChatRequest) -> None:
        opened = restoring.restore_request(request)
        if name == "openai":
            made = adapter._post(opened, adapter.prepare(dict(opened.body)))
        else:
            made = adapter.encode(opened)
        sent.append(b"".join(made.pieces))

    read = load(api).read
    send(read(given))  # imports modules
    sent.clear()
    with traced() as memory:
        send(read(given))
    assert memory.peak < 4 * len(given)
    assert arguments in list(objects(json.loads(sent[0])))


def test_arguments_of_many_short_texts_are_no_text_in_between() -> None:
    """From the object in a Messages request to that in the provider's body."""
    given = {"a": ["é" + "y" * 100] * 2_000}
    called = {"type": "tool_use", "id": "c1", "name": "f", "input": given}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "ok"}
    turns = [{"role": "assistant", "content": [called]}, {"role": "user", "content": [result]}]
    messages = [{"role": "user", "content": "hi"}, *turns]
    body = dumped({"model": MODELS["gemini"], "max_tokens": 9, "messages": messages}, False)
    adapter, read = provider("gemini"), load("messages").read

    def send() -> bytes:
        request = restoring.restore_request(read(body))
        return b"".join(adapter.encode(request).pieces)

    assert given in list(objects(json.loads(send())))
    with traced() as memory:
        send()
    assert memory.peak < 4 * len(body)


@pytest.mark.parametrize(
    ("api", "is_ascii", "character"),
    [
        ("chat", False, "y"),
        ("chat", True, "\U0001f600"),
        ("messages", False, "\U0001f600"),
        ("messages", True, "\u201c"),
        ("responses", False, "字"),
        ("responses", True, "字"),
    ],
)
def test_many_turns_take_little_memory_despite_wide_text(
    api: str, is_ascii: bool, character: str
) -> None:
    """One wide character makes a whole string wide."""
    turns = [{"role": role, "content": character + "y" * 700} for role in ("user", "assistant")]
    name = "input" if api == "responses" else "messages"
    body = {"model": MODELS["bedrock"], "max_tokens": 9, name: turns * 350}
    given, read = dumped(body, is_ascii), load(api).read
    adapter = provider("bedrock")

    def send() -> bytes:
        request = restoring.restore_request(read(given))
        return b"".join(adapter.encode(request).pieces)

    whole = read(given).whole()
    assert json.loads(send()) == json.loads(b"".join(adapter.encode(whole).pieces))
    with traced() as memory:
        send()
    assert memory.peak < 4 * len(given)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": TEXT},
        {"role": "user", "content": [{"type": "text", "text": TEXT}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": PDF}}]},
        {"role": "assistant", "content": "x", "reasoning_content": TEXT},
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    ],
    ids=lambda message: next(reversed(message)),
)
def test_text_that_is_only_forwarded_stays_set_aside(message: dict[str, Any]) -> None:
    user = {"role": "user", "content": "Hi"}
    request = load("chat").read(dumped({"model": "m", "messages": [user, message]}, False))
    assert restoring.restore_request(request).marks


def test_text_beside_a_custom_call_stays_set_aside() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"model": "m", "messages": [{"role": "user", "content": TEXT}, message]}
    assert restoring.restore_request(load("chat").read(dumped(body, False))).marks


@pytest.mark.parametrize("url", [URL + "!", URL + "A"])
def test_invalid_base64_images_are_not_set_aside(url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    assert not restoring.restore_request(load("chat").read(dumped(body, False))).marks


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


CALL = {"id": "c1", "type": "function", "function": {"name": "f"}}
PARTS = [{"text": TEXT, "thought": True}, {"text": TEXT}]
#: What each provider sends: reasoning, text, a call, perhaps an image.
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "openai": [
        chunk({"reasoning_content": TEXT}),
        chunk({"content": TEXT, "refusal": TEXT}),
        chunk({"tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"text": '}}]}),
        chunk(
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "function": {"arguments": json.dumps(ARGUMENTS)[len('{"text": ') :]},
                    }
                ]
            }
        ),
        chunk({"images": [{"type": "image_url", "image_url": {"url": URL}}]}),
        chunk({}, "tool_calls"),
    ],
    "anthropic": [
        {"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": TEXT},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "signature_delta", "signature": IMAGE},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": TEXT}},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)},
        },
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
        {"type": "message_stop"},
    ],
    "gemini": [
        {"candidates": [{"content": {"parts": PARTS}}]},
        {
            "candidates": [
                {"content": {"parts": [{"functionCall": {"name": "f", "args": ARGUMENTS}}]}}
            ]
        },
        {
            "candidates": [
                {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": IMAGE}}]}}
            ]
        },
        {"candidates": [{"finishReason": "STOP"}]},
    ],
    "ollama": [
        {"message": {"thinking": TEXT, "content": TEXT, "images": [IMAGE]}},
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": ARGUMENTS}}]}},
        {"message": {}, "done": True, "done_reason": "stop"},
    ],
    "bedrock": [
        {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": TEXT}}},
        {"contentBlockIndex": 1, "delta": {"text": TEXT}},
        {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "c1", "name": "f"}}},
        {"contentBlockIndex": 2, "delta": {"toolUse": {"input": json.dumps(ARGUMENTS)}}},
        {"contentBlockIndex": 2},
        {"stopReason": "tool_use"},
    ],
}
_KINDS = {"start": "contentBlockStart", "delta": "contentBlockDelta", "stopReason": "messageStop"}


def framed(name: str, events: list[dict[str, Any]], is_ascii: bool) -> bytes:
    """Return *events* as the provider sends them."""
    made = b""
    for event in events:
        data = dumped(event, is_ascii)
        if name == "ollama":
            made += data + b"\n"
        elif name == "bedrock":
            kind = next((_KINDS[key] for key in _KINDS if key in event), "contentBlockStop")
            made += encode({":message-type": "event", ":event-type": kind}, data)
        else:
            made += b"data: " + data + b"\n\n"
    return made + b"data: [DONE]\n\n" if name == "openai" else made


def client_output(name: str, data: bytes, api: str, stream: bool) -> bytes:
    """Return the output of *api* for the provider's *data*, with the same ids each time."""
    body: dict[str, Any] = {"model": "m", "stream": stream, "max_tokens": 9, "input": "hi"}
    body["messages"] = [{"role": "user", "content": "hi"}]
    request = load(api).read(json.dumps(body).encode())
    adapter = provider_class(name)(name, {"api_key": "k"}, Settings())
    adapter.new_call_id = lambda: "c1"
    translator = (
        adapter._translator(1, frozenset()) if name == "openai" else adapter.translator(request)
    )
    writer = load(api).writer(request)
    made = []
    for at in range(0, len(data), 100_000):
        items = translator.receive_data(data[at : at + 100_000])
        assert all(len(item.text) <= LONG for item in items if isinstance(item, Delta))
        made += map(writer.write, items)
    made += map(writer.write, translator.end())
    return b"".join([*made, *writer.ending()])


@pytest.mark.parametrize(
    ("name", "api", "is_ascii"),
    [
        (name, api, (row + column) % 2 == 0)
        for row, name in enumerate(ANSWERS)
        for column, api in enumerate(REQUESTS)
    ],
)
def test_translates_answers_as_if_no_text_were_long(name: str, api: str, is_ascii: bool) -> None:
    """Reasoning, signatures, texts, arguments and images, in documents and in streams."""
    data = framed(name, ANSWERS[name], is_ascii)
    assert expect_long(json.loads(client_output(name, data, api, False))) > 1
    texts: dict[str, str] = {}
    for event in sse.Decoder(64 * LONG).receive_data(client_output(name, data, api, True)):
        collect(json.loads(event.data), texts)
    assert expect_long(texts) > 1


def collect(value: Any, texts: dict[str, str]) -> None:
    """Add the texts of the deltas in *value*, an event, to *texts*."""
    if isinstance(value, dict) and isinstance(value.get("delta"), str):
        texts[value["type"]] = texts.get(value["type"], "") + value["delta"]
    elif isinstance(value, dict) and "delta" in value:
        add_texts(value["delta"], texts)
    elif isinstance(value, dict):
        for one in value.get("choices") or ():
            collect(one, texts)


def add_texts(delta: Any, texts: dict[str, str]) -> None:
    for name, one in delta.items():
        if name == "tool_calls":
            for call in one:
                add_texts(call["function"], texts)
        elif isinstance(one, str):
            texts[name] = texts.get(name, "") + one
        else:
            expect_long(one)
