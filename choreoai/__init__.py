"""The Python client: ``from choreoai import ChoreoAI, AsyncChoreoAI``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChoreoAIError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)
from .folding import Fold
from .models import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    Function,
    Message,
    Model,
    ModelList,
    ToolCall,
    Usage,
)
from .params import NOT_GIVEN, NotGiven, omit
from .policy import Timeout
from .sync.client import ChoreoAI
from .sync.stream import Stream

if TYPE_CHECKING:
    from .aio.client import AsyncChoreoAI
    from .aio.stream import AsyncStream

__all__ = [
    "NOT_GIVEN",
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncChoreoAI",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "Choice",
    "ChoreoAI",
    "ChoreoAIError",
    "ChunkChoice",
    "ConflictError",
    "Delta",
    "Fold",
    "Function",
    "InternalServerError",
    "Message",
    "Model",
    "ModelList",
    "NotFoundError",
    "NotGiven",
    "PermissionDeniedError",
    "RateLimitError",
    "Stream",
    "StreamInterruptedError",
    "Timeout",
    "ToolCall",
    "UnprocessableEntityError",
    "Usage",
    "omit",
]

# asyncio takes longer to import than all of this package: only who asks for it waits.
_LAZY = {"AsyncChoreoAI": "aio.client", "AsyncStream": "aio.stream"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
