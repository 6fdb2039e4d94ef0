"""The examples, run as a reader would run them, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import harness
import pytest
from raw_server import DEADLINE

from choreo_wsgi.chat.items import Delta, Finish, ToolCall
from choreo_wsgi.errors import ProviderError, UpstreamTruncated

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Run:
    """The process of an example."""

    def __init__(self, url, name, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", EXAMPLES / name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CHOREOAI_BASE_URL": url, **environment},
        )

    def read(self, size):
        """Return the next *size* bytes of its output."""
        data = self.process.stdout.read(size)
        assert len(data) == size, self.process.stderr.read().decode()
        return data.decode()

    def rest(self, status=0):
        """Wait until it exits with *status*; return the rest of its output."""
        out, err = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == status, err.decode()
        self.err = err.decode()
        return out.decode()

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def run():
    """Starts examples, and kills them after the test."""
    runs = []

    def start(url, name, *arguments, **environment):
        runs.append(Run(url, name, *arguments, **environment))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


@pytest.fixture
def echo(serve):
    """The address of a server that echoes the prompt."""
    app = harness.make_app({"default_model": "echo"})
    yield serve(app).url
    app.close()


@pytest.fixture
def scripted_server(serve, scripted):
    """The address of a server with scripted answers, and the fixture that creates the scripts."""
    section = {"type": "scripted", "models": "default"}
    app = harness.make_app({"default_model": "none"}, {"provider scripted": section})
    yield serve(app).url, scripted
    app.close()


def test_every_example_is_tested():
    tests = Path(__file__).read_text()
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(names) == 12
    assert [name for name in names if f'"{name}"' not in tests] == []


def test_basic_prints_words_as_they_are_received(run, scripted_server):
    """Each word is printed before the server sends the next."""
    url, script = scripted_server
    answer = script()
    process = run(url, "basic.py", "Hello")
    for word in ("Rivers ", "are ", "wet."):
        answer.say(word)
        assert process.read(len(word)) == word
    answer.finish(Finish())
    assert process.rest() == "\n"


def test_asynchronous_answers_prompts_within_a_limit(run, scripted_server):
    url, script = scripted_server
    scripts = [script(), script()]
    process = run(url, "asynchronous.py", "One?", "Two?", LIMIT="4")
    harness.wait_until(lambda: all(s.asked.is_set() for s in scripts), "both requests were sent")
    scripts[1].finish("an answer", Finish())
    scripts[0].say("half an")
    lines = process.rest().splitlines()
    assert sorted(lines) == sorted(["One?", "Two?", "  an answer", "  (nothing within 4 seconds)"])
    assert scripts[0].closed.wait(DEADLINE)


def test_accumulate_prints_length_finish_reason_and_usage(run, echo):
    out = run(echo, "accumulate.py", "Name three rivers.").rest()
    assert out.splitlines() == [
        "Name three rivers.",
        "characters: 18",
        "ended because: stop",
        "tokens: 3 read, 3 written",
    ]


def test_indicator_spins_until_the_first_token(run, scripted_server):
    url, script = scripted_server
    answer = script()
    process = run(url, "indicator.py", "Hello")
    assert process.process.stderr.read(4) == b"\r|\r/"
    answer.finish("word", Finish())
    assert process.rest() == "word\n"
    assert process.err.endswith("\r \r")


def test_multi_choice_prints_two_answers(run, echo):
    out = run(echo, "multi_choice.py", "A boat").rest()
    pieces, _, finals = out.partition("\nAnswer 1:\n")
    assert sorted(pieces.split("\n")) == ["", "0: 'A '", "0: 'boat'", "1: 'A '", "1: 'boat'"]
    assert finals == "A boat\n\nAnswer 2:\nA boat\n"


def test_buffered_prints_whole_paragraphs(run, scripted_server):
    url, script = scripted_server
    answer = script()
    process = run(url, "buffered.py", "Hello")
    answer.say("one ", "two\nthree", " four\n\nfi")
    assert process.read(20) == "one two\nthree four\n\n"
    answer.finish("ve", Finish())
    assert process.rest() == "five"


def test_timeout_stops_a_late_answer(run, scripted_server):
    url, script = scripted_server
    answer = script()
    process = run(url, "timeout.py", "Hello", LIMIT="4")
    answer.say("once")
    assert process.rest() == "once\n[out of time after 4 characters]\n"
    assert answer.closed.wait(DEADLINE)


def test_timeout_prints_an_answer_in_time(run, echo):
    assert run(echo, "timeout.py", "In time").rest() == "In time\n[complete]\n"


@pytest.mark.parametrize(
    ("end", "printed", "status"),
    [
        (Finish(), "Dear \n[finished]\n", 0),
        (Finish("length"), "Dear \n[stopped at the token limit]\n", 0),
        (UpstreamTruncated("gone"), "Dear \n[cut off: gone]\n[kept: 'Dear ']\n", 1),
        (ProviderError("bad"), "Dear \n[failed: bad (code provider_api_error)]\n", 1),
    ],
    ids=["stop", "length", "cut", "error"],
)
def test_incomplete_reports_how_the_answer_ended(run, scripted_server, end, printed, status):
    url, script = scripted_server
    script().finish("Dear ", end)
    assert run(url, "incomplete.py", "Write").rest(status) == printed


def test_reconnect_continues_after_an_interrupt(run, scripted_server, tmp_path):
    url, script = scripted_server
    answer = script()
    state = {"STATE": str(tmp_path / "state.json")}
    first = run(url, "reconnect.py", "Count", **state)
    answer.say("one ", "two ")
    assert first.read(8) == "one two "
    harness.wait_until((tmp_path / "state.json").exists, "the state is written")
    harness.wait_until(
        lambda: "two" in (tmp_path / "state.json").read_text(), "the second word is written"
    )
    first.process.send_signal(signal.SIGINT)
    assert first.rest() == "\n[the server continues; --continue shows the rest]\n"
    answer.say("three ")
    second = run(url, "reconnect.py", "--continue", **state)
    assert second.read(14) == "one two three "
    answer.finish("four", Finish())
    assert second.rest() == "four\n"
    assert not (tmp_path / "state.json").exists()


def test_tools_answers_a_call_with_an_error(run, scripted_server):
    url, script = scripted_server
    first, second = script(), script()
    process = run(url, "tools.py", "What time is it?")
    call = ToolCall(0, "call_1", "tell_time", '{"zone": "Mars/Olympus"}')
    first.finish(Delta(tool_calls=(call,)), Finish("tool_calls"))
    second.finish("I ", "cannot tell.", Finish())
    printed = process.rest()
    assert printed.startswith("[tell_time {")
    assert "ZoneInfoNotFoundError" in printed
    assert printed.endswith("]\nI cannot tell.\n")


def test_structured_output_prints_items_as_they_are_parsed(run, scripted_server):
    pytest.importorskip("pydantic")
    url, script = scripted_server
    answer = script()
    process = run(url, "structured_output.py", "A pie")
    answer.say('{"title": "Pie", "ingredients": [{"name": "apple", "amount": "6"}, ')
    answer.say('{"name": "sug')
    # The first is printed while the second is still being sent.
    assert process.read(8) == "- apple\n"
    answer.finish('ar", "amount": "1 cup"}]}', Finish())
    assert process.rest() == "Pie: 2 ingredients\n  6 apple\n  1 cup sugar\n"


def test_web_resume_continues_after_last_event_id(run, scripted_server):
    url, script = scripted_server
    answer = script()
    process = run(url, "web_resume.py", PORT="0")
    address = process.process.stdout.readline().decode().strip()

    def read(count, **headers):
        lines = []
        request = urllib.request.Request(address + "?q=Count", headers=headers)
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            if response.status != 204:
                while len(lines) < count and (line := response.readline().decode()):
                    lines += [line.strip()] if line.strip() else []
        return response.status, lines

    answer.say("one ", "two ")
    _, first = read(4)
    assert first[1::2] == ['data: "one "', 'data: "two "']
    answer.finish("three", Finish())
    _, rest = read(9, **{"Last-Event-ID": first[2].removeprefix("id: ")})
    assert rest[1:] == ['data: "three"', "event: done", "data: {}"]
    assert read(0, **{"Last-Event-ID": "st-none:1"}) == (204, [])
    process.process.send_signal(signal.SIGINT)
    process.rest()
