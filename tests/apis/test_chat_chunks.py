"""The JSON of the chunks, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage, dump


def make_writer(**changes: Any) -> ChunkWriter:
    identity = {"id": "chatcmpl-123", "created": 1699564800, "model": "gpt-4", **changes}
    include_usage = identity.pop("include_usage", False)
    return ChunkWriter(Identity(**identity), include_usage)


def encoded(*items: Item, **changes: Any) -> list[bytes]:
    """Return the chunks for *items*, and those of the ending."""
    writer = make_writer(**changes)
    block = b"".join([*map(writer.write, items), writer.finish()])
    chunks = [frame.removeprefix(b"data: ") for frame in block.split(b"\n\n")[:-1]]
    assert block == b"".join(map(sse.frame, chunks))
    return chunks


HEAD = (
    b'{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1699564800,"model":"gpt-4",'
)
ROLE = (
    HEAD
    + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
)


# -- the chunks of the API's documentation ----------------------------------------------------


def test_stream_equals_the_documented_example() -> None:
    items = [Delta("Once"), Delta(" upon"), Delta(" a"), Finish("stop")]
    assert encoded(*items) == [
        ROLE,
        HEAD + b'"choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":null}]}',
        HEAD + b'"choices":[{"index":0,"delta":{"content":" upon"},"finish_reason":null}]}',
        HEAD + b'"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}',
        HEAD + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    ]


DOCUMENTED_ROLE = """
{
  "id": "chatcmpl-123",
  "object": "chat.completion.chunk",
  "created": 1699564800,
  "model": "gpt-4",
  "choices": [
    {
      "index": 0,
      "delta": {
        "role": "assistant",
        "content": ""
      },
      "finish_reason": null
    }
  ]
}
"""
DOCUMENTED_CONTENT = """
{
  "id": "chatcmpl-123",
  "object": "chat.completion.chunk",
  "created": 1699564800,
  "model": "gpt-4",
  "choices": [
    {
      "index": 0,
      "delta": {
        "content": "Hello"
      },
      "finish_reason": null
    }
  ]
}
"""
DOCUMENTED_FINAL = """
{
  "id": "chatcmpl-123",
  "object": "chat.completion.chunk",
  "created": 1699564800,
  "model": "gpt-4",
  "choices": [
    {
      "index": 0,
      "delta": {},
      "finish_reason": "stop"
    }
  ]
}
"""


def test_chunk_keys_have_the_documented_order() -> None:
    documented = [DOCUMENTED_ROLE, DOCUMENTED_CONTENT, DOCUMENTED_FINAL]
    compact = [json.dumps(json.loads(text), separators=(",", ":")).encode() for text in documented]
    assert encoded(Delta("Hello"), Finish("stop")) == compact


# -- usage ------------------------------------------------------------------------------------


def test_requested_usage_is_null_until_the_usage_chunk() -> None:
    items = [Delta("a"), Usage(3, 5), Finish("length")]
    assert encoded(*items, include_usage=True) == [
        ROLE[:-1] + b',"usage":null}',
        HEAD
        + b'"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}',
        HEAD + b'"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}',
        HEAD + b'"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}',
    ]
    assert len(encoded(*items)) == 3


def test_usage_keeps_explicit_zeros_and_omits_unknown_counts() -> None:
    assert Usage(1, 2).to_dict() == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
    }
    assert Usage(10, 2, cached_tokens=0, reasoning_tokens=0).to_dict() == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert Usage(10, 2, 7, 1).to_dict()["prompt_tokens_details"] == {
        "cached_tokens": 7,
        "cache_write_tokens": 1,
    }


def test_sum_of_usages_keeps_unknown_counts_unknown() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 40)
    assert Usage() + Usage() == Usage()
    assert Usage(cached_tokens=0) + Usage() == Usage(cached_tokens=0)


# -- choices ----------------------------------------------------------------------------------


def test_each_choice_gets_one_role_chunk() -> None:
    chunks = encoded(Delta("a", 1), Delta("b"), Delta("c", 1), Finish("stop", 1), Finish("length"))
    choices = [json.loads(chunk)["choices"] for chunk in chunks]
    assert choices == [
        [{"index": 1, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 1, "delta": {"content": "a"}, "finish_reason": None}],
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "b"}, "finish_reason": None}],
        [{"index": 1, "delta": {"content": "c"}, "finish_reason": None}],
        [{"index": 1, "delta": {}, "finish_reason": "stop"}],
        [{"index": 0, "delta": {}, "finish_reason": "length"}],
    ]


def test_choice_without_text_gets_a_role_chunk() -> None:
    assert encoded(Finish("length"))[0] == ROLE
    assert encoded(Delta("")) == [ROLE]
    assert encoded(Delta(""), Delta("")) == [ROLE]


# -- reasoning, refusals and tool calls -------------------------------------------------------


def deltas(*items: Delta) -> list[dict[str, Any]]:
    return [json.loads(chunk)["choices"][0]["delta"] for chunk in encoded(*items)][1:]


def test_tool_call_id_and_name_are_sent_once() -> None:
    calls = [
        Delta(tool_calls=[ToolCall(0, "call_1", "look")]),
        Delta(tool_calls=[ToolCall(0, arguments='{"a"')]),
        Delta(tool_calls=[ToolCall(0, arguments=":1}"), ToolCall(1, "call_2", "see", "{}")]),
    ]
    assert deltas(*calls) == [
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "look", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": ":1}"}},
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "see", "arguments": "{}"},
                },
            ]
        },
    ]


def test_delta_has_reasoning_refusal_and_extra_members() -> None:
    assert deltas(
        Delta(reasoning="hm"),
        Delta(refusal="no"),
        Delta("t", reasoning="r", refusal="f", extra={"annotations": [1]}),
        Delta(tool_calls=[ToolCall(0, "c", "n", "", {"extra_content": {"google": 1}})]),
    ) == [
        {"reasoning_content": "hm"},
        {"refusal": "no"},
        {"content": "t", "reasoning_content": "r", "refusal": "f", "annotations": [1]},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c",
                    "type": "function",
                    "function": {"name": "n", "arguments": ""},
                    "extra_content": {"google": 1},
                }
            ]
        },
    ]


def test_chunk_has_the_logprobs_of_its_text() -> None:
    assert encoded(Delta("t", logprobs={"content": [1]}))[1].endswith(
        b'{"index":0,"delta":{"content":"t"},"finish_reason":null,"logprobs":{"content":[1]}}]}'
    )


def test_finish_chunk_has_the_extra_members_of_the_choice() -> None:
    last = encoded(Finish("stop", extra={"native_finish_reason": "end_turn"}))[-1]
    assert last.endswith(
        b'{"index":0,"delta":{},"finish_reason":"stop","native_finish_reason":"end_turn"}]}'
    )


# -- texts that need escapes ------------------------------------------------------------------


def content(text: str) -> bytes:
    return encoded(Delta(text))[1]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('"', rb'"\""'),
        ("\\", rb'"\\"'),
        ("/", b'"/"'),
        ("\n\r\t\b\f", rb'"\n\r\t\b\f"'),
        ("\0\x1f", rb'"\u0000\u001f"'),
        ("\x7f", b'"\x7f"'),
        ("é日🌍\u2028\u2029\ufeff\x85", '"é日🌍\u2028\u2029\ufeff\x85"'.encode()),
        ("data: x\n\n", rb'"data: x\n\n"'),
        ("[DONE]", b'"[DONE]"'),
        ("a\ud800b", rb'"a\ud800b"'),
        ("\udfff", rb'"\udfff"'),
    ],
)
def test_text_is_escaped_only_where_json_requires_it(text: str, written: bytes) -> None:
    assert b'"delta":{"content":' + written + b'},"finish_reason"' in content(text)


#: Characters that need care are drawn more often, lone surrogates among them.
HARD = st.one_of(st.characters(), st.sampled_from('\ud800\udfff"\\\n\0\u2028é🌍'))
ANY_TEXT = st.text(HARD, min_size=1)


@given(st.text(HARD))
def test_any_text_is_one_line_of_json(text: str) -> None:
    chunk = content(text) if text else ROLE
    assert b"\n" not in chunk and b"\r" not in chunk
    # Two surrogates that form a pair are one character to a reader of the JSON.
    sent = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(chunk.decode("utf-8"))["choices"][0]["delta"]["content"] == sent


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.integers(0, 127), st.booleans(), st.integers(0, 2**40))
def test_chunk_equals_json_dumps(
    text: str, id: str, model: str, index: int, usage: bool, created: int
) -> None:
    chunk: dict[str, Any] = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
    }
    deltas = [{"role": "assistant", "content": ""}, {"content": text}]
    expected = [
        {**chunk, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    if usage:
        expected = [{**item, "usage": None} for item in expected]
        expected.append({**chunk, "usage": Usage(1, 2).to_dict()})
    items = [Delta(text, index), Usage(1, 2)]
    identity: dict[str, Any] = {"id": id, "model": model, "created": created}
    assert encoded(*items, **identity, include_usage=usage) == [dump(item) for item in expected]


def test_lone_surrogates_in_id_and_model_are_escaped() -> None:
    items = [Delta("x"), Finish(), Usage()]
    for chunk in encoded(*items, id="i\ud800", model="m\udfff", include_usage=True):
        parsed = json.loads(chunk)
        assert (parsed["id"], parsed["model"]) == ("i\ud800", "m\udfff")


def test_model_name_is_escaped() -> None:
    chunk = encoded(Delta("x"), model='","choices":[],"x":"\n\r\0')[1]
    assert json.loads(chunk)["model"] == '","choices":[],"x":"\n\r\0'
