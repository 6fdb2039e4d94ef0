"""Random streams of an OpenAI-compatible upstream: a correct answer written with mistakes.

Every mistake was seen at a real upstream.  :func:`write_stream` mixes them; :class:`StrictReader`
reads the server's output by OpenAI's published schema, and rejects everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

Json = Any
TEXTS = (
    *("Hello", " ", "wörld", "\U0001f600", '"q"', "\\", "\n"),
    *("data: x\n\n", "a" * 60, "1", "}]}"),
)
WORDS = {
    "stop": ("stop", "end_turn", "STOP", "eos", "COMPLETE", "whatever"),
    "length": ("length", "MAX_TOKENS", "max_tokens", "model_length"),
    "content_filter": ("content_filter", "SAFETY", "sensitive"),
    "tool_calls": ("tool_calls", "stop", "tool_use", "TOOL_CALL"),
}
FAILURES = ("error", "network_error", "abort", "MALFORMED_FUNCTION_CALL", "timeout")


@dataclass
class Choice:
    """The content of one choice."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)  # name and arguments
    finish: str = "stop"

    @property
    def content(self) -> tuple[str, str, list[tuple[str, str]], str]:
        return "".join(self.text), "".join(self.reasoning), self.calls, self.finish


def random_choice(random: Random) -> Choice:
    """Return a choice with random content."""
    size = random.choice((random.randrange(6), random.randrange(6), 30))
    choice = Choice([random.choice(TEXTS) for _ in range(size)])
    if random.random() < 0.3:
        choice.reasoning = [random.choice(TEXTS) for _ in range(random.randrange(1, 4))]
    choice.finish = random.choice(("stop", "length", "content_filter"))
    if random.random() < 0.5:
        values = ({}, {"a": 1}, {"q": 'x"y\\z', "n": [1, 2]}, {"é": None})
        names = random.sample(("f", "g", "look_up", "h"), random.randrange(1, 4))
        choice.calls = [(name, json.dumps(random.choice(values))) for name in names]
        choice.finish = "tool_calls"
    return choice


