"""Requests under waitress: response heads, framing, and refusals in our JSON.

Three things differ from waitress's own tasks.  The head and the first bytes of the body
leave together; a chunked answer leaves the connection open for the next request; the answer
to HEAD has no body, whatever the application yields.
"""

from __future__ import annotations

from http.client import responses
from typing import Any

import waitress.task
from waitress.task import WSGITask
from waitress.utilities import build_http_date

from ..app.request import request_id
from ..errors import BodyTooLarge, ChoreoError, InvalidRequest
from .parking import Parked, Turn

#: From this many bytes on, a block is handed to the system as it is, with its chunk's frame
#: beside it; copying a smaller one into its frame is cheaper.
GATHER = 16 * 1024


class _Writer:
    """What both kinds of task share; mixed in before waitress's class."""

    channel: Any
    request: Any
    version: str
    status: str
    complete: bool
    wrote_header: bool
    chunked_response: bool
    close_on_finish: bool
    content_length: int | None
    content_bytes_written: int
    response_headers: list[tuple[str, str]]
    start_time: float

    @property
    def has_body(self) -> bool:
        """Whether the answer may have a body (RFC 9110, 6.4.1)."""
        bodiless = self.status.startswith(("1", "204", "304"))
        return not bodiless and self.request.command != "HEAD"

    def build_response_header(self) -> bytes:
        """Return the response's head; decides on framing and on keeping the connection."""
        names = {name.lower() for name, _ in self.response_headers}
        lines = [f"{name}: {value}" for name, value in self.response_headers]
        framed = not self.has_body or "content-length" in names
        if not framed and self.content_length is not None:
            lines.append(f"Content-Length: {self.content_length}")
            framed = True
        elif not framed and self.version == "1.1":
            lines.append("Transfer-Encoding: chunked")
            self.chunked_response = framed = True
        asked = self.request.headers.get("CONNECTION", "").lower()
        if not framed or self._must_close(asked):
            self.close_on_finish = True
        if self.close_on_finish:
            if "connection" not in names:
                lines.append("Connection: close")
        elif self.version == "1.0":
            lines.append("Connection: Keep-Alive")
        if "date" not in names:
            lines.append(f"Date: {build_http_date(self.start_time)}")
        head = "\r\n".join([f"HTTP/{self.version} {self.status}", *lines, "", ""])
        return head.encode("latin-1")

    def _must_close(self, asked: str) -> bool:
        options = {option.strip() for option in asked.split(",")}
        if self.channel.server.draining or "close" in options:
            return True
        return self.version == "1.0" and "keep-alive" not in options

    def write(self, data: bytes) -> None:
        """Send *data*, a piece of the body, and the head before the first piece."""
        if self.wrote_header:
            head = b""
        else:
            if not self.complete:
                raise RuntimeError("the application wrote before it called start_response")
            head = self.build_response_header()
            self.wrote_header = True
            if self.chunked_response:
                # A stream may last for minutes, and a conversation be megabytes long.
                self.request.close()
        if self.chunked_response:
            self._write_chunk(head, data)
            return
        if not self.has_body:
            self.content_bytes_written += len(data)
            data = b""
        elif self.content_length is not None:
            data = data[: self.content_length - self.content_bytes_written]
            self.content_bytes_written += len(data)
        if head or data:
            self.channel.transmit(head + data)

    def _write_chunk(self, head: bytes, data: bytes) -> None:
        if len(data) >= GATHER:
            self.channel.transmit(b"%b%X\r\n" % (head, len(data)), data, b"\r\n")
        elif data:
            self.channel.transmit(head + _chunk(data))
        elif head:  # an empty chunk would be the last one
            self.channel.transmit(head)

    def finish(self) -> None:
        """End the answer."""
        if not self.wrote_header:
            self.write(b"")
        if self.chunked_response:
            self.channel.transmit(b"0\r\n\r\n")


class Task(_Writer, WSGITask):
    """Runs the application for one request.

    A stream may leave it, when :class:`~choreo_wsgi.carrier.Parked` is raised; the same task
    then serves once more, and goes on with ``turn``, the stream: with the bytes ``unsent`` and
    the ``block`` first, or with the ``failure`` that ended it.
    """

    turn: Turn | None = None
    block = unsent = b""
    failure: Exception | None = None

    def execute(self) -> None:
        """Send the application's answer; raises Parked while there is nothing to send."""
        try:
            if self.turn is None:
                super().execute()
            else:
                self._go_on(self.turn)
        except Parked as parked:
            self.turn = parked.turn
            parked.task = self
            raise

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environ; ``choreo.waiting`` is to be called before a long wait."""
        environ: dict[str, Any] = super().get_environment()
        environ["choreo.waiting"] = self.channel.server.task_dispatcher.waiting
        return environ

    def _go_on(self, turn: Turn) -> None:
        turn.parked = False
        try:
            if self.failure is not None:
                raise self.failure
            unsent, self.unsent = self.unsent, b""
            if unsent:
                self.channel.transmit(unsent)
            block, self.block = self.block, b""
            if block:
                self.write(block)
            for block in turn:
                self.write(block)
        finally:
            turn.close()

    def send_now(self, block: bytes) -> bool:
        """Send *block* without waiting; return whether the client took it all.

        The rest is ``unsent``.  Raises ClientDisconnected.
        """
        data = _chunk(block) if self.chunked_response else block
        sent = self.channel.send_some((data,))
        if sent < len(data):
            self.unsent = data[sent:]
        return bool(sent == len(data))


class ErrorTask(_Writer, waitress.task.ErrorTask):
    """Answers what waitress itself refuses, and what it calls an internal error."""

    def execute(self) -> None:
        """Send the refusal and close the connection: where the next request begins is unknown."""
        error = _translate(self.request.error)
        asked = self.channel.requests[0]  # self.request is a stand-in after a failure
        self.request.command = asked.command
        caller = {"HTTP_X_REQUEST_ID": asked.headers.get("X_REQUEST_ID", "")}
        body = error.body()
        self.status = f"{error.status} {responses.get(error.status, 'Unknown')}"
        self.response_headers = [
            *error.response_headers(),
            ("x-request-id", request_id(caller)),
            ("Connection", "close"),
        ]
        self.close_on_finish = True
        self.channel.lingers = True
        self.content_length = len(body)
        self.write(body)


def _chunk(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)


def _translate(error: Any) -> ChoreoError:
    """Return waitress's *error* as one of ours."""
    if error.code == 413:
        return BodyTooLarge("the request's body is too long")
    if error.code >= 500 and error.code != 501:
        return ChoreoError("the server failed")
    return InvalidRequest(f"{error.reason}: {error.body}", status=error.code)
