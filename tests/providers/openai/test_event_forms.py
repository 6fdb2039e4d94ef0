"""The same events in every framing: line ends, fields, several data lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.relay import EventRelay

TOP = {"token": "y", "logprob": -1.5, "bytes": [121]}
#: 40,000 JSON values: more than an event may hold that is parsed whole.
LOGPROBS = {"content": [{"token": "x", "logprob": -0.25, "top_logprobs": 20 * [TOP]}] * 400}


def chunk(reason: str | None = None, logprobs: Any = None, **delta: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    head = {"id": "chatcmpl-forms", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice]}


def lines(data: str, end: str = "\n", field: str = "data: ") -> str:
    return "".join(field + line + end for line in data.split("\n")) + end


FORMS: list[Callable[[dict[str, Any]], str]] = [
    lambda value: lines(json.dumps(value)),
    lambda value: lines(json.dumps(value), "\r\n"),
    lambda value: lines(json.dumps(value), "\r"),
    lambda value: lines(json.dumps(value), field="data:"),
    lambda value: "event: message\n" + lines(json.dumps(value)),
    lambda value: "id: 1\r\n" + lines(json.dumps(value), "\r\n"),
    lambda value: lines(json.dumps(value, indent=1)),
    lambda value: lines(json.dumps(value, indent=1), "\r\n"),
    lambda value: lines(json.dumps({"data": value})),
]


FIRST = {
    "short": chunk(role="assistant", content="hi"),
    "text": chunk(role="assistant", content="\N{GRINNING FACE}" + 300_000 * "a"),
    "logprobs": chunk(role="assistant", content="hi", logprobs=LOGPROBS),
}
#: One line, CR, several lines, a wrapping object: the code differs for large data.
LARGE = [FORMS[0], FORMS[2], FORMS[7], FORMS[8]]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("short", form) for form in FORMS),
        *(("text", form) for form in (*LARGE, None)),
        *(("logprobs", form) for form in LARGE),
    ],
)
def test_event_framing_does_not_change_chunks(
    kind: str, form: Callable[[dict[str, Any]], str] | None
) -> None:
    """Nor does joining several chunks in one event, the case without a form."""
    first, last = FIRST[kind], chunk("stop")
    joined = lines(json.dumps(first) + json.dumps(last))
    events = f"{form(first)}{form(last)}" if form is not None else joined
    body = f"{events}data: [DONE]\n\n".encode()
    relay = EventRelay(Normaliser())
    frames = relay.receive_data(body) + relay.end()
    assert frames.count(b"\n") == 4
    assert [json.loads(frame[6:]) for frame in frames.split(b"\n\n")[:-1]] == [first, last]
    translator = OpenAITranslator()
    if kind == "logprobs":  # these are parsed to be translated
        first["choices"][0]["logprobs"] = {"content": LOGPROBS["content"][:280]}
        body = f"{form(first)}{form(last)}data: [DONE]\n\n".encode()
    items = translator.receive_data(body)
    while translator.waiting:
        items += translator.receive_data(b"")
    text = "".join(getattr(item, "text", "") for item in [*items, *translator.end()])
    assert text == first["choices"][0]["delta"]["content"]
