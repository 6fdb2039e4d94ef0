"""The relay's fast paths give the same chunks as parsing, mending and writing each event."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

import pytest
from nightly import examples

from choreo_wsgi.chat import aside, cutting
from choreo_wsgi.chat.items import Marks
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.openai import relay
from choreo_wsgi.providers.openai.relay import EventRelay

Json = Any
EVENTS = 40  # in a stream
#: Valid pieces of the inside of a JSON string; BROKEN are invalid ones.
INSIDE = (
    *("a", "word ", "é", "\U0001f600", r"\n", r"\"", r"\\", r"\u00e9", r"\ud83d", r"\ude00", "}"),
    *(r"\/", r"\u0075", '":', ",", "usage", "content", "[DONE]", "\x7f", r"\\\"", "null", "{"),
    *(r"\uD83D\uDE00", r"\u0000", "\u2028", "\x85", "data: ", r"\"},\"finish_reason\":null}]}"),
)
SOUND = tuple(piece for piece in INSIDE if piece != '":')
BROKEN = ("\t", "\x00", r"\q", r"\u12", '"', "\\")


#: Members of a chunk that look like its text, usage or identity, but are not.
ODD = (
    *('"content":"top"', '"delta":{"content":"top"}', '"finish_reason":null', '"usage":"null"'),
    *('"n":1E400', '"n":1e-300', '"n":123456789012345678901234567890', '"n":-0', '"n":1.10'),
    *(
        '"x":[{"delta":{"content":"a"},"usage":null}]',
        '"us\\u0061ge":null',
        '"model":"n"',
        '"id":""',
    ),
    *('"usage":null,"usage":null', '"system_fingerprint":null', '"n":NaN', '"n":[-Infinity]'),
)


class Writer:
    """Writes the chunks of one stream as JSON, with small differences, or all alike."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.alike = random.random() < 0.5
        self.space = random.choice(("", "", " ", "  "))
        self.shuffled = random.random() < 0.2
        self.extra = random.choice(
            ("", "", "usage", "nested", "content", "reasoning", "padding", "twice")
        )
        #: The kind of nine deltas in ten: patterns are learned, then other deltas follow.
        self.usual = random.choice(("", "content", "reasoning", "call", "spaced"))
        self.renamed = random.choice(("reasoning", "reasoning_content"))
        #: The probability of something odd in an event.
        self.odd = random.choice((0, 0, 0.02, 0.2))

    def member(self, name: str, value: str) -> str:
        return f'"{name}":{self.space}{value}'

    def object(self, *members: str) -> str:
        found = [one for one in members if one]
        if self.shuffled and not self.alike:
            self.random.shuffle(found)
        return "{" + f",{self.space}".join(found) + "}"

    def text(self) -> str:
        among, most = self.random.choice(((INSIDE, 5), (INSIDE, 5), (SOUND, 30)))
        pieces = [self.random.choice(among) for _ in range(self.random.randrange(most))]
        if self.random.random() < 0.01:
            pieces.insert(self.random.randrange(len(pieces) + 1), self.random.choice(BROKEN))
        return '"' + "".join(pieces) + '"'

    def delta(self) -> str:
        random, member, object = self.random, self.member, self.object
        kind = random.choices(("content", "reasoning", "call", "both", "spaced"), (60, 9, 20, 5, 6))
        if self.usual and random.random() < 0.9:
            kind = [self.usual]
        if kind == ["content"] and random.random() < self.odd:
            name = random.choice(("content", r"con\u0074ent", "role", "refusal"))
            value = random.choice((self.text(), "null", '""', '"assistant"'))
            return object(member("content", self.text()), member(name, value))
        if kind == ["content"]:
            return object(member("content", self.text()))
        if kind == ["spaced"]:
            # Not found by a pattern, and constant: another string could be mistaken for it.
            return object(f'"{random.choice(("content", self.renamed))}" :"same"')
        if kind == ["reasoning"]:
            return object(member(self.renamed, self.text()))
        if kind == ["both"]:
            return object(member("content", self.text()), member("reasoning", self.text()))
        index = random.choice(("", member("index", "1"), *[member("index", "0")] * 8))
        if random.random() < 0.1:
            name = object(member("name", '"f"'), member("arguments", '""'))
            id = member("id", f'"c{random.randrange(3)}"')
            piece = object(index, id, member("type", '"function"'), member("function", name))
        else:
            arguments = object(member("arguments", self.text()))
            piece = object(index, member("function", arguments))
        return object(member("tool_calls", f"[{piece}]"))

    def extras(self) -> list[str]:
        random, member = self.random, self.member
        if self.extra == "usage":
            spaced = f'"usage"{random.choice(("", " "))}:{random.choice(("", " "))}null'
            return [spaced if not self.alike else '"usage":null']
        if self.extra == "nested":
            usage = random.choice(('"usage":null', ""))
            inner = member("x", self.object(member("usage", "null"), member("y", "1.50")))
            return random.choice(([usage, inner], [inner, usage]))
        if self.extra in ("content", "reasoning"):
            return [member("x", self.object(member(self.extra, self.text())))]
        if self.extra == "padding":
            return [member("obfuscation", json.dumps("x" * random.randrange(9)))]
        if self.extra == "twice":
            return [member("usage", "null"), member("n", random.choice(("1e400", "-0.0", "1E2")))]
        return []

    def event(self) -> str:
        member, object = self.member, self.object
        finish = '""' if self.random.random() < 0.02 else "null"
        index = str(int(self.random.random() < 0.1))
        if self.random.random() < self.odd / 9:
            finish = self.random.choice(('"stop"', '"length"', '"tool_calls"'))
        choice = object(
            member("index", index), member("delta", self.delta()), member("finish_reason", finish)
        )
        odd = self.random.random() < self.odd
        if odd and self.random.random() < 0.3:
            more = object(member("delta", self.delta()), member("index", str(1 - int(index))))
            choice += f",{more}"
        names = (
            ("id", '"c"'),
            ("object", '"chat.completion.chunk"'),
            ("created", "1"),
            ("model", '"m"'),
        )
        return object(
            *itertools.starmap(member, names),
            member("choices", f"[{choice}]"),
            *self.extras(),
            self.random.choice(ODD) if odd else "",
        )

    def framed(self, event: str, end: str) -> str:
        """Return *event* framed with the line end *end*, or sometimes in another valid way."""
        if self.random.random() >= self.odd:
            return f"data: {event}{end}{end}"
        end, last = self.random.choices(("\n", "\r\n", "\r"), k=2)
        before = self.random.choice(("", ": x", "event: message", "id: 1", "retry: 5", "other"))
        space = self.random.choice((" ", "", "  "))
        cut = f"{end}data:{space}" if self.random.random() < 0.3 else ""
        # LF after CR would belong to the same line end.
        last = "\r" if end == "\r" else last
        return f"{before}{end if before else ''}data:{space}{event[0]}{cut}{event[1:]}{end}{last}"


