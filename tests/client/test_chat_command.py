"""``choreo-wsgi chat``, in a pipe and in a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys

import harness
import pytest
from raw_server import DEADLINE
from scripted_provider import Scripted

from choreo_wsgi import cli
from choreo_wsgi.chat.items import Finish
from choreo_wsgi.errors import UpstreamTruncated


@pytest.fixture
def scripts(serve, scripted, monkeypatch):
    """Creates the server's next answer; the environment holds the server's address."""
    section = {"type": "scripted", "models": "default, other, re\x1bd"}
    app = harness.make_app({"default_model": "none"}, {"provider scripted": section})
    monkeypatch.setenv("CHOREOAI_BASE_URL", serve(app).url)
    yield scripted
    app.close()


@pytest.fixture
def requests(monkeypatch):
    """The requests that the provider receives."""
    received, script = [], Scripted.script
    monkeypatch.setattr(Scripted, "script", lambda r: (received.append(r), script(r))[1])
    return received


def start(*arguments, **options):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
    command = [sys.executable, "-W", "error", "-m", "choreo_wsgi", "chat", *arguments]
    return subprocess.Popen(command, stderr=options.pop("stderr", subprocess.PIPE), **options)


@pytest.fixture
def chat():
    """Starts the command, and kills it after the test."""
    processes = []

    def chat(*arguments):
        processes.append(start(*arguments))
        return processes[-1]

    yield chat
    for process in processes:
        process.kill()
        process.communicate()


def end(process, status=0):
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == status, err
    return out.decode(), (err or b"").decode()


def test_prints_the_answer_word_by_word(scripts, chat):
    answer = scripts()
    process = chat("What", "is", "it?")
    answer.say("It ")
    assert process.stdout.read(3) == b"It "
    answer.finish("is.\x1b[31m", Finish())
    assert end(process) == ("is.\x1b[31m\n", "")


@pytest.fixture
def main(monkeypatch, capsys):
    """Runs the command in this process; returns its status, stdout and stderr."""

    def main(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = cli.main(["chat", *arguments])
        return status, *capsys.readouterr()

    return main


def test_reads_the_prompt_from_a_pipe(scripts, requests, main):
    scripts().finish("Fine.\n", Finish())
    assert main(stdin="How are you?\n") == (0, "Fine.\n", "")
    assert requests[0].messages[0]["content"] == "How are you?"


def test_rejects_an_empty_prompt(main):
    assert main(stdin=" \n") == (2, "", "choreo-wsgi chat: the prompt is empty\n")


def test_reports_a_cut_answer(scripts, main):
    scripts().finish("Half an ", UpstreamTruncated("the provider left"))
    note = "[the answer was cut off: the provider left]\n"
    assert main("Go") == (1, "Half an \n", note)


@pytest.mark.parametrize(
    ("reason", "note"),
    [("length", "the answer reached its token limit"), ("content_filter", "filtered")],
)
def test_reports_why_an_answer_ended_early(scripts, main, reason, note):
    scripts().finish("Half", Finish(reason))
    assert main("Go") == (0, "Half\n", f"[{note}]\n")


def test_reports_a_refused_connection(main):
    status, out, err = main("Go", "--base-url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert "127.0.0.1" in err and "refused" in err


def test_reports_an_unknown_model(scripts, main):
    status, out, err = main("Go", "--model", "nothing")
    assert (status, out) == (1, "")
    assert err.startswith("[error: HTTP 404")


def test_model_option_selects_the_model(scripts, main):
    scripts().finish("Hello", Finish())
    assert main("Go", "--model", "other") == (0, "Hello\n", "")


def test_rejects_an_invalid_base_url(main):
    status, _, err = main("Go", "--base-url", "nonsense")
    assert status == 2
    assert "base URL" in err


def test_ctrl_c_stops_the_generation(scripts, chat):
    answer = scripts()
    process = chat("Go")
    answer.say("some")
    assert process.stdout.read(4) == b"some"
    process.send_signal(signal.SIGINT)
    assert end(process, status=130) == ("\n", "[stopped]\n")
    assert answer.closed.wait(DEADLINE)


# --- in a terminal ----------------------------------------------------------------------


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments):
        self._fd, child = pty.openpty()
        self.process = start(
            *arguments, stdin=child, stdout=child, stderr=child, start_new_session=True
        )
        os.close(child)
        self._unread = ""

    def type(self, text):
        self.type_bytes(text.encode())

    def type_bytes(self, data):
        os.write(self._fd, data)

    def expect(self, text):
        """Read until *text* is printed; return the output up to its end."""
        while text not in self._unread:
            assert select.select([self._fd], [], [], DEADLINE)[0], self._unread
            self._unread += os.read(self._fd, 1024).decode(errors="replace")
        seen, _, self._unread = self._unread.partition(text)
        return seen + text

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def screen():
    screens = []

    def open_terminal(*arguments):
        screens.append(Terminal(*arguments))
        return screens[-1]

    yield open_terminal
    for each in screens:
        each.close()


def test_shows_an_indicator_until_the_first_token(scripts, screen):
    answer = scripts()
    terminal = screen("Go")
    terminal.expect("...")
    answer.finish("word\x1b[31m\x9b32m", Finish())
    shown = terminal.expect("word")
    assert shown.endswith("\r   \rword")
    # Escape sequences in an answer are removed.
    assert terminal.expect("\n") == "[31m32m\r\n"


def test_conversation_keeps_its_messages(scripts, requests, screen):
    first, second, third = scripts(), scripts(), scripts()
    terminal = screen("--system", "Be brief.")
    terminal.expect("> ")
    terminal.type("One?\n")
    first.finish("First.", Finish())
    terminal.expect("First.\r\n")
    terminal.expect("> ")
    terminal.type("Two?\n")
    second.say("Half")
    assert "[scripted/" not in terminal.expect("Half"), "it is shown when it changes"
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("[stopped]")
    assert second.closed.wait(DEADLINE)
    terminal.expect("> ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("> ")
    terminal.type("\n")
    terminal.expect("> ")
    terminal.type("Three?\n")
    third.finish("Third.", Finish())
    terminal.expect("Third.")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.process.wait(DEADLINE) == 0
    assert [(m["role"], m["content"]) for m in requests[2].messages] == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "First."),
        ("user", "Two?"),
        ("assistant", "Half"),
        ("user", "Three?"),
    ]


def test_conversation_survives_an_unreachable_server(screen):
    terminal = screen("--base-url", "http://127.0.0.1:9")
    terminal.expect("> ")
    terminal.type("/model\n")
    terminal.expect("error: ")
    terminal.expect("> ")
    terminal.type("/exit\n")
    assert terminal.process.wait(DEADLINE) == 0


def test_conversation_commands_switch_model_and_clear(scripts, requests, screen):
    answers = [scripts() for _ in range(3)]
    terminal = screen("--system", "Be brief.")
    terminal.expect("Using the model 'default' at http://127.0.0.1")
    terminal.expect("> ")
    terminal.type("One?\n")
    answers[0].finish("First.", Finish())
    terminal.expect("[scripted/default]")
    terminal.expect("First.")
    terminal.expect("> ")
    terminal.type("/model\n")
    shown = terminal.expect("> ")
    assert "default\r\n" in shown and "other\r\nred\r\n" in shown
    terminal.type("/model other\n")
    terminal.expect("Using the model 'other'")
    terminal.type("/modle x\n")
    terminal.expect("Unknown command /modle")
    terminal.type("/help\n")
    for word in ("/model NAME", "/clear", "/help", "/quit"):
        terminal.expect(word)
    terminal.type("Two?\n")
    answers[1].finish("Second.", Finish())
    terminal.expect("[scripted/other]")
    terminal.expect("Second.")
    terminal.type("/clear\n")
    terminal.expect("A new conversation")
    terminal.type("//three\n")
    answers[2].finish("Third.", Finish())
    terminal.expect("Third.")
    terminal.expect("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait(DEADLINE) == 0
    assert [request.model for request in requests] == ["default", "other", "other"]
    sent = [[(m["role"], m["content"]) for m in request.messages] for request in requests]
    first = [("system", "Be brief."), ("user", "One?")]
    assert sent[1] == [*first, ("assistant", "First."), ("user", "Two?")]
    assert sent[2] == [("system", "Be brief."), ("user", "/three")]


@pytest.mark.parametrize(
    ("variables", "typed", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "café".encode(), "café"),
        ({"PYTHONIOENCODING": "latin-1"}, b"coffee", "coffee"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "INPUTRC": "/dev/null"}, b"\xc3\xa9 x", "é x"),
    ],
)
def test_works_in_a_terminal_that_is_not_utf_8(
    scripts, requests, screen, monkeypatch, variables, typed, expected
):
    for name, value in {**variables, "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    answer = scripts()
    terminal = screen()
    terminal.expect("> ")
    terminal.type_bytes(typed + b"\n")
    answer.finish("\N{SNOWMAN} fine", Finish())
    terminal.expect("? fine")
    terminal.expect("> ")
    assert requests[0].messages[0]["content"] == expected


def test_replaces_arguments_that_are_not_utf_8(scripts, requests, chat):
    scripts().finish("Yes.", Finish())
    assert end(chat(b"caf\xe9", "au lait"))[0] == "Yes.\n"
    assert requests[0].messages[0]["content"] == "caf\N{REPLACEMENT CHARACTER} au lait"
