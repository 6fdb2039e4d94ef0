"""A slot is held until the last byte is sent or the client disconnects."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import harness
import pytest

CHAT = "/v1/chat/completions"
#: More than the buffers of two sockets hold.
SIZE = 7_000_000


def request_body(text: str, stream: bool) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "echo", "messages": messages, "stream": stream}).encode()


def read_one_byte(port: int, stream: bool) -> socket.socket:
    """Return a connection that has read only the first byte of a long response."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.settimeout(harness.DEADLINE)
    client.connect(("127.0.0.1", port))
    body = request_body("x" * SIZE, stream)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    assert client.recv(1)
    return client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_slot_is_released_by_last_byte_or_disconnect(
    command: Callable[..., Any], leaves: bool, stream: bool
) -> None:
    server = command("--max-streams", "1")

    def status() -> int:
        with server.connect() as client:
            client.request("POST", CHAT, request_body("hi", False))
            return int(client.read_answer().status)

    with read_one_byte(server.port, stream) as client:
        assert status() == 503
        if not leaves:
            size = 1
            while piece := client.recv(1 << 20):
                size += len(piece)
                if size < SIZE // 8:
                    assert status() == 503
            assert size > SIZE
    harness.wait_until(lambda: status() == 200, "the slot is free")
