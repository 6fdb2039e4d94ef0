"""Translates Bedrock's answer, the events of ConverseStream, into items."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from zlib import crc32

from botocore.eventstream import EventStreamBuffer, ParserError

from ... import sse
from ...chat import large
from ...chat.aside import text_or_mark, word
from ...chat.growing import decoded_pieces
from ...chat.items import Delta, Item, Json, Marks, Usage, dump
from ...errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..blocks import Blocks
from ..failures import stream_error
from ..reading import SHAPE_ERRORS, Counts, parse_object, text
from ..translating import Translator, image_delta
from ..unfolding import document_values
from ..whole_calls import check_parts

#: The errors that botocore raises for bytes that are not a valid message.
_BROKEN = (ParserError, struct.error, *SHAPE_ERRORS)


@dataclass(eq=False)
class EventReader:
    """Reads the messages of a binary event stream; botocore decodes the framing.

    *limit* is the largest size of a message in bytes; *shorten* replaces the long strings of each
    payload by placeholders before it is parsed.
    """

    limit: int = 8 * 1024 * 1024
    shorten: Callable[[bytes], bytes] = bytes
    buffered: int = 0  # bytes of an incomplete message
    _buffer: EventStreamBuffer = field(default_factory=EventStreamBuffer)

    def read(self, data: bytes) -> Iterator[tuple[str, dict[str, Json]]]:
        """Yield the type and the payload of each event that *data* completes.

        Raises ChoreoError for an error or exception message, UpstreamInvalid for invalid bytes.
        """
        self.buffered += len(data)
        self._buffer.add_data(data)
        try:
            for message in self._buffer:
                self.buffered -= message.prelude.total_length
                headers, payload = message.headers, [message.payload]
                del message  # the payload is freed before the event is read
                yield _event(headers, self.shorten(payload.pop()))
        except ChoreoError:
            raise
        except _BROKEN as error:
            raise UpstreamInvalid(f"the provider's answer cannot be read: {error}") from error
        if self.buffered > self.limit:
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
    """Return the Messages API events that the ``chunk`` events in *data* carry, as SSE frames.

    An exception becomes an ``error`` event, so that the events before it are not lost.
    """
    frames = b""
    try:
        for kind, body in reader.read(data):
            if kind == "chunk":
                data = b64decode(text(body["bytes"]))
                name = text(parse_object(data).get("type"))
                frames += sse.frame(data, event=name)
    except SHAPE_ERRORS as error:
        raise UpstreamInvalid("a chunk of the answer is not valid") from error
    except ChoreoError as error:
        event = {"type": "error", "error": {"code": error.status, "message": error.message}}
        frames += sse.frame(dump(event), event="error")
    return frames


class BedrockTranslator(Translator):
    """Translates the answer to ``POST /model/{id}/converse-stream``.

    *limit* is the largest size of an event in bytes.
    """

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._reader = EventReader(limit, self.shorten)
        self._blocks = Blocks(self.marks, _COUNTS)
        self._images: dict[int, tuple[str, bytearray]] = {}  # open blocks: format and data
        self._image_count = 0

    @property
    def usage(self) -> Usage | None:
        return self._blocks.usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        for kind, body in self._reader.read(data):
            delta = body.get("delta") or {}
            if delta.get("text"):  # nearly every event
                items.append(Delta(text(delta["text"])))
                continue
            for event in _messages_events(kind, body):
                self._blocks.read(event, items)
            if "contentBlockIndex" in body:
                self._add_image(kind, body["contentBlockIndex"], body, items)

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return *body*, a whole answer of Converse, as the messages of a stream, else None."""
        marks: Marks = {}
        values = document_values(body, marks)
        answer = values[0] if len(values) == 1 else None
        if not (isinstance(answer, dict) and isinstance(answer.get("output"), dict)):
            return None
        return large.join(part for event in _events(answer) for part in _message(*event, marks))

    def finish(self) -> list[Item]:
        """Return the finish and the usage: the ``metadata`` event follows ``messageStop``."""
        if self._reader.buffered:
            raise UpstreamTruncated("the provider's stream ended inside an event")
        self.ended = True
        return self._blocks.end()

    def _add_image(self, kind: str, index: int, body: dict[str, Json], items: list[Item]) -> None:
        """Collect the pieces of the image in block *index*; append the image when it ends."""
        image = (body.get("start") or body.get("delta") or {}).get("image")
        if image and image.get("error"):
            message = text(image["error"].get("message")) or "no reason was given"
            raise ProviderError(f"the provider could not generate an image: {message}")
        if image:
            new = word(text(image.get("format")), self.marks) or "png", bytearray()
            _, data = self._images.setdefault(index, new)
            if "source" in image:
                for piece in decoded_pieces(text(image["source"]["bytes"]), self.marks):
                    data += piece
        if kind == "contentBlockStop" and index in self._images:
            form, data = self._images.pop(index)
            url = text_or_mark(b64encode(data), self.marks)
            items.append(image_delta(self._image_count, f"image/{form}", url))
            self._image_count += 1


