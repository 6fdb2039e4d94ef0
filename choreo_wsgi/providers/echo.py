"""The echo: answers with the last user message, word by word."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..chat.items import Delta, Finish, Item, Usage
from ..chat.request import ChatRequest
from ..chat.source import Source
from ..settings import setting
from .base import Provider

# A word with the white space behind it; leading white space belongs to the first word.
_PIECE = re.compile(r"\s*\S+\s*|\s+")


def pieces(text: str) -> Iterator[str]:
    """Yield *text* cut behind each word's white space; joined they are *text*.

    One at a time: a list of them is thirty times as long as the text.
    """
    return (match[0] for match in _PIECE.finditer(text))


class Echo(Provider):
    """Streams the last user message back in pieces of one word.

    A token is a piece: that is what max_tokens and usage count.
    """

    type = "echo"
    native = frozenset({"max_tokens"})

    @dataclass(frozen=True)
    class Options:
        """Settings of an echo."""

        delay_ms: float = setting(0.0, "pause before each piece when streaming", minimum=0)

    def open(self, request: ChatRequest) -> Source:
        """Return the source of the pieces."""
        delay = self.options.delay_ms / 1000 if request.stream else 0.0
        text = request.last_user_text
        count = sum(1 for _ in pieces(text))
        limit = count if request.max_tokens is None else request.max_tokens
        # max_tokens 0 asks for nothing and gets it: `length`, as OpenAI answers.
        reason = "length" if request.max_tokens == 0 or limit < count else "stop"
        words = itertools.islice(pieces(text), limit)
        return _EchoSource(words, reason, delay, _prompt_words(request))

    def calls(self, request: ChatRequest) -> int:
        """Return 1: a choice of an echo holds no connection."""
        return 1

    def label(self, model: str) -> str:
        """Return the instance's name: there is only one model."""
        return self.name

    def models(self) -> list[str]:
        """Return the one model's name."""
        return ["echo"]


def _prompt_words(request: ChatRequest) -> int:
    count = 0
    for message in request.messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts)
        count += sum(len(text.split()) for text in texts if isinstance(text, str))
    return count


class _EchoSource(Source):
    def __init__(self, words: Iterator[str], reason: str, delay: float, prompt_words: int) -> None:
        self._words = words
        self._reason = reason
        self._delay = delay
        self._due = time.monotonic() + delay
        self._next = next(words, None)
        self._usage = self.usage = Usage(prompt_words, 0)

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

    def _wait(self, timeout: float) -> bool:
        """Wait for the next piece's time; whether it came within *timeout*."""
        pause = self._due - time.monotonic()
        if pause > 0:
            time.sleep(min(pause, timeout))
            if pause > timeout:
                return False
        self._due += self._delay
        return True

    def close(self) -> None:
        self.ended = True
