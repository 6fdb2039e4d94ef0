"""The provider of the model on this machine: llama.cpp in a child process with its own socket."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat.answer import AnswerWriter
from ..chat.choices import Interleaved, Limited
from ..chat.items import Finish, Usage
from ..chat.request import ChatRequest
from ..chat.source import Reply, Source, from_deltas
from ..errors import ConfigurationError, InvalidRequest, ProviderNotConfigured
from ..late import Late
from ..providers.base import Provider
from ..settings import Settings, setting
from . import weights
from .answer import chat_answer
from .process import NO_RUNTIME, Launch, ModelProcess
from .request import chat_body, tool_members, with_seed

if TYPE_CHECKING:
    from . import passing
else:
    passing = Late("choreo_wsgi.local.passing")


class Local(Provider):
    """Answers with a GGUF model in a child process, which the first request starts.

    The default is the small model that ``choreo-wsgi fetch-model`` fetches.  After a crash the next
    request starts the process again.
    """

    type = "local"
    native = frozenset({"n", "stop", "max_tokens"})

    @dataclass(frozen=True)
    class Options:
        """Settings of a local model; those not set default to the server's ``local_...``."""

        model: str = setting("", "GGUF file; empty: local_model")
        threads: int = setting(0, "CPU threads; 0: local_threads", minimum=0)
        slots: int = setting(0, "completions worked on at once; 0: local_slots", minimum=0)
        context: int = setting(0, "tokens, divided among the slots; 0: local_context", minimum=0)
        max_tokens: int = setting(0, "default max_tokens; 0: local_max_tokens", minimum=0)
        max_tokens_limit: int = setting(
            0, "highest max_tokens; 0: local_max_tokens_limit", minimum=0
        )

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        own = self.options
        file = own.model or settings.local_model
        self._is_default_model = not file
        self._launch = Launch(
            model=str(_gguf_file(file) if file else weights.model_path() or ""),
            threads=own.threads or settings.local_threads,
            slots=own.slots or settings.local_slots,
            context=own.context or settings.local_context,
        )
        self._default = own.max_tokens or settings.local_max_tokens
        self._limit = own.max_tokens_limit or settings.local_max_tokens_limit
        self._process = ModelProcess(self._launch)

    @property
    def model_name(self) -> str:
        """The model's name: that of the default model, or the file's without its suffix."""
        return weights.NAME if self._is_default_model else Path(self._launch.model).stem

    def label(self, model: str) -> str:
        """Return the name of the model that answers, which may not be the requested *model*."""
        return f"{self.name}/{self.model_name}"

    def models(self) -> list[str]:
        """Return the name of its one model."""
        return [self.model_name]

    def calls(self, request: ChatRequest) -> int:
        """Return the number of slots that *request* uses."""
        return request.n

    def preload(self) -> None:
        """Start the model's process; do not wait until it is ready.

        Raises ProviderNotConfigured if the model's file or the runtime is missing.
        """
        self._check_file()
        if importlib.util.find_spec("xllamacpp") is None:
            raise ProviderNotConfigured(NO_RUNTIME)
        self._process.run()

    def open(self, request: ChatRequest) -> Source:
        """Start the answer to *request*, and the process if it is not running."""
        if request.max_tokens == 0:  # llama.cpp would write one token
            ends = [Finish("length", index) for index in range(request.n)]
            return from_deltas([*ends, Usage()])
        context = self._launch.context // self._launch.slots
        body = {**chat_body(request, context, self._default, self._limit), **tool_members(request)}
        self._check_file()
        run, label = self._process.run(), self.label(request.model)
        answers: list[Source] = [
            chat_answer(self.settings, run, with_seed(body, n), label) for n in range(request.n)
        ]
        if request.stop:  # llama.cpp does not report which of them ended the text
            answers = [Limited(answer, request.stop) for answer in answers]
        return answers[0] if request.n == 1 else Interleaved(answers)

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Start the answer; legacy completions and embeddings are llama.cpp's own answers."""
        if writer.api not in ("completions", "embeddings"):
            return super().answer(request, writer)
        context = self._launch.context // self._launch.slots
        body = passing.BODIES[writer.api](request.whole(), context, self._default, self._limit)
        if (body.get("n") or 1) > (slots := self._launch.slots):
            text = f"n must be at most {slots}, the local model's slots (setting local_slots)"
            raise InvalidRequest(text, param="n")
        self._check_file()
        label = self.label(request.model)
        run, n = self._process.run(), request.n
        reply: Reply = passing.forward(self.settings, run, body, writer, label, n)
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _check_file(self) -> None:
        """Raise ProviderNotConfigured, with advice, if the model's file does not exist."""
        path = Path(self._launch.model)
        if path.is_file():
            return
        if not self._is_default_model:
            raise ProviderNotConfigured(f"there is no model file {path.name} (setting local_model)")
        if not self._launch.model:
            raise ProviderNotConfigured("there is no home folder in which the local model could be")
        raise ProviderNotConfigured(f"the local model is not installed yet: {weights.missing()}")


def _gguf_file(file: str) -> Path:
    """Return the path of *file*; raise ConfigurationError if it is not a readable GGUF file."""
    try:
        path = Path(file).expanduser()
        with path.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ConfigurationError(f"the local model {path} is not a GGUF file")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ without a home folder
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"the local model {file} cannot be read: {reason}") from error
    return path
