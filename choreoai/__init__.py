"""The Python client: ``from choreoai import ChoreoAI, AsyncChoreoAI``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from choreo_wsgi.version import __version__ as __version__

#: The public names by module.  A module is imported at the first use of one of its names, because
#: importing asyncio takes longer than all of this package.  ``make sync`` writes ``__init__.pyi``.
FACE = {
    "errors": """
        APIConnectionError APIError APIStatusError APITimeoutError AuthenticationError
        BadRequestError ChoreoAIError ConflictError ContentFilterFinishReasonError
        InternalServerError LengthFinishReasonError NotFoundError PermissionDeniedError
        RateLimitError StreamInterruptedError UnprocessableEntityError
    """,
    "folding": "Fold",
    "models": """
        Annotation Audio ChatCompletion ChatCompletionChunk Choice ChunkChoice ChunkToolCall Delta
        Function Logprobs Message Model ModelList ParsedChatCompletion TokenLogprob ToolCall Usage
    """,
    "options": "NOT_GIVEN NotGiven Timeout not_given omit",
    "parsing": "pydantic_function_tool",
    "aio.client": "AsyncChoreoAI",
    "aio.stream": "AsyncStream",
    "sync.client": "ChoreoAI",
    "sync.stream": "Stream",
}
#: For programs written for the openai package: ``import choreoai as openai``.
ALIASES = {
    "AsyncOpenAI": "AsyncChoreoAI",
    "Omit": "NotGiven",
    "OpenAI": "ChoreoAI",
    "OpenAIError": "ChoreoAIError",
}

_MODULES = {name: module for module, names in FACE.items() for name in names.split()}
__all__ = [*_MODULES, *ALIASES]


def __getattr__(name: str) -> Any:
    target = ALIASES.get(name, name)
    if target in _MODULES:
        value = globals()[name] = getattr(import_module(f".{_MODULES[target]}", __name__), target)
        return value
    if name in ("events", *FACE):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
