"""The Python client: ``from choreoai import ChoreoAI, AsyncChoreoAI``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from choreo_wsgi.version import __version__ as __version__

#: What is here, by the module that it comes from, which is imported when it is asked for: asyncio
#: takes longer to import than all of this package.  ``make sync`` tells type checkers the same.
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
    named = ALIASES.get(name, name)
    if named in _MODULES:
        value = globals()[name] = getattr(import_module(f".{_MODULES[named]}", __name__), named)
        return value
    if name in ("events", *FACE):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
