"""An answer read as frames and as one document has the same content."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, CompletionWriter, Identity
from choreo_wsgi.chat.answer import Answer, AnswerWriter
from choreo_wsgi.chat.collected import merge
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.source import Source
from choreo_wsgi.errors import ProviderError, UpstreamTruncated


class Batches(Source):
    """Returns one list of items per call; raises a batch that is an exception."""

    def __init__(self, *batches: list[Item] | Exception, usage: Usage | None = None) -> None:
        self._batches = list(batches)
        self.ended = not batches
        self.usage = usage
        self.closed = False

    def receive(self, timeout: float) -> list[Item]:
        batch = self._batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        self.ended = not self._batches
        return batch

    def close(self) -> None:
        self.closed = True


def chunks(include_usage: bool = False) -> ChunkWriter:
    return ChunkWriter(Identity("m", id="chatcmpl-1", created=1700000000), include_usage)


def document(n: int = 1) -> CompletionWriter:
    return CompletionWriter(Identity("m", id="chatcmpl-1", created=1700000000), n)


def frames_of(source: Source, n: int = 1, include_usage: bool = False) -> bytes:
    frames = Answer(source, chunks(include_usage), n, "label")
    blocks = []
    for _ in range(1000):
        blocks.append(frames.receive(0))
        if frames.ended:
            return b"".join(blocks)
    pytest.fail("the frames do not end")


def chunks_of(source: Source, n: int = 1, include_usage: bool = False) -> list[Any]:
    events = sse.Decoder().receive_data(frames_of(source, n, include_usage))
    return [json.loads(event.data) for event in events]


def document_of(source: Source, n: int = 1) -> Any:
    reply = Answer(source, document(n), n, "label")
    while not (block := reply.receive(0)):
        assert not reply.ended
    assert reply.ended
    return json.loads(block)


# -- the same answer as chunks and as a document ----------------------------------------------


def fold_chunks(chunks: list[Any], n: int) -> dict[str, Any]:
    """Fold the chunks of a stream as clients do, without the server's code."""
    choices: list[dict[str, Any]] = [
        {"text": "", "reasoning": "", "refusal": "", "calls": {}, "reason": None} for _ in range(n)
    ]
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            kept, delta = choices[choice["index"]], choice["delta"]
            kept["text"] += delta.get("content", "")
            kept["reasoning"] += delta.get("reasoning_content", "")
            kept["refusal"] += delta.get("refusal", "")
            for call in delta.get("tool_calls", ()):
                entry = kept["calls"].setdefault(call["index"], ["", "", ""])
                entry[0] += call.get("id", "")
                entry[1] += call["function"].get("name", "")
                entry[2] += call["function"].get("arguments", "")
            kept["reason"] = choice["finish_reason"] or kept["reason"]
    return {"choices": choices, "usage": usage}


def read_document(document: Any) -> dict[str, Any]:
    choices = []
    for index, choice in enumerate(document["choices"]):
        assert choice["index"] == index
        message = choice["message"]
        assert message["role"] == "assistant"
        calls = {
            place: [call["id"], call["function"]["name"], call["function"]["arguments"]]
            for place, call in enumerate(message.get("tool_calls", ()))
        }
        choices.append(
            {
                "text": message["content"] or "",
                "reasoning": message.get("reasoning_content", ""),
                "refusal": (message.get("refusal") or ""),
                "calls": calls,
                "reason": choice["finish_reason"],
            }
        )
    return {"choices": choices, "usage": document.get("usage")}


TEXT = st.text('aé🌍\n"\\', max_size=4)


@st.composite
def choice_items(draw: st.DrawFn, index: int) -> list[Item]:
    items: list[Item] = [
        Delta(draw(TEXT), index, draw(TEXT), draw(TEXT)) for _ in range(draw(st.integers(0, 4)))
    ]
    for place in range(draw(st.integers(0, 2))):
        call = ToolCall(place, f"call_{place}", "look", draw(TEXT))
        items.append(Delta(index=index, tool_calls=[call]))
        items += [
            Delta(index=index, tool_calls=[ToolCall(place, arguments=piece)])
            for piece in draw(st.lists(TEXT, max_size=3))
        ]
    return [*items, Finish(draw(st.sampled_from(["stop", "length", "tool_calls"])), index)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[list[Item]]]:
    n = draw(st.integers(1, 3))
    waiting = [draw(choice_items(index)) for index in range(n)]
    items: list[Item] = []
    while any(waiting):  # interleaved, each choice in its own order
        nonempty = [choice for choice in waiting if choice]
        items.append(draw(st.sampled_from(nonempty)).pop(0))
    if draw(st.booleans()):
        items.append(Usage(3, 4, draw(st.sampled_from([None, 0, 2]))))
    batches: list[list[Item]] = [[]]
    for item in items:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(item)
    return n, batches


