"""Forwards llama.cpp's own answers: legacy completions and embeddings by the local model."""

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
from .answer import LocalAnswer
from .process import Run
from .request import SAMPLING, SEEDS, demand_fit

#: Members of a completion that llama.cpp and the OpenAI API have in common.
_FORWARDED = (*SAMPLING, "stop", "seed", "n", "stream", "stream_options", "logprobs")
#: Members that llama.cpp ignores, or answers in another format, and their neutral values.
_REFUSED: dict[str, tuple[Json, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "dimensions": (),
}
#: Limit of texts in a request for embeddings, which is OpenAI's.
_MAX_TEXTS = 2048
#: Limit of answers to a request for completions: prompts times n.
_MAX_CHOICES = 128


def _completion(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return the body to send for a completion; raise InvalidRequest if it cannot be answered.

    *context* is the size of a slot, *default* the max_tokens of a request that sets none, and
    *limit* the highest; all in tokens.
    """
    fields = request.original or {}
    body = {name: fields[name] for name in _FORWARDED if fields.get(name) is not None}
    max_tokens = fields.get("max_tokens")
    if max_tokens == 0:
        raise InvalidRequest("the local model writes at least one token", param="max_tokens")
    body["max_tokens"] = min(default if max_tokens is None else int(max_tokens), limit)
    if "logprobs" in body:
        body["logprobs"] = int(body["logprobs"])
    if "seed" in body:
        body["seed"] = int(body["seed"]) % SEEDS
    most = _MAX_CHOICES // int(fields.get("n") or 1)
    body["prompt"] = _texts(fields, "prompt", context, most)
    return body


def _embedding(request: ChatRequest, context: int, default: int, limit: int) -> dict[str, Json]:
    """Return the body to send for embeddings; raise InvalidRequest if it cannot be answered."""
    fields = request.original or {}
    body = {"input": _texts(fields, "input", context, _MAX_TEXTS)}
    if fields.get("encoding_format") is not None:
        body["encoding_format"] = fields["encoding_format"]
    return body


BODIES: dict[str, Callable[[ChatRequest, int, int, int], dict[str, Json]]] = {
    "completions": _completion,
    "embeddings": _embedding,
}


def _texts(fields: dict[str, Json], param: str, context: int, most: int) -> Json:
    """Return the member *param*: a text, its tokens, or a list of at most *most* of either."""
    for name, neutral in _REFUSED.items():
        if fields.get(name) is not None and fields[name] not in neutral:
            raise InvalidRequest(f"the local model does not support {name}", param=name)
    value = fields[param]
    texts = value if isinstance(value, list) and not isinstance(value[0], int) else [value]
    if len(texts) > most:
        raise InvalidRequest(f"the local model accepts at most {most} at once", param=param)
    for text in texts:
        demand_fit(len(text), context, param)
    return value


class _Completion(NativeReply):
    """An answer whose logprobs, at most *most* a token, get the format of legacy completions."""

    def __init__(self, most: int | None, *args: Any) -> None:
        super().__init__(*args)
        self._most = most
        self._offsets: Counter[int] = Counter()  # by choice: characters of its text so far

    def amend(self, value: Json) -> bool:
        changed = super().amend(value)
        if self._most is None or not isinstance(value, dict):
            return changed
        for choice in value.get("choices") or ():
            tokens = (choice.get("logprobs") or {}).get("content")
            if tokens is not None:
                choice["logprobs"] = self._legacy_logprobs(tokens, choice["index"])
                changed = True
        return changed

    def _legacy_logprobs(self, tokens: list[dict[str, Json]], index: int) -> dict[str, Json]:
        texts = [token["token"] for token in tokens]
        *offsets, end = accumulate(map(len, texts), initial=self._offsets[index])
        self._offsets[index] = end
        tops = [token["top_logprobs"][: self._most] for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [{token["token"]: token["logprob"] for token in top} for top in tops],
            "text_offset": offsets,
        }


def forward(
    settings: Settings, run: Run, body: dict[str, Json], writer: AnswerWriter, label: str
) -> LocalAnswer:
    """Return the process's own answer to *body*, in which the model's name is *label*."""
    most = body.get("logprobs")
    # For the API 0 means the logprob of each token itself; llama.cpp needs 1 for that.
    sent = body if most is None else {**body, "logprobs": max(1, most)}
    stream, limit = bool(body.get("stream")), settings.max_event_bytes

    def read(attempt: Attempt) -> Reply:
        return _Completion(most, attempt, writer, "", label, stream, limit)

    path = "/v1" + DIALECTS[writer.api].path
    return LocalAnswer(settings, run, path, sent, read, document=True, label=label)
