"""What servers, proxies and programs do that they should not, for both clients."""

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

def ask(text, **options):
    messages = [{"role": "user", "content": text}]
    return run(client.chat.completions.create(model="m", messages=messages, **options))

def all_of(stream):
    return run(stream.get_final_completion()).choices[0].message.content

def check(who):
    for number in range(5):
        text = f"{who} {number}"
        assert ask(text).choices[0].message.content == text
        assert all_of(ask(text, stream=True)) == text

check("before")
held = ask("held", stream=True)
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
            all_of(held)
            print("the child read its parent's stream")
        except StreamInterruptedError as error:
            assert "fork()" in str(error), error
        held = None
        gc.collect()
        ask("child done")
    finally:
        sys.stdout.flush()
        os._exit(0)
os.waitpid(child, 0)  # first: whoever finds the other's answer on a connection lets it go
check("parent")
print(all_of(held))
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_after_a_fork_each_process_has_its_own_connections(server, kind):
    done = threading.Event()
    connections = {True: set(), False: set()}  # the child's, and the parent's

    def script(peer):
        said = peer.request.json()["messages"][0]["content"]
        connections[said.startswith("child")].add(peer.number)
        if said == "child done":
            done.set()
        if not peer.request.json().get("stream"):
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            peer.json({**COMPLETION, "choices": [choice]})
            return
        peer.head()
        if said == "held":
            peer.frame(chat_chunk("he"))
            assert done.wait(DEADLINE)
        for value in [*answer("ld" if said == "held" else said)[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, kind, server.url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.stdout == "held\n", ran.stderr
    assert connections[True] and connections[True].isdisjoint(connections[False])


# --- one stream, two readers; finalisers ------------------------------------------------


def test_two_tasks_on_one_stream(server):
    go_on = threading.Event()

    def script(peer):
        peer.head()
        assert go_on.wait(DEADLINE)
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
            go_on.set()
            # The stream itself is none the worse for it.
            assert (await first).choices[0].message.content == "a"

    asyncio.run(main())


def test_closing_while_another_task_reads(server):
    left = threading.Event()

    def script(peer):
        peer.head()
        peer.frame(chat_chunk("a"))
        peer.wait_until_left()
        left.set()

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
    assert left.wait(DEADLINE)


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
def test_a_program_ends_with_its_streams_open(server, how):
    def script(peer):
        peer.head()
        peer.frame(chat_chunk("a"))
        peer.wait_until_left()

    server.then(script)
    command = [sys.executable, "-W", "error", "-c", EXIT, server.url, how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_stop_iteration_of_a_signal_handler_is_no_end(server):
    """Python takes one that comes out of ``__next__`` for the loop's end; the stream knows."""

    def script(peer):
        peer.head()
        peer.frame(chat_chunk("a"))
        peer.wait_until_left()

    def handler(signum, frame):
        raise StopIteration

    server.then(script)
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


@pytest.mark.parametrize("noise", [b"data:\n\n", b"id: 7\ndata:\n\n"])
def test_what_says_nothing_is_passed_over(server, ask, noise):
    def script(peer):
        peer.head()
        for value in [*map(frame, answer("a", "b")), frame("[DONE]")]:
            peer.body(noise + value)
        peer.end()

    server.then(script)
    assert "".join(ask().text) == "ab"


def test_an_id_that_stands_for_all_that_follow(server, ask):
    """A server that is asked for no resumable stream may give one id, and no numbers."""
    read = threading.Event()

    def script(peer):
        peer.head()
        first, *others = [*map(frame, answer("a", "b")), frame("[DONE]")]
        peer.body(b"id: 7\n" + first)
        assert read.wait(DEADLINE)
        for value in others:
            peer.body(value)
        peer.end()

    server.then(script)
    stream = ask()
    next(iter(stream))
    read.set()
    assert "".join(stream.text) == "ab"


def test_bytes_that_are_not_utf_8_raise(server, ask):
    def script(peer):
        peer.head()
        peer.body(frame(chat_chunk("a")) + frame(chat_chunk("bX")).replace(b"bX", b"b\xe9"))
        peer.end()

    server.then(script)
    stream = ask()
    with pytest.raises(choreoai.APIError, match="UTF-8") as caught:
        list(stream)
    assert caught.value.partial_text == "a"


def test_a_finish_reason_that_is_a_failure_raises(server, ask, client):
    word = "network_error"
    failed = chat_chunk(None, finish=word)
    server.then(lambda peer: peer.stream([chat_chunk("half"), failed]))
    with pytest.raises(choreoai.APIError, match=word) as caught:
        list(ask())
    assert caught.value.partial_text == "half"
    assert (caught.value.type, caught.value.code) == ("provider_error", "provider_api_error")
    choice = {**COMPLETION["choices"][0], "finish_reason": word}
    server.scripts[:] = [lambda peer: peer.json({**COMPLETION, "choices": [choice]})]
    with pytest.raises(choreoai.APIError, match=word):
        client.chat.completions.create(**HI)


def test_a_finish_reason_that_stands_for_none_ends_nothing(server, ask):
    server.then(lambda peer: peer.stream([chat_chunk("some", finish="null")], done=False))
    stream = ask()
    with pytest.raises(choreoai.StreamInterruptedError) as raised:
        list(stream)
    assert raised.value.partial_text == "some"
    assert raised.value.partial.choices[0].finish_reason is None


@both
def test_a_kept_connection_that_proves_dead_is_no_try(server, client, ask):
    """The server closed it while it was idle, and that shows only when it is used."""

    def answer(peer):
        peer.json(COMPLETION)

    for _ in range(2):
        server.then(answer, lambda peer: peer.reset())
    server.then(lambda peer: peer.stream([chat_chunk("ok", finish="stop")]))
    assert client.chat.completions.create(**HI).id == "c"
    assert client.chat.completions.create(**HI).id == "c"  # the second try
    assert [chunk.choices[0].delta.content for chunk in ask()] == ["ok"]


@pytest.mark.parametrize("how", ["late", "inside the head"])
def test_a_kept_connection_that_breaks_at_work_is_a_try(server, client, monkeypatch, how):
    """The request may be at work: only the caller knows whether it may be sent again."""
    real, passed = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed)

    def broken(peer):
        nonlocal passed
        if how == "late":
            passed = 1.0
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        peer.cut()

    server.then(lambda peer: peer.json(COMPLETION), broken, lambda peer: peer.json(COMPLETION))
    assert client.chat.completions.create(**HI).id == "c"
    with pytest.raises(choreoai.APIConnectionError):
        client.chat.completions.create(**HI)
    assert len(server.requests) == 2


def test_a_new_connection_that_breaks_is_one(server, client):
    server.then(lambda peer: peer.reset(), lambda peer: peer.json(COMPLETION))
    with pytest.raises(choreoai.APIConnectionError):
        client.chat.completions.create(**HI)


@pytest.mark.parametrize(("length", "sent"), [(1024 * 1024 + 1,) * 2, (9, 1)])
def test_the_status_of_an_error_counts_whatever_its_body_is(server, client, length, sent):
    """One that is too long, and one that is cut."""

    def refuse(peer):
        peer.head("500 X", "application/json", framing=length)
        peer.send(b"x" * sent)
        peer.cut()

    server.then(refuse)
    with pytest.raises(choreoai.InternalServerError) as raised:
        client.chat.completions.create(**HI)
    assert (str(raised.value), raised.value.content) == ("HTTP 500", b"")


def test_an_answer_whose_framing_goes_wrong_is_not_whole(server, client):
    def answer(peer):
        peer.head(kind="application/json")
        peer.send(chunk(json.dumps(COMPLETION).encode()) + b"no size\r\n")
        peer.wait_until_left()

    server.then(answer)
    with pytest.raises(choreoai.APIConnectionError, match="the answer was cut"):
        client.chat.completions.create(**HI)


def test_a_header_that_comes_twice_is_a_list(server, ask):
    def answer(peer):
        peer.send(
            head("200 OK", "text/event-stream", "X-Seen: a", "x-seen: b", "Connection: close")
        )
        peer.send(frame(chat_chunk("ok", finish="stop")) + frame("[DONE]"))

    server.then(answer)
    assert ask().headers["X-SEEN"] == "a, b"


def test_an_error_as_vllm_writes_it(server, ask):
    error = {"object": "error", "message": "no memory", "code": 500}
    server.then(lambda peer: peer.stream([chat_chunk("some"), error]))
    with pytest.raises(choreoai.APIError, match="no memory"):
        list(ask())


def test_a_finish_reason_that_is_none_comes_as_it_is(server, ask):
    server.then(lambda peer: peer.stream([chat_chunk("a"), chat_chunk(None, finish="end_turn")]))
    assert [c.choices[0].finish_reason for c in ask()] == [None, "end_turn"]


def test_the_partial_text_at_every_chunk(server, ask):
    server.then(lambda peer: peer.stream(answer(*"abc")))
    stream = ask()
    seen = []
    for _ in stream:
        seen.append(stream.partial_text)
    assert seen == ["", "a", "ab", "abc", "abc"]


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]


def test_content_in_parts(server, ask, client):
    pieces = [
        chat_chunk(None, content=PARTS),
        chat_chunk(None, content=[{"type": "text", "text": "four"}]),
    ]
    server.then(lambda peer: peer.stream([*pieces, chat_chunk(None, finish="stop")]))
    message = ask().get_final_completion().choices[0].message
    assert (message.content, message.reasoning_content) == ("four", "hm")
    whole = {"role": "assistant", "content": [*PARTS, {"type": "text", "text": "four"}]}
    choice = {"index": 0, "message": whole, "finish_reason": "stop"}
    server.scripts[:] = [lambda peer: peer.json({**COMPLETION, "choices": [choice]})]
    message = client.chat.completions.create(**HI).choices[0].message
    assert (message.content, message.reasoning_content) == ("four", "hm")


@pytest.mark.parametrize("indexes", [(0, 0), (1, 2), (None, None)])
def test_parallel_calls_are_told_apart_whatever_their_indexes(server, ask, indexes):
    def piece(index, arguments, **start):
        function = {"arguments": arguments, **({"name": start.pop("name")} if start else {})}
        call = {"index": index, **start, "function": function}
        return chat_chunk(None, tool_calls=[{k: v for k, v in call.items() if v is not None}])

    pieces = []
    for index, name in zip(indexes, "fg", strict=True):
        pieces.append(piece(index, "", id=f"call_{name}", type="function", name=name))
        pieces += [piece(index, '{"x":'), piece(index, f'"{name}"}}')]
    server.then(lambda peer: peer.stream([*pieces, chat_chunk(None, finish="tool_calls")]))
    stream = ask()
    seen = [call.index for part in stream for call in part.choices[0].delta.tool_calls or ()]
    assert seen == [0, 0, 0, 1, 1, 1]
    calls = stream.partial.choices[0].message.tool_calls
    assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("call_f", "f", {"x": "f"}),
        ("call_g", "g", {"x": "g"}),
    ]


