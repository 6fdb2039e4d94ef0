"""Forwards llama.cpp's own answers: legacy completions and embeddings by the local model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from ..chat.answer import AnswerWriter
from ..chat.items import Json, dump
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
    """An answer with *choices*, *n* of them for each prompt, in OpenAI's format.

    llama.cpp counts the tokens of each choice in its last event, but in a document only those of
    the first choice.  So the counts of several choices are summed, and their *document* is made of
    the events of a stream.  Logprobs are at most *most* a token.
    """

    def __init__(self, most: int | None, choices: int, n: int, document: bool, *args: Any) -> None:
        super().__init__(*args)
        self._most = most
        self._offsets: Counter[int] = Counter()  # by choice: characters of its text so far
        self._n, self._uncounted = n, choices
        self._several = self._uncounted > 1
        self._sums: Counter[str] = Counter()  # of the choices that have ended
        self._joined: dict[str, Json] | None = {"choices": {}} if document else None

    def receive(self, timeout: float) -> bytes:
        frames = super().receive(timeout)
        if self._joined is None:
            return frames
        choices = self._joined["choices"]
        document = {**self._joined, "choices": [choices[index] for index in sorted(choices)]}
        return dump(document) if self.ended else b""

    def amend(self, value: Json) -> bool:
        if not isinstance(value, dict):
            return False
        if self._several:
            self._sum_usage(value)
        if "id" in value:
            value["id"] = value["id"].removeprefix("chat")  # llama.cpp's is that of a chat
        changed = super().amend(value) or self._several
        for choice in () if self._most is None else value.get("choices") or ():
            tokens = (choice.get("logprobs") or {}).get("content")
            if tokens is not None:
                choice["logprobs"] = self._legacy_logprobs(tokens, choice["index"])
                changed = True
        if self._joined is not None:
            for piece in value.pop("choices"):
                _join(self._joined["choices"], piece)
            self._joined.update(value)
        return changed

    def _sum_usage(self, event: dict[str, Json]) -> None:
        """Replace the usage of one choice in *event*: by the sum if all others have ended."""
        usage = event.pop("usage", None)
        if usage is None:
            return
        event.pop("timings", None)  # also of one choice
        self._uncounted -= 1
        self._sums += Counter(read=usage["prompt_tokens"], written=usage["completion_tokens"])
        if not self._uncounted:
            # A prompt counts once, however many choices it has.
            read, written = self._sums["read"] // self._n, self._sums["written"]
            event["usage"] = {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            }

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


def _join(choices: dict[int, dict[str, Json]], piece: dict[str, Json]) -> None:
    """Add *piece*, a choice in an event, to the choice with its index in *choices*."""
    choice = choices.setdefault(piece["index"], {**piece, "text": "", "logprobs": None})
    choice["text"] += piece["text"]
    choice["finish_reason"] = piece["finish_reason"]
    if choice["logprobs"] is None:
        choice["logprobs"] = piece["logprobs"]
    elif piece["logprobs"] is not None:
        for name, values in piece["logprobs"].items():
            choice["logprobs"][name] += values


def forward(
    settings: Settings,
    run: Run,
    body: dict[str, Json],
    writer: AnswerWriter,
    label: str,
    choices: int,
) -> LocalAnswer:
    """Return the process's own answer to *body*, which has *choices*; *label* is the provider."""
    most, n = body.get("logprobs"), int(body.get("n") or 1)
    stream, limit = bool(body.get("stream")), settings.max_event_bytes
    document = choices > 1 and not stream  # made of a stream
    sent = {**body, "stream": True} if document else body
    if most is not None:
        # For the API 0 means the logprob of each token itself; llama.cpp needs 1 for that.
        sent = {**sent, "logprobs": max(1, most)}

    def read(attempt: Attempt) -> Reply:
        counts = (most, choices, n, document)
        return _Completion(*counts, attempt, writer, "", label, stream or document, limit)

    path = "/v1" + DIALECTS[writer.api].path
    return LocalAnswer(settings, run, path, sent, read, document=True, label=label)
