from choreo_wsgi.version import __version__ as __version__

from .aio.client import AsyncChoreoAI as AsyncChoreoAI
from .aio.stream import AsyncStream as AsyncStream
from .errors import APIConnectionError as APIConnectionError
from .errors import APIError as APIError
from .errors import APIStatusError as APIStatusError
from .errors import APITimeoutError as APITimeoutError
from .errors import AuthenticationError as AuthenticationError
from .errors import BadRequestError as BadRequestError
from .errors import ChoreoAIError as ChoreoAIError
from .errors import ConflictError as ConflictError
from .errors import ContentFilterFinishReasonError as ContentFilterFinishReasonError
from .errors import InternalServerError as InternalServerError
from .errors import LengthFinishReasonError as LengthFinishReasonError
from .errors import NotFoundError as NotFoundError
from .errors import PermissionDeniedError as PermissionDeniedError
from .errors import RateLimitError as RateLimitError
from .errors import StreamInterruptedError as StreamInterruptedError
from .errors import UnprocessableEntityError as UnprocessableEntityError
from .folding import Fold as Fold
from .models import Annotation as Annotation
from .models import Audio as Audio
from .models import ChatCompletion as ChatCompletion
from .models import ChatCompletionChunk as ChatCompletionChunk
from .models import Choice as Choice
from .models import ChunkChoice as ChunkChoice
from .models import ChunkToolCall as ChunkToolCall
from .models import Delta as Delta
from .models import Function as Function
from .models import Logprobs as Logprobs
from .models import Message as Message
from .models import Model as Model
from .models import ModelList as ModelList
from .models import ParsedChatCompletion as ParsedChatCompletion
from .models import TokenLogprob as TokenLogprob
from .models import ToolCall as ToolCall
from .models import Usage as Usage
from .options import NOT_GIVEN as NOT_GIVEN
from .options import NotGiven as NotGiven
from .options import Timeout as Timeout
from .options import not_given as not_given
from .options import omit as omit
from .parsing import pydantic_function_tool as pydantic_function_tool
from .sync.client import ChoreoAI as ChoreoAI
from .sync.stream import Stream as Stream

AsyncOpenAI = AsyncChoreoAI
Omit = NotGiven
OpenAI = ChoreoAI
OpenAIError = ChoreoAIError
