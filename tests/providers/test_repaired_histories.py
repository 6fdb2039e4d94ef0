"""Valid histories that a provider would reject are repaired."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_requests import MODELS, sent
from corpus_cases import Message, Playback

from choreo_wsgi.apis import load
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.support import PROVIDERS
from choreo_wsgi.settings import Settings

USER = {"role": "user", "content": "hi"}


def call(id: str = "c1", arguments: str = "{}", name: str = "f") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(content: Any = "ok", id: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def members(value: Any, name: str) -> Iterator[Any]:
    """Yield every member called *name* in the JSON *value*, in order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name:
                yield inner
            yield from members(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner, name)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "{": {"_raw": "{"},
    "[]": {"_raw": "[]"},
    "1": {"_raw": "1"},
    "[" * 5000: {"_raw": "[" * 5000},
    '{"a":' * 500 + "1" + "}" * 500: {"_raw": '{"a":' * 500 + "1" + "}" * 500},
    '{"a": NaN}': {"_raw": '{"a": NaN}'},
    "null": {},
    "": {},
    " ": {},
    '"{\\"a\\": 1}"': {"a": 1},
    '{"a": 1}': {"a": 1},
}


@pytest.mark.parametrize(
    ("type", "given"),
    [
        *(("anthropic", given) for given in ARGUMENTS),
        *((type, "{") for type in PROVIDERS if type != "anthropic"),
    ],
    ids=lambda text: text[:12],
)
def test_wraps_arguments_that_are_no_object(type: str, given: str) -> None:
    body = sent(type, messages=[USER, calling(call(arguments=given)), result()])
    name = {"anthropic": "input", "bedrock": "input", "gemini": "args"}.get(type, "arguments")
    assert list(members(body["messages" if type != "gemini" else "contents"], name)) == [
        ARGUMENTS[given]
    ]


