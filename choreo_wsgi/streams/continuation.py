"""What is left to do for a stream whose producer was lost: worked out from its log alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from .. import sse
from ..chat.chunks import ChunkEncoder
from ..chat.items import Json
from ..chat.request import ChatRequest


@dataclass
class Told:
    """What a log's frames have told: the identity of the stream, and the text of its choice."""

    id: str = ""
    created: int = 0
    model: str = ""
    text: str = ""
    role_sent: bool = False
    finished: bool = False


def read_log(frames: bytes) -> Told | None:
    """Return what *frames*, a log from its first frame on, have told.

    None when that is more than one choice's text: tool calls, reasoning and several choices
    cannot be continued by an assistant message.
    """
    told = Told()
    for event in sse.Decoder().receive_data(frames):
        chunk = json.loads(event.data)
        told.id, told.created, told.model = chunk["id"], chunk["created"], chunk["model"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if choice["index"] or delta.keys() - {"role", "content"}:
                return None
            told.role_sent = True
            told.text += delta.get("content") or ""
            told.finished = told.finished or bool(choice["finish_reason"])
    return told


def the_rest(
    request: ChatRequest, told: Told, encoder: ChunkEncoder
) -> tuple[ChatRequest, ChunkEncoder]:
    """Return the request for what was not told yet, and the encoder of its frames.

    *encoder* is that of a new stream: it serves when nothing was told.
    """
    if not told.role_sent:
        return request, encoder
    encoder = ChunkEncoder(told.id, told.created, told.model, request.include_usage)
    encoder.resume()
    if not told.text:
        return request, encoder
    begun: dict[str, Json] = {"role": "assistant", "content": told.text}
    messages = [*request.messages, begun]
    return replace(request, messages=messages, body={**request.body, "messages": messages}), encoder
