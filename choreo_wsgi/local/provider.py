"""The model on this machine: llama.cpp in a child process, asked over a private socket."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..chat.choices import Interleaved
from ..chat.items import Delta, Finish, Item, Json, Usage, dump
from ..chat.request import ChatRequest
from ..chat.source import Source, from_deltas
from ..errors import (
    ChoreoError,
    ConfigurationError,
    InvalidRequest,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    ProviderUnavailable,
    from_provider,
)
from ..providers.answer import Asking
from ..providers.base import Provider
from ..providers.failures import read_body
from ..providers.http import HTTPSource
from ..providers.openai.chunks import OpenAITranslator
from ..settings import Settings, setting
from ..upstream import Client, HTTPRequest, Timeouts
from . import weights
from .process import NO_RUNTIME, Endpoint, Launch, ModelProcess, Run
from .request import chat_body, tool_members, with_seed

#: The length of the prompt, in the chunks of the prefill.  A text cannot contain the pattern:
#: its quotes would be escaped.
_PROMPT = re.compile(rb'"prompt_progress":{"total":([0-9]{1,9})')

#: Seconds to wait, after a connection broke, for the system to report that the process ended.
_NEWS = 0.25


class Local(Provider):
    """Answers with a GGUF model in a process of its own, which starts at the first request.

    Without a file of the user's it is the small model that ``choreo-wsgi fetch-model``
    fetches.  After a crash the next request starts the process again.
    """

    type = "local"
    native = frozenset({"n", "stop", "max_tokens"})

    @dataclass(frozen=True)
    class Options:
        """Settings of a local model; for those not set, the server's ``local_...`` apply."""

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
            model=str(_gguf_file(file) if file else weights.model_path() or ""),
            threads=given.threads or settings.local_threads,
            slots=given.slots or settings.local_slots,
            context=given.context or settings.local_context,
        )
        self._default = given.max_tokens or settings.local_max_tokens
        self._limit = given.max_tokens_limit or settings.local_max_tokens_limit
        self._process = ModelProcess(self._launch)

    @property
    def model_name(self) -> str:
        """The model's name: the fetched one's, or the file's without its ending."""
        return weights.NAME if self._fetched else Path(self._launch.model).stem

    def label(self, model: str) -> str:
        """Return which model really answers, whatever name was asked for."""
        return f"{self.name}/{self.model_name}"

    def models(self) -> list[str]:
        """Return the one model's name."""
        return [self.model_name]

    def preload(self) -> None:
        """Start the model's process now; does not wait until it is ready.

        Raises ProviderNotConfigured when it certainly cannot start.
        """
        self._check_file()
        if importlib.util.find_spec("xllamacpp") is None:
            raise ProviderNotConfigured(NO_RUNTIME)
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

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _check_file(self) -> None:
        """Raise ProviderNotConfigured, and say what to do, unless the model's file is there."""
        path = Path(self._launch.model)
        if path.is_file():
            return
        if not self._fetched:
            raise ProviderNotConfigured(f"there is no model file {path.name} (setting local_model)")
        if not self._launch.model:
            raise ProviderNotConfigured("there is no home folder to look for the local model in")
        raise ProviderNotConfigured(f"the local model is not installed yet: {weights.missing()}")


def _gguf_file(file: str) -> Path:
    """Return the path of the GGUF *file* of a setting; raises ConfigurationError if it is none."""
    try:
        path = Path(file).expanduser()
        with path.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ConfigurationError(f"the local model {path} is not a GGUF file")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ without a home folder
        raise ConfigurationError(f"the local model {file} cannot be read: {error}") from error
    return path


class _Answer(Source):
    """One choice: waits for the process, then reads its answer.

    A process that sent nothing to anybody for ``idle_timeout`` while somebody waits is stuck
    (a schema's pattern can do that).  It is ended, so that the next request gets a new one.
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
                limit = self._provider.settings.first_byte_timeout
                if time.monotonic() - self._run.started_at > limit:
                    raise ProviderTimeout(f"the local model was not ready within {limit:g} s")
                return []
            self._source = self._send(endpoint)
            timeout = max(0.0, timeout - (time.monotonic() - began))
        try:
            items = self._source.receive(timeout)
        except (ProviderError, ProviderUnavailable) as error:
            if not self._run.has_ended(_NEWS):
                raise
            text = "the local model's process has ended unexpectedly; it starts again"
            raise type(error)(text) from error
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
        settings = self._provider.settings
        # The first byte comes when a slot is free.  Silence after that is judged by
        # _check_life, for all who wait together.
        patience = settings.first_byte_timeout
        timeouts = Timeouts(settings.connect_timeout, patience, patience)
        headers = {
            "Authorization": f"Bearer {endpoint.key}",
            "Content-Type": "application/json",
            # An idle connection would hold one of the process's few threads.
            "Connection": "close",
        }
        body = dump({**self._body, **self._tools})
        url = f"{endpoint.url}/v1/chat/completions"
        # Without an environment: no proxy stands between us and our own process.
        client = Client(timeouts, unix_socket=endpoint.unix_socket, environ={})
        request = HTTPRequest("POST", url, headers, body)
        asking = Asking(lambda: client.send(request), refused=_refusal, secrets=(endpoint.key,))
        chunks = _Chunks(self._run, settings.max_event_bytes)
        return HTTPSource(asking, chunks)

    def _check_life(self) -> None:
        limit = self._provider.settings.idle_timeout
        if time.monotonic() - max(self._asked_at, self._run.heard_at) > limit:
            text = f"the local model sent nothing for {limit:g} s"
            self._run.kill(text)
            if self._source is not None:
                self._source.close()
            raise ProviderTimeout(text)

    def fileno(self) -> int | None:
        return None if self._source is None else self._source.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came: also when the process counts as stuck."""
        due = None if self._source is None else self._source.due
        heard = max(self._asked_at, self._run.heard_at)
        return None if due is None else min(due, heard + self._provider.settings.idle_timeout)

    def close(self) -> None:
        self.ended = True
        if self._source is not None:
            self._source.close()
            self.usage = self._source.usage


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


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return the error for our caller that corresponds to llama.cpp's."""
    message, error = read_body(body)
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
        message = message.rpartition("failed: ")[2]  # the reason, without llama.cpp's internals
        return InvalidRequest(
            f"the local model cannot follow it: {message}", param="response_format"
        )
    return from_provider(status, message or f"the local model answered {status}")
