"""Legacy completions and embeddings by the local model: the answers of llama.cpp pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from ..chat.answer import AnswerWriter
from ..chat.items import Json
from ..chat.request import ChatRequest
from ..chat.source import Reply
from ..errors import InvalidRequest
from ..providers.answer import Attempt
from ..providers.dialects import DIALECTS
from ..providers.native import NativeReply
from ..settings import Settings
from .answer import Waiting
from .process import Run
from .request import SAMPLING, SEEDS, demand_fit

#: Members of a completion that mean the same to llama.cpp as to the OpenAI API.
_PASSED = (*SAMPLING, "stop", "seed", "n", "stream", "stream_options", "logprobs")
#: Members that llama.cpp passes over, or answers in another shape, with what asks for nothing.
_REFUSED: dict[str, tuple[Json, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "dimensions": (),
}
#: So many texts may be in a request for embeddings, as at OpenAI.
_MOST_TEXTS = 2048
#: So many answers may a request for completions ask for: prompts times n.
_MOST_CHOICES = 128


def _completion(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return what the process is asked for a completion; raises InvalidRequest.

    *context* is what one slot can hold, *default* the max_tokens of a request that names none,
    and *limit* the highest; all in tokens.
    """
    given = request.original or {}
    body = {name: given[name] for name in _PASSED if given.get(name) is not None}
    asked = given.get("max_tokens")
    if asked == 0:
        raise InvalidRequest("the local model writes at least one token", param="max_tokens")
    body["max_tokens"] = min(default if asked is None else int(asked), limit)
    if "logprobs" in body:
        body["logprobs"] = int(body["logprobs"])
    if "seed" in body:
        body["seed"] = int(body["seed"]) % SEEDS
    most = _MOST_CHOICES // int(given.get("n") or 1)
    body["prompt"] = _texts(given, "prompt", context, most)
    return body


def _embedding(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return what the process is asked for embeddings; raises InvalidRequest."""
    given = request.original or {}
    body = {"input": _texts(given, "input", context, _MOST_TEXTS)}
    if given.get("encoding_format") is not None:
        body["encoding_format"] = given["encoding_format"]
    return body


BODIES: dict[str, Callable[[ChatRequest, int, int, int], dict[str, Json]]] = {
    "completions": _completion,
    "embeddings": _embedding,
}


def _texts(given: dict[str, Json], param: str, context: int, most: int) -> Json:
    """Return the member *param*: a text or its tokens, or at most *most* of them."""
    for name, neutral in _REFUSED.items():
        if given.get(name) is not None and given[name] not in neutral:
            raise InvalidRequest(f"the local model has no {name}", param=name)
    value = given[param]
    texts = value if isinstance(value, list) and not isinstance(value[0], int) else [value]
    if len(texts) > most:
        raise InvalidRequest(f"the local model takes at most {most} at once", param=param)
    for text in texts:
        demand_fit(len(text), context, param)
    return value


class _Completion(NativeReply):
    """An answer in which *most* logprobs a token, if any, have the shape of the old API."""

    def __init__(self, most: int | None, *args: Any) -> None:
        super().__init__(*args)
        self._most = most
        self._offsets: Counter[int] = Counter()  # of each choice's next token in its text

    def amend(self, value: Json) -> bool:
        """Change *value* as it has to be; return whether it was changed."""
        changed = super().amend(value)
        if self._most is None or not isinstance(value, dict):
            return changed
        for choice in value.get("choices") or ():
            told = (choice.get("logprobs") or {}).get("content")
            if told is not None:
                choice["logprobs"] = self._old(told, choice["index"])
                changed = True
        return changed

    def _old(self, told: list[dict[str, Json]], index: int) -> dict[str, Json]:
        tokens = [one["token"] for one in told]
        ends = accumulate(map(len, tokens), initial=self._offsets[index])
        *offsets, self._offsets[index] = ends
        tops = [one["top_logprobs"][: self._most] for one in told]
        return {
            "tokens": tokens,
            "token_logprobs": [one["logprob"] for one in told],
            "top_logprobs": [{one["token"]: one["logprob"] for one in top} for top in tops],
            "text_offset": offsets,
        }


def passed(
    settings: Settings, run: Run, body: dict[str, Json], writer: AnswerWriter, label: str
) -> Waiting:
    """Return the process's own answer to *body*, with the model's name as it was asked for."""
    most = body.get("logprobs")
    # To llama.cpp 0 means none at all, to the API each token's own.
    asked = body if most is None else {**body, "logprobs": max(1, most)}
    stream, limit = bool(body.get("stream")), settings.max_event_bytes

    def read(attempt: Attempt) -> Reply:
        return _Completion(most, attempt, writer, "", label, stream, limit)

    path = "/v1" + DIALECTS[writer.api].path
    return Waiting(settings, run, path, asked, read, document=True, label=label)
