"""The lane gives the same bytes, errors and usage as the normal path, wherever chunks are cut.

Connections are real, but there is one thread: bytes are read after they have been sent.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from corpus_cases import Case, cases, writer
from nightly import examples
from raw_server import chunk
from test_relay_differential import EVENTS, Writer

from choreo_wsgi import sse
from choreo_wsgi.chat.source import Reply, lane_of
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.openai import template
from choreo_wsgi.upstream.pool import Client
from choreo_wsgi.upstream.request import Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
#: In the other recordings no lane forwards an event, or rejects one for a new reason.
NAMES = (
    *("openai/text", "openai/role-everywhere", "openai/keep-alives", "openai/usage-on-every-chunk"),
    *("azure/text", "azure/asynchronous-filter", "azure/unicode"),
    *("anthropic/text", "anthropic/unicode-and-crlf"),
)
CASES = [case for case in cases() if case.id in NAMES]


class Run:
    """One reply to *case*, received in pieces, with lanes if *lanes*.

    If *first*, templates of earlier streams are forgotten.
    """

    def __init__(
        self, upstream: socket.socket, case: Case, lanes: bool, first: bool = True
    ) -> None:
        name = upstream.getsockname()
        unix = isinstance(name, str)
        port = 80 if unix else name[1]
        provider = case.provider(base_url=f"http://127.0.0.1:{port}/v1")
        numbers = itertools.count(1)
        provider.new_call_id = lambda: f"call_{next(numbers)}"
        path = name if unix else ""
        provider.client = self.client = Client(Timeouts(), unix_socket=path, environ={})
        # With a known template an escape may be spelled differently, with the same meaning.
        if first:
            template._KNOWN.clear()
        self.reply: Reply = provider.answer(case.request, writer(case))
        self.lanes = lanes
        self.lane = None
        self.frames = b""
        self.forwarded = self.counted = 0
        self.unsent: list[bytes] = []
        self.error: ChoreoError | None = None
        self.receive()
        self.peer, _ = upstream.accept()
        while not self.peer.recv(65536).endswith(b"}"):
            pass

    def play(self, pieces: Sequence[bytes], linger: bytes = struct.pack("ii", 0, 0)) -> Any:
        """Send the *pieces*; return the frames, the error and the usage."""
        with self.peer:
            for piece in pieces:
                if self.error is None and not self.reply.ended:
                    self.peer.sendall(piece)
                    self.receive_all()
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.receive_all()
        self.reply.close()
        self.client.close()
        error = self.error and (self.error.status, self.error.code, self.error.message)
        return self.frames, error, self.reply.usage

    def receive_all(self) -> None:
        while self.error is None and not self.reply.ended and self.is_readable():
            if self.lane is None or not self.lane.forward(time.monotonic()):
                self.receive()

    def is_readable(self) -> bool:
        descriptor = self.reply.fileno()
        if descriptor is None:
            return True
        return bool(select.select([descriptor], [], [], 0)[0]) or self.reply.due == 0

    def receive(self) -> None:
        try:
            self.frames += self.reply.receive(0)
        except ChoreoError as error:
            self.error = error
        self.lane = lane_of(self.reply) if self.lanes else None
        if self.lane is not None:
            self.lane.send, self.lane.keep = self.send, self.unsent.append
            self.lane.on_frames = self.count

    def count(self, frames: int, now: float) -> None:
        assert self.lane is not None and self.lane.last_forwarded == now
        assert self.reply.due == now + Timeouts().idle
        self.counted = frames

    def send(self, piece: bytes) -> int:
        size, _, rest = piece.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2 and rest.endswith(b"\n\n\r\n")
        assert self.counted == rest.count(b"\n\n")
        self.frames += rest[:-2]
        self.counted = 0
        self.forwarded += 1
        return len(piece)


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # the path of a unix socket is limited to about a hundred bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("upstream")
        listener.listen()
        yield listener


def pieces(events: Sequence[bytes], at: int, step: int = 1) -> list[bytes]:
    """Return the reply with *events*, *step* in each chunk, cut between chunks and at *at*."""
    chunks = [chunk(b"".join(events[n : n + step])) for n in range(0, len(events), step)]
    ends = [*itertools.accumulate(map(len, [HEAD, *chunks, END]))]
    whole = b"".join([HEAD, *chunks, END])
    cuts = sorted({0, *ends, len(HEAD) + at % (len(whole) - len(HEAD))})
    return [whole[a:b] for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_lane_relays_recordings_as_normal_path_does(upstream: socket.socket, case: Case) -> None:
    body = case.answer[2]
    events = [event + b"\n\n" for event in body.split(b"\n\n")]
    events[-1] = events[-1][:-2]
    events = [event for event in events if event]
    expected = Run(upstream, case, lanes=False).play(pieces(events, 0))
    random = Random(case.id)
    for at in {0, *(random.randrange(len(body)) for _ in range(examples(5, len(body))))}:
        assert Run(upstream, case, lanes=True).play(pieces(events, at)) == expected, at
        frames, *end = Run(upstream, case, lanes=True, first=False).play(pieces(events, at))
        assert (values(frames), *end) == (values(expected[0]), *expected[1:]), at


def values(frames: bytes) -> list[Any]:
    """Return the JSON values of *frames*, in which the spelling of escapes does not matter."""
    lines = frames.split(b"\n\n")
    return [json.loads(line[6:]) if line.startswith(b"data: {") else line for line in lines]


class PlainWriter(Writer):
    """A writer of texts that are valid JSON, and mostly plain."""

    def text(self) -> str:
        odd = self.random.choice(("é", r"\n", r"\"", "{", "\x7f", "😀", ""))
        return f'"word {self.random.randrange(99)}{odd if self.random.random() < 0.3 else ""}"'


@pytest.mark.parametrize("part", range(2))
def test_lane_relays_random_streams_as_normal_path_does(upstream: socket.socket, part: int) -> None:
    """With interleaved choices, calls, escapes, and members in some events only."""
    [case] = [case for case in cases("azure") if case.request.n == 2]
    forwarded = 0
    for seed in range(part, examples(50, 4000), 2):
        random = Random(seed)
        writer = (PlainWriter if seed % 3 else Writer)(random)
        raw = [f"data: {writer.event()}\n\n".encode() for _ in range(EVENTS)]
        cut = pieces([*raw, sse.DONE], random.randrange(10**6), random.choice((1, 1, 2)))
        expected = Run(upstream, case, lanes=False).play(cut)
        run = Run(upstream, case, lanes=True)
        assert run.play(cut) == expected, seed
        forwarded += run.forwarded
    assert forwarded > 20


PREFIX = b'data: {"choices":[{"index":0,"delta":{"content":"'
SUFFIX = b'"},"finish_reason":null}]}\n\n'
TEXT_PREFIX = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"'
)
TEXT_SUFFIX = b'"}}\n\n'


ODD = [
    b"",  # here PREFIX and SUFFIX overlap
    b"\\",
    b"\xc3",
    b'"',
    b"\r",
    b"\\u00e9",
    b'","content":"x',
    SUFFIX + PREFIX,
    SUFFIX + b": ping\n\n" + PREFIX,
]


@pytest.mark.parametrize(
    ("odd", "translated"), [*((odd, False) for odd in ODD), *((odd, True) for odd in ODD[:3])]
)
def test_lane_leaves_near_matches_to_normal_path(
    upstream: socket.socket, odd: bytes, translated: bool
) -> None:
    id = "anthropic/text" if translated else "openai/text"
    [case] = [case for case in [*cases("openai"), *cases("anthropic")] if case.id == id]
    prefix, suffix = (TEXT_PREFIX, TEXT_SUFFIX) if translated else (PREFIX, SUFFIX)
    texts = [b"a", b"b", b"c", b"d", odd, b"e", b"f", b"", b"g"]
    events = [prefix + text + suffix for text in texts]
    events[4] = events[4] if odd else prefix + suffix[1:]
    if translated:
        events.insert(0, b'data: {"type":"message_start","message":{}}\n\n')
        events.append(b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n')
        events.append(b'data: {"type":"message_stop"}\n\n')
    else:
        events.append(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        events.append(sse.DONE)
    cut = pieces(events, 0)
    expected = Run(upstream, case, lanes=False).play(cut)
    run = Run(upstream, case, lanes=True)
    assert run.play(cut) == expected
    assert run.forwarded >= 1


@pytest.mark.parametrize("size", [b"%05x", b"%x;a=b", b"+%x"])
def test_accepts_unusual_chunk_size_lines(upstream: socket.socket, size: bytes) -> None:
    [case] = [case for case in cases("openai") if case.id == "openai/text"]
    events = [PREFIX + b"%d" % number + SUFFIX for number in range(8)]
    odd = [size % len(event) + b"\r\n" + event + b"\r\n" for event in events]
    cut = [HEAD, *map(chunk, events[:3]), *odd, END]
    expected = Run(upstream, case, lanes=False).play(cut)
    assert Run(upstream, case, lanes=True).play(cut) == expected


def test_waits_for_rest_of_chunk_cut_where_it_looks_complete(upstream: socket.socket) -> None:
    [case] = [case for case in cases("openai") if case.id == "openai/text"]
    events = [PREFIX + b"%d" % number + SUFFIX for number in range(5)]
    two = chunk(events[3] + b"\r\n" + events[4])
    end = len(two) - len(events[4]) - 2
    cut = [HEAD, *map(chunk, events), two, chunk(events[0]), two[:end], two[end:], END]
    expected = Run(upstream, case, lanes=False).play(cut)
    assert Run(upstream, case, lanes=True).play(cut) == expected


def test_connection_reset_is_reported_as_truncation() -> None:
    [case] = [case for case in cases("openai") if case.id == "openai/text"]
    cut = [HEAD, *(chunk(PREFIX + b"%d" % number + SUFFIX) for number in range(5))]
    reset = struct.pack("ii", 1, 0)
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        expected = Run(upstream, case, lanes=False).play(cut, reset)
        assert Run(upstream, case, lanes=True).play(cut, reset) == expected
    assert expected[1] == (502, "upstream_truncated", "the provider broke the connection off")


@pytest.mark.parametrize("count", [0, 7, None], ids=["nothing sent", "partly sent", "error"])
def test_passes_unsent_bytes_to_keep(count: int | None, upstream: socket.socket) -> None:
    """Then the normal path continues, and reads no more until the client has received them."""
    [case] = [case for case in cases("openai") if case.id == "openai/text"]
    run = Run(upstream, case, lanes=True)
    events = [chunk(PREFIX + b"%d" % number + SUFFIX) for number in range(8)]
    with run.peer:
        for piece in [HEAD, *events[:7]]:
            run.peer.sendall(piece)
            run.receive_all()
        assert run.forwarded and run.lane is not None and not run.unsent
        sent: list[bytes] = []

        def send(piece: bytes) -> int:
            sent.append(piece)
            if count is None:
                raise BlockingIOError
            return count

        run.lane.send = send
        run.peer.sendall(events[7])
        assert not run.lane.forward(time.monotonic())
        assert run.unsent == [sent[0][count or 0 :]]
        run.reply.close()