class MistakenWriter:
    """Writes the *choices* as chunks, with mistakes."""

    def __init__(self, random: Random, choices: list[Choice]) -> None:
        self.random = random
        self.choices = choices
        self.usage = {"prompt_tokens": 3, "completion_tokens": random.randrange(99)}
        self.usage["total_tokens"] = 3 + self.usage["completion_tokens"] + random.randrange(2)
        self.role = random.choice(("first", "never", "always", "null"))
        self.numbers = random.choice(("dense", "zero", "from one", "none", "no ids", "odd"))
        self.named = random.choice(("well", "no id", "empty id", "late clock", "no model"))
        self.reported = random.choice(("alone", "with finish", "in choice", "groq", "running"))
        self.words = random.random() < 0.5
        self.shaped = random.random() < 0.5  # the content is not always a string
        self.chunks: list[Json] = []

    def pick(self, *values: Json) -> Json:
        return self.random.choice(values)

    def maybe(self, chance: float = 0.3) -> bool:
        return self.random.random() < chance

    def chunk(self, *choices: Json, **more: Json) -> Json:
        chunk: Json = {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1700000000,
        }
        chunk |= {"model": "m", "choices": list(choices), **more}
        if self.named == "no id":
            del chunk["id"]
        elif self.named == "empty id":
            chunk["id"] = ""
        elif self.named == "late clock":
            chunk["created"] += len(self.chunks)
        elif self.named == "no model" and self.maybe():
            del chunk["model"]
        if self.reported == "running":
            count = self.pick(int, str, float)(len(self.chunks))
            chunk["usage"] = {**self.usage, "completion_tokens": count}
        elif "usage" not in chunk and self.maybe(0.1):
            chunk["usage"] = None
        return chunk

    def choice(self, index: int, delta: Json, reason: Json = None) -> Json:
        first = not any(
            one.get("delta") for chunk in self.chunks for one in chunk.get("choices", ())
            if one.get("index", index) == index
        )  # fmt: skip
        if self.role == "always" or (self.role == "first" and first):
            delta = {"role": "assistant", **delta}
        elif self.role == "null":
            delta = {"role": None, "tool_calls": None, **delta}
        one = {"index": index, "delta": delta, "finish_reason": reason}
        if len(self.choices) == 1 and self.maybe(0.2):
            del one["index"]
        elif self.maybe(0.05):
            one["index"] = self.pick(str, float)(index)
        if reason is None and self.maybe(0.1):
            one["finish_reason"] = self.pick("", 0, False)
        return one

    def add(self, index: int, delta: Json, reason: Json = None, **more: Json) -> None:
        self.chunks.append(self.chunk(self.choice(index, delta, reason), **more))

    # -- the members of a delta ----------------------------------------------------------

    def text(self, text: str) -> Json:
        part = {"type": "text", "text": text}
        if not self.shaped:
            return {"content": text}
        return {"content": self.pick(text, text, text, [part], part, [text], [{"text": text}])}

    def thought(self, text: str) -> Json:
        part = {"type": "thinking", "thinking": self.pick(text, [{"type": "text", "text": text}])}
        return self.pick(
            {"reasoning_content": text},
            {self.pick("reasoning", "thought", "reasoning_summary"): text},
            {"reasoning": text, "reasoning_content": text},
            {"content": [part]},
        )

    def call_pieces(self, number: int, name: str, arguments: str) -> Iterator[Json]:
        """Yield the pieces of one call; those after the first are independent of other calls."""
        odd = self.random.choice((str(number), float(number)))
        numbers = {"dense": number, "zero": 0, "from one": number + 1, "odd": odd}
        index = numbers.get(self.numbers)
        place = {} if index is None else {"index": index}
        start: Json = {**place, "id": f"call_{number}", "type": "function"}
        if self.numbers == "no ids":
            del start["id"]
        if arguments == "{}" and self.maybe(0.5):
            yield {**start, "function": {"name": name, "arguments": self.pick("", None, {}, "{}")}}
            return
        if self.maybe(0.3):
            value = self.pick(arguments, json.loads(arguments))
            yield {**start, "function": {"name": name, "arguments": value}}
            return
        start["function"] = {"name": name, "arguments": self.pick("", None)}
        if self.maybe(0.1):
            del start["type"]
        if self.numbers == "dense" and self.maybe(0.2):
            yield {**start, "function": {}}  # the name follows in the next piece
            del start["id"]
        yield start
        if "id" in start and self.maybe(0.2):
            yield json.loads(json.dumps(start))  # repeated
        size = self.random.randrange(1, 9)
        for at in range(0, len(arguments), size):
            function: Json = {"arguments": arguments[at : at + size]}
            piece: Json = {**place, "function": function}
            if self.numbers in ("zero", "dense", "from one") and self.maybe():
                piece |= {"id": self.pick(None, ""), "type": self.pick(None, "", "function")}
                function["name"] = self.pick(None, "")
            elif "id" in start and self.maybe(0.2):
                piece["id"] = start["id"]
                function |= {"name": name} if self.maybe() else {}
            yield piece

    # -- the stream ----------------------------------------------------------------------

    def write_choice(self, index: int) -> Iterator[None]:
        """Append the chunks of a choice, one per iteration."""
        choice = self.choices[index]
        for text in choice.reasoning:
            self.add(index, self.thought(text))
            yield
        for text in choice.text:
            self.add(index, self.text(text))
            yield
        calls = [
            list(self.call_pieces(number, name, arguments))
            for number, (name, arguments) in enumerate(choice.calls)
        ]
        if self.numbers == "from one" and self.maybe():
            longest = max(map(len, calls), default=0)
            steps = [[one[at] for one in calls if at < len(one)] for at in range(longest)]
        else:
            steps = [[piece] for one in calls for piece in one]
        for step in steps:
            self.add(index, {**self.pick({}, {"content": None}), "tool_calls": step})
            yield
        self.finish(index, choice)

    def finish(self, index: int, choice: Choice) -> None:
        word = self.pick(*WORDS[choice.finish]) if self.words else choice.finish
        more: Json = {}
        if self.reported == "with finish":
            more["usage"] = self.usage
        if self.reported == "groq":
            more["x_groq"] = {"id": "r", "usage": self.usage}
        one = self.choice(index, self.pick({}, {"content": ""}, {"content": None}), word)
        if self.reported == "in choice":
            one["usage"] = self.usage
        if choice.text and self.maybe(0.3):
            last = self.chunks[-1]["choices"][-1]
            if last.get("index", index) == index and "content" in last["delta"]:
                last["finish_reason"], one = word, {**one, "delta": {}}
        self.chunks.append(self.chunk(one, **more))
        if self.maybe(0.2):
            self.add(index, self.pick({}, {"content": ""}, {"role": "assistant", "content": ""}))
        if self.maybe(0.2):
            self.add(index, {}, word)

    def close(self) -> None:
        """Append the chunks that follow the choices."""
        if self.reported in ("alone", "running"):
            usage = {"usage": self.usage}
            whole = {**self.chunk(), **usage}
            bare = {"choices": [], **usage}
            self.chunks.append(self.pick(whole, bare, usage, {**whole, "id": "", "created": 0}))
        if self.maybe(0.2):
            messages = [
                {"index": index, "message": {"role": "assistant", "content": "".join(choice.text)}}
                for index, choice in enumerate(self.choices)
            ]
            choices = [{**message, "finish_reason": "stop"} for message in messages]
            document = {**self.chunk(*choices), "object": "chat.completion"}
            self.chunks.append({**document, "usage": self.usage})


