"""Legacy completions and embeddings of the local model, asked with the openai SDK."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from harness import Server, make_app
from local_helpers import PATIENCE


@pytest.fixture
def sdk(serve: Callable[..., Server]) -> Iterator[Callable[..., openai.OpenAI]]:
    """``sdk(**settings)``: the openai SDK before a server of the local model."""
    opened: list[Any] = []

    def make(**settings: str) -> openai.OpenAI:
        app = make_app({"local_slots": "2", "local_context": "1024", **settings})
        client = openai.OpenAI(
            base_url=f"{serve(app).url}/v1", api_key="k", max_retries=0, timeout=PATIENCE
        )
        opened.extend((client, app))
        return client

    yield make
    for one in opened:
        one.close()


def test_completions_are_documents_and_streams(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk()
    ask: dict[str, Any] = {"model": "any", "prompt": "Once upon a", "temperature": 0}
    whole = client.completions.create(**ask, max_tokens=6, seed=1)
    assert whole.object == "text_completion"
    assert whole.model == "any"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 6)
    pieces = list(
        client.completions.create(
            **ask, max_tokens=6, seed=1, stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(choice.text for piece in pieces for choice in piece.choices)
    assert said == whole.choices[0].text != ""
    assert {piece.model for piece in pieces} == {"any"}
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 6


@pytest.mark.parametrize("most", [0, 2])
def test_logprobs_have_the_shape_of_the_old_api(
    model_file: Path, sdk: Callable[..., openai.OpenAI], most: int
) -> None:
    client = sdk()
    ask: dict[str, Any] = {"model": "any", "prompt": "Once upon a", "temperature": 0}
    ask |= {"max_tokens": 4, "seed": 1, "logprobs": most}
    choice = client.completions.create(**ask).choices[0]
    told: Any = choice.logprobs
    assert "".join(told.tokens) == choice.text
    assert told.text_offset == [choice.text.index(token) for token in told.tokens]
    assert all(value <= 0 for value in told.token_logprobs)
    assert [len(tops) for tops in told.top_logprobs] == [most] * 4
    pieces: Any = client.completions.create(**ask, stream=True)
    told = [one.logprobs for piece in pieces for one in piece.choices if one.logprobs]
    assert [token for one in told for token in one.tokens] == choice.logprobs.tokens
    assert [at for one in told for at in one.text_offset] == choice.logprobs.text_offset


def test_offsets_in_a_stream_are_those_in_the_text_of_their_choice(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    ends = {0: 0, 1: 0}
    for piece in sdk().completions.create(
        model="any", prompt="Once", max_tokens=4, n=2, seed=1, logprobs=1, stream=True
    ):
        for choice in piece.choices:
            if choice.logprobs is not None and choice.logprobs.tokens:
                assert choice.logprobs.text_offset is not None
                assert choice.logprobs.text_offset[0] == ends[choice.index]
                ends[choice.index] += sum(map(len, choice.logprobs.tokens))
    assert all(ends.values())


def test_several_prompts_have_an_answer_each(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk()
    ask: dict[str, Any] = {"model": "any", "prompt": ["One", "Two"], "max_tokens": 2, "n": 2}
    whole = client.completions.create(**ask)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    pieces = client.completions.create(**ask, stream=True)
    ends = [c.index for piece in pieces for c in piece.choices if c.finish_reason == "length"]
    assert sorted(ends) == [0, 1, 2, 3]


def test_each_choice_of_each_prompt_takes_a_slot(sdk: Callable[..., openai.OpenAI]) -> None:
    """As at chat: more than there ever can be at once is refused before the model is asked."""
    client = sdk(max_streams="3")
    with pytest.raises(openai.BadRequestError, match="at most 3") as raised:
        client.completions.create(model="any", prompt=["One", "Two"], n=2)
    assert raised.value.param == "n"


def test_embeddings_of_texts_and_tokens(
    model_file: Path, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk()
    answer = client.embeddings.create(model="any", input=["a cat", "word " * 200, "a cat"])
    assert answer.model == "any"
    first, second, third = (one.embedding for one in answer.data)
    assert len(first) == len(second) == 576
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-2)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    plain = client.embeddings.create(model="any", input=[1, 2, 3], encoding_format="float")
    assert len(plain.data[0].embedding) == 576
    # The same process still chats.
    chat = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert chat.choices[0].finish_reason == "length"


def test_a_model_with_its_own_pooling_reads_a_text_in_one_piece(
    model_file: Path, sdk: Callable[..., openai.OpenAI], tmp_path: Path
) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    whole = model_file.read_bytes()
    version, tensors, count = struct.unpack("<IQQ", whole[4:24])
    mean = text(b"llama.pooling_type") + struct.pack("<II", 4, 1)
    # What is inserted keeps the tensors on their boundaries of 32 bytes.
    padding = text(b"general.x") + struct.pack("<I", 8) + text(b"")
    padding = padding[:-8] + text(b"x" * (-len(mean + padding) % 32))
    head = whole[:4] + struct.pack("<IQQ", version, tensors, count + 2)
    file = tmp_path / "pooled.gguf"
    file.write_bytes(head + mean + padding + whole[24:])
    client = sdk(local_model=str(file))
    answer = client.embeddings.create(model="any", input="word " * 200)
    assert len(answer.data[0].embedding) == 576
    assert answer.usage.prompt_tokens > 64


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("completions", {"prompt": [{"prompt_string": "a"}]}, "prompt[0]"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": "word " * 600}, "prompt"),
        ("embeddings", {"input": "word " * 600}, "input"),
        ("embeddings", {"input": ["a", 1]}, "input[1]"),
        ("embeddings", {"input": "a", "dimensions": 9}, "dimensions"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_refusals_name_the_member(
    model_file: Path,
    sdk: Callable[..., openai.OpenAI],
    path: str,
    members: dict[str, Any],
    param: str,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk().post(f"/{path}", body={"model": "any", **members}, cast_to=object)
    assert caught.value.param == param