#: ``inputTokens`` does not include the tokens read from or written to the cache.
_COUNTS = Counts(
    *("inputTokens cacheReadInputTokens cacheWriteInputTokens", "outputTokens"),
    cached="cacheReadInputTokens",
    cache_write="cacheWriteInputTokens",
)


def _message(kind: str, body: dict[str, Json], marks: Marks) -> Iterator[bytes | memoryview]:
    """Yield the message of an event of type *kind*, in the framing that botocore decodes.

    *marks* are restored in its *body*, twice: a list of the parts would take more memory.
    """
    size = sum(map(len, large.restored_parts(body, marks)))
    head = b""
    for name, value in ((b":message-type", b"event"), (b":event-type", kind.encode())):
        head += bytes((len(name),)) + name + struct.pack(">BH", 7, len(value)) + value
    prelude = struct.pack(">II", len(head) + size + 16, len(head))
    start = prelude + struct.pack(">I", crc32(prelude)) + head
    check = crc32(start)
    yield start
    for part in large.restored_parts(body, marks):
        check = crc32(part, check)
        yield part
    yield struct.pack(">I", check)


def _messages_events(kind: str, body: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield the events of Anthropic's Messages API for an event of Converse; *kind* is its type."""
    if kind == "contentBlockDelta":
        place = {"type": "content_block_delta", "index": body["contentBlockIndex"]}
        delta = body["delta"]
        thought = delta.get("reasoningContent") or {}
        for name, member in (("thinking", "text"), ("signature", "signature")):
            if thought.get(member):
                yield {**place, "delta": {"type": f"{name}_delta", name: thought[member]}}
        if "toolUse" in delta:
            piece = {
                "type": "input_json_delta",
                "partial_json": delta["toolUse"].pop("input", None),
            }
            yield {**place, "delta": piece}
        if "citation" in delta:
            citation = _citation(delta["citation"])
            yield {**place, "delta": {"type": "citations_delta", "citation": citation}}
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


def _citation(citation: dict[str, Json]) -> dict[str, Json]:
    """Return a *citation* of Converse with the ``url`` and ``cited_text`` of Anthropic's."""
    cited = "".join(piece.get("text") or "" for piece in citation.get("sourceContent") or ())
    page = (citation.get("location") or {}).get("web") or {}
    members = {name: value for name, value in citation.items() if name != "sourceContent"}
    return {**members, **({"url": page["url"]} if page.get("url") else {}), "cited_text": cited}


def _events(answer: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the type and body of the events that a stream with the content of *answer* has."""
    for index, block in enumerate(answer["output"]["message"]["content"]):
        place = {"contentBlockIndex": index}
        cited = block.get("citationsContent") or {}
        check_parts(len(cited.get("citations") or ()))
        for part in (*(cited.get("content") or ()), *(cited.get("citations") or ())):
            delta = part if "text" in part else {"citation": part}
            yield "contentBlockDelta", {**place, "delta": delta}
        if "toolUse" in block:
            yield "contentBlockStart", {**place, "start": block}
        elif not cited:
            thought = block.get("reasoningContent") or {}
            thought = thought.get("reasoningText") or thought
            yield "contentBlockDelta", {**place, "delta": {**block, "reasoningContent": thought}}
        yield "contentBlockStop", place
    yield "messageStop", {"stopReason": answer["stopReason"]}
    yield "metadata", {"usage": answer.get("usage")}
