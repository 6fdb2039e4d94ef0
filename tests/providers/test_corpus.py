"""Every case of the corpus: the request sent, and the answer at every split."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from corpus_cases import Case, cases, fold, outcome, plain, request_sent, writer
from nightly import examples

from choreo_wsgi import sse

CASES = cases()
COMPLETE = [case for case in CASES if (case.folder / "completion.json").exists()]
#: Longer answers are split at this many places, and into single bytes.
SPLITS = examples(80, 250)


def splits(body: bytes) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[i : i + 1] for i in range(len(body))]
    step = max(1, len(body) // SPLITS)
    for at in range(1, len(body), step):
        yield [body[:at], body[at:]]


def request_key(case: Case) -> tuple[str, str]:
    return case.provider_type, str(case.json("upstream_request.json"))


@pytest.mark.parametrize(
    "case",
    list({request_key(case): case for case in reversed(CASES)}.values()),
    ids=lambda case: case.id,
)
def test_request_matches_the_recording(case: Case) -> None:
    """Each distinct request: many cases send the same one."""
    assert request_sent(case) == case.json("upstream_request.json")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_stream_matches_the_recording_at_every_split(case: Case) -> None:
    expected = case.json("client.json")
    if expected is None:
        expected = (case.folder / "client.sse").read_bytes()
        check_rules(case, expected)
        assert case in COMPLETE or not expected.endswith(sse.DONE)
    body = case.answer[2]
    for pieces in splits(body):
        assert outcome(case, pieces) == expected, [len(piece) for piece in pieces[:2]]


@pytest.mark.parametrize("case", COMPLETE, ids=lambda case: case.id)
def test_plain_completion_matches_the_recording(case: Case) -> None:
    assert json.loads(fold(case)) == case.json("completion.json")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.json("plain.json")], ids=lambda case: case.id
)
def test_plain_answer_matches_the_recording_at_every_split(case: Case) -> None:
    expected = case.json("plain.json")
    for pieces in splits(case.recorded("upstream_plain.http")[2]):
        assert plain(case, pieces) == expected


def check_rules(case: Case, frames: bytes) -> None:
    """Check the rules that hold for the stream of any provider."""
    events = [event.data for event in sse.Decoder().receive_data(frames)]
    last = events.pop()
    chunks = [json.loads(data) for data in events]
    names = {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}
    if case.provider_type in ("azure", "openai"):  # relayed unchanged
        assert len(names) <= 1
    else:
        assert names <= {("chatcmpl-corpus", 1700000000, case.request.model)}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in {choice["index"] for choice in choices}:
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"].get("role") == "assistant"
        assert all("role" not in choice["delta"] for choice in own[1:])
        finished = [choice["finish_reason"] for choice in own]
        if last == "[DONE]":
            assert finished.pop() in ("stop", "length", "tool_calls", "content_filter")
            assert own[-1]["delta"] == {}
        assert set(finished) <= {None}
        cut = own[-1]["finish_reason"] == "length"  # perhaps inside a call
        _check_calls(own, complete=last == "[DONE]" and not cut)
    if last != "[DONE]":
        assert set(json.loads(last)["error"]) == {"message", "type", "code", "param"}


def _check_calls(choices: list[dict[str, object]], *, complete: bool) -> None:
    calls: list[dict[str, object]] = []
    for choice in choices:
        delta = choice["delta"]
        assert isinstance(delta, dict)
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(calls)  # dense, in order
                calls.append({"text": ""})
            calls[call["index"]]["text"] += call["function"]["arguments"]
    if complete:
        assert all(isinstance(json.loads(str(call["text"])), dict) for call in calls)


def test_a_failed_translator_raises_again_and_reads_nothing() -> None:
    case = next(case for case in CASES if case.id == "anthropic/error-mid-stream")
    translator = case.playing()[0].translator(case.request)
    assert translator.receive_data(case.answer[2])
    for _ in range(2):
        with pytest.raises(Exception, match="Overloaded"):
            translator.receive_data(case.answer[2])
    with pytest.raises(Exception, match="Overloaded"):
        translator.end()


def test_usage_is_known_when_an_answer_is_closed_early() -> None:
    """The tokens were paid for even if nobody reads on."""
    case = next(case for case in CASES if case.id == "anthropic/text")
    body = case.answer[2]
    provider, _ = case.playing([body[: len(body) // 2], body[len(body) // 2 :]])
    frames = provider.answer(case.request, writer(case))
    while not frames.receive(0):
        pass
    frames.close()
    assert frames.usage is not None
    assert frames.usage.prompt_tokens == 12
