"""OpenAI's package for Node reads repaired streams, with ``create`` and with its helper."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import harness
from chromium_page import MODULES
from corpus_cases import cases
from mistaken_streams import Choice, random_choice, write_stream
from nightly import examples
from raw_server import RawServer, Request

READER = Path(__file__).with_name("web") / "openai_reader.cjs"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def read(answers: dict[str, bytes]) -> dict[str, Any]:
    """Return the package's result for each of *answers*, by its name."""
    node = harness.require_tool("node", "nodejs")
    harness.require_made(MODULES / "openai")

    def answer(request: Request) -> bytes:
        return answers[json.loads(request.body)["model"]]

    with RawServer.playing(answer) as upstream:
        section = {"type": "openai", "base_url": f"{upstream.url}/v1", "models": "*"}
        app = harness.make_app(sections={"provider up": section})
        with harness.Server(app) as server:
            done = subprocess.run(
                [node, str(READER), server.url],
                input="".join(f"{name}\n" for name in answers),
                env={"NODE_PATH": str(MODULES)},
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        app.close()
    return dict(zip(answers, map(json.loads, done.stdout.splitlines()), strict=True))


def content_and_calls(found: Any) -> tuple[str, list[tuple[str, Any]]]:
    calls = [(call["name"], json.loads(call["arguments"])) for call in found["calls"]]
    return found["content"], calls


def test_reads_recorded_answers() -> None:
    chosen = {case.folder.name: case for case in cases("openai")}
    answers = {name: (case.folder / "upstream.http").read_bytes() for name, case in chosen.items()}
    for name, found in read(answers).items():
        completion = chosen[name].json("completion.json")
        if completion is None:  # the answer failed, which must raise an exception of the package
            assert {one["error"] for one in found.values()} <= {
                *("APIError", "BadRequestError", "InternalServerError", "RateLimitError"),
            }, (name, found)
            continue
        choice = completion["choices"][0]
        assert found["created"]["finish"] == choice["finish_reason"], (name, found)
        assert found["created"]["content"] == (choice["message"]["content"] or ""), name
        if choice["finish_reason"] != "length":  # for which the helper raises
            assert content_and_calls(found["helped"]) == content_and_calls(found["created"]), name


def test_reads_streams_with_random_mistakes() -> None:
    choices: dict[str, Choice] = {}
    answers: dict[str, bytes] = {}
    for seed in range(examples(40, 400)):
        random = Random(seed)
        choice = choices[f"seed-{seed}"] = random_choice(random)
        answers[f"seed-{seed}"] = HEAD + b"".join(write_stream(random, [choice])[1])
    for name, found in read(answers).items():
        choice = choices[name]
        calls = [(called, json.loads(arguments)) for called, arguments in choice.calls]
        assert content_and_calls(found["created"]) == ("".join(choice.text), calls), name
        assert found["created"]["finish"] == choice.finish, name
        if choice.finish not in ("length", "content_filter"):
            assert content_and_calls(found["helped"]) == content_and_calls(found["created"]), (
                name,
                found,
            )