#: Blanks that code shared by all providers drops.
BLANK_ALIKE = {
    "user part": [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    "user blanks": [{"role": "user", "content": " \n"}],
    "result parts": [USER, calling(call()), result([{"type": "text", "text": ""}])],
    "ends with blanks": [USER, {"role": "assistant", "content": "so: "}],
}
BLANK = {
    "user": [{"role": "user", "content": ""}],
    "assistant": [USER, {"role": "assistant", "content": "\n\n"}, USER],
    "beside a call": [USER, calling(call(), content="\n"), result()],
    "system": [{"role": "system", "content": " "}, USER],
    "system alone": [{"role": "system", "content": "be brief"}],
    "result": [USER, calling(call()), result("")],
    "begins with the assistant": [{"role": "assistant", "content": "hello"}, USER],
}


@pytest.mark.parametrize(
    ("type", "messages"),
    [
        *(pytest.param("bedrock", messages, id=name) for name, messages in BLANK_ALIKE.items()),
        *(
            pytest.param(type, messages, id=f"{name}-{type}")
            for name, messages in BLANK.items()
            for type in ("anthropic", "bedrock", "gemini")
        ),
    ],
)
def test_sends_no_blank_text(type: str, messages: list[dict[str, Any]]) -> None:
    body = sent(type, messages=messages)
    turns = body["contents" if type == "gemini" else "messages"]
    texts = [text for text in members(body, "text") if isinstance(text, str)]
    texts += [text for text in members(turns, "content") if isinstance(text, str)]
    assert all(text.strip() for text in texts)
    assert all(turn["parts" if type == "gemini" else "content"] for turn in turns)
    assert turns[0]["role"] == "user"
    assert not texts or not texts[-1].endswith(" ")


IDS = [
    "call_0fyp",
    "toolu_01A",
    "functions.now/0",
    "functions.now:0",
    "é" * 80,
    "a" * 200,
    "",
    "a b",
]


@pytest.mark.parametrize(
    ("type", "pattern", "named"),
    [
        ("anthropic", r"[a-zA-Z0-9_-]{1,64}", ("id", "tool_use_id")),
        ("bedrock", r"[a-zA-Z0-9_.:-]{1,64}", ("toolUseId", "toolUseId")),
    ],
)
def test_changes_ids_that_the_provider_would_reject(
    type: str, pattern: str, named: tuple[str, str]
) -> None:
    messages = [USER, calling(*map(call, IDS)), *(result(id, id) for id in reversed(IDS)), USER]
    body = sent(type, messages=messages)
    calls = list(members(body["messages"][1], named[0]))
    results = list(members(body["messages"][2], named[1]))
    assert calls == results and len(set(calls)) == len(IDS)
    assert all(re.fullmatch(pattern, id, re.ASCII) for id in calls)
    assert calls[:2] == IDS[:2]  # valid ids are kept
    again = sent(type, messages=[*messages, calling(call("new")), result("x", "new")])
    assert again["messages"][:3] == body["messages"][:3]  # so that the prompt cache still matches


def test_makes_repeated_ids_unique() -> None:
    """Some servers number the calls of each turn from zero."""
    round_ = [calling(call("call_0")), result("one", "call_0")]
    body = sent("anthropic", messages=[USER, *round_, *round_, USER])
    ids = list(members(body["messages"], "id"))
    assert len(set(ids)) == 2 and ids == list(members(body["messages"], "tool_use_id"))


def test_a_result_belongs_to_the_latest_call_of_its_id() -> None:
    turn = calling(call("call_0"))
    body = sent("anthropic", messages=[USER, turn, USER, turn, result("one", "call_0")])
    ids = list(members(body["messages"], "id"))
    assert [list(members(body["messages"][at], "tool_use_id")) for at in (2, 4)] == [
        [id] for id in ids
    ]


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_sends_only_signed_thinking(type: str) -> None:
    blocks = [
        {"type": "thinking", "thinking": "signed", "signature": "s"},
        {"type": "thinking", "thinking": "foreign"},
    ]
    turn = {"role": "assistant", "content": "", "thinking_blocks": blocks}
    body = json.dumps(sent(type, messages=[USER, turn, USER]))
    assert "signed" in body and "foreign" not in body


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_makes_ids_of_parallel_calls_unique(type: str) -> None:
    """Some servers send the same id for all calls, or none."""
    for results in (["first", "second"], ["first"], []):
        messages = [
            USER,
            calling(call(""), call("")),
            *(result(text, "") for text in results),
            USER,
        ]
        body = sent(type, messages=messages)
        name = "tool_use_id" if type == "anthropic" else "toolUseId"
        ids = list(members(body["messages"][2], name))
        assert len(set(ids)) == 2
        assert [text for text in ("first", "second") if text in json.dumps(body)] == results
        assert json.dumps(body).count("(empty)") == 2 - len(results)  # each call has one


@pytest.mark.parametrize("type", PROVIDERS)
def test_sends_results_in_the_order_of_the_calls(type: str) -> None:
    calls = calling(call("c1"), call("c2"), call("c3"))
    results = [result("three", "c3"), result("one", "c1"), USER, result("two", "c2")]
    body = json.dumps(sent(type, messages=[USER, calls, *results]))
    assert body.index("one") < body.index("two") < body.index("three")


@pytest.mark.parametrize("type", ["anthropic", "bedrock", "gemini"])
def test_a_result_stays_behind_what_the_assistant_says_after_its_call(type: str) -> None:
    """A model would continue a text at the end."""
    hm = {"role": "assistant", "content": "hm"}
    body = sent(type, messages=[USER, calling(call()), hm, result("so it was")])
    turns = body["contents" if type == "gemini" else "messages"]
    assert len(turns) == 3
    assert ['"hm"' in json.dumps(turn) for turn in turns] == [False, True, False]
    assert ["so it was" in json.dumps(turn) for turn in turns] == [False, False, True]


def test_merges_two_results_of_one_call() -> None:
    body = sent("anthropic", messages=[USER, calling(call()), result("a"), result("b")])
    assert list(members(body["messages"][2], "content"))[1] == "ab"


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_declares_the_tools_that_were_called(type: str) -> None:
    calls = calling(call("c1"), call("c2", name="g"), call("c3"))
    body = sent(type, messages=[USER, calls, *(result("x", f"c{n}") for n in (1, 2, 3))])
    tools = body["tools"] if type == "anthropic" else body["toolConfig"]["tools"]
    assert list(members(tools, "name")) == ["f", "g"]
    if type == "anthropic":
        assert body["tool_choice"] == {"type": "none"}


def test_gives_documents_distinct_valid_names() -> None:
    data = "data:application/pdf;base64,JVBERi0="
    names = ["a.pdf", "a.pdf", "a?.pdf", "", "é.pdf", "x" * 300 + ".pdf", "a  b.c.pdf", "b"]
    parts = [{"type": "file", "file": {"filename": name, "file_data": data}} for name in names]
    turns = [{"role": "user", "content": some} for some in (parts[:4], parts[4:])]
    body = sent("bedrock", messages=[turns[0], {"role": "assistant", "content": "ok"}, turns[1]])
    found = list(members(body, "name"))
    assert found[:5] == ["a", "a 2", "a 3", "document", "document 2"]
    assert len(set(found)) == len(names) and found[-1] == "b"
    assert all(re.fullmatch(r"(?!.*  )[A-Za-z0-9 ()\[\]-]{1,200}", name) for name in found)


SYSTEM = [
    {"role": "system", "content": "one"},
    USER,
    {"role": "assistant", "content": "yo"},
    {"role": "system", "content": "two"},
    {"role": "developer", "content": "three"},
    {"role": "user", "content": "go"},
]


def test_system_messages_stay_in_place_where_supported() -> None:
    body = sent("ollama", messages=SYSTEM)
    seen = [(message["role"], message["content"]) for message in body["messages"]]
    expected = [(m["role"].replace("developer", "system"), m["content"]) for m in SYSTEM]
    assert seen == expected
    newer = sent("anthropic", model="claude-opus-4-8", messages=SYSTEM)
    assert newer["system"] == "one"
    assert [message["role"] for message in newer["messages"]] == [
        *("user", "assistant", "user", "system")
    ]
    assert list(members(newer["messages"][3], "text")) == ["two", "three"]
    older = sent("anthropic", model="claude-opus-4-5", messages=SYSTEM)
    assert older["system"] == "one\n\ntwo\n\nthree"


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_drops_blank_stop_strings(type: str) -> None:
    body = sent(type, stop=["\n", " ", "###"])
    names = ("stop_sequences", "stopSequences")
    assert [value for name in names for value in members(body, name)] == [["###"]]
    assert not [value for name in names for value in members(sent(type, stop="\n"), name)]


def test_adds_type_object_to_schemas() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}
    for type in PROVIDERS:
        assert '"type": "object"' in json.dumps(sent(type, tools=[tool]))


