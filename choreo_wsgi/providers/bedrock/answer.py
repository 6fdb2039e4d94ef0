"""Bedrock's answer: the events of ConverseStream, as items."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from botocore.eventstream import EventStreamBuffer, ParserError

from ... import sse
from ...chat.aside import whole
from ...chat.items import Delta, Item, Json, Usage, dump
from ...errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..answer import BLANK
from ..blocks import Blocks
from ..failures import stream_error
from ..reading import SHAPE_ERRORS, Counts, parse_object, text
from ..translating import Translator, image_delta, json_values

#: What botocore raises for bytes that are no message, beside its own errors.
_BROKEN = (ParserError, struct.error, *SHAPE_ERRORS)


@dataclass(eq=False)
class EventReader:
    """Reads the messages of a binary stream; botocore reads the framing.

    *limit* bounds the bytes of one; *shorten* is given each payload before it is parsed.
    """

    limit: int = 8 * 1024 * 1024
    shorten: Callable[[bytes], bytes] = bytes
    held: int = 0  # bytes of a message that is not whole yet
    _buffer: EventStreamBuffer = field(default_factory=EventStreamBuffer)

    def read(self, data: bytes) -> Iterator[tuple[str, dict[str, Json]]]:
        """Yield the type and the payload of each event that *data* completes.

        Raises the error that an exception among them stands for, and UpstreamInvalid.
        """
        self.held += len(data)
        self._buffer.add_data(data)
        try:
            for message in self._buffer:
                self.held -= message.prelude.total_length
                yield _event(message.headers, self.shorten(message.payload))
        except ChoreoError:
            raise
        except _BROKEN as error:
            raise UpstreamInvalid(f"the provider's answer cannot be read: {error}") from error
        if self.held > self.limit:
            raise UpstreamInvalid(f"an event of the answer is longer than {self.limit} bytes")


def _event(headers: dict[str, Json], payload: bytes) -> tuple[str, dict[str, Json]]:
    kind = headers.get(":message-type")
    if kind == "error":
        name, message = (text(headers.get(f":error-{part}")) for part in ("code", "message"))
        raise stream_error({"code": name, "message": message or name})
    body = parse_object(payload)
    if kind == "exception":
        name = text(headers.get(":exception-type"))
        message = body.get("message") or body.get("originalMessage") or name
        raise stream_error({"code": name, "message": message})
    return text(headers.get(":event-type")), body


def unwrap(reader: EventReader, data: bytes) -> bytes:
    """Return the events of Anthropic's own API in the chunks of an invoked model's stream.

    An exception becomes the ``error`` event, so that what came before it is not lost.
    """
    frames = b""
    try:
        for kind, body in reader.read(data):
            if kind == "chunk":
                event = b64decode(text(body["bytes"]))
                name = text(parse_object(event).get("type"))
                frames += sse.frame(event, event=name)
    except SHAPE_ERRORS as error:
        raise UpstreamInvalid("a chunk of the answer is not as expected") from error
    except ChoreoError as error:
        told = {"type": "error", "error": {"code": error.status, "message": error.message}}
        frames += sse.frame(dump(told), event="error")
    return frames


class BedrockTranslator(Translator):
    """Reads ``POST /model/{id}/converse-stream``; *limit* bounds the bytes of one event."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._reader = EventReader(limit, self.shorten)
        self._blocks = Blocks(self.marks, _COUNTS)
        self._pictures: dict[int, tuple[str, list[bytes]]] = {}  # the open ones: format, pieces
        self._drawn = 0
        self._begun = False

    @property
    def usage(self) -> Usage | None:
        """What the ``metadata`` event reported: it comes last."""
        return self._blocks.usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        is_document, self._begun = data[:1] == b"{" and not self._begun, True
        read = self._reader.read
        for kind, body in _events(parse_object(self.shorten(data))) if is_document else read(data):
            delta = body.get("delta") or {}
            if delta.get("text"):  # as nearly all are
                items.append(Delta(text(delta["text"])))
                continue
            for event in _told(kind, body):
                self._blocks.take(event, items)
            if "contentBlockIndex" in body:
                self._draw(kind, body["contentBlockIndex"], body, items)

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return *body*, stripped, if it is the whole answer of Converse."""
        values = json_values(body)
        answer = values[0] if len(values) == 1 else None
        is_answer = isinstance(answer, dict) and isinstance(answer.get("output"), dict)
        return body.strip(BLANK) if is_answer else None

    def finish(self) -> list[Item]:
        """Return the finish and the usage, which come after everything else."""
        if self._reader.held:
            raise UpstreamTruncated("the provider's stream ended inside an event")
        self.ended = True
        return self._blocks.end()

    def _draw(self, kind: str, index: int, body: dict[str, Json], items: list[Item]) -> None:
        """Take the pieces of the picture in block *index*; append it once it is whole."""
        image = (body.get("start") or body.get("delta") or {}).get("image")
        if image and image.get("error"):
            message = text(image["error"].get("message")) or "no picture came"
            raise ProviderError(f"the provider's picture failed: {message}")
        if image:
            _, pieces = self._pictures.setdefault(index, (text(image.get("format")) or "png", []))
            if "source" in image:
                pieces.append(b64decode(whole(text(image["source"]["bytes"]), self.marks)))
        if kind == "contentBlockStop" and index in self._pictures:
            form, pieces = self._pictures.pop(index)
            data = b64encode(b"".join(pieces)).decode()
            items.append(image_delta(self._drawn, f"image/{form}", data))
            self._drawn += 1


#: Its inputTokens are only those that no cache had to do with.
_COUNTS = Counts(
    *("inputTokens cacheReadInputTokens cacheWriteInputTokens", "outputTokens"),
    cached="cacheReadInputTokens",
    cache_write="cacheWriteInputTokens",
)


def _told(kind: str, body: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield what an event of a *kind* says, in the words of Anthropic's Messages."""
    if kind == "contentBlockDelta":
        place = {"type": "content_block_delta", "index": body["contentBlockIndex"]}
        delta = body["delta"]
        thought = delta.get("reasoningContent") or {}
        for name, member in (("thinking", "text"), ("signature", "signature")):
            if thought.get(member):
                yield {**place, "delta": {"type": f"{name}_delta", name: thought[member]}}
        if "toolUse" in delta:
            piece = {"type": "input_json_delta", "partial_json": delta["toolUse"].get("input")}
            yield {**place, "delta": piece}
        if "citation" in delta:
            yield {**place, "delta": {"type": "citations_delta", "citation": _cited(**delta)}}
        if thought.get("redactedContent"):
            block = {"type": "redacted_thinking", "data": thought["redactedContent"]}
            yield {**place, "type": "content_block_start", "content_block": block}
    elif kind == "contentBlockStart" and (tool := body["start"].get("toolUse")) is not None:
        block = {"type": "tool_use", "id": tool.get("toolUseId"), **tool}
        index = body["contentBlockIndex"]
        yield {"type": "content_block_start", "index": index, "content_block": block}
    elif kind == "contentBlockStop":
        yield {"type": "content_block_stop", "index": body["contentBlockIndex"]}
    elif kind == "messageStop":
        yield {"type": "message_delta", "delta": {"stop_reason": body["stopReason"]}}
    elif kind == "metadata":
        yield {"type": "message_delta", "delta": {}, "usage": body.get("usage")}


