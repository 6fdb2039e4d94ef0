"""Legacy completions and embeddings of the local model, through the openai SDK."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import openai
import pytest
from harness import Server, make_app
from local_helpers import DEADLINE


@pytest.fixture
def sdk(serve: Callable[..., Server]) -> Iterator[Callable[..., openai.OpenAI]]:
    """``sdk(**settings)``: the openai SDK, connected to a server with the local model."""
    opened: list[Any] = []

    def make(**settings: str) -> openai.OpenAI:
        app = make_app({"local_slots": "2", "local_context": "1024", **settings})
        client = openai.OpenAI(
            base_url=f"{serve(app).url}/v1", api_key="k", max_retries=0, timeout=DEADLINE
        )
        opened.extend((client, app))
        return client

    yield make
    for one in opened:
        one.close()


def test_completion_is_returned_whole_or_streamed(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk()
    arguments: dict[str, Any] = {"model": "any", "prompt": "Once upon a", "temperature": 0}
    whole = client.completions.create(**arguments, max_tokens=6, seed=1)
    assert whole.object == "text_completion"
    assert whole.id.startswith("cmpl-")
    assert whole.model == "any"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 6)
    chunks = list(
        client.completions.create(
            **arguments, max_tokens=6, seed=1, stream=True, stream_options={"include_usage": True}
        )
    )
    streamed = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert streamed == whole.choices[0].text != ""
    assert {chunk.model for chunk in chunks} == {"any"}
    assert {chunk.id[:5] for chunk in chunks} == {"cmpl-"}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


@pytest.mark.parametrize("top", [0, 2])
def test_logprobs_have_the_legacy_format(
    model_file: Path, sdk: Callable[..., openai.OpenAI], top: int
) -> None:
    client = sdk()
    arguments: dict[str, Any] = {"model": "any", "prompt": "Once upon a", "temperature": 0}
    arguments |= {"max_tokens": 4, "seed": 1, "logprobs": top}
    choice = client.completions.create(**arguments).choices[0]
    logprobs: Any = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.text_offset == [choice.text.index(token) for token in logprobs.tokens]
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert [len(tops) for tops in logprobs.top_logprobs] == [top] * 4
    chunks: Any = client.completions.create(**arguments, stream=True)
    streamed = [one.logprobs for chunk in chunks for one in chunk.choices if one.logprobs]
    assert [token for one in streamed for token in one.tokens] == choice.logprobs.tokens
    assert [at for one in streamed for at in one.text_offset] == choice.logprobs.text_offset


def test_streamed_text_offsets_count_within_their_choice(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    ends = {0: 0, 1: 0}
    for chunk in sdk().completions.create(
        model="any", prompt="Once", max_tokens=4, n=2, seed=1, logprobs=1, stream=True
    ):
        for choice in chunk.choices:
            if choice.logprobs is not None and choice.logprobs.tokens:
                assert choice.logprobs.text_offset is not None
                assert choice.logprobs.text_offset[0] == ends[choice.index]
                ends[choice.index] += sum(map(len, choice.logprobs.tokens))
    assert all(ends.values())


def test_each_prompt_has_its_own_choices(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk()
    arguments: dict[str, Any] = {"model": "any", "prompt": ["One", "Two"], "max_tokens": 2, "n": 2}
    whole = client.completions.create(**arguments)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    chunks = client.completions.create(**arguments, stream=True)
    finished = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason == "length"]
    assert sorted(finished) == [0, 1, 2, 3]


def test_usage_counts_all_choices_and_each_prompt_once(
    model_file: Path, sdk: Callable[..., openai.OpenAI], caplog: pytest.LogCaptureFixture
) -> None:
    """In a document, or in the last event with a finish reason alone; the log has the same."""
    client = sdk()
    members: dict[str, Any] = {"model": "any", "prompt": ["Once upon a", "Two"], "n": 2}
    members.update(max_tokens=3, temperature=0, logprobs=1)
    with caplog.at_level("INFO", "choreo_wsgi.access"):
        whole = client.completions.create(**members)
        chunks = list(client.completions.create(**members, stream=True))
        counts = "tokens_in=4 tokens_out=12"
        harness.wait_until(lambda: caplog.text.count(counts) == 2, "two log lines")
    assert whole.usage is not None
    usage = {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
    assert whole.usage.to_dict() == usage
    assert [chunk.usage.to_dict() for chunk in chunks if chunk.usage] == [usage]
    assert chunks[-1].usage is not None
    assert [(choice.index, choice.finish_reason) for choice in whole.choices] == [
        (index, "length") for index in range(4)
    ]
    for choice in whole.choices:
        pieces = [one for c in chunks for one in c.choices if one.index == choice.index]
        assert choice.text == "".join(piece.text for piece in pieces) != ""
        assert choice.logprobs is not None
        assert "".join(choice.logprobs.tokens or ()) == choice.text
        assert choice.logprobs.text_offset is not None
        assert len(choice.logprobs.text_offset) == len(choice.logprobs.token_logprobs or ()) == 3


def test_each_choice_of_each_prompt_needs_a_slot(sdk: Callable[..., openai.OpenAI]) -> None:
    """As with chat: more choices than ``max_streams`` are rejected before the model runs."""
    client = sdk(max_streams="3")
    with pytest.raises(openai.BadRequestError, match="at most 3") as raised:
        client.completions.create(model="any", prompt=["One", "Two"], n=2)
    assert raised.value.param == "n"


def test_texts_and_tokens_are_embedded(model_file: Path, sdk: Callable[..., openai.OpenAI]) -> None:
    client = sdk()
    reply = client.embeddings.create(model="any", input=["a cat", "word " * 200, "a cat"])
    assert reply.model == "any"
    first, second, third = (one.embedding for one in reply.data)
    assert len(first) == len(second) == 576
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-2)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    plain = client.embeddings.create(model="any", input=[1, 2, 3], encoding_format="float")
    assert len(plain.data[0].embedding) == 576
    # The same process still answers chat requests.
    chat = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert chat.choices[0].finish_reason == "length"


def test_long_embedding_is_not_limited_by_idle_timeout(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    """llama.cpp sends nothing while it works on a document."""
    reply = sdk(idle_timeout="0.01").embeddings.create(model="any", input="word " * 200)
    assert len(reply.data[0].embedding) == 576


def test_model_with_pooling_embeds_a_long_text_at_once(
    model_file: Path, sdk: Callable[..., openai.OpenAI], tmp_path: Path
) -> None:
    def gguf_string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    whole = model_file.read_bytes()
    version, tensors, count = struct.unpack("<IQQ", whole[4:24])
    mean = gguf_string(b"llama.pooling_type") + struct.pack("<II", 4, 1)
    # The padding keeps the tensors aligned to 32 bytes.
    padding = gguf_string(b"general.x") + struct.pack("<I", 8) + gguf_string(b"")
    padding = padding[:-8] + gguf_string(b"x" * (-len(mean + padding) % 32))
    head = whole[:4] + struct.pack("<IQQ", version, tensors, count + 2)
    file = tmp_path / "pooled.gguf"
    file.write_bytes(head + mean + padding + whole[24:])
    client = sdk(local_model=str(file))
    reply = client.embeddings.create(model="any", input="word " * 200)
    assert len(reply.data[0].embedding) == 576
    assert reply.usage.prompt_tokens > 64


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("completions", {"prompt": [{"prompt_string": "a"}]}, "prompt[0]"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": "a", "n": 3}, "n"),
        ("completions", {"prompt": [10**9]}, "prompt"),
        ("embeddings", {"input": ["a", ""]}, "input"),
        ("completions", {"prompt": "word " * 600}, "prompt"),
        ("embeddings", {"input": "word " * 600}, "input"),
        ("embeddings", {"input": ["a", 1]}, "input[1]"),
        ("embeddings", {"input": "a", "dimensions": 9}, "dimensions"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_error_names_the_invalid_field(
    model_file: Path,
    sdk: Callable[..., openai.OpenAI],
    path: str,
    fields: dict[str, Any],
    param: str,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk().post(f"/{path}", body={"model": "any", **fields}, cast_to=object)
    assert caught.value.param == param