@given(answers())
def test_chunks_fold_into_the_document(answer: tuple[int, list[list[Item]]]) -> None:
    n, batches = answer
    document = document_of(Batches(*batches), n)
    chunks = chunks_of(Batches(*batches), n, include_usage=True)
    assert fold_chunks(chunks, n) == read_document(document)
    for chunk in chunks:
        same = ("id", "created", "model")
        assert [chunk[key] for key in same] == [document[key] for key in same]
    assert document["object"] == "chat.completion"


@given(answers())
def test_each_choice_starts_with_its_role_and_finishes_once(
    answer: tuple[int, list[list[Item]]],
) -> None:
    n, batches = answer
    chunks = chunks_of(Batches(*batches), n)
    assert all("usage" not in chunk for chunk in chunks)
    for index in range(n):
        seen = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert seen[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in choice["delta"] for choice in seen[1:])
        assert [choice["finish_reason"] is None for choice in seen] == [True] * (len(seen) - 1) + [
            False
        ]
        assert seen[-1]["delta"] == {}


# -- the document -----------------------------------------------------------------------------


def test_document_is_written_byte_for_byte() -> None:
    batches: list[list[Item]] = [[Delta("Hel"), Delta("lo")], [Finish("stop"), Usage(1, 2)]]
    reply = Answer(Batches(*batches), document(), 1, "label")
    assert reply.receive(0) == b""
    assert reply.receive(0) == (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hello",'
        b'"refusal":null},"finish_reason":"stop","logprobs":null}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    )
    assert reply.usage == Usage(1, 2)


def test_answers_without_an_id_get_different_ones() -> None:
    began = int(time.time())
    documents: list[Any] = []
    for _ in range(2):
        writer = CompletionWriter(Identity("m"))
        writer.write(Finish())
        documents.append(json.loads(writer.finish()))
    first, second = (one["id"] for one in documents)
    assert first != second and re.fullmatch(r"chatcmpl-[\w-]{24}", first)
    assert began <= documents[0]["created"] <= int(time.time())


def test_long_arguments_are_checked_only_by_a_blocking_receive() -> None:
    """The check of their JSON takes too long for a thread that serves other streams too."""
    text = json.dumps({"a": "b" * 300_000})
    batch: list[Item] = [Delta(tool_calls=(ToolCall(0, "c", "f", text),)), Finish("tool_calls")]
    reply = Answer(Batches(batch), document(), 1, "label")
    for _ in range(2):
        assert reply.receive(0) == b""
        assert not reply.ended and reply.due is None and reply.fileno() is None
    [choice] = json.loads(reply.receive(1))["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == text
    assert reply.receive(1) == b"" and reply.ended


def test_arguments_in_long_and_short_pieces_are_joined() -> None:
    text = json.dumps({"a": "b" * 600_000})
    pieces = [text[:300_000], *(text[at : at + 1_000] for at in range(300_000, len(text), 1_000))]
    items = [Delta(tool_calls=[ToolCall(0, "c", "f", piece)]) for piece in pieces]
    reply = Answer(Batches([*items, Finish("tool_calls")]), document(), 1, "label")
    block = b""
    while not reply.ended:
        block += reply.receive(1)
    [choice] = json.loads(block)["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == text


def message(*items: Item) -> Any:
    return document_of(Batches([*items, Finish()]))["choices"][0]["message"]


def test_content_is_null_only_with_tool_calls_or_a_refusal() -> None:
    call = Delta(tool_calls=[ToolCall(0, "c", "f", "{}")])
    assert message()["content"] == ""
    assert message(Delta(reasoning="r"))["content"] == ""
    assert message(call)["content"] is None
    assert message(Delta("t"), call)["content"] == "t"
    assert message(Delta(refusal="no")) == {"role": "assistant", "content": None, "refusal": "no"}


def test_tool_calls_are_sorted_by_index() -> None:
    calls = message(
        Delta(tool_calls=[ToolCall(1, "b", "g", "{"), ToolCall(0, "a", "f", "{}")]),
        Delta(tool_calls=[ToolCall(1, arguments="}", extra={"extra_content": {"x": 1}})]),
    )["tool_calls"]
    assert calls == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {
            "id": "b",
            "type": "function",
            "function": {"name": "g", "arguments": "{}"},
            "extra_content": {"x": 1},
        },
    ]


def test_merge_joins_extra_members_by_type() -> None:
    into: dict[str, Any] = {"a": [1], "b": "x", "c": {"d": "1", "e": [1]}, "f": 1}
    merge(into, {"a": [2], "b": "y", "c": {"d": "2", "e": [2], "g": None}, "f": 2, "h": {}})
    assert into == {
        "a": [1, 2],
        "b": "xy",
        "c": {"d": "12", "e": [1, 2], "g": None},
        "f": 2,
        "h": {},
    }
    extra = {"annotations": [1]}
    answer = message(Delta("t", extra=extra), Delta(extra=extra))
    assert answer["annotations"] == [1, 1]
    assert extra == {"annotations": [1]}, "the provider's object was changed"


def test_choice_has_the_extra_members_of_its_finish() -> None:
    document = document_of(Batches([Finish("stop", extra={"native_finish_reason": "end"})]))
    assert document["choices"][0]["native_finish_reason"] == "end"


# -- endings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [[Delta("a"), Usage(1, 1)]],
        [[Delta("a"), Finish("stop", 1), Delta("b")]],
        [[Delta("a")], [Finish("stop", 1)], [Delta("b")]],
    ],
)
def test_truncated_answer_returns_received_deltas_then_raises(batches: list[list[Item]]) -> None:
    source = Batches(*batches)
    frames = Answer(source, chunks(), 2, "label")
    seen = b""
    with pytest.raises(UpstreamTruncated):
        for _ in range(len(batches) + 1):
            seen += frames.receive(0)
    assert not frames.ended
    deltas = [item for batch in batches for item in batch if isinstance(item, Delta)]
    assert [seen.count(b'"content":"%b"' % item.text.encode()) for item in deltas] == [1] * len(
        deltas
    )
    with pytest.raises(UpstreamTruncated):
        document_of(Batches(*batches), 2)


