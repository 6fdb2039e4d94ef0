"""Misbehaving servers, proxies and programs, for both clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
import threading
import time
import zlib

import pytest
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, chunk, frame, head
from silent_script import SilentAfter

import choreoai

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    ],
}


# --- fork -------------------------------------------------------------------------------

FORK = """
import asyncio, gc, os, sys
from choreoai import AsyncChoreoAI, ChoreoAI, StreamInterruptedError

kind, url = sys.argv[1:]
client = (ChoreoAI if kind == "sync" else AsyncChoreoAI)("k", url, max_retries=0, timeout=20)
run = (lambda value: value) if kind == "sync" else asyncio.new_event_loop().run_until_complete

def complete(text, **options):
    messages = [{"role": "user", "content": text}]
    return run(client.chat.completions.create(model="m", messages=messages, **options))

def text_of(stream):
    return run(stream.get_final_completion()).choices[0].message.content

def check(process):
    for number in range(5):
        text = f"{process} {number}"
        assert complete(text).choices[0].message.content == text
        assert text_of(complete(text, stream=True)) == text

check("before")
held = complete("held", stream=True)
run((held.__next__ if kind == "sync" else held.__anext__)())
check("again")  # leaves a connection idle
child = os.fork()
if child == 0:
    try:
        if kind == "async":
            asyncio._set_running_loop(None)
            run = asyncio.new_event_loop().run_until_complete
        check("child")
        try:
            text_of(held)
            print("the child read its parent's stream")
        except StreamInterruptedError as error:
            assert "fork()" in str(error), error
        held = None
        gc.collect()
        complete("child done")
    finally:
        sys.stdout.flush()
        os._exit(0)
