"""The Python client: ``from choreoai import ChoreoAI, AsyncChoreoAI``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client import ChoreoAI
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
from .policy import Timeout
from .stream import Stream

if TYPE_CHECKING:
    from .aio_client import AsyncChoreoAI
    from .aio_stream import AsyncStream

__all__ = [
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
    "PermissionDeniedError",
    "RateLimitError",
    "Stream",
    "StreamInterruptedError",
    "Timeout",
    "ToolCall",
    "UnprocessableEntityError",
    "Usage",
]

# asyncio takes longer to import than all of this package: only who asks for it waits.
_LAZY = {"AsyncChoreoAI": "aio_client", "AsyncStream": "aio_stream"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