def _cited(citation: dict[str, Json], **_: Json) -> dict[str, Json]:
    """Return a *citation* of Converse, its page and its text as Anthropic's have them."""
    said = "".join(one.get("text") or "" for one in citation.get("sourceContent") or ())
    page = (citation.get("location") or {}).get("web") or {}
    told = {name: value for name, value in citation.items() if name != "sourceContent"}
    return {**told, **({"url": page["url"]} if page.get("url") else {}), "cited_text": said}


def _events(answer: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the events that say what a whole *answer* says, each with its type."""
    for index, block in enumerate(answer["output"]["message"]["content"]):
        place = {"contentBlockIndex": index}
        cited = block.get("citationsContent") or {}
        for one in (*(cited.get("content") or ()), *(cited.get("citations") or ())):
            delta = one if "text" in one else {"citation": one}
            yield "contentBlockDelta", {**place, "delta": delta}
        if "toolUse" in block:
            yield "contentBlockStart", {**place, "start": block}
        else:
            thought = block.get("reasoningContent") or {}
            thought = {**thought, **(thought.get("reasoningText") or {})}
            yield "contentBlockDelta", {**place, "delta": {**block, "reasoningContent": thought}}
        yield "contentBlockStop", place
    yield "messageStop", {"stopReason": answer["stopReason"]}
    yield "metadata", {"usage": answer.get("usage")}
