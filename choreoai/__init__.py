"""The Python client: ``from choreoai import ChoreoAI, AsyncChoreoAI``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from choreo_wsgi.version import __version__

from .errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChoreoAIError,
    ConflictError,
    ContentFilterFinishReasonError,
    InternalServerError,
    LengthFinishReasonError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)
from .folding import Fold
from .models import (
    Annotation,
    Audio,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    ChunkToolCall,
    Delta,
    Function,
    Logprobs,
    Message,
    Model,
    ModelList,
    TokenLogprob,
    ToolCall,
    Usage,
)
from .params import NOT_GIVEN, NotGiven, not_given, omit
from .parsing import ParsedChatCompletion, pydantic_function_tool
from .policy import Timeout
from .sync.client import ChoreoAI
from .sync.stream import Stream

if TYPE_CHECKING:
    from .aio.client import AsyncChoreoAI
    from .aio.client import AsyncChoreoAI as AsyncOpenAI
    from .aio.stream import AsyncStream

# For programs written for the openai package: `import choreoai as openai`.
OpenAI = ChoreoAI
OpenAIError = ChoreoAIError

__all__ = [
    "NOT_GIVEN",
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "Annotation",
    "AsyncChoreoAI",
    "AsyncOpenAI",
    "AsyncStream",
    "Audio",
    "AuthenticationError",
    "BadRequestError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "Choice",
    "ChoreoAI",
    "ChoreoAIError",
    "ChunkChoice",
    "ChunkToolCall",
    "ConflictError",
    "ContentFilterFinishReasonError",
    "Delta",
    "Fold",
    "Function",
    "InternalServerError",
    "LengthFinishReasonError",
    "Logprobs",
    "Message",
    "Model",
    "ModelList",
    "NotFoundError",
    "NotGiven",
    "OpenAI",
    "OpenAIError",
    "ParsedChatCompletion",
    "PermissionDeniedError",
    "RateLimitError",
    "Stream",
    "StreamInterruptedError",
    "Timeout",
    "TokenLogprob",
    "ToolCall",
    "UnprocessableEntityError",
    "Usage",
    "__version__",
    "not_given",
    "omit",
    "pydantic_function_tool",
]

# asyncio takes longer to import than all of this package: only who asks for it waits.
_LAZY = {
    "AsyncChoreoAI": "aio.client.AsyncChoreoAI",
    "AsyncOpenAI": "aio.client.AsyncChoreoAI",
    "AsyncStream": "aio.stream.AsyncStream",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _LAZY[name].rpartition(".")
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value