os.waitpid(child, 0)  # first: a process that finds the other's answer on a connection drops it
check("parent")
print(text_of(held))
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_processes_share_no_connection_after_fork(server, kind):
    done = threading.Event()
    connections = {True: set(), False: set()}  # the child's, and the parent's

    def script(peer):
        prompt = peer.request.json()["messages"][0]["content"]
        connections[prompt.startswith("child")].add(peer.number)
        if prompt == "child done":
            done.set()
        if not peer.request.json().get("stream"):
            message = {"role": "assistant", "content": prompt}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            peer.json({**COMPLETION, "choices": [choice]})
            return
        peer.head()
        if prompt == "held":
            peer.frame(chat_chunk("he"))
            assert done.wait(DEADLINE)
        for value in [*answer("ld" if prompt == "held" else prompt)[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, kind, server.url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.stdout == "held\n", ran.stderr
    assert connections[True] and connections[True].isdisjoint(connections[False])


# --- two readers of one stream; finalisers ------------------------------------------------


def test_second_of_two_reading_tasks_gets_a_runtime_error(server):
    send = threading.Event()

    def script(peer):
        peer.head()
        assert send.wait(DEADLINE)
        for value in [*answer("a"), "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            first = asyncio.create_task(stream.get_final_completion())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already reading"):
                await stream.__anext__()
            send.set()
            # The first task's stream is not affected.
            assert (await first).choices[0].message.content == "a"

    asyncio.run(main())


def test_closing_a_stream_ends_the_loop_of_another_task(server):
    script = SilentAfter(chat_chunk("a"))
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)

            async def read():
                return [part.choices[0].delta.content async for part in stream]

            reading = asyncio.create_task(read())
            while not stream.partial_text:
                await asyncio.sleep(0)
            await stream.close()
            assert await reading == ["a"]

    asyncio.run(main())
    assert script.closed.wait(DEADLINE)


EXIT = """
import asyncio, sys
from choreoai import AsyncChoreoAI

async def main():
    client = AsyncChoreoAI("k", sys.argv[1])
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    await stream.__anext__()
    if sys.argv[2] == "cycle":
        stream.own = stream
        sys.modules["kept"] = stream
    elif sys.argv[2] == "task":
        asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["plain", "cycle", "task"])
def test_program_exits_cleanly_with_an_open_stream(server, how):
    server.then(SilentAfter(chat_chunk("a")))
    command = [sys.executable, "-W", "error", "-c", EXIT, server.url, how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_signal_handlers_stop_iteration_does_not_end_the_stream(server):
    """Python would take a StopIteration raised by ``__next__`` for the end of the loop."""

    def handler(signum, frame):
        raise StopIteration

    server.then(SilentAfter(chat_chunk("a")))
    old = signal.signal(signal.SIGALRM, handler)
    try:
        with choreoai.ChoreoAI(base_url=server.url) as client:
            stream = client.chat.completions.create(**HI, stream=True)
            next(stream)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(choreoai.StreamInterruptedError, match="StopIteration"):
                list(stream)
    finally:
        signal.signal(signal.SIGALRM, old)


# --- events -----------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [b"data:\n\n", b"id: 7\ndata:\n\n"])
def test_skips_events_with_empty_data(server, open_stream, empty):
    def script(peer):
        peer.head()
        for value in [*map(frame, answer("a", "b")), frame("[DONE]")]:
            peer.body(empty + value)
        peer.end()

    server.then(script)
    assert "".join(open_stream().text) == "ab"


@pytest.mark.parametrize("id", ["7", "x", "\u00b2"])
def test_accepts_an_id_that_applies_to_all_later_events(server, open_stream, id):
    """Without a resumable stream an id is not the number of its event."""
    read = threading.Event()

    def script(peer):
        peer.head()
        first, *others = [*map(frame, answer("a", "b")), frame("[DONE]")]
        peer.body(f"id: {id}\n".encode() + first)
        assert read.wait(DEADLINE)
        for value in others:
            peer.body(value)
        peer.end()

    server.then(script)
    stream = open_stream()
    next(iter(stream))
    read.set()
    assert "".join(stream.text) == "ab"


def test_bytes_that_are_not_utf_8_raise(server, open_stream):
    def script(peer):
        peer.head()
        peer.body(frame(chat_chunk("a")) + frame(chat_chunk("bX")).replace(b"bX", b"b\xe9"))
        peer.end()

    server.then(script)
    stream = open_stream()
    with pytest.raises(choreoai.APIError, match="UTF-8") as caught:
        list(stream)
    assert caught.value.partial_text == "a"


def test_finish_reason_that_means_failure_raises(server, open_stream, client):
    reason = "network_error"
    failed = chat_chunk(None, finish=reason)
    server.then(lambda peer: peer.stream([chat_chunk("half"), failed]))
    with pytest.raises(choreoai.APIError, match=reason) as caught:
        list(open_stream())
    assert caught.value.partial_text == "half"
    assert (caught.value.type, caught.value.code) == ("provider_error", "provider_api_error")
    choice = {**COMPLETION["choices"][0], "finish_reason": reason}
    server.scripts[:] = [lambda peer: peer.json({**COMPLETION, "choices": [choice]})]
    with pytest.raises(choreoai.APIError, match=reason) as caught:
        client.chat.completions.create(**HI)
    assert caught.value.body["choices"] == [choice]


def test_finish_reason_null_as_text_does_not_finish_a_choice(server, open_stream):
    server.then(lambda peer: peer.stream([chat_chunk("some", finish="null")], done=False))
    stream = open_stream()
    assert next(stream).choices[0].finish_reason is None
    with pytest.raises(choreoai.StreamInterruptedError) as raised:
        list(stream)
    assert raised.value.partial_text == "some"
    assert raised.value.partial.choices[0].finish_reason is None


@both
def test_dead_kept_connection_does_not_count_as_an_attempt(server, client, open_stream):
    """The server closed it while it was idle, which shows only when it is used."""

    def answer(peer):
        peer.json(COMPLETION)

    for _ in range(2):
        server.then(answer, lambda peer: peer.reset())
    server.then(lambda peer: peer.stream([chat_chunk("ok", finish="stop")]))
    server.then(lambda peer: peer.reset(), lambda peer: peer.json({}, "503 X"))
    assert client.chat.completions.create(**HI).id == "c"
    assert client.chat.completions.create(**HI).id == "c"  # the second connection
    assert [chunk.choices[0].delta.content for chunk in open_stream()] == ["ok"]
    with pytest.raises(choreoai.InternalServerError):
        client.chat.completions.create(**HI)
    assert len(server.requests) == 7


@pytest.mark.parametrize("how", ["late", "inside the head"])
def test_kept_connection_that_breaks_later_counts_as_an_attempt(server, client, monkeypatch, how):
    """The server may be working on the request: only the caller knows if it may be sent again."""
    real, elapsed = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + elapsed)

    def broken(peer):
        nonlocal elapsed
        if how == "late":
            elapsed = 1.0
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        peer.cut()

    server.then(lambda peer: peer.json(COMPLETION), broken, lambda peer: peer.json(COMPLETION))
    assert client.chat.completions.create(**HI).id == "c"
    with pytest.raises(choreoai.APIConnectionError):
        client.chat.completions.create(**HI)
    assert len(server.requests) == 2


def test_new_connection_that_breaks_counts_as_an_attempt(server, client):
    server.then(lambda peer: peer.reset(), lambda peer: peer.json(COMPLETION))
    with pytest.raises(choreoai.APIConnectionError):
        client.chat.completions.create(**HI)


@pytest.mark.parametrize(("length", "sent"), [(1024 * 1024 + 1,) * 2, (9, 1)])
def test_unreadable_error_body_does_not_hide_the_status(server, client, length, sent):
    """A body that is too long, and one that is cut."""

    def refuse(peer):
        peer.head("500 X", "application/json", framing=length)
        peer.send(b"x" * sent)
        peer.cut()

    server.then(refuse)
    with pytest.raises(choreoai.InternalServerError) as raised:
        client.chat.completions.create(**HI)
    assert (str(raised.value), raised.value.content) == ("HTTP 500", b"")


def test_answer_with_invalid_framing_raises(server, client):
    def answer(peer):
        peer.head(kind="application/json")
        peer.send(chunk(json.dumps(COMPLETION).encode()) + b"no size\r\n")
        peer.wait_until_left()

    server.then(answer)
    with pytest.raises(choreoai.APIConnectionError, match="the answer was cut"):
        client.chat.completions.create(**HI)


def test_repeated_header_is_joined_with_commas(server, open_stream):
    def answer(peer):
        peer.send(
            head("200 OK", "text/event-stream", "X-Seen: a", "x-seen: b", "Connection: close")
        )
        peer.send(frame(chat_chunk("ok", finish="stop")) + frame("[DONE]"))

    server.then(answer)
    assert open_stream().headers["X-SEEN"] == "a, b"


def test_error_object_in_vllms_form_raises(server, open_stream):
    error = {"object": "error", "message": "no memory", "code": 500}
    server.then(lambda peer: peer.stream([chat_chunk("some"), error]))
    with pytest.raises(choreoai.APIError, match="no memory"):
        list(open_stream())


def test_unknown_finish_reason_is_passed_on(server, open_stream):
    server.then(lambda peer: peer.stream([chat_chunk("a"), chat_chunk(None, finish="end_turn")]))
    assert [c.choices[0].finish_reason for c in open_stream()] == [None, "end_turn"]


def test_partial_text_grows_with_each_chunk(server, open_stream):
    server.then(lambda peer: peer.stream(answer(*"abc")))
    stream = open_stream()
    seen = []
    for _ in stream:
        seen.append(stream.partial_text)
    assert seen == ["", "a", "ab", "abc", "abc"]


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]


def test_content_in_parts_becomes_text_and_reasoning(server, open_stream, client):
    chunks = [
        chat_chunk(None, content=PARTS),
        chat_chunk(None, content=[{"type": "text", "text": "four"}]),
    ]
    server.then(lambda peer: peer.stream([*chunks, chat_chunk(None, finish="stop")]))
    message = open_stream().get_final_completion().choices[0].message
    assert (message.content, message.reasoning_content) == ("four", "hm")
    whole = {"role": "assistant", "content": [*PARTS, {"type": "text", "text": "four"}]}
    choice = {"index": 0, "message": whole, "finish_reason": "stop"}
    server.scripts[:] = [lambda peer: peer.json({**COMPLETION, "choices": [choice]})]
    message = client.chat.completions.create(**HI).choices[0].message
    assert (message.content, message.reasoning_content) == ("four", "hm")


@pytest.mark.parametrize("indexes", [(0, 0), (1, 2), (None, None)])
def test_renumbers_parallel_tool_calls_with_wrong_indexes(server, open_stream, indexes):
    def piece(index, arguments, **start):
        function = {"arguments": arguments, **({"name": start.pop("name")} if start else {})}
        call = {"index": index, **start, "function": function}
        return chat_chunk(None, tool_calls=[{k: v for k, v in call.items() if v is not None}])

    pieces = []
    for index, name in zip(indexes, "fg", strict=True):
        pieces.append(piece(index, "", id=f"call_{name}", type="function", name=name))
        pieces += [piece(index, '{"x":'), piece(index, f'"{name}"}}')]
    server.then(lambda peer: peer.stream([*pieces, chat_chunk(None, finish="tool_calls")]))
    stream = open_stream()
    seen = [call.index for part in stream for call in part.choices[0].delta.tool_calls or ()]
    assert seen == [0, 0, 0, 1, 1, 1]
    calls = stream.partial.choices[0].message.tool_calls
    assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("call_f", "f", {"x": "f"}),
        ("call_g", "g", {"x": "g"}),
    ]


# --- heads and bodies -------------------------------------------------------------------


def test_skips_interim_responses(server, client, open_stream):
    def script(peer):
        for _ in range(2):
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n")
        if peer.request.json().get("stream"):
            peer.stream(answer("a"))
        else:
            peer.json(COMPLETION)

    server.then(script)
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"
    assert "".join(open_stream().text) == "a"
    assert server.accepted == 1


def compressed(data: bytes, coding: str) -> bytes:
    return gzip.compress(data) if coding == "gzip" else zlib.compress(data)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_decompresses_an_unrequested_content_coding(server, client, open_stream, coding):
    def script(peer):
        if peer.request.json().get("stream"):
            peer.head(Content_Encoding=coding)
            data = b"".join(map(frame, [*answer("a", "b"), "[DONE]"]))
            data = compressed(data, coding)
            for at in range(len(data)):
                peer.body(data[at : at + 1])
            peer.end()
        else:
            data = compressed(json.dumps(COMPLETION).encode(), coding)
            kind = "application/json"
            peer.head(framing=len(data), kind=kind, Content_Encoding=coding)
            peer.send(data)
            peer.keep = True

    server.then(script)
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"
    assert "".join(open_stream().text) == "ab"


def test_error_names_an_unsupported_content_coding(server, client):
    def script(peer):
        peer.head(framing=2, Content_Encoding="br")
        peer.send(b"xx")

    server.then(script)
    with pytest.raises(choreoai.APIError, match="'br'"):
        client.chat.completions.create(**HI)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"detail": "no such model"}, "no such model"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, "body.n: too many"),
        ({"error": {"message": None, "details": "deep"}}, "deep"),
    ],
)
def test_error_message_is_found_in_other_forms(server, client, body, message):
    server.then(lambda peer: peer.json(body, "400 X"))
    with pytest.raises(choreoai.BadRequestError) as caught:
        client.chat.completions.create(**HI)
    assert str(caught.value) == f"HTTP 400: {message}"


@both
@pytest.mark.parametrize(("status", "connections"), [("407 X", 1), ("502 Bad", 3)])
def test_refused_tunnel_is_retried_only_after_5xx(
    server, clients, monkeypatch, status, connections
):
    monkeypatch.setattr("choreoai.base.backoff", lambda attempt: 0.001)
    monkeypatch.setenv("https_proxy", server.url)
    server.then(lambda peer: peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()))
    client = clients("https://[::1]", max_retries=2)
    with pytest.raises(choreoai.APIConnectionError, match=status[:3]):
        client.models.list()
    assert server.accepted == connections
    assert server.requests[0].path == "[::1]:443"
