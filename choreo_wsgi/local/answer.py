"""Answers of the local model's process, and the detection of a process that is stuck."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..chat.items import Item, Json, Usage, dump
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
from ..upstream.pool import Client
from ..upstream.request import HTTPRequest, Timeouts
from .process import Endpoint, Run

#: The prompt's length in tokens, in the chunks that report how much of it is processed.  The text
#: of an answer cannot contain the pattern: its quotes are escaped.
_PROMPT = re.compile(rb'"prompt_progress":{"total":([0-9]{1,9})')
#: The tokens written so far, in the chunks with text.
_WRITTEN = re.compile(rb'"predicted_n":([0-9]{1,9}),')

#: Seconds to wait, after a connection broke, for the system to report the end of the process.
_END_DELAY = 0.25


class LocalAnswer(Source):
    """Waits until the process of *run* is ready, posts *body* to *path* and forwards the answer.

    *read* opens the answer.  A process that sends nothing on any connection for ``idle_timeout``
    although a request waits is stuck (a pattern in a schema can cause that) and is killed; the next
    request starts another one.  It sends nothing while it works on a *document*: that may take
    ``first_byte_timeout``, and meanwhile other requests do not count the process as stuck.
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
        label: str,
    ) -> None:
        self._settings = settings
        self._run = run
        self._path = path
        self._body = body
        self._read = read
        self._document = document
        self._nothing: list[Item] | bytes = b"" if document else []
        self._answer: Any = None
        self._sent_at = 0.0
        self.label = label

    def receive(self, timeout: float) -> Any:
        """Return the items, or bytes, received within *timeout* seconds."""
        if self.ended:
            return self._nothing
        if self._answer is None:
            started = time.monotonic()
            endpoint = self._run.wait(timeout)
            if endpoint is None:
                limit = self._settings.first_byte_timeout
                if time.monotonic() - self._run.started_at > limit:
                    raise ProviderTimeout(f"the local model was not ready within {limit:g} s")
                return self._nothing
            self._sent_at = time.monotonic()
            self._answer = self._read(self._attempt(endpoint))
            timeout = max(0.0, timeout - (time.monotonic() - started))
        try:
            received = self._answer.receive(timeout)
        except (ProviderError, ProviderUnavailable) as error:
            if not self._run.has_ended(_END_DELAY):
                raise
            text = "the local model's process has ended unexpectedly; try again"
            raise type(error)(text) from error
        if received or self._document:
            self._run.heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > self._settings.idle_timeout:
            text = f"the local model sent nothing for {self._settings.idle_timeout:g} s"
            self._run.kill(text)
            self._answer.close()
            raise ProviderTimeout(text)
        self.ended = self._answer.ended
        self.usage = self._answer.usage
        return received

    def _attempt(self, endpoint: Endpoint) -> Attempt:
        body = self._body
        if "tools" in body and not endpoint.tools:
            raise InvalidRequest(f"the model {self.label} cannot call tools", param="tools")
        # The first byte is sent when a slot is free.  receive() applies idle_timeout to the
        # process, not to this connection.
        limit = self._settings.first_byte_timeout
        timeouts = Timeouts(self._settings.connect_timeout, limit, limit)
        headers = {
            "Authorization": f"Bearer {endpoint.key}",
            "Content-Type": "application/json",
            # An idle connection would occupy one of the process's few threads.
            "Connection": "close",
        }
        # An empty environment, so that no proxy is used.
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
        return max(self._sent_at, self._run.heard_at)

    def fileno(self) -> int | None:
        return None if self._answer is None else self._answer.fileno()

    @property
    def due(self) -> float | None:
        """When to call :meth:`receive` without new bytes: at the latest when the process is stuck.

        For a document earlier: the call keeps other requests from counting the process as stuck.
        """
        due = None if self._answer is None else self._answer.due
        limit = self._settings.idle_timeout / (2 if self._document else 1)
        return None if due is None else min(due, self._heard_at + limit)

    def close(self) -> None:
        self.ended = True
        if self._answer is not None:
            self._answer.close()
            self.usage = self._answer.usage


def chat_answer(settings: Settings, run: Run, body: dict[str, Json], label: str) -> LocalAnswer:
    """Return the answer to *body*, one choice of a chat with the model *label*.

    Its ``receive`` raises InvalidRequest if *body* has tools and the model cannot call any.
    """

    def read(attempt: Attempt) -> Source:
        return HTTPSource(attempt, _LocalTranslator(run, settings.max_event_bytes))

    return LocalAnswer(settings, run, "/v1/chat/completions", body, read, label=label)


class _LocalTranslator(OpenAITranslator):
    """Translates llama.cpp's chunks, which have OpenAI's format; records when *run* sent bytes."""

    def __init__(self, run: Run, max_event_bytes: int) -> None:
        super().__init__(1, max_event_bytes)
        self._run = run
        self._prompt_tokens = 0
        self._written_tokens = 0

    @property
    def usage(self) -> Usage | None:
        """The reported usage; that of a cancelled answer is what was read and written."""
        if super().usage is None and self._prompt_tokens:
            return Usage(self._prompt_tokens, self._written_tokens)
        return super().usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        self._run.heard_at = time.monotonic()
        if not self._prompt_tokens and (found := _PROMPT.search(data)):
            self._prompt_tokens = int(found[1])
        if counts := _WRITTEN.findall(data):
            self._written_tokens = int(counts[-1])
        super().translate(data, items)


def _refusal(param: str, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return the error for the client that corresponds to llama.cpp's."""
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
            f"the local model refuses the conversation: {template[2]}",
            param="messages",
            code="invalid_messages_format",
        )
    if status == 400 and any(word in message for word in ("schema", "grammar", "response_format")):
        message = message.rpartition("failed: ")[2]  # the reason, without llama.cpp's internals
        return InvalidRequest(
            f"the local model cannot follow the schema: {message}", param="response_format"
        )
    if status == 400 and param != "messages":  # the other members are checked before they are sent
        return InvalidRequest(message, param=param)
    return from_provider(status, message or f"the local model answered {status}")
