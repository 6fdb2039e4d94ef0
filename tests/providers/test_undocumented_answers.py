"""Answers that the providers' pages do not describe, from proxies and other servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from adapter_requests import MODELS, request
from corpus_cases import Message, Playback
from test_bedrock_wire import event
from test_documents_unfolded import answer
from work import traced

from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid, UpstreamTruncated
from choreo_wsgi.providers.anthropic.answer import AnthropicTranslator
from choreo_wsgi.providers.gemini.answer import GeminiTranslator
from choreo_wsgi.providers.ollama import OllamaTranslator
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

START = {"type": "message_start", "message": {"usage": {"input_tokens": "3"}}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
END = {"type": "message_stop"}


def events(*values: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values)


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def response(*parts: Any, reason: str = "STOP", **more: Any) -> Any:
    content = {"content": {"parts": list(parts)}} if parts else {}
    return {"candidates": [{**content, "finishReason": reason}], **more}


def line(content: str, done: bool = False) -> Any:
    return {"message": {"role": "assistant", "content": content}, "done": done}


GOOD = [
    ("anthropic", b"data: \n\n" + events(START, TEXT, STOP) + b"data: [DONE]\n\n"),
    ("anthropic", json.dumps([START, TEXT, STOP, END]).encode()),
    ("anthropic", lines(START, TEXT, STOP, END)),
    ("anthropic", b'{"type":"message","content":"a","stop_reason":"end_turn"}'),
    ("anthropic", events(START, TEXT, STOP, END, TEXT)),
    ("gemini", events(response({"text": "a"}, reason="stop")) + b"data: [DONE]\n\n"),
    ("gemini", lines(response({"text": "a"}))),
    ("gemini", b"id: 1\n" + events(response({"text": "a"}))),
    ("anthropic", b"retry: 5\n\n" + events(START, TEXT, STOP)),
    ("gemini", events(response({"text": "a"}, error=None, promptFeedback=None))),
    ("ollama", lines({"response": "a", "done": False}, {"response": "", "done": True})),
    ("ollama", lines({"message": {"content": [{"type": "text", "text": "a"}]}, "done": True})),
    ("ollama", events(line("a"), line("", True)) + b"data: [DONE]\n\n"),
    ("ollama", b"\xef\xbb\xbf" + lines(line("a"), line("", True))),
    ("ollama", lines(line("a"), line("", True), line("b"))),
]


@pytest.mark.parametrize(("type", "body"), GOOD)
def test_reads_text_in_undocumented_forms(type: str, body: bytes) -> None:
    for size in (1, len(body)):
        choices = [one for chunk in answer(type, body, size) for one in chunk["choices"]]
        assert "".join(one["delta"].get("content") or "" for one in choices) == "a"
        assert choices[-1]["finish_reason"] == "stop"
        assert choices[-1].get("native_finish_reason") != ""


PIECES = {
    "anthropic": events(START, TEXT, TEXT, STOP, END),
    "gemini": events(response({"text": "a"}, reason=""), response({"text": "a"})),
    "ollama": lines(line("a"), line("a", True)),
}


@pytest.mark.parametrize("type", PIECES)
def test_limits_of_the_provider_are_not_applied_again(type: str) -> None:
    choices = [
        one
        for chunk in answer(type, PIECES[type], 1000, max_tokens=1, stop=["a"])
        for one in chunk["choices"]
    ]
    assert "".join(one["delta"].get("content") or "" for one in choices) == "aa"


LONG = {**TEXT, "delta": {"type": "text_delta", "text": "a" * 300}}
PLAIN = json.dumps(LONG, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("make", "data", "limit"),
    [
        (AnthropicTranslator, b"event: content_block_delta\ndata: %b\n\n" % PLAIN, 300),
        (OllamaTranslator, b"x" * 301, 300),
    ],
)
def test_rejects_an_event_over_the_limit(
    make: Callable[[int], Any], data: bytes, limit: int
) -> None:
    make(len(data)).receive_data(data)
    translator = make(limit)
    translator.receive_data(b"\n")  # so that the next byte begins an event
    with pytest.raises(UpstreamInvalid, match="longer than"):
        translator.receive_data(data)


BAD = [
    ("anthropic", events({"error": {"message": "busy", "code": 429}})),
    ("anthropic", b'event: error\ndata: {"detail":"busy"}\n\n'),
    ("anthropic", b"busy"),
    ("anthropic", events({"type": "error", "message": "busy"})),
    ("gemini", events({"detail": "busy"})),
    ("gemini", events(response({"text": "a"})) + b'data: {"error":"busy"}\n\n'),
    ("ollama", lines({"detail": "busy"})),
    ("ollama", lines(line("a"), {"StatusCode": 401, "error": "busy"})),
]


@pytest.mark.parametrize(("type", "body"), BAD)
def test_reports_errors_in_other_shapes(type: str, body: bytes) -> None:
    with pytest.raises(ChoreoError, match="busy"):
        answer(type, body, 1, "text/event-stream")


def test_quotes_only_the_beginning_of_an_odd_value() -> None:
    odd = {**TEXT, "delta": {"type": "text_delta", "text": ["x" * 5000]}}
    with pytest.raises(ChoreoError, match="unknown shape") as caught:
        answer("anthropic", events(START, odd), 100_000)
    assert len(caught.value.message) == 500


def converse(*deltas: Any, **start: Any) -> bytes:
    made = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": start})
    for delta in deltas:
        made += event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": delta})
    return made + event("messageStop", stopReason="tool_use")


def message(*deltas: Any, **start: Any) -> bytes:
    block = {"type": "content_block_start", "index": 0}
    made: list[Any] = [START, {**block, "content_block": {"type": "tool_use", **start}}]
    for delta in deltas:
        inner = {"type": "input_json_delta", "partial_json": delta["input"]}
        made.append({"type": "content_block_delta", "index": 0, "delta": inner})
    stop = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    return events(*made, stop, END)


@pytest.mark.parametrize(("type", "make"), [("anthropic", message), ("bedrock", converse)])
@pytest.mark.parametrize(
    ("start", "deltas"),
    [
        ({"input": {"a": 1}}, []),
        ({"input": {"a": 1}}, [{"input": '{"a":'}, {"input": "1}"}]),
        ({"input": {}}, [{"input": {"a": 1}}]),
    ],
)
def test_reads_arguments_in_the_start_or_in_deltas(
    type: str, make: Any, start: Any, deltas: Any
) -> None:
    name = "toolUseId" if type == "bedrock" else "id"
    for id in ({name: "t"}, {}):
        body = make(*deltas, name="f", **id, **start)
        choices = [one for chunk in answer(type, body, 9, "x") for one in chunk["choices"]]
        pieces = [one for choice in choices for one in choice["delta"].get("tool_calls", ())]
        assert pieces[0]["id"] and pieces[0]["function"]["name"] == "f"
        assert "".join(one["function"].get("arguments", "") for one in pieces) == '{"a":1}'


def block(index: int, start: Any, *deltas: Any) -> list[Any]:
    """Return the events of the block *index* of a message."""
    place = {"index": index}
    return [
        {"type": "content_block_start", **place, "content_block": start},
        *({"type": "content_block_delta", **place, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", **place},
    ]


def test_each_thinking_block_has_its_own_text_and_signature() -> None:
    blocks = [
        *block(0, {"type": "thinking"}, {"type": "thinking_delta", "thinking": "unsigned"}),
        *block(1, {"type": "thinking", "thinking": "a", "signature": "s"}),
        *block(2, {"type": "thinking", "thinking": "b", "signature": "t"}),
    ]
    chunks = answer("anthropic", events(START, *blocks, STOP, END), 1000)
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    found = [one for delta in deltas for one in delta.get("thinking_blocks", ())]
    assert [(one["thinking"], one["signature"]) for one in found] == [("a", "s"), ("b", "t")]


def test_one_broken_call_of_several_is_an_error() -> None:
    piece = {"type": "input_json_delta", "partial_json": "{"}
    blocks = [
        *block(0, {"type": "tool_use", "id": "a", "name": "f"}, piece),
        *block(1, {"type": "tool_use", "id": "b", "name": "f"}, {**piece, "partial_json": "{}"}),
    ]
    stop = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    with pytest.raises(ChoreoError, match="arguments are not JSON"):
        answer("anthropic", events(START, *blocks, stop, END), 1000)


@pytest.mark.parametrize("indexes", [(0.0, 0, 1.0, "1"), (0, None, 1, None)])
def test_reads_blocks_with_odd_or_missing_indexes(indexes: Any) -> None:
    sent: list[Any] = [START]
    for at in (0, 2):
        tool = {"type": "tool_use", "id": f"t{at}", "name": "f", "input": {}}
        piece = {"type": "input_json_delta", "partial_json": f'{{"a":{at}}}'}
        start = {"type": "content_block_start", "content_block": tool, "index": indexes[at]}
        delta = {"type": "content_block_delta", "delta": piece, "index": indexes[at + 1]}
        stop = {"type": "content_block_stop", "index": indexes[at + 1]}
        sent += [
            {key: one for key, one in each.items() if one is not None}
            for each in (start, delta, stop)
        ]
    ending = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    choices = [
        c for chunk in answer("anthropic", events(*sent, ending, END), 9) for c in chunk["choices"]
    ]
    pieces = [one for choice in choices for one in choice["delta"].get("tool_calls", ())]
    found = ["", ""]
    for one in pieces:
        found[one["index"]] += one["function"].get("arguments", "")
    assert found == ['{"a":0}', '{"a":2}']


def test_reads_gemini_names_in_snake_case() -> None:
    given = {"my_key": {"other_key": 1}}
    parts = [
        {"text": "t", "thought": True},
        {"text": "a"},
        {"function_call": {"name": "f_g", "args": given}, "thought_signature": "s"},
        {"inline_data": {"mime_type": "image/png", "data": "aaaa"}},
    ]
    counts = {"prompt_token_count": 3, "candidates_token_count": 4, "total_token_count": 7}
    candidate = {"content": {"parts": parts}, "finish_reason": "STOP"}
    whole = {"candidates": [candidate], "usage_metadata": counts}
    for body in (events(whole), json.dumps([whole]).encode(), json.dumps(whole).encode()):
        chunks = answer("gemini", body, 9)
        choices = [one for chunk in chunks for one in chunk["choices"]]
        assert choices[-1]["finish_reason"] == "tool_calls"
        deltas = [one["delta"] for one in choices]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert calls[0]["extra_content"] == {"google": {"thought_signature": "s"}}
        arguments = "".join(call["function"].get("arguments", "") for call in calls)
        assert json.loads(arguments) == given and calls[0]["function"]["name"] == "f_g"
        assert [delta["images"] for delta in deltas if "images" in delta]
        assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")] == [7]
    blocked = {"prompt_feedback": {"block_reason": "SAFETY"}}
    assert (
        answer("gemini", events(blocked), 9)[-1]["choices"][0]["finish_reason"] == "content_filter"
    )


@pytest.mark.parametrize("reason", ["OTHER", "NO_IMAGE"])
def test_odd_gemini_reasons_fail_only_after_content(reason: str) -> None:
    body = events(response(reason=reason))
    choice = answer("gemini", body, 9)[-1]["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", reason)
    for part in ({"text": "a"}, {"text": "t", "thought": True}, {"functionCall": {"name": "f"}}):
        with pytest.raises(ChoreoError, match=reason):
            answer("gemini", events(response(part), response(reason=reason)), 1000)


def test_forwards_gemini_parts_of_unknown_kinds() -> None:
    parts = [{"fileData": {"fileUri": "https://x/y.png"}}, {"thought": True, "novelty": 1}]
    chunks = answer("gemini", events(response(*parts)), 9)
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    found = [one for delta in deltas for one in delta.get("content_parts", ())]
    assert found == [{"index": number, **part} for number, part in enumerate(parts)]


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "f", "parameters": {"a": 1}}},
        {"function": {"name": "f", "args": '{"a":1}'}},
        {"name": "f", "arguments": {"a": 1}},
        {"name": "f", "arguments": []},  # as PHP writes an empty object
    ],
)
def test_reads_ollama_arguments_under_other_names(call: Any) -> None:
    body = {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": True}
    calls = [
        one
        for chunk in answer("ollama", lines(body), 1000)
        for choice in chunk["choices"]
        for one in choice["delta"].get("tool_calls", ())
    ]
    expected = "{}" if call.get("arguments") == [] else '{"a":1}'
    assert "".join(one["function"].get("arguments", "") for one in calls) == expected


def test_ollama_images_have_numbers_and_media_types() -> None:
    body = {"message": {"content": "", "images": ["/9j/aaaa", "iVBORw"]}, "done": True}
    deltas = [
        one["delta"] for chunk in answer("ollama", lines(body), 1000) for one in chunk["choices"]
    ]
    images = [image for delta in deltas for image in delta.get("images", ())]
    assert [(one["index"], one["image_url"]["url"].partition(";")[0]) for one in images] == [
        (0, "data:image/jpeg"),
        (1, "data:image/png"),
    ]


def test_ollama_logprobs_need_neither_text_nor_bytes() -> None:
    body = {**line("", True), "logprobs": [{"token": "\u00e9", "logprob": -1.5}]}
    (found,) = [
        one["logprobs"]["content"]
        for chunk in answer("ollama", lines(body), 1000)
        for one in chunk["choices"]
        if one.get("logprobs")
    ]
    assert found == [{"token": "\u00e9", "logprob": -1.5, "bytes": [195, 169]}]


def test_every_provider_has_samples() -> None:
    assert {type for type, _ in GOOD} | {"bedrock"} == set(MODELS)


def test_sends_gemini_sources_with_the_finish_reason() -> None:
    sources = {"groundingMetadata": {"webSearchQueries": ["q"]}}
    body = response({"text": "a"})
    body["candidates"][0] |= sources
    finish = answer("gemini", events(body), 1000)[-1]["choices"][0]
    assert finish["finish_reason"] == "stop" and sources.items() <= finish.items()


PAGE = {"type": "web_search_result_location", "url": "https://x", "title": "X", "cited_text": "q"}
PLACE = {"type": "char_location", "document_title": "D", "start_char_index": 0, "cited_text": "q"}
QUOTED = {"title": "X", "sourceContent": [{"text": "q"}]}
PAGE_THERE = {**QUOTED, "location": {"web": {"url": "https://x"}}}
PLACE_THERE = {**QUOTED, "location": {"documentPage": {"documentIndex": 0}}}


def cited(type: str, citation: Any) -> bytes:
    if type == "bedrock":
        data = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "a"})
        data += event("contentBlockDelta", contentBlockIndex=0, delta={"citation": citation})
        return data + event("messageStop", stopReason="end_turn")
    delta = {"type": "citations_delta", "citation": citation}
    block = {"type": "content_block_delta", "index": 0, "delta": delta}
    return events(START, TEXT, block, block, STOP, END)


def extras(type: str, body: bytes) -> dict[str, list[Any]]:
    """Return the lists that the deltas of a stream have beside its text."""
    found: dict[str, list[Any]] = {}
    for one in (one for chunk in answer(type, body, 9, "x") for one in chunk["choices"]):
        for name in one["delta"].keys() & {"annotations", "citations"}:
            found.setdefault(name, []).extend(one["delta"][name])
    return found


def test_cited_pages_become_annotations_others_citations() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "X"}}
    noted = {**note, "url_citation": {**note["url_citation"], "content": "q"}}  # type: ignore[dict-item]
    assert extras("anthropic", cited("anthropic", PAGE)) == {
        "annotations": [{"index": 0, **noted}, {"index": 1, **noted}]
    }
    assert extras("anthropic", cited("anthropic", PLACE)) == {
        "citations": [{"index": 0, **PLACE}, {"index": 1, **PLACE}]
    }
    assert extras("bedrock", cited("bedrock", PAGE_THERE)) == {
        "annotations": [{"index": 0, **noted}]
    }
    place = {"title": "X", "location": PLACE_THERE["location"], "cited_text": "q"}
    assert extras("bedrock", cited("bedrock", PLACE_THERE)) == {
        "citations": [{"index": 0, **place}]
    }


def test_reads_the_text_of_a_document_with_citations() -> None:
    content = {"content": [{"text": "a"}, {"text": "b"}], "citations": [PAGE_THERE]}
    message = {"role": "assistant", "content": [{"citationsContent": content}]}
    body = json.dumps({"output": {"message": message}, "stopReason": "end_turn"}).encode()
    choices = [one for chunk in answer("bedrock", body, 10**6, "x") for one in chunk["choices"]]
    assert "".join(one["delta"].get("content") or "" for one in choices) == "ab"
    assert extras("bedrock", body)["annotations"]


def test_reads_all_token_counts_of_gemini() -> None:
    counts = {
        "promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 20,
        "thoughtsTokenCount": 3, "cachedContentTokenCount": 4, "totalTokenCount": 38,
    }  # fmt: skip
    *_, last = answer("gemini", events(response({"text": "a"}, usageMetadata=counts)), 1000)
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (15, 23)
    assert usage["total_tokens"] == 38
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize("member", ["citationMetadata", "groundingMetadata", "urlContextMetadata"])
def test_forwards_each_kind_of_gemini_sources(member: str) -> None:
    body = response({"text": "a"})
    body["candidates"][0][member] = {"found": ["x"]}
    chunks = answer("gemini", events(body), 1000)
    assert any(one.get(member) == {"found": ["x"]} for chunk in chunks for one in chunk["choices"])


def test_merges_the_sources_of_all_chunks_of_a_candidate() -> None:
    first, last = response({"text": "a"}, reason=""), response({"text": "b"})
    first["candidates"][0]["citationMetadata"] = {"found": ["x"]}
    last["candidates"][0]["groundingMetadata"] = {"found": ["y"]}
    finish = answer("gemini", events(first, last), 1000)[-1]["choices"][0]
    assert finish["citationMetadata"] == {"found": ["x"]}
    assert finish["groundingMetadata"] == {"found": ["y"]}


def test_counts_stay_when_later_metadata_has_none() -> None:
    counts = {"promptTokenCount": 3, "candidatesTokenCount": 4}
    first = response({"text": "a"}, reason="", usageMetadata=counts)
    last = response({"text": "b"}, usageMetadata={"trafficType": "ON_DEMAND"})
    assert answer("gemini", events(first, last), 1000)[-1]["usage"]["total_tokens"] == 7


def test_images_of_thoughts_are_dropped() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aaaa"}}
    parts = [{"thought": True, **image}, {"text": "a", "functionCall": {"name": "f"}}]
    deltas = [
        choice["delta"]
        for chunk in answer("gemini", events(response(*parts)), 1000)
        for choice in chunk["choices"]
    ]
    assert not any("images" in delta for delta in deltas)
    assert any(delta.get("content") == "a" for delta in deltas)
    assert any("tool_calls" in delta for delta in deltas)


def test_items_belong_to_their_candidate() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aaaa"}}
    sent = {"candidates": [{"index": 1, "content": {"parts": [image, {"text": "a"}]}}]}
    items: list[Any] = GeminiTranslator(2).receive_data(events(sent))
    assert [item.index for item in items] == [1, 1]


@pytest.mark.parametrize("index", [-1, 1, 0.5])
def test_rejects_candidates_that_were_not_requested(index: Any) -> None:
    sent = response({"text": "a"})
    sent["candidates"][0]["index"] = index
    with pytest.raises(ChoreoError, match="not requested"):
        answer("gemini", events(sent), 1000)


def test_a_stream_cut_in_its_first_field_is_truncated() -> None:
    with pytest.raises(UpstreamTruncated):
        answer("anthropic", b"dat", 9)


def test_blanks_before_an_answer_take_little_memory() -> None:
    blanks = [b" " * 2**16] * 64
    provider: Any = provider_class("ollama")("ollama", {}, Settings())
    provider.close()
    provider.client = Playback(200, Message(), [*blanks, lines(line("a", True))])
    reply = provider.answer(request("m", stream=True), ChunkWriter(Identity("m"), False))
    with traced() as memory:
        while not reply.ended:
            reply.receive(0)
    assert memory.peak < 2**20


def test_lines_that_are_no_events_take_little_memory() -> None:
    """They are kept to find an error in them, which is short."""
    translator = GeminiTranslator()
    with traced() as memory:
        for _ in range(64):
            assert translator.receive_data(b"x" * 2**16 + b"\n") == []
        assert memory.now < 2**20


def test_an_unspecified_block_reason_does_not_block() -> None:
    feedback = {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}
    chunks = answer("gemini", events(response({"text": "a"}, promptFeedback=feedback)), 1000)
    reasons = [one["finish_reason"] for chunk in chunks for one in chunk["choices"]]
    assert reasons[-1] == "stop"
    feedback = {"promptFeedback": {"blockReason": "SAFETY"}}
    chunks = answer("gemini", events(feedback), 1000)
    reasons = [one["finish_reason"] for chunk in chunks for one in chunk["choices"]]
    assert reasons[-1] == "content_filter"


def test_a_repeated_stop_sends_its_refusal_once() -> None:
    delta = {"stop_reason": "refusal", "stop_details": {"explanation": "no"}}
    stop = {"type": "message_delta", "delta": delta}
    chunks = answer("anthropic", events(START, stop, stop, END), 1000)
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    assert [delta["refusal"] for delta in deltas if delta.get("refusal")] == ["no"]


def test_a_whole_message_keeps_its_stop_sequence_and_details() -> None:
    message = {"type": "message", "content": [], "stop_reason": "refusal", "stop_sequence": "X"}
    body = json.dumps({**message, "stop_details": {"explanation": "no"}}).encode()
    choices = [one for chunk in answer("anthropic", body, 1000) for one in chunk["choices"]]
    assert [one["delta"]["refusal"] for one in choices if "refusal" in one["delta"]] == ["no"]
    assert choices[-1]["stop_sequence"] == "X"


def test_a_null_count_keeps_the_earlier_one() -> None:
    start = {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 1}
    end = {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 5}
    begin = {"type": "message_start", "message": {"usage": start}}
    *_, last = answer("anthropic", events(begin, TEXT, {**STOP, "usage": end}, END), 1000)
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 5)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


def test_reads_anthropics_thinking_and_cache_counts() -> None:
    last_usage = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 7}}
    first_usage = {
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 4,
        "input_tokens": 3,
    }
    start = {"type": "message_start", "message": {"usage": first_usage}}
    *_, last = answer("anthropic", events(start, TEXT, {**STOP, "usage": last_usage}, END), 1000)
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 9)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 2}
