"""Bedrock's answer: the events of ConverseStream, as items."""

from __future__ import annotations

from ...chat.items import Delta, Finish, Item, Json, ToolCall, Usage
from ...errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..anthropic.answer import ThinkingBlocks
from ..http import Translator
from ..reading import count, parse_object, provider_failure, text
from .eventstream import Frame, FrameDecoder, FrameError

#: What each exception is as an HTTP status; as headers they begin with a capital.
STATUSES = {
    "validationException": 400,
    "accessDeniedException": 403,
    "resourceNotFoundException": 404,
    "modelTimeoutException": 504,
    "modelErrorException": 424,
    "modelStreamErrorException": 424,
    "modelNotReadyException": 429,
    "throttlingException": 429,
    "serviceQuotaExceededException": 429,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}

_PLAIN = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
_LOSSY = {
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_context_window_exceeded": "length",
}
_FAILED = frozenset(("malformed_model_output", "malformed_tool_use"))


class BedrockTranslator(Translator):
    """Reads ``POST /model/{id}/converse-stream``; *limit* bounds the bytes of one event."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._frames = FrameDecoder(limit)
        self._stop: Finish | None = None
        self._usage: Usage | None = None
        self._calls: dict[int, int] = {}  # the open calls: block's index -> number of the call
        self._silent: set[int] = set()  # those of them without arguments so far
        self._tools = 0
        self._thinking = ThinkingBlocks()

    @property
    def usage(self) -> Usage | None:
        """What the ``metadata`` event reported: it comes last."""
        return self._usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes."""
        try:
            frames = self._frames.receive_data(data)
        except FrameError as error:
            self.failure = UpstreamInvalid(f"the provider's answer cannot be read: {error}")
            frames = error.frames
        for frame in frames:
            self._frame(frame, items)

    def finish(self) -> list[Item]:
        """Return the finish and the usage, which come after everything else."""
        if self._stop is None or self._frames.pending:
            raise UpstreamTruncated("the provider's stream ended before its messageStop")
        self.ended = True
        return [self._stop, self._usage] if self._usage else [self._stop]

    def _frame(self, frame: Frame, items: list[Item]) -> None:
        kind = frame.headers.get(":message-type")
        if kind == "error":
            code = frame.headers.get(":error-code", "")
            message = frame.headers.get(":error-message", "") or code
            raise provider_failure(_status(code), message, {})
        body = parse_object(frame.payload)
        if kind == "exception":
            raise _exception(frame.headers.get(":exception-type", ""), body)
        self._event(frame.headers.get(":event-type", ""), body, items)

    def _event(self, kind: str, body: dict[str, Json], items: list[Item]) -> None:
        if kind == "contentBlockDelta":
            self._delta(body["contentBlockIndex"], body["delta"], items)
        elif kind == "contentBlockStart":
            self._start(body["contentBlockIndex"], body["start"], items)
        elif kind == "contentBlockStop":
            self._close(body["contentBlockIndex"], items)
        elif kind == "messageStop":
            self._stopped(text(body["stopReason"]))
        elif kind == "metadata":
            self._count(body.get("usage") or {})

    def _start(self, index: int, start: dict[str, Json], items: list[Item]) -> None:
        tool = start.get("toolUse")
        if tool is None or tool.get("type") == "server_tool_use":
            return
        call = ToolCall(self._tools, text(tool["toolUseId"]), text(tool["name"]))
        self._calls[index] = self._tools
        self._silent.add(index)
        self._tools += 1
        items.append(Delta(tool_calls=[call]))

    def _delta(self, index: int, delta: dict[str, Json], items: list[Item]) -> None:
        if "text" in delta:
            if delta["text"]:
                items.append(Delta(text(delta["text"])))
        elif "toolUse" in delta:
            piece = text(delta["toolUse"].get("input"))
            if piece and index in self._calls:
                self._silent.discard(index)
                items.append(Delta(tool_calls=[ToolCall(self._calls[index], arguments=piece)]))
        elif "reasoningContent" in delta:
            self._reason(delta["reasoningContent"], items)

    def _reason(self, piece: dict[str, Json], items: list[Item]) -> None:
        if piece.get("text"):
            self._thinking.think(text(piece["text"]))
            items.append(Delta(reasoning=piece["text"]))
        if piece.get("signature"):
            self._thinking.sign(text(piece["signature"]))
        if piece.get("redactedContent"):
            items.append(self._thinking.redacted(text(piece["redactedContent"])))

    def _close(self, index: int, items: list[Item]) -> None:
        items += self._thinking.close()
        number = self._calls.pop(index, 0)
        if index in self._silent:
            # A call without arguments; what clients parse must be JSON all the same.
            self._silent.discard(index)
            items.append(Delta(tool_calls=[ToolCall(number, arguments="{}")]))

    def _stopped(self, reason: str) -> None:
        if reason in _FAILED:
            raise ProviderError(f"{reason}: the model's answer was unusable")
        if reason in _PLAIN:
            self._stop = Finish(_PLAIN[reason])
        else:
            known = _LOSSY.get(reason, "stop")
            self._stop = Finish(known, extra={"native_finish_reason": reason})

    def _count(self, usage: dict[str, Json]) -> None:
        cached = count(usage.get("cacheReadInputTokens"))
        written = count(usage.get("cacheWriteInputTokens"))
        read = count(usage.get("inputTokens")) or 0
        # Its inputTokens are only those that no cache had to do with.
        prompt = read + (cached or 0) + (written or 0)
        self._usage = Usage(prompt, count(usage.get("outputTokens")) or 0, cached, written)


def _status(name: str) -> int:
    return STATUSES.get(name[:1].lower() + name[1:], 500)


def _exception(name: str, body: dict[str, Json]) -> ChoreoError:
    message = text(body.get("message")) or text(body.get("originalMessage")) or name
    return provider_failure(_status(name), message, {})
