"""The model on this machine: llama.cpp in a child process, asked over a private socket."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..chat.chunks import dump
from ..chat.items import Delta, Finish, Item, Json, Usage
from ..chat.request import ChatRequest
from ..chat.source import Source
from ..chat.sources import Interleaved, from_deltas
from ..errors import (
    ChoreoError,
    InvalidRequest,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    ProviderUnavailable,
    from_provider,
)
from ..providers.base import Provider
from ..providers.http import HTTPSource, Translator
from ..providers.openai.chunks import OpenAIChunks
from ..providers.reading import error_message
from ..settings import Settings, setting
from ..upstream import Client, HTTPRequest, Timeouts
from . import weights
from .process import Endpoint, Launch, ModelProcess, Run
from .request import chat_body, tool_members, with_seed

#: In the chunks of the prefill.  Text cannot hold it: its quotes would be escaped.
_PROMPT = re.compile(rb'"prompt_progress":{"total":([0-9]{1,9})')

#: Seconds that a broken connection waits for the news that the process has ended.
_NEWS = 0.25


class Local(Provider):
    """Answers with a GGUF model in a process of its own, which starts at the first request.

    Without a file of the user's it is the small model that ``choreo-wsgi fetch-model``
    brings.  Its process is started anew when it has crashed.
    """

    type = "local"
    native = frozenset({"n", "stop", "max_tokens"})

    @dataclass(frozen=True)
    class Options:
        """Settings of a local model; what is not set is as the server's ``local_...`` says."""

        model: str = setting("", "GGUF file; empty: local_model")
        threads: int = setting(0, "CPU threads; 0: local_threads", minimum=0)
        slots: int = setting(0, "completions worked on at once; 0: local_slots", minimum=0)
        context: int = setting(0, "tokens, divided among the slots; 0: local_context", minimum=0)
        max_tokens: int = setting(0, "max_tokens when not asked; 0: local_max_tokens", minimum=0)
        max_tokens_limit: int = setting(
            0, "highest max_tokens; 0: local_max_tokens_limit", minimum=0
        )

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        given = self.options
        file = given.model or settings.local_model
        self._fetched = not file
        self._launch = Launch(
            model=str(Path(file).expanduser() if file else weights.model_path()),
            threads=given.threads or settings.local_threads,
            slots=given.slots or settings.local_slots,
            context=given.context or settings.local_context,
        )
        self._default = given.max_tokens or settings.local_max_tokens
        self._limit = given.max_tokens_limit or settings.local_max_tokens_limit
        # The first byte comes when a slot is free.  Silence after that is looked at by those
        # who wait, together: see _Answer.
        self._timeouts = Timeouts(
            settings.connect_timeout, settings.first_byte_timeout, settings.first_byte_timeout
        )
        self._process = ModelProcess(self._launch)
        self._lock = threading.Lock()
        self._client: tuple[Endpoint, Client] | None = None

    @property
    def model_name(self) -> str:
        """The model's name: the fetched one's, or the file's without its ending."""
        return weights.DEFAULT.name if self._fetched else Path(self._launch.model).stem

    def label(self, model: str) -> str:
        """Return which model really answers, whatever name was asked for."""
        return f"{self.name}/{self.model_name}"

    def models(self) -> list[str]:
        """Return the one model's name."""
        return [self.model_name]

    def preload(self) -> None:
        """Start the model's process now; does not wait until it is ready."""
        self._check_file()
        self._process.run()

    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*, starting the process if it does not run."""
        if request.max_tokens == 0:  # llama.cpp would write one token
            nothing = [Finish("length", index) for index in range(request.n)]
            return from_deltas([*nothing, Usage()])
        context = self._launch.context // self._launch.slots
        body = chat_body(request, context, self._default, self._limit)
        tools = tool_members(request)
        self._check_file()
        run = self._process.run()
        answers = [_Answer(self, run, with_seed(body, n), tools) for n in range(request.n)]
        return answers[0] if request.n == 1 else Interleaved(answers)

    def send(self, run: Run, endpoint: Endpoint, body: dict[str, Json]) -> Source:
        """Return the answer of *run*, which is ready at *endpoint*, to *body*."""
        headers = {
            "Authorization": f"Bearer {endpoint.key}",
            "Content-Type": "application/json",
            # An idle connection would hold one of the process's few threads.
            "Connection": "close",
        }
        url = f"{endpoint.url}/v1/chat/completions"
        exchange = self._client_of(endpoint).send(HTTPRequest("POST", url, headers, dump(body)))
        chunks = _Chunks(run, self.settings.max_event_bytes)
        return HTTPSource(exchange, chunks, _refusal, endpoint.key)

    @property
    def start_timeout(self) -> float:
        """How long the process may take until it is ready, in seconds."""
        return self._timeouts.first_byte

    def close(self) -> None:
        """End the process."""
        with self._lock:
            kept, self._client = self._client, None
        if kept is not None:
            kept[1].close()
        self._process.close()

    def _client_of(self, endpoint: Endpoint) -> Client:
        with self._lock:
            if self._client is None or self._client[0] != endpoint:
                if self._client is not None:
                    self._client[1].close()
                # Without an environment: no proxy stands between us and our own process.
                client = Client(self._timeouts, unix_socket=endpoint.unix_socket, environ={})
                self._client = (endpoint, client)
            return self._client[1]

    def _check_file(self) -> None:
        path = Path(self._launch.model)
        if path.is_file():
            return
        if self._fetched:
            raise ProviderNotConfigured(
                "the local model is not on this machine yet: run choreo-wsgi fetch-model"
            )
        raise ProviderNotConfigured(f"there is no model file {path.name} (setting local_model)")


class _Answer(Source):
    """One choice: waits for the process, then reads its answer.

    A process that has said nothing to anybody for ``idle_timeout`` while somebody waits is
    stuck (a schema's pattern can do that) and is ended, so that the next request finds a new one.
    """

    def __init__(
        self, provider: Local, run: Run, body: dict[str, Json], tools: dict[str, Json]
    ) -> None:
        self._provider = provider
        self._run = run
        self._body = body
        self._tools = tools
        self._source: Source | None = None
        self._asked_at = 0.0

    def receive(self, timeout: float) -> list[Item]:
        if self.ended:
            return []
        if self._source is None:
            began = time.monotonic()
            endpoint = self._run.wait(timeout)
            if endpoint is None:
                self._check_patience()
                return []
            self._source = self._send(endpoint)
            timeout = max(0.0, timeout - (time.monotonic() - began))
        try:
            items = self._source.receive(timeout)
        except (ProviderError, ProviderUnavailable) as error:
            raise self._why(error) from error
        if not items:
            self._check_life()
        self.ended = self._source.ended
        self.usage = self._source.usage
        return items

    def _send(self, endpoint: Endpoint) -> Source:
        if self._tools and not endpoint.tools:
            raise InvalidRequest(
                f"the local model {self._provider.model_name} cannot call tools", param="tools"
            )
        self._asked_at = time.monotonic()
        return self._provider.send(self._run, endpoint, {**self._body, **self._tools})

    def _check_patience(self) -> None:
        limit = self._provider.start_timeout
        if time.monotonic() - self._run.started_at > limit:
            raise ProviderTimeout(f"the local model was not ready within {limit:g} s")

    def _check_life(self) -> None:
        limit = self._provider.settings.idle_timeout
        if time.monotonic() - max(self._asked_at, self._run.heard_at) > limit:
            text = f"the local model did not go on for {limit:g} s"
            self._run.kill(text)
            raise ProviderTimeout(text)

    def _why(self, error: ChoreoError) -> ChoreoError:
        """Return *error*, or a clearer one when the cause is that the process has ended."""
        if not self._run.has_ended(_NEWS):
            return error
        return type(error)("the local model's process has ended unexpectedly; it starts again")

    def fileno(self) -> int | None:
        return None if self._source is None else self._source.fileno()

    def close(self) -> None:
        self.ended = True
        if self._source is not None:
            self._source.close()
            self.usage = self._source.usage


class _Chunks(Translator):
    """Reads llama.cpp's chunks, whose shape is OpenAI's, and notes that *run* is alive."""

    def __init__(self, run: Run, max_event_bytes: int) -> None:
        self._run = run
        self._prompt_tokens = 0
        self._chunks = OpenAIChunks(1, max_event_bytes)
        self._reported: Usage | None = None
        self._pieces = 0

    @property
    def usage(self) -> Usage | None:
        """What was reported; of an answer broken off, its prompt and its pieces, one a token."""
        if self._reported is None and self._prompt_tokens:
            return Usage(self._prompt_tokens, self._pieces)
        return self._reported

    def translate(self, data: bytes, items: list[Item]) -> None:
        self._run.heard_at = time.monotonic()
        if not self._prompt_tokens and (found := _PROMPT.search(data)):
            self._prompt_tokens = int(found[1])
        for item in self._chunks.receive_data(data):
            if isinstance(item, Usage):
                self._reported = item
            elif isinstance(item, Delta):
                self._pieces += 1
            items.append(item)

    def finish(self) -> list[Item]:
        self._chunks.close()
        return []


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return what llama.cpp's error means for our caller."""
    message, error = error_message(body)
    if error.get("type") == "exceed_context_size_error":
        return InvalidRequest(
            f"the conversation has {error.get('n_prompt_tokens')} tokens, "
            f"the local model reads at most {error.get('n_ctx')}",
            param="messages",
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
        message = message.rpartition("failed: ")[2]  # what follows llama.cpp's own affairs
        return InvalidRequest(
            f"the local model cannot follow it: {message}", param="response_format"
        )
    return from_provider(status, message or f"the local model answered {status}")
