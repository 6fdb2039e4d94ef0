"""Writes an answer as the events of the Responses API, or as its one document.

https://platform.openai.com/docs/api-reference/responses-streaming describes the events.
Their ``sequence_number`` counts from 0.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence

from ...chat.aside import absorb, has_marks, parse_aside, set_aside, text_or_mark
from ...chat.growing import utf8_or_mark
from ...chat.items import FEW, Json, Marks, ToolCall, Usage, dump, dump_large, has_many
from ...chat.limits import RepeatedBytes, signed_thoughts
from ...chat.longtext import new_number, restore
from ...chat.request import ChatRequest
from ...errors import ChoreoError
from ...ids import random_hex
from ..blocks import Block, BlockWriter, input_of
from ..translation import LazyMember, members, restore_once
from . import lists
from .items import THINKING_PREFIX, all_tools, chat_name
from .lists import JsonList
from .log import failed_event, next_number
from .request import input_items, repeated

_ID = re.compile(rb'"id": ?"(resp_[\w-]{1,128})"', re.ASCII)

#: The initial output items, by the prefix of their ids.
_ITEMS: dict[str, dict[str, Json]] = {
    "msg": {"type": "message", "status": "in_progress", "role": "assistant", "content": []},
    "rs": {"type": "reasoning", "summary": []},
    "ig": {"type": "image_generation_call", "status": "completed"},
    "fc": {"type": "function_call", "status": "in_progress", "arguments": ""},
    "ctc": {"type": "custom_tool_call", "input": ""},
    "tsc": {
        "type": "tool_search_call",
        "status": "in_progress",
        "execution": "client",
        "arguments": {},
    },
}
#: By kind of block: the id prefix of its item, the item's list of parts if the block is one of
#: them, the name of the delta events without ``response.``, and the member that they extend.
_KINDS = {
    "text": ("msg", "content", "output_text", "text"),
    "refusal": ("msg", "content", "refusal", "refusal"),
    "reasoning": ("rs", "content", "reasoning_text", "text"),
    "summary": ("rs", "summary", "reasoning_summary_text", "text"),
    "encrypted": ("rs", "", "", ""),
    "image": ("ig", "", "", ""),
    "function": ("fc", "", "function_call_arguments", "arguments"),
    "custom": ("ctc", "", "custom_tool_call_input", "input"),
    "tool_search": ("tsc", "", "", ""),
}


class ResponseWriter(BlockWriter):
    """Writes the response to *request*, with the id that it is stored by, if it is."""

    api = "responses"
    repeats = True

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        fields = request.original or {}
        self._repeated = repeated(request)
        self.fixed_id = request.answer_id
        self.id = self.fixed_id or f"resp_{random_hex()}{random_hex()[:16]}"
        self._created = int(time.time())
        ours = members(fields, "background store previous_response_id")  # not the provider's part
        self.fixed = {"id": self.fixed_id, **ours}
        self._signed = signed_thoughts()
        self._long_tokens = RepeatedBytes("long tokens with log probabilities")
        self._request_marks: Marks | None = request.marks  # until the members are encoded
        items = () if request.native_only else input_items(request.native or fields)
        #: By their names in chat: the type, name and namespace of the caller's tools that are not
        #: functions with these names.
        self._tools = {
            chat_name(tool): (tool["type"], tool.get("name"), tool.get("namespace"))
            for tool in all_tools(fields, items, strict=False)
            if tool["type"] != "function" or tool.get("namespace")
        }
        reasoning = fields.get("reasoning") or {}
        self._with_summary = bool(reasoning.get("summary") or reasoning.get("generate_summary"))
        self._tokens = self._tokens_in_events = self._annotations = JsonList()  # of the open text
        self._done_bytes = 0  # of the events with whole items, which the last event repeats
        self._forwarded = b""  # the last frames that were forwarded from a provider

    def _first_events(self) -> Iterator[bytes]:
        response = self._marked_response("in_progress")
        created = self._marked_event("response.created", {"response": response})
        yield restore_once((created,), self._marks)
        yield self._event("response.in_progress", response=response)

    def _new_block(self, kind: str, call: ToolCall | None) -> Block:
        if call is None:
            with_summary = kind == "reasoning" and self._with_summary
            return self._add_item(kind, "summary" if with_summary else kind)
        type, name, space = self._tools.get(call.name) or ("function", call.name, None)
        named = members({"name": name, "namespace": space}, "name namespace")
        return self._add_item(kind, type, call_id=call.id, **named)

    def _add_item(self, kind: str, item_kind: str, **more: Json) -> Block:
        prefix, holder, event, member = _KINDS[item_kind]
        index = len(self._output)
        stored = self.fixed_id.removeprefix("resp_")  # items of a stored response have fixed ids
        suffix = f"{stored}_{index}" if stored else random_hex()
        item = {"id": f"{prefix}_{suffix}", **_ITEMS[prefix], **more}
        self._output.append(item)
        self._has_many = self._has_many or index > FEW
        position = {"item_id": item["id"], "output_index": index}
        block = Block(kind, item, position, item, member, holder)
        if holder:
            block.position[f"{holder}_index"] = 0
            empty: dict[str, Json] = {"annotations": [], "logprobs": []} if kind == "text" else {}
            part_type = event.replace("reasoning_summary", "summary")
            block.part = {"type": part_type, member: "", **empty}
            self._tokens, self._tokens_in_events = JsonList(), JsonList()
            self._annotations = JsonList()
        block.event = f"response.{event}.delta"
        if event and item_kind != "custom":  # a custom tool's input is sent at its end
            block.before = b'{"type":"%b","delta":' % block.event.encode()
        rest = {**block.position, "logprobs": []} if kind == "text" else block.position
        block.after = b',%b,"sequence_number":' % dump(rest)[1:-1]
        return block

    def _item_event(self, block: Block, state: str) -> bytes:
        index = block.position["output_index"]
        frame = self._event(f"response.output_item.{state}", output_index=index, item=block.item)
        if state == "done" and self._log is not None:
            self._done_bytes += len(frame)
            self._log.reserve(self._done_bytes)
        return frame

    def _part_event(self, block: Block, state: str) -> bytes:
        name = "reasoning_summary" if block.holder == "summary" else "content"
        return self._event(f"response.{name}_part.{state}", **block.position, part=block.part)

    def _block_start(self, block: Block) -> Iterator[bytes]:
        yield self._item_event(block, "added")
        if block.part is not block.item:
            yield self._part_event(block, "added")

    def _text_delta(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        if not logprobs:
            return super()._text_delta(block, text)
        block.text.add(text, self._marks)
        lists.check_tokens(logprobs)
        tokens = lists.logprobs(logprobs)
        for token in tokens:
            self._long_tokens.add(4 * lists.long_bytes(token))  # "255," is one of them
            self._tokens.add(dump(token))
            for one in (token, *token["top_logprobs"]):
                del one["bytes"]  # which events do not have
            self._tokens_in_events.add(dump(token))
        return self._event(block.event, **block.position, delta=text, logprobs=tokens)

    def _citation(self, block: Block, citation: Mapping[str, Json]) -> bytes:
        ends = {name: citation.get(name) or 0 for name in ("start_index", "end_index")}
        texts = ((name, str(citation.get(name) or "")) for name in ("title", "url"))
        names = {name: set_aside([text], self._marks) for name, text in texts}
        annotation = {"type": "url_citation", **ends, **names}
        added = {"annotation_index": self._annotations.count, "annotation": annotation}
        event = self._event("response.output_text.annotation.added", **block.position, **added)
        self._annotations.add(absorb(dump(annotation), self._marks))
        return event

    def _thinking_block(self, thinking: Mapping[str, Json]) -> Iterator[bytes]:
        block = self._open_text
        if block is not None and block.kind != "reasoning":
            block = None
        signed = {name: value for name, value in thinking.items() if name != "index"}
        if block is not None and signed.get("thinking") == "":  # the signature of the deltas
            signed["thinking"] = self._text_so_far(block)
        text = absorb(dump([signed]), self._marks)
        self._signed.add(len(text))
        data = base64.b64encode(text)
        del text  # it may be long
        content = THINKING_PREFIX + text_or_mark(data, self._marks)
        if block is None:
            block = self._add_item("encrypted", "encrypted", encrypted_content=None)
            yield from self._complete_block(block, encrypted_content=content)
        else:
            block.item["encrypted_content"] = content
            yield from self._close_blocks()

    def _image(self, media_type: str, data: str, image: Mapping[str, Json]) -> Iterator[bytes]:
        more = {"output_format": media_type.removeprefix("image/")}
        more |= members(image, "extra_content")
        block = self._add_item("image", "image", result=None, **more)
        result = data if has_marks(data) else set_aside([data], self._marks)
        yield from self._complete_block(block, result=result)

    def _block_end(self, block: Block, status: str) -> Iterator[bytes]:
        is_custom = block.member == "input"
        if block.member:
            text = _input(block.arguments, self._marks) if is_custom else self._text_so_far(block)
            block.part[block.member] = text
            if is_custom and text:
                yield self._event(block.event, **block.position, delta=text)
            done: dict[str, Json] = {block.member: text}
            if block.kind == "text":
                done["logprobs"] = self._tokens_in_events.end(self._marks)
                block.part["annotations"] = self._annotations.end(self._marks)
                block.part["logprobs"] = self._tokens.end(self._marks)
            yield self._event(f"{block.event.removesuffix('delta')}done", **block.position, **done)
        elif block.kind == "call":  # a search, whose arguments are an object
            block.item["arguments"] = input_of(block.arguments, self._marks)
        if block.part is not block.item:
            block.item[block.holder] = [block.part]
            yield self._part_event(block, "done")
        if not is_custom:
            block.item["status"] = status
        yield self._item_event(block, "done")

    # -- the ending -----------------------------------------------------------------------

    def ending(self) -> Iterator[bytes]:
        """Yield the last frames, or the whole document."""
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(self._finish.reason)
        status = "incomplete" if reason else "completed"
        yield from self._close_blocks(status)
        response = self._marked_response(status)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        if self._stream:
            event = self._event(f"response.{status}", response=response)
            self._marks.clear()
            self.ended = True
            yield event
        else:
            yield restore(dump_large(response), self._marks)

    def passed(self, frames: bytes) -> None:
        """Continue the numbers, and the id, of *frames* that were forwarded from a provider."""
        if not (self._forwarded or self.fixed_id) and (found := _ID.search(frames)):
            self.id = found[1].decode()
        self._forwarded = frames

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frames that end a stream with *error*."""
        self._first_id = 0  # the caller numbers these frames
        self.count = next_number(self._forwarded) or self.count
        first = b"" if self.count else b"".join(self._first_events())
        number = self.count
        for _ in self._close_blocks("incomplete"):
            pass  # open blocks end in the response object only, without events of their own
        failed = failed_event(self._marked_response("failed"), error, number)
        return first + restore(failed, self._marks)

    def _marked_response(self, status: str) -> dict[str, Json]:
        """Return :meth:`response` with marks for large members of the request.

        They are encoded once: thousands of tools take several times the memory of their JSON.
        """
        marks, self._request_marks = self._request_marks, None
        for name, value in self._repeated.items() if marks is not None else ():
            if value and (marks or has_many(value)):
                mark = new_number()
                self._marks[mark.encode()] = LazyMember(value, marks or {})
                self._repeated[name] = int(mark)
        return self.response(status)

    def response(self, status: str) -> dict[str, Json]:
        """Return the response object with *status* and the output so far."""
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
            "output": self._output,
            **self._repeated,
            "usage": _usage(self._usage),
        }


def _input(arguments: bytearray, marks: Marks) -> str:
    """Return a custom tool's input from the arguments of the function that stands for it."""
    try:
        return str(parse_aside(arguments, marks)["input"])
    except (ValueError, KeyError, TypeError):
        return utf8_or_mark(arguments, marks)


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