INTERRUPTED = {
    "by the user": [USER, calling(call("c1"), call("c2")), result("one", "c1"), USER],
    "at the end": [USER, calling(call("c1"), call("c2")), result("one", "c1")],
    "by the assistant": [
        *(USER, calling(call("c1"), call("c2")), result("one", "c1")),
        {"role": "assistant", "content": "hm"},
        USER,
    ],
}


@pytest.mark.parametrize(
    ("type", "messages"),
    [
        ("anthropic", INTERRUPTED["by the user"]),
        ("bedrock", INTERRUPTED["by the user"]),
        ("gemini", INTERRUPTED["by the user"]),
        ("anthropic", INTERRUPTED["at the end"]),
        ("anthropic", INTERRUPTED["by the assistant"]),
    ],
)
def test_gives_every_call_a_result(type: str, messages: list[dict[str, Any]]) -> None:
    body = sent(type, messages=messages)
    following = body["contents" if type == "gemini" else "messages"][2]
    name = {"anthropic": "tool_use_id", "bedrock": "toolUseId", "gemini": "id"}[type]
    assert list(members(following, name)) == ["c1", "c2"]


def test_only_gemini_3_needs_a_signature_of_calls() -> None:
    foreign = "skip_thought_signature_validator"
    signed = {**call("c2"), "extra_content": {"google": {"thought_signature": "s"}}}
    for model, second, signatures in (
        ("gemini-3-pro", call("c2"), [foreign]),
        ("gemini-3-pro", signed, ["s"]),
        ("gemini-2.5-pro", call("c2"), []),
    ):
        body = sent("gemini", model=model, messages=[USER, calling(call(), second), result()])
        assert list(members(body, "thoughtSignature")) == signatures


