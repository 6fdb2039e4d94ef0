"""Only the long strings that a translation reads are restored, and they are bounded."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from typing import Any

import pytest
from adapter_requests import MODELS
from work import traced

from choreo_wsgi.apis import load
from choreo_wsgi.chat.longtext import LONG, WINDOW
from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

PROVIDERS = ("anthropic", "gemini", "ollama", "bedrock")
WIDE = "\U0001f600" + "x" * LONG
USER = {"role": "user", "content": "hi"}


def adapter(name: str) -> HTTPProvider:
    made = provider_class(name)(name, {"api_key": "k"}, Settings())
    assert isinstance(made, HTTPProvider)
    return made


def sent_by(name: str, body: bytes, api: str = "chat") -> Any:
    """Return the object that the provider *name* is sent for the request *body*."""
    provider = adapter(name)
    request = provider.restored(load(api).read(body))
    return json.loads(b"".join(provider.encode(request).pieces))


def sent_in_memory(name: str, body: bytes, api: str = "chat") -> tuple[bytes, int]:
    """Return what the provider *name* is sent for the request *body*, and the peak of memory."""
    sent_by(name, body, api)  # imports modules
    provider, read = adapter(name), load(api).read
    with traced() as memory:
        request = provider.restored(read(body))
        sent = provider.encode(request).pieces
    return b"".join(sent), memory.peak


def body_of(name: str, *messages: dict[str, Any], **more: Any) -> bytes:
    sent = {"model": MODELS[name], "messages": [USER, *messages], **more}
    return json.dumps(sent, ensure_ascii=False).encode()


def function(**more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **more}}


def parts(**part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "new", **part}, {"type": "text", "text": WIDE}]}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    "message",
    [
        parts(image_url="x"),
        parts(file=["x"]),
        parts(text=1),
        {"role": "assistant", "content": WIDE, "thinking_blocks": 1},
        {"role": "assistant", "content": WIDE, "thinking_blocks": [1]},
    ],
    ids=["image", "file", "text", "thoughts", "thought"],
)
def test_odd_members_beside_a_long_text_are_refused(name: str, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sent_by(name, body_of(name, message))


@pytest.mark.parametrize("name", PROVIDERS)
def test_odd_reasoning_beside_a_long_text_is_ignored(name: str) -> None:
    message = {"role": "assistant", "content": WIDE, "reasoning_content": 1}
    assert "xxxx" in json.dumps(sent_by(name, body_of(name, message, USER)))


def text_file(text: str, api: str) -> dict[str, Any]:
    if api == "messages":
        source = {"type": "text", "media_type": "text/plain", "data": text}
        return {"role": "user", "content": [{"type": "document", "source": source}]}
    url = f"data:text/plain;base64,{b64encode(text.encode()).decode()}"
    return {"role": "user", "content": [{"type": "file", "file": {"file_data": url}}]}


def text_sent_by(name: str, body: bytes, api: str) -> str:
    """Return the text of the file that the provider *name* is sent."""
    sent = json.dumps(sent_by(name, body, api), ensure_ascii=False)
    found = max(re.findall(r'"([^"]+)"', sent), key=len)
    return found if name == "anthropic" else b64decode(found).decode()


@pytest.mark.parametrize("name", ["anthropic", "gemini", "bedrock"])
@pytest.mark.parametrize("api", ["chat", "messages"])
@pytest.mark.parametrize("before", ["", "\ufeff"], ids=["text", "mark"])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_long_text_file_is_sent_whole(name: str, api: str, before: str, more: int) -> None:
    text = before + WIDE + "é" * more
    body = body_of(name, text_file(text, api), max_tokens=9)
    is_decoded = (api, name) == ("chat", "anthropic")  # without its byte order mark
    assert text_sent_by(name, body, api) == (text.removeprefix("\ufeff") if is_decoded else text)


@pytest.mark.parametrize("name", ["anthropic", "gemini", "bedrock"])
@pytest.mark.parametrize("api", ["chat", "messages"])
def test_text_file_takes_under_four_times_the_request(name: str, api: str) -> None:
    body = body_of(name, text_file(WIDE * 8, api), max_tokens=9)
    assert sent_in_memory(name, body, api)[1] < 4 * len(body)


def test_long_text_file_must_be_utf8() -> None:
    message = text_file("abc" * LONG, "chat")
    file = message["content"][0]["file"]
    file["file_data"] += b64encode(b"\xff\xff\xff").decode()
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        sent_by("anthropic", body_of("anthropic", message))


@pytest.mark.parametrize("name", PROVIDERS)
def test_same_tool_with_long_texts_is_sent_once(name: str) -> None:
    """Each of its strings has a mark of its own."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": WIDE}}}
    tool = function(description="y" * LONG, parameters=schema)
    text = json.dumps(sent_by(name, body_of(name, tools=[tool, tool])), ensure_ascii=False)
    assert text.count(WIDE) == text.count("y" * LONG) == 1


