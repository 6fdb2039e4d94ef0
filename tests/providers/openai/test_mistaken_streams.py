"""Random mixtures of an upstream's mistakes become valid streams with the intended content."""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

import pytest
from mistaken_streams import FAILURES, Choice, StrictReader, random_choice, write_stream
from nightly import examples

from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError, ProviderError
from choreo_wsgi.providers.openai.relay import EventRelay

IDENTITY = {"id": "chatcmpl-ours", "created": 1, "model": "asked"}


def cut_randomly(random: Random, raw: bytes) -> list[bytes]:
    """Return *raw* cut into random pieces."""
    size = random.choice((1, 7, 60, 500, 10**6))
    cuts = [0]
    while cuts[-1] < len(raw):
        cuts.append(cuts[-1] + random.randint(1, size))
    return [raw[a:b] for a, b in itertools.pairwise(cuts)]


def relay(random: Random, raw: bytes, n: int, usage: bool) -> tuple[bytes, ChoreoError | None]:
    """Return the frames of *raw*, relayed, and the error that ends them, if any."""
    relay = EventRelay(Normaliser(n, IDENTITY, random.choice(("", "renamed"))), usage)
    frames = b""
    try:
        for piece in cut_randomly(random, raw):
            frames += relay.receive_data(piece)
        frames += relay.end()
    except ChoreoError as error:
        return frames, error
    return frames, None


def read(frames: bytes, n: int, usage: bool) -> StrictReader:
    reader = StrictReader(n, usage)
    for frame in frames.split(b"\n\n")[:-1]:
        assert frame.startswith(b"data: {") and b"\n" not in frame
        reader.read(json.loads(frame[6:]))
    return reader


def parsed_contents(choices: list[Choice]) -> list[Any]:
    """Return the contents of *choices*, with parsed arguments of calls."""
    return [
        (text, reasoning, [(name, json.loads(arguments)) for name, arguments in calls], finish)
        for text, reasoning, calls, finish in (choice.content for choice in choices)
    ]


@pytest.mark.parametrize("part", range(3))
def test_mended_stream_has_intended_content(part: int) -> None:
    each = examples(75, 20_000) // 3
    for seed in range(part * each, (part + 1) * each):
        random = Random(seed)
        choices = [random_choice(random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
        writer, events = write_stream(random, choices)
        usage = random.random() < 0.5
        frames, error = relay(random, b"".join(events), len(choices), usage)
        assert error is None, (seed, error)
        try:
            reader = read(frames, len(choices), usage)
            assert parsed_contents(reader.choices) == parsed_contents(choices)
            if usage:
                assert reader.usage == writer.usage
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}") from problem


@pytest.mark.parametrize("part", range(2))
def test_failure_at_any_chunk_raises_one_error_after_earlier_frames(part: int) -> None:
    each = examples(100, 5_000) // 2
    for seed in range(part * each, (part + 1) * each):
        random = Random(seed)
        writer, _ = write_stream(random, [random_choice(random)])
        place = random.randrange(len(writer.chunks))
        broken = [
            {"error": {"message": "it broke", "code": 500}},
            {"detail": "it broke"},
            {"object": "error", "message": "it broke", "code": 503},
            writer.chunk(writer.choice(0, {}, {"type": "abort", "message": "it broke"})),
            writer.chunk(writer.choice(0, {}, random.choice(FAILURES))),
        ]
        before = writer.chunks[:place]
        if any(one.get("finish_reason") for chunk in before for one in chunk["choices"]):
            broken = broken[:3]  # a second finish reason is ignored
        lines = [*before, random.choice(broken), *writer.chunks[place:]]
        raw = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
        frames, error = relay(random, raw + b"data: [DONE]\n\n", 1, False)
        assert isinstance(error, ChoreoError) and error.status >= 500, seed
        assert "it broke" in error.message or isinstance(error, ProviderError), seed
        read(frames, 1, False)