def test_source_error_is_raised_after_the_received_frames() -> None:
    frames = Answer(Batches([Delta("a")], ProviderError("no")), chunks(), 1, "label")
    assert frames.receive(0).count(b"data: ") == 2
    with pytest.raises(ProviderError):
        frames.receive(0)
    with pytest.raises(ProviderError):
        document_of(Batches([Delta("a")], ProviderError("no")))


def test_usage_chunk_is_last_and_sent_only_if_requested_and_known() -> None:
    batches: list[list[Item]] = [[Delta("a")], [Usage(1, 2)], [Finish("stop")]]
    chunks = chunks_of(Batches(*batches), include_usage=True)
    assert [chunk["usage"] for chunk in chunks] == [
        None,
        None,
        None,
        {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    ]
    assert chunks[-1]["choices"] == []
    assert all("usage" not in chunk for chunk in chunks_of(Batches(*batches)))
    without = chunks_of(Batches([Delta("a"), Finish()]), include_usage=True)
    assert [chunk["usage"] for chunk in without] == [None] * 3


@pytest.mark.parametrize("writer", [chunks(), document()])
def test_closed_answer_reports_the_usage_known_at_close(writer: AnswerWriter) -> None:
    class Late(Batches):
        def close(self) -> None:
            super().close()
            self.usage = Usage(7, 1)

    source = Late([Delta("a")], [Delta("b")])
    reading = Answer(source, writer, 1, "label")
    reading.receive(0)
    reading.close()
    assert source.closed
    assert reading.usage == Usage(7, 1)


def test_last_item_closes_the_source() -> None:
    for writer in (chunks(), document()):
        source = Batches([Delta("a"), Finish()])
        reading = Answer(source, writer, 1, "label")
        assert reading.receive(0) and reading.ended
        assert source.closed


def test_long_arguments_in_pieces_are_copied_only_into_the_document() -> None:
    writer, piece = document(), "z" * 65536
    for number in range(110):
        writer.write(Delta(tool_calls=[ToolCall(0, "1" * (not number), "f", piece)]))
    with traced() as memory:
        answer = writer.finish()
    assert answer.count(b"z") == 110 * len(piece)
    assert memory.peak < 1.3 * len(answer)
