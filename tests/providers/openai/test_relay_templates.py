"""Templates: events known from earlier streams are not parsed, and give the same frames."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from nightly import examples

from choreo_wsgi import sse
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.openai import template
from choreo_wsgi.providers.openai.relay import EventRelay

Json = Any
OWN = {"id": "chatcmpl-made-up", "created": 2, "model": "m"}
ROLES = (
    *('{"role":"assistant","content":""}',) * 60,
    *('{"role":"assistant"}', '{"content":""}', '{"role":"assistant","content":"Hi"}', "{}"),
    *('{"role":"user","content":""}', '{"role":"assistant","tool_calls":null}', "null"),
)
FINISHES = ('"stop"',) * 12 + ('"length"', '"tool_calls"', '"error"', '"STOP"', "null", '""')
FUNCTION = '"type":"function","function":{"name":"f","arguments":"{}"}'
CALL = f'{{"tool_calls":[{{"index":0,"id":"c",{FUNCTION}}}]}}'


class Stream:
    """A random stream, similar to those of the other seeds with the same tens."""

    odd = 0.02  # the probability that an event has another id, model or index

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        shape = Random(seed // 10)
        if random.random() < 0.1:
            shape = random
        self.space = shape.choice(("", "", " "))
        self.n = shape.choice((1,) * 9 + (2,))
        self.identity = shape.choice((OWN, None))
        self.index = shape.choice(("0",) * 6 + ("1", "null"))
        self.renamed = shape.choice(("", "", "r"))
        self.usage, self.repair = shape.random() < 0.5, shape.random() < 0.9
        self.model = shape.choice(("m", "m", "r", "other"))
        self.more = shape.choice(
            ("", "", ',"usage":null', ',"usage":null', ',"x":{"id":"chatcmpl-inner"}', ',"p":"\\n"')
        )
        self.first = shape.choice(("",) * 9 + (f',"created":7,"y":{{"created":{self.created()}}}',))
        self.id = random.choice(
            (f"chatcmpl-{seed}",) * 30 + ("short", "chatcmpl-made-up", 'odd "id" \\ here', "")
        )
        self.time = self.created()
        self.pieces = [*self.events(), random.choice((sse.DONE, b""))]
        if random.random() < 0.2:
            self.pieces = [b"".join(self.pieces).replace(b"\n", b"\r\n")]

    def created(self) -> str:
        choice = self.random.choice
        return choice(("1700000000",) * 20 + (str(self.random.randrange(10**9)), "0", "1e9"))

    def event(self, delta: str, finish: str = "null", more: str = "") -> bytes:
        space, random = self.space, self.random
        id, model = json.dumps(self.id), json.dumps(self.model)
        if random.random() < self.odd:
            id = json.dumps("chatcmpl-of-another")
        if random.random() < self.odd:
            model = '"changed"'
        index = 1 if random.random() < self.odd else self.index
        choice = f'{{"index":{index},"delta":{delta},"finish_reason":{finish}}}'
        return (
            f'data: {{"id":{space}{id},"object":{space}"chat.completion.chunk"{self.first},'
            f'"created":{space}{self.time},"model":{model},"choices":[{choice}]{self.more}{more}}}'
            "\n\n"
        ).encode()

    def events(self) -> list[bytes]:
        random = self.random
        found = [self.event(random.choice(ROLES))]
        for _ in range(random.randrange(6)):
            text = json.dumps(random.choice(("a", "b c", '"', "é", self.id, "created")))
            kind = random.choices(("content", "reasoning_content", "call"), (80, 5, 8))
            delta = CALL if kind == ["call"] else f'{{"{kind[0]}":{text}}}'
            used = ',"usage":{"prompt_tokens":1}' if random.random() < 0.05 else ""
            found.append(self.event(delta, more=used))
        found.append(self.event("{}", random.choice(FINISHES)))
        if random.random() < 0.3:
            found.append(self.event(random.choice(("{}", '{"content":"late"}')), '"stop"'))
        return found

    def relayed(self) -> Any:
        """Relay the stream; return frames, states, usage, and whether it was done."""
        numbers = iter(range(9))
        normaliser = Normaliser(
            self.n, self.identity, self.renamed, self.repair, lambda: f"call_{next(numbers)}"
        )
        relay = EventRelay(normaliser, self.usage, label=self.model)
        frames, states = b"", []
        try:
            for piece in self.pieces:
                frames += relay.receive_data(piece)
                state = normaliser.all_finished, normaliser.state, normaliser.shared_members
                states.append(state)
            frames += relay.end()
        except ChoreoError as error:
            states.append(error.body())
        return (
            [as_json(frame) for frame in frames.split(b"\n\n")],
            states,
            relay.usage,
            relay.normaliser.done,
        )


def as_json(frame: bytes) -> Json:
    return json.loads(frame[6:]) if frame.startswith(b"data: {") else frame


@pytest.mark.parametrize("part", range(2))
def test_relayed_stream_does_not_depend_on_earlier_streams(part: int) -> None:
    template._KNOWN.clear()
    each, known = examples(2_000, 100_000), 0
    for seed in range(part * each, (part + 1) * each):
        stream = Stream(seed)
        expected = stream.relayed()
        before = dict(template._KNOWN)
        template._KNOWN.clear()
        assert stream.relayed() == expected, seed
        known += before == template._KNOWN
        template._KNOWN.update(before)
    assert known


def test_concurrent_streams_learn_separate_templates() -> None:
    """The second has another model than the first; the third begins like it."""
    template._KNOWN.clear()
    stream = Stream(0)
    stream.space = stream.first = stream.more = ""
    stream.odd, stream.time, stream.index = 0, "1700000000", "0"
    relays = [EventRelay(Normaliser(identity=OWN)) for _ in range(3)]

    def relay(number: int, model: str, delta: str, finish: str = "null") -> Json:
        stream.id, stream.model = f"chatcmpl-{number}", model
        return as_json(relays[number].receive_data(stream.event(delta, finish)).strip())

    for number, model in enumerate("ab"):
        relay(number, model, '{"role":"assistant","content":""}')
    relay(0, "a", "{}", '"stop"')
    relay(2, "b", '{"role":"assistant","content":""}')
    assert relay(2, "a", "{}", '"stop"')["model"] == "b"


def test_events_known_from_template_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with role and finish reason; their frames have the stream's own id and time."""
    streams = [Stream(0) for _ in range(2)]
    for number, stream in enumerate(streams):
        stream.id, stream.time, stream.space, stream.first = f"chatcmpl-{number}", "170", "", ""
        stream.model = stream.renamed = "m"
        stream.n, stream.repair, stream.more = 1, True, ""
        stream.odd, stream.index = 0, "0"
        stream.pieces = [
            stream.event('{"role":"assistant","content":""}'),
            *(stream.event(f'{{"content":"{number}{word}"}}') for word in "abc"),
            stream.event("{}", '"stop"'),
            sse.DONE,
        ]
    streams[0].relayed()
    parsed: list[Json] = []
    normalise = Normaliser.normalise
    monkeypatch.setattr(
        Normaliser,
        "normalise",
        lambda self, chunk: (parsed.append(chunk), normalise(self, chunk))[1],
    )
    frames, states, _, done = streams[1].relayed()
    assert not parsed and done
    assert [frame["id"] for frame in frames[:5]] == ["chatcmpl-1"] * 5
    assert states[-1][:2] == (True, 1)