def test_the_signature_of_a_message_is_that_of_its_last_text() -> None:
    parts = [{"type": "text", "text": text} for text in "ab"]
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    body = sent("gemini", messages=[USER, {"role": "assistant", "content": parts, **signed}, USER])
    assert body["contents"][1]["parts"] == [{"text": "a"}, {"text": "b", "thoughtSignature": "s"}]


def test_a_trimmed_prefill_keeps_its_cache_control() -> None:
    prefill = {"role": "assistant", "content": "so: ", "cache_control": {"type": "ephemeral"}}
    (block,) = sent("anthropic", messages=[USER, prefill])["messages"][1]["content"]
    assert block == {"type": "text", "text": "so:", "cache_control": {"type": "ephemeral"}}


def test_only_an_assistants_reasoning_is_sent() -> None:
    assert "hm" not in json.dumps(sent("ollama", messages=[{**USER, "reasoning_content": "hm"}]))


@pytest.mark.parametrize(
    ("type", "betas", "stream", "accept"),
    [
        ("anthropic", "a, b", True, "text/event-stream"),
        ("bedrock", ["a", "b"], True, "application/vnd.amazon.eventstream"),
        ("bedrock", ["a", "b"], False, "application/json"),
    ],
)
def test_forwards_empty_messages_and_betas_of_the_messages_api(
    type: str, betas: Any, stream: bool, accept: str
) -> None:
    messages = [USER, {"role": "assistant", "content": []}, USER]
    fields = {"model": MODELS[type], "max_tokens": 9, "stream": stream, "messages": messages}
    parsed = load("messages").read(json.dumps(fields).encode())
    parsed.betas = "a, b"
    provider: Any = provider_class(type)(type, {"api_key": "k"}, Settings())
    provider.close()
    provider.client = Playback(200, Message(), [])
    provider.answer(parsed, load("messages").writer(parsed)).close()
    (forwarded,) = provider.client.sent
    body = json.loads(forwarded.body)
    assert body["messages"] == messages and forwarded.headers["accept"] == accept
    assert (body.get("anthropic_beta") or forwarded.headers["anthropic-beta"]) == betas


def test_adds_a_text_to_a_lone_document() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}
    body = sent("bedrock", messages=[{"role": "user", "content": [part]}])
    assert list(members(body["messages"], "text")) == ["(empty)"]


@pytest.mark.parametrize("type", PROVIDERS)
def test_sends_a_repeated_tool_once(type: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = sent(type, tools=[tool, tool])
    assert list(members(body, "name")) == ["f"]


@pytest.mark.parametrize("type", PROVIDERS)
def test_a_result_without_its_call_becomes_user_text(type: str) -> None:
    body = sent(type, messages=[USER, result("so it was", "gone"), calling(call()), result()])
    text = json.dumps(body)
    assert text.count("so it was") == 1 and text.index("so it was") < text.index('"ok"')
    assert list(members(body, "tool_use_id")) in ([], ["c1"])


@pytest.mark.parametrize("type", PROVIDERS)
def test_images_get_the_media_type_of_their_bytes(type: str) -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(240, 256))).decode()
    odd = data.replace("+", "-").replace("/", "_").rstrip("=")  # base64 for URLs
    for label in ("image/png", "application/octet-stream"):
        url = {"url": f"data:{label};base64,{odd}"}
        parts = [{"type": "image_url", "image_url": url}]
        body = json.dumps(sent(type, messages=[{"role": "user", "content": parts}]))
        assert data in body and ("png" in body or type == "ollama")
