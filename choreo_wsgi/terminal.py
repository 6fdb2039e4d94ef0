"""``choreo-wsgi chat``: a conversation in the terminal, streamed with the client."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import suppress
from typing import Any

from choreoai import APIError, ChoreoAI, ChoreoAIError

_HELP = """\
/model NAME   ask another model; without NAME, list those of the server
/clear        forget the conversation so far
/help         show this
/quit         leave, as Ctrl-D does
Ctrl-C stops an answer.  A line that begins with // is a question that begins with /."""

_REASONS = {"length": "the answer reached its token limit", "content_filter": "filtered"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    add = parser.add_argument
    add("prompt", nargs="*", metavar="PROMPT", help="what to ask; without it a conversation")
    add(
        "--model", default="default", help="model to ask; %(default)r is the server's default model"
    )
    add("--system", metavar="TEXT", help="instructions that come first")
    add("--base-url", metavar="URL", help="the server (CHOREOAI_BASE_URL, http://localhost:8000)")
    add("--api-key", metavar="KEY", help="the key for it (CHOREOAI_API_KEY)")


def run(namespace: argparse.Namespace) -> int:
    """Carry out the command; return its exit status.

    The prompt is the arguments; without them standard input, if that is no terminal;
    otherwise a conversation is held until the end of input.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not UTF-8 shows ? for what it lacks, and is no error.
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")
    try:
        client = ChoreoAI(namespace.api_key, namespace.base_url)
    except ValueError as error:
        print(f"choreo-wsgi chat: {error}", file=sys.stderr)
        return 2
    with client:
        conversation = Conversation(client, namespace.model, namespace.system)
        if not namespace.prompt and sys.stdin.isatty():
            return conversation.hold()
        prompt = _decoded(" ".join(namespace.prompt) or sys.stdin.read()).strip()
        if prompt:
            return conversation.ask(prompt)
        print("choreo-wsgi chat: the prompt is empty", file=sys.stderr)
        return 2


class Conversation:
    """The messages so far, and whom to send them to."""

    def __init__(self, client: ChoreoAI, model: str, system: str | None) -> None:
        self._client = client
        self._model = model
        self._begin = [{"role": "system", "content": system}] if system else []
        self._messages: list[Any] = self._begin
        self._answers = ""  # who answered last

    def hold(self) -> int:
        """Ask and answer in turn until the input ends."""
        with suppress(ImportError):
            import readline  # line editing and history for input()

            # Where there is no locale it would take a letter beyond ASCII for a key with Meta.
            for option in ("convert-meta off", "input-meta on", "output-meta on"):
                readline.parse_and_bind(f"set {option}")
        print(f"{self._describe()}; /help lists the commands.", file=sys.stderr)
        while True:
            try:
                prompt = _decoded(input("> ")).strip()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
                continue
            if prompt in ("/quit", "/exit"):
                return 0
            if prompt.startswith("/") and not prompt.startswith("//"):
                print(self._command(*prompt.split(maxsplit=1)), file=sys.stderr)
            elif prompt:
                self.ask(prompt.removeprefix("/"), show_model=True)

    def _command(self, word: str, rest: str = "") -> str:
        """Carry out a command; return what there is to say about it."""
        if word == "/model" and rest:
            self._model = rest
            return self._describe()
        if word == "/model":
            try:
                models = [_printable(model.id or "") for model in self._client.models.list()]
            except ChoreoAIError as error:
                models = [f"error: {error}"]
            return "\n".join((self._describe(), *models))
        if word == "/clear":
            self._messages = self._begin
            return "The conversation begins anew."
        return _HELP if word == "/help" else f"There is no command {word}; /help lists them."

    def _describe(self) -> str:
        return f"Asking the model {self._model!r} at {self._client.base_url}"

    def ask(self, prompt: str, show_model: bool = False) -> int:
        """Print the answer to *prompt* as it comes; return the exit status.

        The question and what was answered stay in the conversation, a stopped answer too.
        With *show_model* the name of who answers is printed when it is another than before.
        """
        messages = [*self._messages, {"role": "user", "content": prompt}]
        create = self._client.chat.completions.create
        printer, said, remark, status = _Printer(), "", "", 0
        try:
            with create(model=self._model, messages=messages, stream=True) as stream:
                answers = stream.headers.get("choreo-provider", "")
                if show_model and answers not in ("", self._answers):
                    self._answers = answers
                    printer.note(answers)
                try:
                    for text in stream.text:
                        printer.write(text)
                finally:
                    said = stream.partial_text
                for choice in stream.partial.choices:
                    remark = _REASONS.get(choice.finish_reason or "", remark)
        except KeyboardInterrupt:
            remark, status = "stopped", 130  # 128 + SIGINT, as shells count
        except ChoreoAIError as error:
            cut = isinstance(error, APIError) and error.partial_text
            remark, status = f"{'the answer was cut off' if cut else 'error'}: {error}", 1
        finally:
            printer.note(remark)
        if said:
            self._messages = [*messages, {"role": "assistant", "content": said}]
        return status


class _Printer:
    """Writes an answer to standard output and remarks to standard error.

    On a terminal dots stand there until there is something to write.
    """

    def __init__(self) -> None:
        self._open_line = False
        self._dots = sys.stdout.isatty() and sys.stderr.isatty()
        if self._dots:
            print("...", end="", file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        if self._dots:
            self._dots = False
            print("\r   \r", end="", file=sys.stderr, flush=True)
        self._open_line = text[-1:] not in ("", "\n")
        print(_printable(text), end="", flush=True)

    def note(self, text: str) -> None:
        """End the dots and the line; print *text*, if there is any, as a remark."""
        self.write("\n" if self._open_line else "")
        if text:
            print(f"[{text}]", file=sys.stderr)


def _decoded(text: str) -> str:
    """Return *text* as it was meant: bytes that the terminal's encoding lacks are UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _printable(text: str) -> str:
    """Return *text* without control characters that could steer a terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