@pytest.mark.parametrize("name", PROVIDERS)
def test_tools_with_long_wide_texts_take_under_four_times_the_request(name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": WIDE}}}
    tools = [function(name=f"f{at}", description=WIDE, parameters=schema) for at in range(9)]
    body = body_of(name, tools=tools)
    sent, peak = sent_in_memory(name, body)
    assert sent.count(WIDE.encode()) == 18
    assert peak < 4 * len(body)


def test_long_wide_texts_that_a_translation_reads_are_limited() -> None:
    sent_by("ollama", body_of("ollama", metadata={"title": WIDE * 5}))
    with pytest.raises(InvalidRequest, match="at most 3 MiB of long strings and numbers"):
        sent_by("ollama", body_of("ollama", metadata={"title": WIDE * 6}))


def test_many_strings_that_a_translation_reads_count_more() -> None:
    many = ["\u20ac" + "x" * 400] * 2_400
    sent_by("ollama", body_of("ollama", tools=[function(x=many)]))
    with pytest.raises(InvalidRequest, match="at most 3 MiB of long strings and numbers"):
        sent_by("ollama", body_of("ollama", tools=[function(x=[*many, *many[:300]])]))


def test_long_stop_strings_are_restored_once() -> None:
    request = adapter("ollama").restored(load("chat").read(body_of("ollama", stop=["", WIDE])))
    assert request.body["stop"] == ["", WIDE]
    assert request.stop == (WIDE,)
    assert request.stop[0] is request.body["stop"][1]


def test_numbers_that_a_translation_reads_are_limited() -> None:
    sent_by("ollama", body_of("ollama", tools=[function(x=[12345] * 70_000)]))
    with pytest.raises(InvalidRequest, match="at most 3 MiB of long strings and numbers"):
        sent_by("ollama", body_of("ollama", tools=[function(x=[12345] * 72_000)]))


def schema_in(sent: Any) -> Any:
    """Return the schema of the answer in what a provider is *sent*."""
    if "outputConfig" in sent:  # Bedrock's is a JSON text
        return json.loads(sent["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    if "output_config" in sent:
        return sent["output_config"]["format"]["schema"]
    return sent.get("format") or sent["generationConfig"]["responseJsonSchema"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_long_schema_of_an_answer_takes_under_four_times_the_request(name: str) -> None:
    described = {"type": "string", "description": "\u20ac" + "x" * 300}
    properties = {f"a{at}": described for at in range(3000)} | {"b": {"enum": [12345] * 99_000}}
    schema = {"type": "object", "title": WIDE * 9, "properties": properties}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = body_of(name, response_format=form)
    sent, peak = sent_in_memory(name, body)
    assert peak < 3.5 * len(body)
    assert schema == schema_in(json.loads(sent))


@pytest.mark.parametrize("api", ["count_tokens", "input_tokens"])
def test_long_wide_text_is_counted_in_pieces(api: str) -> None:
    text = WIDE * 16
    sent = {"model": "m", "max_tokens": 9, **turns(api, text)}
    body = json.dumps(sent, ensure_ascii=False).encode()
    counting = load(api)
    assert counting.estimate is not None
    with traced() as memory:
        counted = counting.estimate(counting.read(body))
    assert counted["input_tokens"] == 5 + (len(text.encode()) + 3) // 4
    assert memory.peak < 2 * len(body)


def turns(api: str, text: str) -> dict[str, Any]:
    return {"input" if api == "input_tokens" else "messages": [{"role": "user", "content": text}]}


def test_thousands_of_wide_strings_are_refused_before_all_are_set_aside() -> None:
    message = {"role": "user", "content": "\U0001f600" + "y" * 199}
    body = body_of("gemini", *[message] * 12_500)
    with traced() as memory, pytest.raises(InvalidRequest, match="long strings"):
        load("chat").read(body)
    assert memory.peak < 2.2 * len(body)


@pytest.mark.parametrize("name", PROVIDERS)
def test_long_texts_are_restored_without_a_copy_between(name: str) -> None:
    """Half of the text is in long strings, and half in short ones."""
    messages = [{"role": "user", "content": "é" + "x" * size} for size in (LONG, *[900] * 145)]
    body = body_of(name, *messages * 8)
    provider = adapter(name)
    request = provider.restored(load("chat").read(body))
    with traced() as memory:
        sent = provider.encode(request).pieces
    whole = b"".join(sent)
    assert whole.count("é".encode()) == 8 * 146
    assert memory.peak < 1.6 * len(whole)


@pytest.mark.parametrize("name", PROVIDERS)
def test_large_body_is_sent_in_pieces(name: str) -> None:
    """One block of twice the request's size would be in memory beside what it is made of."""
    called = {"type": "custom_tool_call", "name": "f", "input": '"' * 2_000}
    items = [
        one
        for at in range(100)
        for one in (
            {**called, "call_id": f"{at}"},
            {"type": "custom_tool_call_output", "call_id": f"{at}", "output": "ok"},
        )
    ]
    body = json.dumps({"model": MODELS[name], "input": [USER, *items]}).encode()
    provider = adapter(name)
    pieces = provider.encode(provider.restored(load("responses").read(body))).pieces
    assert max(map(len, pieces)) <= 6 * WINDOW
    assert b"".join(pieces).count(b'\\"' * 2_000) == 100
    small = provider.encode(load("chat").read(body_of(name)))
    assert [small.body] == small.pieces


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("count", [1, 100])
def test_long_strings_are_sent_from_the_body(name: str, count: int) -> None:
    body = body_of(name, *[{"role": "user", "content": "é" * (400_000 // count)}] * count)
    provider = adapter(name)
    provider.encode(provider.restored(load("chat").read(body)))  # imports modules
    request = provider.restored(load("chat").read(body))
    with traced() as memory:
        pieces = provider.encode(request).pieces
    assert b"".join(pieces).count("é".encode()) == 400_000 + WIDE.count("é")
    assert memory.peak < len(body) / 4


def test_tools_that_a_translated_response_repeats_are_limited() -> None:
    """A provider that has the API itself gets them, as the events that repeat them are its own."""
    body: dict[str, Any]
    for size, many, refused in (
        (1_000, 950, False),
        (1_000, 1_050, True),
        (4_000, 255, False),
        (4_000, 265, True),  # long strings are repeated too
    ):
        tool = {"type": "function", "name": "f", "description": "y" * size}
        body = {"model": "m", "input": "hi", "tools": [tool] * many}
        request = load("responses").read(json.dumps(body).encode())
        assert bool(request.native_only) is refused
        assert request.whole().original == body
        found = {"type": "tool_search_output", "call_id": "1", "tools": body.pop("tools")}
        request = load("responses").read(json.dumps({**body, "input": [found]}).encode())
        assert bool(request.native_only) is refused
    assert request.native_only is not None
    assert "may have 1 MiB" in request.native_only.message


def test_choice_of_tools_that_a_translated_response_repeats_is_limited() -> None:
    allowed = [{"type": "function", "name": "f", "x": "y" * 1_000}] * 1_050
    choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    tools = [{"type": "function", "name": "f"}]
    body = {"model": "m", "input": "hi", "tools": tools, "tool_choice": choice}
    request = load("responses").read(json.dumps(body).encode())
    assert request.native_only is not None
    assert "may have 1 MiB" in request.native_only.message


def test_short_generated_images_are_limited_for_translations() -> None:
    """Each is copied; a provider that has the API gets any number, however the type is written."""
    short = {"type": "image_generation_call", "result": "QUJD" * 100}
    long = {**short, "result": "QUJD" * 1_000}
    for images, refused in (([short] * 500 + [long] * 100, False), ([short] * 501, True)):
        body = json.dumps({"model": "m", "input": [*images, {"role": "user", "content": "hi"}]})
        body = body.replace("image_generation_call", "im\\u0061ge_generation_call")
        request = load("responses").read(body.encode())
        assert bool(request.native_only) is refused
        assert len((request.original or {})["input"]) == len(images) + 1
    assert request.native_only is not None
    assert "more than 500 generated images of less than 2 KiB" in request.native_only.message


@pytest.mark.parametrize("name", ["anthropic", "gemini", "ollama", "bedrock"])
def test_number_of_translated_tools_is_limited(name: str) -> None:
    tools = [{"type": "function", "function": {"name": f"f{at}"}} for at in range(2_049)]
    for many, refused in ((tools[:-1], False), (tools, True)):
        body = {"model": MODELS[name], "messages": [USER], "tools": many}
        request = load("chat").read(json.dumps(body).encode())
        provider = provider_class(name)(name, {"api_key": "k"}, Settings())
        assert isinstance(provider, HTTPProvider)
        if refused:
            with pytest.raises(InvalidRequest, match="at most 2,048 tools"):
                provider.encode(request)
        else:
            assert b"".join(provider.encode(request).pieces).count(b'"f2047"') == 1
        provider.close()


def test_images_of_earlier_answers_are_not_copied() -> None:
    data = b64encode(b"\x89PNG" + bytes(99_000)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    message = {"role": "assistant", "content": "a", "images": [image]}
    body = body_of("gemini", message, USER)
    request = adapter("gemini").restored(load("chat").read(body))
    assert len(request.messages[1]["images"][0]["image_url"]["url"]) < 1000
    sent = sent_by("gemini", body)
    assert sent["contents"][1]["parts"][-1]["inlineData"]["data"] == data
