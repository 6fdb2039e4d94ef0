"""``choreo-wsgi chat``: a conversation in the terminal, streamed with this client."""

from __future__ import annotations

import argparse
import io
import sys
import threading
from contextlib import suppress
from typing import Any

from . import APIError, ChoreoAI, ChoreoAIError, Stream
from .reading import first_text

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count

_HELP = """\
/model NAME   ask another model; without NAME, list those of the server
/clear        forget the conversation so far
/help         show this
/quit         leave, as Ctrl-D does
Ctrl-C stops an answer.  A line that begins with // is a question that begins with /."""

_REASONS = {"length": "the answer reached its token limit", "content_filter": "filtered"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    parser.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="what to ask; without it a conversation"
    )
    parser.add_argument(
        "--model", default="default", help="model to ask; %(default)r is the server's default model"
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions that come first")
    parser.add_argument(
        "--base-url", metavar="URL", help="the server (CHOREOAI_BASE_URL, http://localhost:8000)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="the key for it (CHOREOAI_API_KEY)")


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
        if namespace.prompt:
            return conversation.ask(_decoded(" ".join(namespace.prompt)))
        if not sys.stdin.isatty():
            prompt = _decoded(sys.stdin.read()).strip()
            if not prompt:
                print("choreo-wsgi chat: the prompt is empty", file=sys.stderr)
                return 2
            return conversation.ask(prompt)
        return _converse(conversation)


def main(argv: list[str] | None = None) -> int:
    """Run the command with *argv*; return its exit status."""
    parser = argparse.ArgumentParser(prog="choreo-wsgi chat", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _converse(conversation: Conversation) -> int:
    """Ask and answer in turn until the input ends."""
    with suppress(ImportError):
        import readline  # noqa: F401  - line editing and history for input()
    print(f"{conversation.describe()}; /help lists the commands.", file=sys.stderr)
    while True:
        try:
            prompt = _decoded(input("> ")).strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if prompt.startswith("/") and not prompt.startswith("//"):
            word, _, rest = prompt.partition(" ")
            if word in ("/quit", "/exit"):
                return 0
            print(_command(conversation, word, rest.strip()), file=sys.stderr)
        elif prompt:
            conversation.ask(prompt.removeprefix("/"), show_model=True)


def _command(conversation: Conversation, word: str, rest: str) -> str:
    """Carry out a command of a conversation; return what there is to say about it."""
    if word == "/model":
        conversation.model = rest or conversation.model
        names = "" if rest else f"\n{conversation.models()}"
        return conversation.describe() + names
    if word == "/clear":
        conversation.clear()
        return "The conversation begins anew."
    if word == "/help":
        return _HELP
    return f"There is no command {word}; /help lists them."


def _decoded(text: str) -> str:
    """Return *text* as it was meant: bytes that the terminal's encoding lacks are UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Conversation:
    """The messages so far, and whom to send them to."""

    def __init__(self, client: ChoreoAI, model: str, system: str | None) -> None:
        self._client = client
        self._system = system
        self._answers = ""  # who answered last
        self.model = model
        self.clear()

    def describe(self) -> str:
        """Return which model is asked, and where."""
        return f"Asking the model {self.model!r} at {self._client.base_url}"

    def models(self) -> str:
        """Return the names of the server's models, one in a line, or why there are none."""
        try:
            listed = self._client.models.list().data
            return "\n".join(_printable(model.id or "") for model in listed)
        except ChoreoAIError as error:
            return f"error: {error}"

    def clear(self) -> None:
        """Forget all but the instructions that come first."""
        self._messages: list[dict[str, Any]] = []
        if self._system:
            self._messages.append({"role": "system", "content": self._system})

    def ask(self, prompt: str, show_model: bool = False) -> int:
        """Print the answer to *prompt* as it comes; return the exit status.

        The question and what was answered stay in the conversation, a stopped answer too.
        With *show_model* the name of who answers is printed when it is another than before.
        """
        messages = [*self._messages, {"role": "user", "content": prompt}]
        printer = _Printer()
        stream: Stream | None = None
        status = 0
        try:
            with printer.waiting:
                stream = self._client.chat.completions.create(
                    model=self.model, messages=messages, stream=True
                )
                answers = stream.headers.get("choreo-provider", "")
                if show_model and answers not in ("", self._answers):
                    self._answers = answers
                    printer.note(answers)
                printer.show(stream)
        except KeyboardInterrupt:
            printer.note("stopped")
            status = _EXIT_INTERRUPTED
        except ChoreoAIError as error:
            printer.note(_describe(error))
            status = _EXIT_FAILED
        finally:
            if stream is not None:
                stream.close()
        said = stream.partial_text if stream is not None else ""
        if said:
            self._messages = [*messages, {"role": "assistant", "content": said}]
        return status


def _describe(error: ChoreoAIError) -> str:
    if isinstance(error, APIError) and error.partial_text:
        return f"the answer was cut off: {error}"
    return f"error: {error}"


class _Printer:
    """Writes an answer to standard output and remarks to standard error."""

    def __init__(self) -> None:
        self.waiting = _Waiting()
        self._open_line = False

    def show(self, stream: Stream) -> None:
        for chunk in stream:
            text = first_text(chunk)
            if text:
                self.waiting.stop()
                self._open_line = not text.endswith("\n")
                print(_printable(text), end="", flush=True)
            for choice in chunk.choices:
                if choice.finish_reason in _REASONS:
                    self.note(_REASONS[choice.finish_reason])
        self._end_line()

    def note(self, text: str) -> None:
        self.waiting.stop()
        self._end_line()
        print(f"[{text}]", file=sys.stderr)

    def _end_line(self) -> None:
        if self._open_line:
            print(flush=True)
            self._open_line = False


def _printable(text: str) -> str:
    """Return *text* without control characters that could steer a terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


class _Waiting:
    """Dots that come and go on a terminal until the first token does."""

    _STEPS = (".  ", ".. ", "...", "   ")

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _Waiting:
        if sys.stdout.isatty() and sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._thread = None

    def _show(self) -> None:
        step = 0
        while not self._over.wait(0.25):
            sys.stderr.write(f"\r{self._STEPS[step % len(self._STEPS)]}")
            sys.stderr.flush()
            step += 1
        sys.stderr.write("\r   \r")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
