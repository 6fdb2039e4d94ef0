"""Clients that are cut off at random, and come back."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

from harness import DEADLINE, Client

#: Opens a connection to the server, straight or through something that can be killed.
Connect = Callable[[], Client]


class Proxy:
    """A TCP proxy in front of *port* that serves one connection and can be killed."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._upstream = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self._sockets = [self._upstream]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            client, _ = self._listener.accept()
        self._sockets.append(client)
        back = threading.Thread(target=self._pump, args=(self._upstream, client), daemon=True)
        back.start()
        self._pump(client, self._upstream)
        back.join(DEADLINE)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
        # Closing alone would not wake the other direction's thread.
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Cut both connections, that to the server with a reset."""
        linger = b"\1\0\0\0\0\0\0\0"
        self._upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with contextlib.suppress(OSError):
            self._upstream.shutdown(socket.SHUT_RD)
        self._thread.join(DEADLINE)
        for end in self._sockets:
            end.close()


def frames_of(client: Client, limit: int) -> list[bytes]:
    """Read up to *limit* frames, or to the end."""
    frames: list[bytes] = []
    while len(frames) < limit:
        frame = client.read_frame()
        if not frame:
            break
        if not frame.startswith(b":"):
            frames.append(frame)
    return frames


def number(frame: bytes) -> int:
    """Return a frame's number."""
    found = re.match(rb"id: (\d+)\ndata: ", frame)
    assert found, frame
    return int(found[1])


def read_with_cuts(
    port: int, body: dict[str, Any], chance: random.Random
) -> tuple[str, list[bytes]]:
    """Stream *body*, cut off up to four times; return the stream's id and all its frames."""
    id, frames, cuts = "", list[bytes](), chance.randint(1, 4)
    while True:
        proxy = Proxy(port) if chance.random() < 0.3 else None
        client = Client(("127.0.0.1", proxy.port if proxy else port))
        if id:
            headers = {"Last-Event-ID": str(number(frames[-1]) if frames else 0)}
            client.request("GET", f"/v1/streams/{id}", headers=headers)
        else:
            client.request("POST", "/v1/chat/completions", body, {"Choreo-Resumable": "1"})
        head = client.read_head()
        assert head.status == 200, client.read_body()
        id = head.headers["choreo-stream-id"]
        frames += frames_of(client, chance.randint(0, 14) if cuts else 1 << 30)
        if proxy:
            proxy.kill()
            client.close()
        elif chance.random() < 0.5:
            client.reset()
        else:
            client.close()
        cuts -= 1
        if cuts < 0 or (frames and frames[-1].endswith(b"data: [DONE]\n\n")):
            return id, frames


def texts(frames: list[bytes]) -> tuple[list[str], dict[str, Any] | None]:
    """Return the text of each choice and the usage."""
    found: dict[int, str] = {}
    usage = None
    for frame in frames:
        data = frame.partition(b"data: ")[2].strip()
        if data == b"[DONE]":
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content", "")
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return [found[index] for index in sorted(found)], usage
