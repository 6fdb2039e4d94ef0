"""Writes an answer as the events of the Responses API, or as its one document.

https://platform.openai.com/docs/api-reference/responses-streaming says what is in each event.
The events count from 0 in ``sequence_number``.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat.aside import marks_in, parse_pieces, set_aside
from ...chat.items import Json, Marks, ToolCall, Usage, dump
from ...chat.longtext import restore
from ...chat.request import ChatRequest
from ...errors import ChoreoError
from ..blocks import Block, BlockWriter
from .items import SEALED, chat_name
from .log import failed_event, next_number
from .request import own_tools

_ID = re.compile(rb'"id": ?"(resp_[\w-]{1,128})"', re.ASCII)

#: What a response repeats of its request, and what stands there when it was not said.
_REPEATED: dict[str, Json] = {
    **dict.fromkeys(("instructions", "temperature", "top_p", "max_output_tokens", "user")),
    **dict.fromkeys(("max_tool_calls", "previous_response_id", "prompt_cache_key")),
    **dict.fromkeys(("safety_identifier", "service_tier")),
    "metadata": {},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "background": False,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "text": {"format": {"type": "text"}},
    "top_logprobs": 0,
    "truncation": "disabled",
}
_MESSAGE = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
_REASONING: dict[str, Json] = {"type": "reasoning", "summary": []}
_EMPTY = {"status": "in_progress", "arguments": ""}
#: The output items: what their ids begin with, what they are at first, the events that fill them.
_KINDS: dict[str, tuple[str, dict[str, Json], str]] = {
    "text": ("msg", _MESSAGE, "output_text"),
    "refusal": ("msg", _MESSAGE, "refusal"),
    "reasoning": ("rs", _REASONING, "reasoning_text"),
    "summary": ("rs", _REASONING, "reasoning_summary_text"),
    "sealed": ("rs", _REASONING, ""),
    "picture": ("ig", {"type": "image_generation_call", "status": "completed"}, ""),
    "function": ("fc", {"type": "function_call", **_EMPTY}, "function_call_arguments"),
    "custom": ("ctc", {"type": "custom_tool_call", "input": ""}, "custom_tool_call_input"),
}
#: The members of items that hold a part, and the part at first.
_PARTS: dict[str, tuple[str, dict[str, Json]]] = {
    "text": ("content", {"type": "output_text", "text": "", "annotations": [], "logprobs": []}),
    "refusal": ("content", {"type": "refusal", "refusal": ""}),
    "reasoning": ("content", {"type": "reasoning_text", "text": ""}),
    "summary": ("summary", {"type": "summary_text", "text": ""}),
}


class ResponseWriter(BlockWriter):
    """Writes the response to *request*, under the id that it is kept by."""

    api = "responses"
    numbers = repeats = True

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        asked = request.original or {}
        self.fixed_id = request.answer_id
        self.id = self.fixed_id or "resp_" + secrets.token_hex(24)
        self._created = int(time.time())
        given = {name: asked[name] for name in _REPEATED if asked.get(name) is not None}
        self._repeated = {**_REPEATED, **given}
        self._marks = marks_in(dump(given), request.marks)
        #: The caller's tools by their names in chat, where only the names of calls come back.
        self._tools = {
            chat_name(tool): tool for tool in own_tools(asked.get("tools") or (), strict=False)
        }
        self._summarised = bool((asked.get("reasoning") or {}).get("summary"))
        self._passed = b""  # the last frames that a provider passed on

    def _begin(self) -> bytes:
        response = self.response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _block(self, kind: str, call: ToolCall | None) -> Block:
        if call is None:
            name = "summary" if kind == "reasoning" and self._summarised else kind
            return self._new(kind, name)
        tool = self._tools.get(call.name) or {"type": "function", "name": call.name}
        space = {"namespace": tool["namespace"]} if tool.get("namespace") else {}
        return self._new(kind, tool["type"], call_id=call.id, name=tool["name"], **space)

    def _new(self, kind: str, named: str, **members: Json) -> Block:
        prefix, item, filled = _KINDS[named]
        holder, part = _PARTS.get(named, ("", {}))
        index = len(self._output)
        kept = self.fixed_id.removeprefix("resp_")  # an item that is kept is found by its id
        own = f"{kept}_{index}" if kept else secrets.token_hex(16)
        made = {"id": f"{prefix}_{own}", **item, **members}
        self._output.append(made)
        where = {"item_id": made["id"], "output_index": index}
        if holder:
            where[f"{holder}_index"] = 0
        event = f"response.{filled}.delta"
        told = {**where, "logprobs": []} if kind == "text" else where
        after = f',{dump(told)[1:-1].decode()},"sequence_number":'
        return Block(kind, made, where, event, f'{{"type":"{event}","delta":', after, holder, part)

    def _at(self, block: Block, event: str, **members: Json) -> bytes:
        return self._event(f"response.{event}", **block.where, **members)

    def _item(self, block: Block, what: str) -> bytes:
        index = block.where["output_index"]
        return self._event(f"response.output_item.{what}", output_index=index, item=block.item)

    def _part(self, block: Block, what: str, part: Mapping[str, Json]) -> bytes:
        name = "reasoning_summary" if block.holder == "summary" else "content"
        return self._at(block, f"{name}_part.{what}", part=part)

    def _opened(self, block: Block) -> bytes:
        frames = self._item(block, "added")
        return frames + self._part(block, "added", block.part) if block.holder else frames

    def _filled(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        if "input" in block.item:
            return b""
        if not logprobs:
            return super()._filled(block, text)
        told = _logprobs(logprobs, whole=False)
        return self._event(block.event, **block.where, delta=text, logprobs=told)

    def _cited(self, block: Block, citation: Mapping[str, Json]) -> bytes:
        ends = {name: citation.get(name) or 0 for name in ("start_index", "end_index")}
        names = {name: str(citation.get(name) or "") for name in ("title", "url")}
        told = {"type": "url_citation", **ends, **names}
        where = {"annotation_index": len(block.citations), "annotation": told}
        block.citations.append(told)
        return self._at(block, "output_text.annotation.added", **where)

    def _sealed(self, thinking: Mapping[str, Json]) -> bytes:
        plain = {name: value for name, value in thinking.items() if name != "index"}
        content = SEALED + base64.b64encode(restore(dump([plain]), self._marks)).decode()
        if self._text is None or self._text.kind != "reasoning":
            return self._whole(self._new("sealed", "sealed", encrypted_content=content))
        self._text.item["encrypted_content"] = content
        return b"".join(self._close_text())

    def _drawn(self, kind: str, data: str) -> bytes:
        block = self._new("picture", "picture", result=None)
        frames = [*self._close_text(), self._opened(block)]
        block.item["result"] = data
        return b"".join([*frames, *self._closed(block, "completed")])

    def _closed(self, block: Block, status: str) -> Iterator[bytes]:
        name = block.event.removeprefix("response.").removesuffix("delta")
        if block.kind == "call":
            is_custom = "input" in block.item
            text = _input(block.pieces, self._marks) if is_custom else self._said(block)
            if is_custom and text:
                yield self._at(block, f"{name}delta", delta=text)
            member = "input" if is_custom else "arguments"
            block.item[member] = text
            yield self._at(block, f"{name}done", **{member: text})
        elif block.holder:
            part = self._fill(block)
            told: dict[str, Json] = {
                member: part[member] for member in ("text", "refusal") if member in part
            }
            if block.kind == "text":
                told["logprobs"] = _logprobs(block.logprobs, whole=False)
            yield self._at(block, f"{name}done", **told)
            yield self._part(block, "done", part)
        if "input" not in block.item:
            block.item["status"] = status
        yield self._item(block, "done")

    def _fill(self, block: Block) -> dict[str, Json]:
        """Put what came so far into the item; return its part."""
        member = "refusal" if block.kind == "refusal" else "text"
        part = {**block.part, member: self._said(block)}
        if block.kind == "text":
            told = _logprobs(block.logprobs)
            part |= {"annotations": block.citations, "logprobs": told}
        block.item[block.holder] = [part]
        return part

    # -- the ending -----------------------------------------------------------------------

    def finish(self) -> bytes:
        """Return the last frames, or the whole document."""
        return b"".join(self.ending())

    def ending(self) -> Iterator[bytes]:
        """Yield the last frames, or the whole document."""
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(
            self._finish.reason
        )
        status = "incomplete" if reason else "completed"
        yield from self._close_text(status)
        yield from self._close_calls(status)
        response = self.response(status)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        if self._stream:
            yield self._event(f"response.{status}", response=response)
        else:
            yield restore(dump(response), self._marks)

    def passed(self, frames: bytes) -> None:
        """Go on counting, and with the same id, behind *frames* of the provider's own."""
        if not (self._passed or self.fixed_id) and (found := _ID.search(frames)):
            self.id = found[1].decode("ascii", "replace")
        self._passed = frames

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frames that end a stream with *error*."""
        self.count = next_number(self._passed) or self.count
        frames = b"" if self.count else self._begin()
        if self._text is not None:
            self._fill(self._text)
        frames += restore(failed_event(self.response("failed"), error, self.count), self._marks)
        self.count += 1
        return frames

    def response(self, status: str) -> dict[str, Json]:
        """Return the response object as it is now."""
        done = {"completed_at": int(time.time())} if status == "completed" else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            **done,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": [] if status in ("queued", "in_progress") else self._output,
            **self._repeated,
            "usage": _usage(self._usage),
        }


def _logprobs(tokens: Iterable[Json], whole: bool = True) -> list[Json]:
    """Return the *tokens* of chat's ``logprobs``: with bytes in a *whole* part, not in an event."""

    def told(one: Mapping[str, Json]) -> dict[str, Json]:
        token = str(one.get("token") or "")
        made = {"token": token, "logprob": one.get("logprob") or 0.0}
        if whole:
            made["bytes"] = one.get("bytes") or list(token.encode("utf-8", "replace"))
        return made

    return [
        {**told(one), "top_logprobs": list(map(told, one.get("top_logprobs") or ()))}
        for one in tokens
        if isinstance(one, dict)
    ]


def _input(arguments: list[str], marks: Marks) -> str:
    """Return the text in the arguments of a function that stands for a custom tool."""
    try:
        return str(parse_pieces(arguments, marks)["input"])
    except (ValueError, KeyError, TypeError):
        return set_aside(arguments, marks)


def _usage(usage: Usage | None) -> dict[str, Json] | None:
    """Return the ``usage`` of a response; None when the provider did not report any."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total,
    }