def reject_constant(constant: str) -> None:
    raise ValueError(constant)


def parse_exactly(text: str | bytes) -> Json:
    return json.loads(text, parse_float=Decimal, parse_constant=reject_constant)


def restored(value: Json, marks: Marks) -> Json:
    """Return *value* with placeholders restored, and with surrogate pairs as one character."""
    if isinstance(value, str):
        value = aside.whole(value, marks)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if isinstance(value, list):
        return [restored(one, marks) for one in value]
    if isinstance(value, dict):
        return {key: restored(one, marks) for key, one in value.items()}
    return value


def parse_each(
    events: list[str], normaliser: Normaliser, include_usage: bool
) -> tuple[list[Json], bool]:
    """Return the mended chunks of *events*, and whether there was an error."""
    chunks: list[Json] = []
    for event in events:
        try:
            mended = normaliser.normalise(parse_exactly(event))[0]
        except (ValueError, ChoreoError):
            return chunks, True
        for chunk in mended:
            if include_usage:
                chunk.setdefault("usage", None)
            else:
                chunk.pop("usage", None)
            chunks.append(restored(chunk, normaliser.marks))
    return chunks, False


def relay_pieces(
    pieces: list[bytes], normaliser: Normaliser, include_usage: bool
) -> tuple[list[Json], bool]:
    events = EventRelay(normaliser, include_usage)
    frames, failed = b"", False
    try:
        for piece in [*pieces, b""]:
            frames += events.receive_data(piece)
    except ChoreoError:
        failed = True
    lines = frames.split(b"\n\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"data: {") and b"\n" not in line for line in lines)
    return [parse_exactly(line[6:]) for line in lines], failed


def split_choices(result: tuple[list[Json], bool]) -> tuple[list[Json], bool]:
    """Return *result* with each choice in a separate chunk."""
    chunks, failed = result
    split = [{**one, "choices": [choice]} for one in chunks for choice in one["choices"] or [{}]]
    return split, failed


@pytest.fixture
def short_events_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat short events as the relay treats those above 128 KiB."""
    # A cut is longer than the constant strings of a chunk.
    shorten = partial(cutting.shorten, window=64, cut=24)
    # The tail is searched twice for an escape, which has six bytes.
    for name, size in (("_HEAD", 4), ("_TAIL", 6), ("_WIDE", 24), ("_MARK_SIZE", 0)):
        monkeypatch.setattr(cutting, name, size)
    monkeypatch.setattr(cutting, "shorten", shorten)
    monkeypatch.setattr(relay, "LONG", 50)
    monkeypatch.setattr(relay.Patterns, "learn", lambda *event: None)


@pytest.mark.parametrize("part", range(10, 12))
@pytest.mark.usefixtures("short_events_are_long")
def test_long_events_relay_as_if_parsed(part: int) -> None:
    compare(part, split_choices)


@pytest.mark.parametrize("part", range(10))
def test_bulk_relay_equals_parsing_each_event(part: int) -> None:
    compare(part, lambda result: result)


def compare(part: int, view: Callable[[tuple[list[Json], bool]], object]) -> None:
    """Compare *view* of the results of relaying streams and of parsing each event."""
    each = examples(20_000, 500_000) // EVENTS // 10
    for seed in range(part * each, (part + 1) * each):
        random = Random(seed)
        writer = Writer(random)
        events = [writer.event() for _ in range(EVENTS)]
        end = random.choice(("\n", "\n", "\n", "\r\n", "\r"))
        raw = "".join(writer.framed(event, end) for event in events).encode()
        raw = b"\xef\xbb\xbf" * (random.random() < writer.odd) + raw
        size = random.choice((1, 40, 400, 2000, 10**6))
        cuts = [0]
        while cuts[-1] < len(raw):
            cuts.append(cuts[-1] + random.randint(1, size))
        pieces = [raw[a:b] for a, b in itertools.pairwise(cuts)]
        identity = {"id": "o", "created": 2, "model": "o"}
        usage, model = random.random() < 0.5, random.choice(("", "r"))

        normalisers = [Normaliser(2, identity, model, new_id=lambda: "call_new") for _ in range(2)]
        relayed = relay_pieces(pieces, normalisers[0], usage)
        parsed = parse_each(events, normalisers[1], usage)
        alike = view(relayed) == view(parsed)
        assert alike, seed  # pytest would compare long texts for minutes
