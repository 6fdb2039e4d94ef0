"""Bedrock's answer: the events of ConverseStream, as items."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from zlib import crc32

from botocore.eventstream import EventStreamBuffer, ParserError

from ... import sse
from ...chat.aside import whole
from ...chat.items import Delta, Item, Json, Usage, dump
from ...chat.jsontext import count
from ...errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..blocks import Blocks
from ..failures import failure
from ..http import Translator
from ..reading import SHAPE_ERRORS, parse_object, text
from ..translating import json_values, picture

#: What botocore raises for bytes that are no message, beside its own errors.
_BROKEN = (ParserError, struct.error, *SHAPE_ERRORS)


class EventReader:
    """Reads the messages of a binary stream, whose framing is botocore's to read.

    *limit* bounds the bytes of one; *shorten* is given each payload before it is parsed.
    """

    def __init__(
        self, limit: int = 8 * 1024 * 1024, shorten: Callable[[bytes], bytes] = bytes
    ) -> None:
        self._limit = limit
        self._shorten = shorten
        self._buffer = EventStreamBuffer()
        self.held = 0  # bytes of a message that is not whole yet

    def read(self, data: bytes) -> Iterator[tuple[str, dict[str, Json]]]:
        """Yield the type and the payload of each event that *data* completes.

        Raises the error that an exception among them stands for, and UpstreamInvalid.
        """
        self.held += len(data)
        self._buffer.add_data(data)
        try:
            for message in self._buffer:
                self.held -= message.prelude.total_length
                yield _event(message.headers, self._shorten(message.payload))
        except ChoreoError:
            raise
        except _BROKEN as error:
            raise UpstreamInvalid(f"the provider's answer cannot be read: {error}") from error
        if self.held > self._limit:
            raise UpstreamInvalid(f"an event of the answer is longer than {self._limit} bytes")


def _event(headers: dict[str, Json], payload: bytes) -> tuple[str, dict[str, Json]]:
    kind = headers.get(":message-type")
    if kind == "error":
        name, message = (text(headers.get(f":error-{part}")) for part in ("code", "message"))
        raise failure(None, {"code": name, "message": message or name})
    body = parse_object(payload)
    if kind == "exception":
        name = text(headers.get(":exception-type"))
        message = body.get("message") or body.get("originalMessage") or name
        raise failure(None, {"code": name, "message": message})
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
        self._blocks = Blocks(self.marks)
        self._pictures: dict[int, tuple[str, list[bytes]]] = {}  # the open ones: format, pieces
        self._drawn = 0
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What the ``metadata`` event reported: it comes last."""
        return self._usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes."""
        for kind, body in self._reader.read(data):
            self._event(kind, body, items)

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return the messages of the whole answer of Converse in *body*."""
        values = json_values(body)
        answer = values[0] if len(values) == 1 else None
        if not isinstance(answer, dict) or not isinstance(answer.get("output"), dict):
            return None
        return b"".join(_framed(kind, dump(event)) for kind, event in _events(answer))

    def finish(self) -> list[Item]:
        """Return the finish and the usage, which come after everything else."""
        if self._reader.held:
            raise UpstreamTruncated("the provider's stream ended inside an event")
        self.ended = True
        return self._blocks.end(self._usage)

    def _event(self, kind: str, body: dict[str, Json], items: list[Item]) -> None:
        if kind == "contentBlockDelta":
            self._delta(body["contentBlockIndex"], body["delta"], items)
        elif kind == "contentBlockStart":
            self._start(body["contentBlockIndex"], body["start"], items)
        elif kind == "contentBlockStop":
            items += self._blocks.close(body["contentBlockIndex"])
            self._draw(body["contentBlockIndex"], items)
        elif kind == "messageStop":
            self._blocks.stop(text(body["stopReason"]))
        elif kind == "metadata":
            self._count(body.get("usage") or {})

    def _start(self, index: int, start: dict[str, Json], items: list[Item]) -> None:
        tool = start.get("toolUse")
        if tool is not None and tool.get("type") != "server_tool_use":
            id, name = text(tool.get("toolUseId")), text(tool["name"])
            items += self._blocks.call(index, id, name, tool.get("input"))
        elif "image" in start:
            self._pictures[index] = (text(start["image"].get("format")) or "png", [])

    def _delta(self, index: int, delta: dict[str, Json], items: list[Item]) -> None:
        if "text" in delta:
            if delta["text"]:
                items.append(Delta(text(delta["text"])))
        elif "toolUse" in delta:
            items += self._blocks.arguments(index, delta["toolUse"].get("input"))
        elif "reasoningContent" in delta:
            piece = delta["reasoningContent"]
            if piece.get("text"):
                items += self._blocks.think(text(piece["text"]))
            self._blocks.sign(text(piece.get("signature")))
            if piece.get("redactedContent"):
                items += self._blocks.redacted(text(piece["redactedContent"]))
        elif "image" in delta:
            if delta["image"].get("error"):
                message = text(delta["image"]["error"].get("message")) or "no picture came"
                raise ProviderError(f"the provider's picture failed: {message}")
            piece = b64decode(whole(text(delta["image"]["source"]["bytes"]), self.marks))
            self._pictures.setdefault(index, ("png", []))[1].append(piece)

    def _draw(self, index: int, items: list[Item]) -> None:
        """Return the picture in block *index* once it is whole."""
        if index in self._pictures:
            form, pieces = self._pictures.pop(index)
            data = b64encode(b"".join(pieces)).decode()
            items.append(picture(self._drawn, f"image/{form}", data))
            self._drawn += 1

    def _count(self, usage: dict[str, Json]) -> None:
        cached = count(usage.get("cacheReadInputTokens"))
        written = count(usage.get("cacheWriteInputTokens"))
        read = count(usage.get("inputTokens")) or 0
        # Its inputTokens are only those that no cache had to do with.
        prompt = read + (cached or 0) + (written or 0)
        self._usage = Usage(prompt, count(usage.get("outputTokens")) or 0, cached, written)


def _events(answer: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the events that say what a whole *answer* says, each with its type."""
    for index, block in enumerate(answer["output"]["message"]["content"]):
        place = {"contentBlockIndex": index}
        if "toolUse" in block or "image" in block:
            yield "contentBlockStart", {**place, "start": block}
        if "toolUse" not in block:
            thought = block.get("reasoningContent") or {}
            thought = {**thought, **(thought.get("reasoningText") or {})}
            delta = {"reasoningContent": thought} if thought else block
            yield "contentBlockDelta", {**place, "delta": delta}
        yield "contentBlockStop", place
    yield "messageStop", {"stopReason": answer["stopReason"]}
    yield "metadata", {"usage": answer.get("usage")}


def _framed(kind: str, payload: bytes) -> bytes:
    """Return *payload* as a message of the event stream, with the headers of an event *kind*."""
    head = b"".join(
        struct.pack(f">B{len(name)}sBH", len(name), name, 7, len(value)) + value
        for name, value in ((b":message-type", b"event"), (b":event-type", kind.encode()))
    )
    made = struct.pack(">II", len(head) + len(payload) + 16, len(head))
    made += struct.pack(">I", crc32(made)) + head + payload
    return made + struct.pack(">I", crc32(made))
