"""Writes an answer as the events of the Responses API, or as its one document.

https://platform.openai.com/docs/api-reference/responses-streaming says what is in each event.
The events count from 0 in ``sequence_number``.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat.aside import marks_in, parse_pieces, set_aside
from ...chat.items import Json, Marks, ToolCall, Usage, dump
from ...chat.longtext import restore
from ...chat.request import ChatRequest
from ...errors import ChoreoError
from ...ids import random_hex
from ..blocks import Block, BlockWriter
from ..translation import members
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
#: The output items as they are at first, by what their ids begin with.
_ITEMS: dict[str, dict[str, Json]] = {
    "msg": {"type": "message", "status": "in_progress", "role": "assistant", "content": []},
    "rs": {"type": "reasoning", "summary": []},
    "ig": {"type": "image_generation_call", "status": "completed"},
    "fc": {"type": "function_call", "status": "in_progress", "arguments": ""},
    "ctc": {"type": "custom_tool_call", "input": ""},
}
#: What each kind of block is in: an item, and a part of the item if it holds parts; then the
#: events that fill it, and the member that is filled.
_KINDS = {
    "text": ("msg", "content", "output_text", "text"),
    "refusal": ("msg", "content", "refusal", "refusal"),
    "reasoning": ("rs", "content", "reasoning_text", "text"),
    "summary": ("rs", "summary", "reasoning_summary_text", "text"),
    "sealed": ("rs", "", "", ""),
    "picture": ("ig", "", "", ""),
    "function": ("fc", "", "function_call_arguments", "arguments"),
    "custom": ("ctc", "", "custom_tool_call_input", "input"),
}


class ResponseWriter(BlockWriter):
    """Writes the response to *request*, under the id that it is kept by."""

    api = "responses"
    repeats = True

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        asked = request.original or {}
        self.fixed_id = request.answer_id
        self.id = self.fixed_id or f"resp_{random_hex()}{random_hex()[:16]}"
        self._created = int(time.time())
        given = {name: asked[name] for name in _REPEATED if asked.get(name) is not None}
        self._repeated = {**_REPEATED, **given}
        self._marks = marks_in(dump(given), request.marks)
        #: The caller's tools by their names in chat, where only the names of calls come back.
        self._tools = {
            chat_name(tool): tool for tool in own_tools(asked.get("tools") or (), strict=False)
        }
        reasoning = asked.get("reasoning") or {}
        self._summarised = bool(reasoning.get("summary") or reasoning.get("generate_summary"))
        self._passed = b""  # the last frames that a provider passed on

    def _begin(self) -> Iterator[bytes]:
        response = self.response("in_progress")
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def _block(self, kind: str, call: ToolCall | None) -> Block:
        if call is None:
            return self._new(kind, "summary" if kind == "reasoning" and self._summarised else kind)
        tool = self._tools.get(call.name) or {"type": "function", "name": call.name}
        return self._new(kind, tool["type"], call_id=call.id, **members(tool, "name namespace"))

    def _new(self, kind: str, named: str, **more: Json) -> Block:
        prefix, holder, filled, member = _KINDS[named]
        index = len(self._output)
        kept = self.fixed_id.removeprefix("resp_")  # an item that is kept is found by its id
        own = f"{kept}_{index}" if kept else random_hex()
        item = {"id": f"{prefix}_{own}", **_ITEMS[prefix], **more}
        self._output.append(item)
        where = {"item_id": item["id"], "output_index": index}
        block = Block(kind, item, where, item, member, holder)
        if holder:
            block.where[f"{holder}_index"] = 0
            lists: dict[str, Json] = {"annotations": [], "logprobs": []} if kind == "text" else {}
            block.part = {
                "type": filled.replace("reasoning_summary", "summary"),
                member: "",
                **lists,
            }
        block.event = f"response.{filled}.delta"
        if named != "custom":  # its input is told at its end
            block.before = f'{{"type":"{block.event}","delta":'
        told = {**block.where, "logprobs": []} if kind == "text" else block.where
        block.after = f',{dump(told)[1:-1].decode()},"sequence_number":'
        return block

    def _at(self, block: Block, event: str, **more: Json) -> bytes:
        return self._event(f"response.{event}", **block.where, **more)

    def _item(self, block: Block, what: str) -> bytes:
        index = block.where["output_index"]
        return self._event(f"response.output_item.{what}", output_index=index, item=block.item)

    def _part(self, block: Block, what: str) -> bytes:
        name = "reasoning_summary" if block.holder == "summary" else "content"
        return self._at(block, f"{name}_part.{what}", part=block.part)

    def _opened(self, block: Block) -> Iterator[bytes]:
        yield self._item(block, "added")
        if block.part is not block.item:
            yield self._part(block, "added")

    def _filled(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        if not logprobs:
            return super()._filled(block, text)
        block.pieces.append(text)
        block.part["logprobs"] += _logprobs(logprobs)
        told = _logprobs(logprobs, whole=False)
        return self._event(block.event, **block.where, delta=text, logprobs=told)

    def _cited(self, block: Block, citation: Mapping[str, Json]) -> bytes:
        ends = {name: citation.get(name) or 0 for name in ("start_index", "end_index")}
        names = {name: str(citation.get(name) or "") for name in ("title", "url")}
        cited: list[Json] = block.part["annotations"]
        cited.append({"type": "url_citation", **ends, **names})
        where = {"annotation_index": len(cited) - 1, "annotation": cited[-1]}
        return self._at(block, "output_text.annotation.added", **where)

    def _sealed(self, thinking: Mapping[str, Json]) -> Iterator[bytes]:
        plain = {name: value for name, value in thinking.items() if name != "index"}
        content = SEALED + base64.b64encode(restore(dump([plain]), self._marks)).decode()
        if self._text is None or self._text.kind != "reasoning":
            yield from self._whole(self._new("sealed", "sealed", encrypted_content=content))
        else:
            self._text.item["encrypted_content"] = content
            yield from self._close()

    def _drawn(self, kind: str, data: str, image: Mapping[str, Json]) -> Iterator[bytes]:
        told = {"output_format": kind.removeprefix("image/"), **members(image, "extra_content")}
        block = self._new("picture", "picture", result=None, **told)
        yield from self._close()
        yield from self._opened(block)
        block.item["result"] = data
        yield from self._closed(block, "completed")

    def _closed(self, block: Block, status: str) -> Iterator[bytes]:
        is_custom = block.member == "input"
        if block.member:
            text = _input(block.pieces, self._marks) if is_custom else self._said(block)
            block.part[block.member] = text
            if is_custom and text:
                yield self._event(block.event, **block.where, delta=text)
            told: dict[str, Json] = {block.member: text}
            if block.kind == "text":
                told["logprobs"] = _logprobs(block.part["logprobs"], whole=False)
            yield self._event(f"{block.event.removesuffix('delta')}done", **block.where, **told)
        if block.part is not block.item:
            block.item[block.holder] = [block.part]
            yield self._part(block, "done")
        if not is_custom:
            block.item["status"] = status
        yield self._item(block, "done")

    # -- the ending -----------------------------------------------------------------------

    def ending(self) -> Iterator[bytes]:
        """Yield the last frames, or the whole document."""
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(self._finish.reason)
        status = "incomplete" if reason else "completed"
        yield from self._close(status)
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
        begun = b"" if self.count else b"".join(self._begin())
        number = self.count
        for _ in self._close("incomplete"):
            pass  # what is open is told as far as it came, in the response alone
        failed = failed_event(self.response("failed"), error, number)
        return begun + restore(failed, self._marks)

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
