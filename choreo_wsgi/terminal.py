"""``choreo-wsgi chat``: a streamed conversation in the terminal, by the client ``choreoai``."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import suppress
from typing import Any

from choreoai import APIError, ChoreoAI, ChoreoAIError

_HELP = """\
/model NAME   use another model; without NAME, list the server's models
/clear        start a new conversation
/help         show this help
/quit         exit, as Ctrl-D does
Ctrl-C stops an answer.  Begin a line with // to send a message that begins with /."""

_REASONS = {"length": "the answer reached its token limit", "content_filter": "filtered"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    add = parser.add_argument
    add("prompt", nargs="*", metavar="PROMPT", help="the message; without it, a conversation")
    add("--model", default="default", help="model name; %(default)r is the server's default model")
    add("--system", metavar="TEXT", help="the system message")
    add("--base-url", metavar="URL", help="the server (CHOREOAI_BASE_URL, http://localhost:8000)")
    add("--api-key", metavar="KEY", help="an API key of the server (CHOREOAI_API_KEY)")


def run(namespace: argparse.Namespace) -> int:
    """Run the command; return its exit status.

    The prompt comes from the arguments, or from standard input if that is not a terminal.
    Otherwise a conversation is started, which lasts until the end of input.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Show ? for characters that the terminal's encoding lacks, instead of an error.
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")
    try:
        client = ChoreoAI(namespace.api_key, namespace.base_url)
    except ValueError as error:
        print(f"choreo-wsgi chat: {error}", file=sys.stderr)
        return 2
    with client:
        conversation = Conversation(client, namespace.model, namespace.system)
        if not namespace.prompt and sys.stdin.isatty():
            return conversation.run()
        prompt = _decoded(" ".join(namespace.prompt) or sys.stdin.read()).strip()
        if prompt:
            return conversation.ask(prompt)
        print("choreo-wsgi chat: the prompt is empty", file=sys.stderr)
        return 2


class Conversation:
    """The messages of a conversation, and the client and model that answer them."""

    def __init__(self, client: ChoreoAI, model: str, system: str | None) -> None:
        self._client = client
        self._model = model
        self._begin = [{"role": "system", "content": system}] if system else []
        self._messages: list[Any] = self._begin
        self._provider = ""  # of the last answer, as in Choreo-Provider

    def run(self) -> int:
        """Read prompts and commands, and answer them, until the end of input."""
        with suppress(ImportError):
            import readline  # line editing and history for input()

            # Without a locale readline would take bytes beyond ASCII for keys with Meta.
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
        """Run a command; return the text to print."""
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
            return "A new conversation begins."
        return _HELP if word == "/help" else f"Unknown command {word}; /help lists the commands."

    def _describe(self) -> str:
        return f"Using the model {self._model!r} at {self._client.base_url}"

    def ask(self, prompt: str, show_model: bool = False) -> int:
        """Print the answer to *prompt* as it arrives; return the exit status.

        The prompt and the answer, even a stopped one, are added to the conversation.  With
        *show_model* the provider and model are printed if they differ from those of the last
        answer.
        """
        messages = [*self._messages, {"role": "user", "content": prompt}]
        create = self._client.chat.completions.create
        printer, answer, remark, status = _Printer(), "", "", 0
        try:
            with create(model=self._model, messages=messages, stream=True) as stream:
                provider = stream.headers.get("choreo-provider", "")
                if show_model and provider not in ("", self._provider):
                    self._provider = provider
                    printer.note(provider)
                try:
                    for text in stream.text:
                        printer.write(text)
                finally:
                    answer = stream.partial_text
                for choice in stream.partial.choices:
                    remark = _REASONS.get(choice.finish_reason or "", remark)
        except KeyboardInterrupt:
            remark, status = "stopped", 130  # 128 + SIGINT, as shells count
        except ChoreoAIError as error:
            cut = isinstance(error, APIError) and error.partial_text
            remark, status = f"{'the answer was cut off' if cut else 'error'}: {error}", 1
        finally:
            printer.note(remark)
        if answer:
            self._messages = [*messages, {"role": "assistant", "content": answer}]
        return status


class _Printer:
    """Writes an answer to standard output and remarks to standard error.

    On a terminal it shows dots until there is text to write.
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
        """Remove the dots and end the line; print *text*, unless empty, as a remark."""
        self.write("\n" if self._open_line else "")
        if text:
            print(f"[{text}]", file=sys.stderr)


def _decoded(text: str) -> str:
    """Return *text* with the bytes that the terminal's encoding could not decode read as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _printable(text: str) -> str:
    """Return *text* without the control characters that could steer a terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