# --- heads and bodies -------------------------------------------------------------------


def test_interim_heads_are_passed_over(server, client, ask):
    def script(peer):
        for _ in range(2):
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n")
        if peer.request.json().get("stream"):
            peer.stream(answer("a"))
        else:
            peer.json(COMPLETION)

    server.then(script)
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"
    assert "".join(ask().text) == "a"
    assert server.accepted == 1


def squeezed(data: bytes, coding: str) -> bytes:
    return gzip.compress(data) if coding == "gzip" else zlib.compress(data)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_answer_that_nobody_asked_for(server, client, ask, coding):
    def script(peer):
        if peer.request.json().get("stream"):
            peer.head(Content_Encoding=coding)
            data = b"".join(map(frame, [*answer("a", "b"), "[DONE]"]))
            data = squeezed(data, coding)
            for at in range(len(data)):
                peer.body(data[at : at + 1])
            peer.end()
        else:
            data = squeezed(json.dumps(COMPLETION).encode(), coding)
            kind = "application/json"
            peer.head(framing=len(data), kind=kind, Content_Encoding=coding)
            peer.send(data)
            peer.keep = True

    server.then(script)
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"
    assert "".join(ask().text) == "ab"


def test_a_coding_that_cannot_be_read_is_named(server, client):
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
def test_the_words_of_an_error_of_another_shape(server, client, body, message):
    server.then(lambda peer: peer.json(body, "400 X"))
    with pytest.raises(choreoai.BadRequestError) as caught:
        client.chat.completions.create(**HI)
    assert str(caught.value) == f"HTTP 400: {message}"


@both
@pytest.mark.parametrize(("status", "connections"), [("407 X", 1), ("502 Bad", 3)])
def test_a_tunnel_that_is_refused(server, clients, monkeypatch, status, connections):
    monkeypatch.setattr("choreoai.base.backoff", lambda attempt: 0.001)
    monkeypatch.setenv("https_proxy", server.url)
    server.then(lambda peer: peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()))
    client = clients("https://far.invalid", max_retries=2)
    with pytest.raises(choreoai.APIConnectionError, match=status[:3]):
        client.models.list()
    assert server.accepted == connections
