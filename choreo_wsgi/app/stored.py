"""Stored responses: created (in the background or not), retrieved, resumed, cancelled, deleted.

OpenAI's behaviour: https://platform.openai.com/docs/guides/background.  A stored response is a
resumable stream under OpenAI's names: the log of ``resp_X`` is that of the stream ``strm_X``.
Its first frame contains the request's items and is never sent, so event n is frame n + 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl

from ..apis import API
from ..apis.pages import page
from ..apis.responses.items import STORED_ID, kind_of, listed_item
from ..apis.responses.log import events_in, read_events
from ..apis.responses.request import input_items, read_request, unknown_previous
from ..apis.translation import restore_once
from ..chat import cutting, inparts, jsontext, large
from ..chat.items import Json, Marks, dump
from ..chat.request import ChatRequest
from ..errors import InvalidRequest, NotFound, StreamGone
from .pending import Pending
from .request import Call
from .response import Response, document, json_response
from .resumable import Resumption

#: An id of this server; other ids belong to the provider.
_ID = re.compile(r"resp_([A-Za-z0-9_-]{32})")
_RESPONSE = b'"response":'
#: The types of items whose arguments are JSON.
_CALLS = ("function_call", "tool_search_call")
_NUMBER = re.compile(r"[0-9]{1,17}")
#: The difference between the number of a frame and that of its event.
_OFFSET = 2
#: A frame number beyond the end of every log.
_BEYOND = 10**15
#: Bytes of memory for a value of the input while it is stored and sent, and what all may take.
_BYTES_OF_VALUE, _ROOM = 250, 8 * 1024 * 1024
#: How often the log and its readers have what a response repeats, without its first bytes; and
#: how many values a wide string in it counts as.
_REPEATED, _NOT_COUNTED, _OF_WIDE = 6, 64 * 1024, 4
#: Seconds to wait for the end of a cancelled response before it is answered as cancelled.
_PATIENCE = 3.0
#: Seconds by which a response may reach the log later than its client.
_LAG = 1.0


def route(resumption: Resumption, call: Call) -> Response | Pending:
    """Answer a request under ``/v1/responses/{id}``."""
    id, _, part = call.environ["PATH_INFO"].removeprefix("/v1/responses/").partition("/")
    call.account.api = "responses"
    try:
        return StoredResponses(resumption, call).route(id, part)
    except NotFound:
        text = f"response {id[:100]!a} does not exist or has expired"
        raise NotFound(text, code="response_not_found") from None


class StoredResponses:
    """The stored responses that *call* may use; *resumption* has their logs."""

    def __init__(self, resumption: Resumption, call: Call) -> None:
        self._resumption = resumption
        self._call = call
        self._owner = call.account.key.id
        self._outputs: dict[str, list[Json]] = {}  # of the responses that items refer to
        self._marks: Marks = {}  # of the request and of the logs that are read

    def create(self, api: API, request: ChatRequest, digest: str) -> Response | Pending:
        """Answer a request that stores its response, or continues from a stored one."""
        resumption, call = self._resumption, self._call
        self._marks = request.marks
        fields = request.original or {}
        previous = fields.get("previous_response_id")
        past = self._past(previous) if previous and _ID.fullmatch(previous) else None
        if fields.get("background") and not fields.get("store"):
            raise InvalidRequest("store must not be false with background: true", param="store")
        if self._resolve(fields) or past is not None:
            request.native = None  # the caller holds the request
            request = replace(read_request(fields, self._marks, past), trace=request.trace)
        if not fields.get("store"):
            return resumption.completions.answer(call, api, request)
        resumption.check_model(call, request)
        key = resumption.idempotency_key(call)
        claim = resumption.store.create(self._owner, key=key, digest=digest)
        id = "resp_" + claim.id.removeprefix("strm_")
        if (writer := claim.writer) is None:
            if request.stream:
                return resumption.join(call, claim.id, 1)
            return self._document(self._response(id))
        streamed = replace(request, stream=True, answer_id=id)
        answer_writer: Json = api.writer(streamed)
        queued = answer_writer.response("queued")
        past = [*(past or ()), *input_items(fields)]
        try:
            writer.append(self._first_frame(past, queued), 1)
        except BaseException:
            writer.discard()
            raise
        past.clear()  # the log has it
        if request.stream:
            return resumption.record(call, api, streamed, writer)
        recording = resumption.record_alone(call, api, streamed, writer)
        if fields.get("background"):
            recording.close()  # it continues as a stream that has lost its client
            return self._document(queued)

        def decide(last: bytes) -> Response:
            failure = recording.generation.failure
            if failure is not None and failure.code != "stream_cancelled":
                raise failure
            writer.flush(_LAG)  # the next request may read it
            if 2 * len(last) < resumption.settings.replay_stream_bytes:
                writer.make_room(len(last))  # for the document
            if recording.generation.writer.ended:  # the response ends the last event
                begin = last.index(_RESPONSE, last.rfind(b"\nevent: ")) + len(_RESPONSE)
                return document(last[begin : -len(b"}\n\n")])
            return self._document(self._response(id, last=last))

        return self._at_the_end(recording, decide)

    def route(self, id: str, part: str) -> Response | Pending:
        """Answer a request for the response *id*, or for *part* of it; raises NotFound."""
        resumption, call = self._resumption, self._call
        method, stream = call.environ["REQUEST_METHOD"], _stream_of(id)
        if method == "POST":
            resumption.cancel(call, stream)
            return self._at_the_end(
                resumption.playback(call, stream, _BEYOND),
                lambda last: self._document(self._response(id, "cancelled")),
                _PATIENCE,
            )
        if method == "DELETE":
            resumption.store.cancel(stream, self._owner)
            resumption.store.delete(stream, self._owner)
            return json_response({"id": id, "object": "response", "deleted": True})
        parameters = dict(parse_qsl(call.environ.get("QUERY_STRING", ""), keep_blank_values=True))
        if part:  # input_items
            prefix = f"{id.removeprefix('resp_')}_in"
            listed = [listed_item(item, f"{prefix}{at}") for at, item in enumerate(self._items(id))]
            order = parameters.get("order", "desc")
            if order not in ("asc", "desc"):
                raise InvalidRequest("order must be one of asc, desc", param="order")
            listed = listed if order == "asc" else listed[::-1]
            return self._document({"object": "list", **page(listed, parameters, 100, 20, "after")})
        streamed = parameters.get("stream", "false").lower()
        if streamed not in ("true", "1", "false", "0"):
            raise InvalidRequest("stream must be true or false", param="stream")
        if streamed in ("false", "0"):
            return self._document(self._response(id))
        after = parameters.get("starting_after")
        if after and not _NUMBER.fullmatch(after):
            text = "starting_after must be the number of an event"
            raise InvalidRequest(text, param="starting_after")
        return resumption.join(call, stream, int(after) + _OFFSET if after else 1)

    def _first_frame(self, items: list[Json], queued: Json) -> bytes:
        """Return the first frame of a log; raises InvalidRequest if storing it takes too much."""
        repeated = wide = 0
        # Encoded here and below: its pieces, if they were kept, would take several times its bytes.
        for piece in large.restored_parts(queued, self._marks):
            repeated += len(piece)
            wide += cutting.count_wide(bytes(piece))
        self._resumption.check_repeated(repeated)
        head = b'id: 1\nevent: choreo.request\ndata: {"items":'
        parts = (inparts.parts(value, lambda part: (dump(part),)) for value in (items, queued))
        texts = chain([head], next(parts), [b',"response":'], next(parts), [b"}\n\n"])
        frame = restore_once(map(bytes, texts), self._marks)
        for mark, part in self._marks.items():  # the request's body can be freed
            if type(part) is memoryview and part.obj is not frame:
                self._marks[mark] = bytes(part)
        # The log, the texts that were parsed and the request to send take this many bytes.
        room = max(_ROOM, 4 * len(frame)) - 27 * len(frame) // 8
        room -= _REPEATED * max(repeated - _NOT_COUNTED, 0)
        values = max(0, room // _BYTES_OF_VALUE - _OF_WIDE * wide)
        try:
            jsontext.check_bounds(frame, values)
        except jsontext.TooMuch as error:
            text = f"the input of a stored response, with its tools, {error}: send store: false"
            raise InvalidRequest(text, param="input") from None
        return frame

    def _document(self, value: Json) -> Response:
        return document(large.dump_restored(value, self._marks))

    def _at_the_end(
        self, log: Any, decide: Callable[[bytes], Response], patience: float = math.inf
    ) -> Pending:
        """Return the answer that *decide* makes at the end of *log*, or after *patience* s."""
        left, control = self._call.client_left, self._resumption.control
        return Pending(
            log, decide, client_left=left, control=control, patience=patience, whole=True
        )

    def _past(self, id: str) -> list[Json]:
        """Return the items of the conversation up to and including the response *id*."""
        problem = f"response {id!r} does not exist or has expired"
        try:
            # A client may continue a response that it has seen end before the end is in the log.
            response = self._response(id, timeout=_LAG)
            if response["status"] not in ("queued", "in_progress"):
                # An incomplete call is left out: its arguments are not valid JSON.
                output = [
                    item
                    for item in response["output"]
                    if item.get("status") != "incomplete" or kind_of(item) not in _CALLS
                ]
                return [*self._items(id), *_as_input(output)]
            problem = f"the response {id!r} has not ended yet"
        except StreamGone:
            problem = f"the input of the response {id!r} was too long to be kept: send it again"
        except NotFound:
            pass
        raise unknown_previous(problem)

    def _resolve(self, fields: dict[str, Json]) -> bool:
        """Put the items that the input of *fields* refers to into it; return if there are any."""
        given = fields.get("input")
        resolved = list(map(self._resolved, given)) if isinstance(given, list) else given
        fields |= {} if resolved == given else {"input": resolved}
        return bool(resolved != given)

    def _resolved(self, item: Json) -> Json:
        """Return the item that *item* refers to, or *item*."""
        match = STORED_ID.fullmatch(str(item.get("id")))
        if kind_of(item) != "item_reference" or match is None:
            return item
        try:
            if match[2] not in self._outputs:
                output = self._response(f"resp_{match[2]}")["output"]
                self._outputs[match[2]] = _as_input(output)
            return self._outputs[match[2]][int(match[3])]
        except (NotFound, LookupError):
            return item

    def _response(
        self, id: str, status: str = "in_progress", timeout: float = 0.0, last: bytes = b""
    ) -> Json:
        """Return a response from the events logged so far; *status* is used if it has not ended.

        *last* are its last frames, if they are known: they may be too long for the log.
        """
        stream, events_of = _stream_of(id), self._resumption.events
        # A read beyond the end of an ended log returns its last event.  It has the whole response,
        # unless the provider's own events broke off: then all events are read.
        known = events_in(last, self._marks)
        read = events_of(stream, self._owner, self._marks, _BEYOND, timeout)
        events = list(known if last else read)
        response = read_events(events, status)[0]
        if not (events and (events[-1].get("response") or {}).get("output")):
            try:
                found = events_of(stream, self._owner, self._marks, 0, _LAG)
                response = read_events(found, status)[0]
            except StreamGone:
                if not events:
                    raise
        if "id" not in response:
            raise NotFound("a stream of another API")
        return response

    def _items(self, id: str) -> list[Json]:
        """Return the input items of a response, with those of the responses before it."""
        events = self._resumption.events(_stream_of(id), self._owner, self._marks)
        first: Json = next(events, {})
        if "items" not in first:
            raise NotFound("not a stored response")
        items: list[Json] = first["items"]
        return items


def _as_input(output: list[Json]) -> list[Json]:
    """Return *output* without log probabilities, which have many values and no model reads."""
    for item in output:
        for part in item.get("content") or ():
            if part.get("logprobs"):
                part["logprobs"] = []
    return output


def _stream_of(id: str) -> str:
    """Return the id of the stream that logs the response *id*; raises NotFound."""
    match = _ID.fullmatch(id)
    if match is None:
        raise NotFound("not an id of this server")
    return "strm_" + match[1]
