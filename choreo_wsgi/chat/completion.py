"""Makes a plain completion of a server that nearly speaks OpenAI's API follow its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from ..errors import UpstreamInvalid
from .choice import message_in
from .items import Json, Marks, new_call_id
from .jsontext import whole_number
from .normalise import Normaliser
from .shapes import ERRORS, REASONING, listed
from .shapes import Members as Chunk
from .usages import complete_usage

_IDENTITY = ("id", "created", "model")
#: Finish reasons of answers with text alone.
_ENDINGS = {"stop", "length", "content_filter"}
#: Members of a message, and of a choice, that may have to be mended.
_UNUSUAL = {
    *("tool_calls", "function_call", "audio", "reasoning_details", "usage", "finish_reason"),
    "error",
    *REASONING,
}
_MISPLACED = {"delta", "tool_calls", "usage", "error"}


def normalise_completion(
    reply: Chunk,
    identity: Mapping[str, Json],
    new_id: Callable[[], str] = new_call_id,
    tools: frozenset[str] = frozenset(),
    marks: Marks | None = None,
) -> tuple[Chunk, Chunk | None]:
    """Return *reply*, a plain completion, mended, and its ``usage``.

    It passes through a :class:`Normaliser` as one chunk and ``[DONE]``, so that both follow the
    same rules.  *reply* itself is returned if nothing had to change.  The other arguments are those
    of the Normaliser; *marks* may stand for long strings.

    Raises UpstreamInvalid if *reply* is no completion, and ProviderError for a finish reason that
    means failure.
    """
    choices = listed(reply.get("choices"))
    choices = [{**one} if isinstance(one, dict) else {} for one in choices]
    messages = list(map(message_in, choices))
    if not (messages and all(isinstance(message, dict) for message in messages)):
        raise UpstreamInvalid("the provider's answer is not a chat completion")
    numbers = [whole_number(one.get("index")) for one in choices]
    if {*numbers} != {*range(len(choices))}:
        numbers = list(range(len(choices)))  # duplicate or missing indexes
    chunk = {**reply, "choices": []}
    for one, message, number in zip(choices, messages, numbers, strict=True):
        chunk["choices"].append({**one, "index": number, "message": {**message}})
    normaliser = Normaliser(len(choices), identity, new_id=new_id, tools=tools)
    if marks is not None:
        normaliser.marks = marks
    chunks, _ = normaliser.normalise(chunk)
    normaliser.mark_done()
    chunks += normaliser.end()
    merged: dict[int, Chunk] = {}
    for chunk in chunks:
        for one in chunk["choices"]:
            _add(merged.setdefault(one["index"], {}), one)
    mended = {**reply, **chunks[0], "object": "chat.completion", "choices": list(merged.values())}
    mended.pop("usage", None)
    if normaliser.usage is not None:
        mended["usage"] = normaliser.usage
    # 3.0 equals 3 in Python, but other languages do not accept it as a number of tokens.
    same = mended == reply and str(mended.get("usage")) == str(reply.get("usage"))
    return (reply if same else mended), normaliser.usage


def is_usual(reply: Json) -> bool:
    """Return whether *reply* is a usual completion: complete, valid and with text alone."""
    if type(reply) is not dict:
        return False
    usage = reply.get("usage")
    return (
        reply.get("object") == "chat.completion"
        and [*map(type, map(reply.get, _IDENTITY))] == [str, int, str]
        and all(map(reply.get, _IDENTITY))
        and ERRORS.isdisjoint(reply)
        and type(usage) is dict
        and complete_usage(usage) is usage
        and type(reply.get("choices")) is list
        and reply["choices"] != []
        and all(map(_is_plain, reply["choices"], count()))
    )


def _is_plain(one: Json, place: int) -> bool:
    if type(one) is not dict:
        return False
    message, index, reason = one.get("message"), one.get("index"), one.get("finish_reason")
    return (
        type(index) is int
        and index == place
        and type(reason) is str
        and reason in _ENDINGS
        and type(message) is dict
        and message.get("role") == "assistant"
        and type(message.get("content")) is str
        and message["content"] != ""
        and message.get("refusal") is None
        and _UNUSUAL.isdisjoint(message)
        and _MISPLACED.isdisjoint(one)
        and isinstance(one.get("logprobs"), dict | None)
    )


def _add(choice: Chunk, piece: Chunk) -> None:
    """Add *piece*, a choice of a chunk, to *choice* of the document."""
    delta = piece.pop("delta")
    reason = piece.pop("finish_reason")
    pieces = delta.get("tool_calls", ())
    if not choice:
        choice.update(piece)
        choice["message"] = {**delta, "tool_calls": []} if pieces else delta
        choice["message"].setdefault("content", None)
    for call in pieces:
        calls = choice["message"].setdefault("tool_calls", [])
        if call["index"] == len(calls):
            calls.append({key: value for key, value in call.items() if key != "index"})
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    choice["finish_reason"] = reason
    choice.update({key: value for key, value in piece.items() if key != "index"})