def write_stream(random: Random, choices: list[Choice]) -> tuple[MistakenWriter, list[bytes]]:
    """Return the writer of *choices*, and the events of the stream including ``[DONE]``."""
    writer = MistakenWriter(random, choices)
    running = [writer.write_choice(index) for index in range(len(choices))]
    while running:
        steps = random.choice(running)
        if next(steps, ...) is ...:
            running.remove(steps)
    writer.close()
    spaced = random.random() < 0.3
    events = []
    for chunk in writer.chunks:
        ascii = random.random() < 0.3
        separators = (", ", ": ") if spaced else (",", ":")
        line = json.dumps(chunk, ensure_ascii=ascii, separators=separators)
        name = b"event: message\n" if random.random() < 0.05 else b""
        events.append(name + b"data: " + line.encode() + b"\n\n")
        if random.random() < 0.1:
            idle = (b": ping\n\n", b"data:\n\n", b"data: {}\n\n", b'data: {"type":"ping"}\n\n')
            events.append(random.choice(idle))
    if random.random() < 0.9:
        events.append(b"data: [DONE]\n\n")
    if random.random() < 0.2:
        events[-1] = events[-1].rstrip(b"\n")
    if random.random() < 0.2:
        events = [event.replace(b"\n", b"\r\n") for event in events]
    return writer, events


class StrictReader:
    """Reads the chunks of a stream of *n* choices by OpenAI's published schema."""

    def __init__(self, n: int, usage: bool) -> None:
        self.choices = [Choice(finish="") for _ in range(n)]
        self.usage: Json = None
        self._with_usage = usage
        self._identity: Json = None
        self._begun: set[int] = set()

    def read(self, chunk: Json) -> None:
        """Read the next chunk; raises AssertionError if it breaks the schema."""
        identity = [chunk[name] for name in ("id", "object", "created", "model")]
        assert list(map(type, identity)) == [str, str, int, str] and all(identity), chunk
        assert identity[1] == "chat.completion.chunk"
        assert self._identity in (None, identity), chunk
        self._identity = identity
        assert self.usage is None, "something follows the usage"
        assert ("usage" in chunk) == self._with_usage, chunk
        if chunk.get("usage") is not None:
            assert chunk["choices"] == []
            self.usage = chunk["usage"]
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            assert all(type(self.usage[name]) is int for name in names)
            return
        assert chunk["choices"], chunk
        for one in chunk["choices"]:
            self._read_choice(one)

    def _read_choice(self, one: Json) -> None:
        index, delta, reason = one["index"], one["delta"], one["finish_reason"]
        choice = self.choices[index]
        assert not choice.finish, f"something follows the finish reason: {one}"
        assert ("role" in delta) == (index not in self._begun), one
        assert delta.get("role", "assistant") == "assistant"
        self._begun.add(index)
        known = {"role", "content", "reasoning_content", "refusal", "tool_calls"}
        assert delta.keys() <= known, delta
        assert isinstance(delta.get("content"), str | None)
        choice.text.append(delta.get("content") or "")
        if "reasoning_content" in delta:
            assert isinstance(delta["reasoning_content"], str)
            choice.reasoning.append(delta["reasoning_content"])
        if "tool_calls" in delta:
            assert isinstance(delta["tool_calls"], list) and delta["tool_calls"]
            for piece in delta["tool_calls"]:
                self._read_call(choice, piece)
        if reason is not None:
            assert reason in WORDS, reason
            choice.finish = reason
            assert isinstance(one.get("native_finish_reason", ""), str)

    @staticmethod
    def _read_call(choice: Choice, piece: Json) -> None:
        number, function = piece["index"], piece["function"]
        assert isinstance(function["arguments"], str)
        if number == len(choice.calls):
            assert piece.keys() == {"index", "id", "type", "function"}, piece
            assert piece["type"] == "function" and isinstance(piece["id"], str) and piece["id"]
            assert function.keys() == {"name", "arguments"} and function["name"]
            choice.calls.append((function["name"], function["arguments"]))
            return
        assert piece.keys() == {"index", "function"}, piece
        assert function.keys() == {"arguments"}
        name, arguments = choice.calls[number]
        choice.calls[number] = (name, arguments + function["arguments"])
