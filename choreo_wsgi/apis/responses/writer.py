"""Writes an answer as the events of the Responses API, or as its one document.

https://platform.openai.com/docs/api-reference/responses-streaming says what is in each event.
An answer is a list of output items (reasoning, message, function_call ...).  Each is added,
filled by deltas and done; the events count from 0 in ``sequence_number``.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence

from ... import sse
from ...chat.answer import AnswerWriter
from ...chat.items import Delta, Finish, Item, Json, ToolCall, Usage, dump, quote
from ...chat.jsontext import is_object
from ...errors import ChoreoError
from .items import SEALED, chat_name
from .log import failed_event, next_number
from .objects import (
    REPEATED,
    OpenItem,
    annotation_object,
    custom_input,
    logprob_objects,
    part_object,
    usage_object,
)
from .request import own_tools

_ID = re.compile(rb'"id": ?"(resp_[\w-]{1,128})"', re.ASCII)


class ResponseWriter(AnswerWriter):
    """Writes the response *id* to the request *asked*, of events with *stream*."""

    api = "responses"
    done = b""

    def __init__(self, asked: Mapping[str, Json], id: str = "", stream: bool = True) -> None:
        self.model: str = asked["model"]
        self.fixed_id = id
        self.id = id or "resp_" + secrets.token_hex(24)
        #: How many events were written.
        self.count = 0
        self._stream = stream
        self._created = int(time.time())
        repeated = {name: asked.get(name) for name in REPEATED}
        self._repeated = {
            name: REPEATED[name] if value is None else value for name, value in repeated.items()
        }
        #: The caller's tools by their names in chat, where only the names of calls come back.
        self._tools = {
            chat_name(tool): tool for tool in own_tools(asked.get("tools") or (), strict=False)
        }
        self._summarised = bool((asked.get("reasoning") or {}).get("summary"))
        self._output: list[dict[str, Json]] = []
        self._text: OpenItem | None = None  # the reasoning or message that is being written
        self._calls: dict[int, OpenItem | None] = {}  # None: done
        self._finish = Finish()
        self._passed = b""  # the last frames that a provider passed on
        self._usage: Usage | None = None

    # -- items --------------------------------------------------------------------------

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*."""
        begun = b"" if self.count or not self._stream else self.begin()
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._finish = item
        else:
            return begun + self._delta(item)
        return begun

    def begin(self) -> bytes:
        """Return the frames that a response begins with."""
        response = self.response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _delta(self, delta: Delta) -> bytes:
        frames = b""
        if delta.reasoning:
            kind = "reasoning_summary_text" if self._summarised else "reasoning_text"
            frames += self._say(kind, delta.reasoning)
        logprobs = (delta.logprobs or {}).get("content") or ()
        if delta.text or logprobs:
            frames += self._say("output_text", delta.text, logprobs)
        if delta.refusal:
            frames += self._say("refusal", delta.refusal)
        for call in delta.tool_calls:
            frames += self._call(call)
        if delta.extra:
            frames += self._extra(delta.extra)
        return frames

    def _say(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        """Add *text* to the item that takes its *kind*, a new one if another kind was said."""
        frames = b""
        opened = self._text
        if opened is None or opened.kind != kind:
            frames = self._end_text()
            opened = self._text = self._new_text(kind)
            frames += self._added(opened)
        opened.pieces.append(text)
        opened.logprobs += logprobs
        if not self._stream:
            return frames
        if logprobs:
            told = logprob_objects(logprobs, whole=False)
            return frames + self._at(opened, f"{kind}.delta", delta=text, logprobs=told)
        written = f"{opened.before}{quote(text)}{opened.after}{self.count}}}"
        self.count += 1
        name = f"response.{kind}.delta"
        return frames + sse.frame(written.encode("utf-8", "replace"), event=name)

    def _new_text(self, kind: str) -> OpenItem:
        if kind in ("output_text", "refusal"):
            message = {"type": "message", "status": "in_progress", "role": "assistant"}
            opened = self._open("msg", {**message, "content": []}, kind)
        else:
            opened = self._open("rs", {"type": "reasoning", "summary": []}, kind)
        place = "summary_index" if opened.is_summary else "content_index"
        logprobs = '"logprobs":[],' if kind == "output_text" else ""
        opened.before = f'{{"type":"response.{kind}.delta","{place}":0,"delta":'
        opened.after = (
            f',"item_id":"{opened.item["id"]}",{logprobs}"output_index":{opened.index},'
            '"sequence_number":'
        )
        return opened

    def _open(self, prefix: str, item: dict[str, Json], kind: str) -> OpenItem:
        index = len(self._output)
        kept = self.fixed_id.removeprefix("resp_")  # an item that is kept is found by its id
        own = f"{kept}_{index}" if kept else secrets.token_hex(16)
        opened = OpenItem(index, {"id": f"{prefix}_{own}", **item}, kind)
        self._output.append(opened.item)
        return opened

    def _added(self, opened: OpenItem) -> bytes:
        part = part_object(opened.kind, "")
        return self._item_added(opened) + self._at(opened, self._part(opened, "added"), part=part)

    @staticmethod
    def _part(opened: OpenItem, what: str) -> str:
        return f"{'reasoning_summary' if opened.is_summary else 'content'}_part.{what}"

    def _at(self, opened: OpenItem, what: str, **members: Json) -> bytes:
        """Return the event that tells *what* happened to *opened*, or to its one part."""
        return self._event(f"response.{what}", **opened.place(), **members)

    def _end_text(self, status: str = "completed") -> bytes:
        """End what is being written, before something else is."""
        opened, self._text = self._text, None
        if opened is None:
            return self._end_calls()
        part = opened.fill()
        told: dict[str, Json] = {name: part[name] for name in ("text", "refusal") if name in part}
        if opened.kind == "output_text":
            told["logprobs"] = logprob_objects(opened.logprobs, whole=False)
        frames = self._at(opened, f"{opened.kind}.done", **told)
        frames += self._at(opened, self._part(opened, "done"), part=part)
        return frames + self._item_done(opened, status)

    def _item_added(self, opened: OpenItem) -> bytes:
        return self._event(
            "response.output_item.added", output_index=opened.index, item=opened.item
        )

    def _item_done(self, opened: OpenItem, status: str) -> bytes:
        if opened.item["type"] != "custom_tool_call":
            opened.item["status"] = status
        return self._event("response.output_item.done", output_index=opened.index, item=opened.item)

    def _call(self, call: ToolCall) -> bytes:
        frames = b""
        opened = self._calls.get(call.index)
        if opened is None and call.index in self._calls:
            return b""  # its arguments were whole
        if opened is None:
            frames = self._end_text()
            opened = self._calls[call.index] = self._new_call(call)
            frames += self._item_added(opened)
        if call.extra:
            opened.item.update(call.extra)
        if call.arguments:
            opened.pieces.append(call.arguments)
            if opened.kind == "function_call_arguments":
                frames += self._at(opened, f"{opened.kind}.delta", delta=call.arguments)
        return frames

    def _new_call(self, call: ToolCall) -> OpenItem:
        tool = self._tools.get(call.name) or {"type": "function", "name": call.name}
        item: dict[str, Json] = {"call_id": call.id, "name": tool["name"]}
        if tool.get("namespace"):
            item["namespace"] = tool["namespace"]
        if tool["type"] == "custom":
            item |= {"type": "custom_tool_call", "input": ""}
            return self._open("ctc", item, "custom_tool_call_input")
        item |= {"type": "function_call", "status": "in_progress", "arguments": ""}
        return self._open("fc", item, "function_call_arguments")

    def _end_calls(self, status: str = "") -> bytes:
        """End the open calls with *status*; without one those whose arguments are whole.

        So an item ends before the next begins, unless a provider mixes the pieces of several.
        """
        frames = []
        for index, opened in self._calls.items():
            given = "".join(opened.pieces) if opened else ""
            if opened is None or not (status or is_object(given)):
                continue
            self._calls[index] = None
            member = "arguments"
            if opened.kind == "custom_tool_call_input":
                member, given = "input", custom_input(given)
                if given:
                    frames.append(self._at(opened, f"{opened.kind}.delta", delta=given))
            opened.item[member] = given
            frames.append(self._at(opened, f"{opened.kind}.done", **{member: given}))
            frames.append(self._item_done(opened, status or "completed"))
        return b"".join(frames)

    def _extra(self, extra: Mapping[str, Json]) -> bytes:
        """Write what stands beside the text: signed thinking, citations, pictures."""
        frames = b""
        blocks = extra.get("thinking_blocks")
        if blocks:
            if self._text is None or not self._text.kind.startswith("reasoning"):
                frames = self._end_text()
                self._text = self._open("rs", {"type": "reasoning", "summary": []}, "")
                frames += self._item_added(self._text)
            frames += self._seal(self._text, blocks)
        for annotation in filter(None, map(annotation_object, extra.get("annotations") or ())):
            if self._text is not None and self._text.kind == "output_text":
                noted = self._text.annotations
                where = {"annotation_index": len(noted), "annotation": annotation}
                frames += self._at(self._text, "output_text.annotation.added", **where)
                noted.append(annotation)
        for image in extra.get("images") or ():
            url: str = image["image_url"]["url"]
            item = {"type": "image_generation_call", "result": url.partition(",")[2]}
            frames += self._end_text()
            opened = self._open("ig", {**item, "status": "completed"}, "")
            frames += self._item_added(opened)
            frames += self._item_done(opened, "completed")
        return frames

    def _seal(self, opened: OpenItem, blocks: Json) -> bytes:
        """Keep signed thinking in ``encrypted_content``, whence the caller gives it back."""
        plain = [{k: v for k, v in block.items() if k != "index"} for block in blocks]
        text = json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")
        opened.item["encrypted_content"] = SEALED + base64.b64encode(text).decode()
        if opened.kind:
            return self._end_text()
        self._text = None
        return self._item_done(opened, "completed")

    # -- the ending -----------------------------------------------------------------------

    def finish(self) -> bytes:
        """Return the last frames, or the whole document."""
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(
            self._finish.reason
        )
        status = "incomplete" if reason else "completed"
        frames = self._end_text(status) + self._end_calls(status)
        response = self.response(status)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        if not self._stream:
            return dump(response)
        return frames + self._event(f"response.{status}", response=response)

    def passed(self, frames: bytes) -> None:
        """Go on counting, and with the same id, behind *frames* of the provider's own."""
        if not (self._passed or self.fixed_id) and (found := _ID.search(frames)):
            self.id = found[1].decode("ascii", "replace")
        self._passed = frames

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frames that end a stream with *error*."""
        self.count = next_number(self._passed) or self.count
        frames = b"" if self.count else self.begin()
        frames += failed_event(self.response("failed"), error, self.count)
        self.count += 1
        return frames

    def response(self, status: str) -> dict[str, Json]:
        """Return the response object as it is now."""
        if self._text is not None and self._text.kind and status == "failed":
            self._text.fill()
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
            "usage": usage_object(self._usage),
        }

    def _event(self, type: str, **members: Json) -> bytes:
        if not self._stream:
            return b""
        event = {"type": type, "sequence_number": self.count, **members}
        self.count += 1
        return sse.frame(dump(event), event=type)
