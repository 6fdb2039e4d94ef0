"""Answers of the local model's process: waited for, read, and found out when they are stuck."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..chat.items import Delta, Item, Json, Usage, dump
from ..chat.source import Reply, Source
from ..errors import (
    ChoreoError,
    InvalidRequest,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    from_provider,
)
from ..providers.answer import Attempt
from ..providers.failures import read_body
from ..providers.openai.chunks import OpenAITranslator
from ..providers.translating import HTTPSource
from ..settings import Settings
from ..upstream import Client, HTTPRequest, Timeouts
from .process import Endpoint, Run

#: The length of the prompt, in the chunks of the prefill.  A text cannot contain the pattern:
#: its quotes would be escaped.
_PROMPT = re.compile(rb'"prompt_progress":{"total":([0-9]{1,9})')

#: Seconds to wait, after a connection broke, for the system to report that the process ended.
_NEWS = 0.25


class Waiting(Source):
    """Waits for the process of *run*, posts *body* to *path* there, and hands over what is read.

    *read* opens the answer.  A process that sent nothing to anybody for ``idle_timeout`` while
    somebody waits is stuck (a schema's pattern can do that).  It is ended, so that the next
    request gets a new one.  While it works on a *document* it is silent: ``first_byte_timeout``
    bounds that, and others do not take it for stuck meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        run: Run,
        path: str,
        body: dict[str, Json],
        read: Callable[[Attempt], Source | Reply],
        *,
        document: bool = False,
        label: str = "",
    ) -> None:
        self._settings = settings
        self._run = run
        self._path = path
        self._body = body
        self._read = read
        self._document = document
        self._nothing: list[Item] | bytes = b"" if document else []
        self._reading: Any = None
        self._asked_at = 0.0
        self.label = label

    def receive(self, timeout: float) -> Any:
        """Return what came within *timeout* seconds."""
        if self.ended:
            return self._nothing
        if self._reading is None:
            began = time.monotonic()
            endpoint = self._run.wait(timeout)
            if endpoint is None:
                limit = self._settings.first_byte_timeout
                if time.monotonic() - self._run.started_at > limit:
                    raise ProviderTimeout(f"the local model was not ready within {limit:g} s")
                return self._nothing
            self._asked_at = time.monotonic()
            self._reading = self._read(self._attempt(endpoint))
            timeout = max(0.0, timeout - (time.monotonic() - began))
        try:
            came = self._reading.receive(timeout)
        except (ProviderError, ProviderUnavailable) as error:
            if not self._run.has_ended(_NEWS):
                raise
            text = "the local model's process has ended unexpectedly; it starts again"
            raise type(error)(text) from error
        if came or self._document:
            self._run.heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > self._settings.idle_timeout:
            text = f"the local model sent nothing for {self._settings.idle_timeout:g} s"
            self._run.kill(text)
            self._reading.close()
            raise ProviderTimeout(text)
        self.ended = self._reading.ended
        self.usage = self._reading.usage
        return came

    def _attempt(self, endpoint: Endpoint) -> Attempt:
        body = self._body
        if "tools" in body and not endpoint.tools:
            name = Path(self._run.launch.model).stem
            raise InvalidRequest(f"the local model {name} cannot call tools", param="tools")
        # The first byte comes when a slot is free.  Silence after that is judged above, for all
        # who wait together.
        patience = self._settings.first_byte_timeout
        timeouts = Timeouts(self._settings.connect_timeout, patience, patience)
        headers = {
            "Authorization": f"Bearer {endpoint.key}",
            "Content-Type": "application/json",
            # An idle connection would hold one of the process's few threads.
            "Connection": "close",
        }
        # Without an environment: no proxy stands between us and our own process.
        client = Client(timeouts, unix_socket=endpoint.unix_socket, environ={})
        request = HTTPRequest("POST", endpoint.url + self._path, headers, dump(body))
        param = next(name for name in ("messages", "prompt", "input") if name in body)
        return Attempt(
            lambda: client.send(request),
            partial(_refusal, param),
            foreign=b"{[<" if body.get("stream") else b"",
            secrets=re.compile(re.escape(endpoint.key)),
        )

    @property
    def _heard_at(self) -> float:
        return max(self._asked_at, self._run.heard_at)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return None if self._reading is None else self._reading.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came: also when the process counts as stuck.

        A document's is earlier, to speak for the process before that.
        """
        due = None if self._reading is None else self._reading.due
        patience = self._settings.idle_timeout / (2 if self._document else 1)
        return None if due is None else min(due, self._heard_at + patience)

    def close(self) -> None:
        """Stop the generation."""
        self.ended = True
        if self._reading is not None:
            self._reading.close()
            self.usage = self._reading.usage


def chat_answer(settings: Settings, run: Run, body: dict[str, Json]) -> Waiting:
    """Return one choice of a chat: the answer to *body*.

    Reading it raises InvalidRequest for tools that the model cannot call.
    """

    def read(attempt: Attempt) -> Source:
        return HTTPSource(attempt, _Chunks(run, settings.max_event_bytes))

    return Waiting(settings, run, "/v1/chat/completions", body, read)


class _Chunks(OpenAITranslator):
    """Reads llama.cpp's chunks, whose shape is OpenAI's, and notes that *run* is alive."""

    def __init__(self, run: Run, max_event_bytes: int) -> None:
        super().__init__(1, max_event_bytes)
        self._run = run
        self._prompt_tokens = 0
        self._pieces = 0

    @property
    def usage(self) -> Usage | None:
        """The reported usage; for a cut answer, the prompt's tokens and one for each piece."""
        if super().usage is None and self._prompt_tokens:
            return Usage(self._prompt_tokens, self._pieces)
        return super().usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        self._run.heard_at = time.monotonic()
        if not self._prompt_tokens and (found := _PROMPT.search(data)):
            self._prompt_tokens = int(found[1])
        super().translate(data, items)
        self._pieces += sum(isinstance(item, Delta) for item in items)


def _refusal(param: str, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return the error for our caller that corresponds to llama.cpp's."""
    message, error = read_body(body)
    if error.get("type") == "exceed_context_size_error":
        return InvalidRequest(
            f"{'the conversation' if param == 'messages' else param} has "
            f"{error.get('n_prompt_tokens')} tokens, "
            f"the local model reads at most {error.get('n_ctx')}",
            param=param,
            code="context_length_exceeded",
        )
    template = message.rpartition("Jinja Exception: ")
    if template[1]:
        return InvalidRequest(
            f"the local model refuses it: {template[2]}",
            param="messages",
            code="invalid_messages_format",
        )
    if status == 400 and any(word in message for word in ("schema", "grammar", "response_format")):
        message = message.rpartition("failed: ")[2]  # the reason, without llama.cpp's internals
        return InvalidRequest(
            f"the local model cannot follow it: {message}", param="response_format"
        )
    return from_provider(status, message or f"the local model answered {status}")
