"""The echo provider: answers with the last user message, word by word.

``choreo-wsgi check`` sends it a member ``choreo_check`` in the body: ``{"delay_ms": N}`` sets the
pause before each word, ``{"id": ID}`` registers the answer, and for ``{"about": ID}`` the answer is
whether that one is still ``running``, ``gone`` (ended), or ``unknown`` to this process.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Delta, Finish, InvalidRequest, Item, Json, Provider, Settings, Source, Usage, setting

if TYPE_CHECKING:
    from . import ChatRequest

#: Limit of ``delay_ms``.
_MAX_DELAY_MS = 600_000
#: Limit of registered answers; the oldest is dropped.
_MAX_CHECKS = 256

# A word and the white space after it; leading white space belongs to the first word.
_PIECE = re.compile(r"\s*\S+\s*|\s+")


def pieces(text: str) -> Iterator[str]:
    """Yield the pieces of *text*, each a word and the white space after it.

    A list of them would take thirty times the memory of the text.
    """
    return (match[0] for match in _PIECE.finditer(text))


class Echo(Provider):
    """Streams the last user message back in pieces of one word.

    max_tokens and usage count pieces.
    """

    type = "echo"
    native = frozenset({"max_tokens"})
    blocking = False

    @dataclass(frozen=True)
    class Options:
        """Settings of an echo."""

        delay_ms: float = setting(0.0, "pause before each piece when streaming", minimum=0)

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        self._checks: OrderedDict[str, str] = OrderedDict()

    def open(self, request: ChatRequest) -> Source:
        delay = self.options.delay_ms / 1000 if request.stream else 0.0
        text = request.last_user_text
        id = ""
        if "choreo_check" in request.body:
            delay, id, about = _check(request.body["choreo_check"])
            text = self._checks.get(about, "unknown") if about else text
        count = sum(1 for _ in pieces(text))
        limit = count if request.max_tokens is None else request.max_tokens
        # OpenAI answers max_tokens 0 with `length`, even if there is no text to cut.
        reason = "length" if request.max_tokens == 0 or limit < count else "stop"
        words = itertools.islice(pieces(text), limit)
        if id:
            self._checks[id] = "running"
            if len(self._checks) > _MAX_CHECKS:
                self._checks.popitem(last=False)

        def on_close() -> None:
            if id in self._checks:
                self._checks[id] = "gone"

        return _EchoSource(words, reason, delay, _prompt_words(request), on_close)

    def calls(self, request: ChatRequest) -> int:
        """Return 1: the choices of an echo need no connections."""
        return 1

    def label(self, model: str) -> str:
        """Return the provider's name: it has one model."""
        return self.name

    def models(self) -> list[str]:
        """Return the name of its one model."""
        return ["echo"]


def _check(value: Json) -> tuple[float, str, str]:
    """Return the delay in seconds, ``id`` and ``about`` of a ``choreo_check``."""
    if isinstance(value, dict) and value.keys() <= {"delay_ms", "id", "about"}:
        delay, id, about = value.get("delay_ms", 0), value.get("id", ""), value.get("about", "")
        number = isinstance(delay, int | float) and not isinstance(delay, bool)
        names = isinstance(id, str) and isinstance(about, str) and len(id) <= 64
        if names and number and 0 <= delay <= _MAX_DELAY_MS:
            return delay / 1000, id, about
    raise InvalidRequest(
        f"choreo_check takes delay_ms (0 to {_MAX_DELAY_MS}), id and about", param="choreo_check"
    )


def _prompt_words(request: ChatRequest) -> int:
    count = 0
    for message in request.messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts)
        count += sum(len(text.split()) for text in texts if isinstance(text, str))
    return count


@dataclass(eq=False)
class _EchoSource(Source):
    _words: Iterator[str]
    _reason: str
    _delay: float
    _prompt_words: int
    _on_close: Callable[[], None]

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self._delay
        self._next = next(self._words, None)
        self._usage = self.usage = Usage(self._prompt_words, 0)

    def receive(self, timeout: float) -> list[Item]:
        if self.ended:
            return []
        word = self._next
        if word is None:
            self.ended = True
            return [Finish(self._reason), self._usage]
        if self._delay and not self._wait(timeout):
            return []
        self._next = next(self._words, None)
        self._usage.completion_tokens += 1
        return [Delta(word)]

    @property
    def due(self) -> float | None:
        return self._due if self._delay and self._next is not None else 0.0

    def _wait(self, timeout: float) -> bool:
        """Wait until the next piece is due; return False if *timeout* seconds end before."""
        pause = self._due - time.monotonic()
        if pause > 0:
            time.sleep(min(pause, timeout))
            if pause > timeout:
                return False
        self._due += self._delay
        return True

    def close(self) -> None:
        self.ended = True
        self._on_close()
