"""A response rebuilt from its logged events, as after the loss of its server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from official import RESPONSE_EVENT, events_of, judge
from work import traced

from choreo_wsgi import apis
from choreo_wsgi.apis.responses.log import error_event, events_in, failed_event, read_events
from choreo_wsgi.chat.items import Delta, Marks
from choreo_wsgi.chat.large import dump_restored
from choreo_wsgi.errors import ProducerLost


def test_lost_response_fails_with_its_output_so_far() -> None:
    api = apis.load("responses")
    writer = api.writer(api.read(b'{"model": "m", "input": "hi", "stream": true}'))
    deltas = [Delta(reasoning="I must look."), Delta("Oslo"), Delta(" 3")]
    events = events_of(b"".join(map(writer.write, deltas)))
    response, number = read_events(events, "in_progress")
    assert (response["status"], number) == ("in_progress", len(events))
    (failed,) = events_of(failed_event(response, ProducerLost("The server is gone."), number))
    judge(RESPONSE_EVENT, failed)
    assert failed["sequence_number"] == len(events)
    assert (failed["response"]["status"], failed["response"]["id"]) == ("failed", response["id"])
    thought, message = failed["response"]["output"]
    assert (thought["status"], message["status"]) == ("completed", "incomplete")
    assert message["content"][0]["text"] == "Oslo 3"


def test_error_event_has_the_code_of_the_error() -> None:
    error = ProducerLost("gone")
    error.param = "input"
    (event,) = events_of(error_event(error, 7))
    judge(RESPONSE_EVENT, event)
    expected = {"type": "error", "code": "producer_lost", "message": "gone", "param": "input"}
    assert event == {**expected, "sequence_number": 7}


def first_events(item: dict[str, Any], part: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the events that begin the first output *item*, and its first *part*."""
    event = {"type": "response.output_item.added", "output_index": 0, "item": item}
    where = {"output_index": 0, "content_index": 0}
    return [event, *([{"type": "x", **where, "part": part}] if part else [])]


@pytest.mark.parametrize(
    ("events", "path"),
    [
        (first_events({"content": []}, {"text": ""}), ("content", 0, "text")),
        (first_events({"content": []}, {"refusal": ""}), ("content", 0, "refusal")),
        (first_events({"arguments": ""}), ("arguments",)),
        (first_events({"input": ""}), ("input",)),
    ],
)
def test_unfinished_text_is_rebuilt_from_its_deltas(events: Any, path: tuple[Any, ...]) -> None:
    deltas = [{"type": "x.delta", "output_index": 0, "delta": text} for text in ("a", "b")]
    value: Any = read_events([*events, *deltas], "in_progress")[0]["output"][0]
    for step in path:
        value = value[step]
    assert value == "ab"


def test_items_are_rebuilt_in_the_order_of_their_indexes() -> None:
    events: Any = [{"type": "x", "output_index": at, "item": {"id": str(at)}} for at in (1, 10, 2)]
    response, _ = read_events(events, "in_progress")
    assert [item["id"] for item in response["output"]] == ["1", "2", "10"]


def test_summary_of_several_parts_is_rebuilt() -> None:
    item: dict[str, Any] = {"id": "rs_1", "type": "reasoning", "summary": []}
    events: list[dict[str, Any]] = [{"type": "response.output_item.added", "item": item}]
    for index, texts in enumerate((["I ", "must"], ["look"])):
        where = {"output_index": 0, "summary_index": index}
        part = {"type": "summary_text", "text": ""}
        events.append({"type": "response.reasoning_summary_part.added", **where, "part": part})
        kind = "response.reasoning_summary_text.delta"
        events += [{"type": kind, **where, "delta": text} for text in texts]
        events.append({"type": "x", **where, "part": {**part, "text": "".join(texts)}})
    events[0]["output_index"] = 0
    for cut, expected in (
        (3, ["I "]),
        (4, ["I must"]),
        (7, ["I must", "look"]),
        (8, ["I must", "look"]),
    ):
        logged = json.loads(json.dumps(events[:cut]))
        response, _ = read_events(logged, "in_progress")
        assert [part["text"] for part in response["output"][0]["summary"]] == expected


TOKEN = {"token": "]", "logprob": -0.5, "bytes": [93], "top_logprobs": [{"token": "\U0001f600"}]}
CITED = {"type": "url_citation", "title": "\u6f22]" + "t" * 99, "url": '"logprobs":["'}


def logged(parts: list[dict[str, Any]], spaces: bool = False) -> tuple[Any, bytes]:
    """Return an event whose response has *parts*, and its frame in a log."""
    event = {"response": {"output": [{"content": parts}], "text": '"annotations":["'}}
    separators = None if spaces else (",", ":")
    data = json.dumps(event, ensure_ascii=spaces, separators=separators)
    return event, f"id: 9\nevent: response.completed\ndata: {data}\n\n".encode()


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("more", ["z", "z" * 700_000, "\U0001f600" * 3_000])
def test_long_lists_of_an_event_are_kept_as_json(more: str, spaces: bool) -> None:
    """As values they take ten times their bytes."""
    cited = [CITED] * 500 + [{**CITED, "cited": more}]
    first = {"text": more, "logprobs": [TOKEN] * 1_500, "annotations": cited}
    second = {"annotations": [CITED], "text": "b", "logprobs": [TOKEN] * 10}
    third = {"annotations": [], "logprobs": cited, "text": "\u6f22" * 30_000}
    event, frame = logged([first, second, third], spaces)
    for _ in range(2):
        marks: Marks = {}
        with traced() as memory:
            (found,) = events_in(frame, marks)
    assert json.loads(dump_restored(found, marks)) == event
    lists = found["response"]["output"][0]["content"]
    assert [len(lists[0][name]) for name in ("logprobs", "annotations")] == [1, 1]
    assert (lists[1]["annotations"], lists[1]["logprobs"]) == ([CITED], [TOKEN] * 10)
    assert lists[2]["annotations"] == []
    assert memory.peak < 4 * len(frame)


def test_broken_lists_of_an_event_are_left_to_the_parser() -> None:
    _, frame = logged([{"logprobs": [TOKEN] * 3_000}])
    with pytest.raises(json.JSONDecodeError):
        list(events_in(frame.replace(b'"}]}]', b'"}]}'), {}))
    (found,) = events_in(frame, {})
    assert len(found["response"]["output"][0]["content"][0]["logprobs"]) == 1
