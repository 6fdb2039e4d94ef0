"""The async client on asyncio's loop, uvloop, trio and anyio."""

from __future__ import annotations

import asyncio
import contextvars
import json
import resource
import socket
import subprocess
import sys
import threading

import pytest
from raw_server import DEADLINE, answer
from silent_script import SilentAfter

import choreoai
from choreoai.transports import loops

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def on_asyncio(main):
    asyncio.run(main())


def on_trio(main):
    pytest.importorskip("trio").run(main)


def on_uvloop(main):
    pytest.importorskip("uvloop").run(main())


def on_anyio(main):
    pytest.importorskip("anyio").run(main, backend="trio")


@pytest.fixture(params=[on_asyncio, on_trio])
def run(request):
    """Runs an async function on asyncio and on trio, each with its own waiter class."""
    return request.param


async def read(client):
    stream = await client.chat.completions.create(**HI, stream=True)
    return "".join([text async for text in stream.text])


@pytest.mark.parametrize("run", [on_asyncio, on_trio, on_uvloop, on_anyio])
def test_reads_a_stream_and_reuses_its_connection(server, run):
    server.then(lambda peer: peer.stream(answer("a", "b")))

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            assert await read(client) == "ab"
            assert await read(client) == "ab"

    run(main)
    assert server.accepted == 1


def test_reading_task_keeps_its_context_and_cancel_message(server):
    """The loop's callback wakes the task in the task's context; the cancel message reaches it."""
    script = SilentAfter(*answer("a", "b")[:2])
    server.then(script)
    variable = contextvars.ContextVar("name", default="the default")

    async def main():
        async def read():
            variable.set("the reader's")
            async for _ in stream:
                seen.append((variable.get(), asyncio.current_task().get_name()))
                if len(seen) == 2:
                    both.set()

        seen, both = [], asyncio.Event()
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            task = asyncio.create_task(read(), name="reader")
            await asyncio.wait_for(both.wait(), DEADLINE)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
        assert seen == [("the reader's", "reader")] * 2 and variable.get() == "the default"
        assert sys.version_info < (3, 11) or raised.value.args == ("enough",)

    asyncio.run(main())
    assert script.closed.wait(DEADLINE)


def test_leaving_a_text_loop_closes_the_stream_at_once(server, run):
    """No further iteration of the loop is needed, and trio warns of nothing."""
    script = SilentAfter(*answer("a", "b")[:2])
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            async for text in stream.text:
                assert text == "a"
                break
            del stream
            assert script.closed.wait(DEADLINE)

    run(main)


def test_client_keeps_its_connection_from_one_loop_to_the_next(server, run):
    server.then(lambda peer: peer.stream(answer("a")))
    client = choreoai.AsyncChoreoAI(base_url=server.url)
    texts = []

    async def main():
        texts.append(await read(client))

    run(main)
    run(main)
    assert texts == ["a", "a"]
    assert server.accepted == 1
    asyncio.run(client.close())


def test_stream_leaves_no_work_on_the_loop(server, monkeypatch):
    """Neither a watched socket while no task reads, nor a timer after the end."""
    calls = []
    on_ready = loops.AsyncioWaiter._on_ready
    monkeypatch.setattr(
        loops.AsyncioWaiter, "_on_ready", lambda self: (calls.append(1), on_ready(self))
    )
    read_one, sent = threading.Event(), threading.Event()

    def script(peer):
        peer.head()
        peer.frame(answer("a")[0])
        assert read_one.wait(DEADLINE)
        for value in [*answer("a")[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()
        sent.set()

    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            await stream.__anext__()
            read_one.set()
            assert await asyncio.to_thread(sent.wait, DEADLINE)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(calls) < 10
            await stream.until_done()
            timers = asyncio.get_running_loop()._scheduled
            assert [timer for timer in timers if not timer.cancelled()] == []

    asyncio.run(main())


@pytest.mark.parametrize("run", [on_asyncio, on_trio, on_uvloop])
def test_idle_limit_starts_again_with_each_chunk(server, run):
    """A second frame is sent within the limit that began with the first."""
    read_one, closed = threading.Event(), threading.Event()

    def script(peer):
        peer.head()
        peer.frame(answer("a")[0])
        assert read_one.wait(DEADLINE)
        assert not closed.wait(0.4)  # less than the limit of one second
        peer.frame(answer("a")[1])
        peer.wait_until_left()
        closed.set()

    server.then(script)
    limits = choreoai.Timeout(first_byte=DEADLINE, idle=1.0)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url, timeout=limits) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            await stream.__anext__()
            read_one.set()
            with pytest.raises(choreoai.APITimeoutError, match="no new data") as caught:
                await stream.get_final_completion()
            assert caught.value.partial_text == "a"

    run(main)
    assert closed.wait(DEADLINE)


@pytest.mark.parametrize(
    ("run", "url", "port"),
    [(on_asyncio, "http://llm.test", 80), (on_trio, "https://llm.test/v1", 443)],
)
def test_default_port_depends_on_the_scheme(run, monkeypatch, url, port):
    looked_up = []

    def find(host, port, **options):
        if options.get("flags") != socket.AI_NUMERICHOST:
            looked_up.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", find)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=url, max_retries=0) as client:
            with pytest.raises(choreoai.APIConnectionError):
                await client.models.list()

    run(main)
    assert looked_up == [("llm.test", port)]


@pytest.mark.parametrize("run", [on_trio, on_uvloop])
def test_streams_over_tls_and_reuses_the_connection(tls_server, run):
    tls_server.then(lambda peer: peer.stream(answer("a", "x" * 40_000, "b")))

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=tls_server.url) as client:
            for _ in range(2):
                assert await read(client) == "a" + "x" * 40_000 + "b"

    run(main)
    assert tls_server.accepted == 1


def test_connect_limit_covers_the_tls_handshake(run):
    """It also holds for the sync client."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        limits = choreoai.Timeout(connect=0.1)
        problem = "could not connect .*handshake .*timed out .*may speak plain http"

        async def main():
            client = choreoai.AsyncChoreoAI(base_url=url, timeout=limits, max_retries=0)
            with pytest.raises(choreoai.APITimeoutError, match=problem):
                await client.models.list()

        run(main)
        with pytest.raises(choreoai.APITimeoutError, match=problem) as caught:
            choreoai.ChoreoAI(base_url=url, timeout=limits, max_retries=0).models.list()
        for _ in range(2):  # both connections are closed
            with silent.accept()[0] as peer:
                peer.settimeout(DEADLINE)
                while peer.recv(65536):
                    pass
        del caught


def test_connect_limit_covers_the_name_lookup(run, monkeypatch):
    finish = threading.Event()

    def find(host, port, **options):
        if options.get("flags") != socket.AI_NUMERICHOST:
            finish.wait(DEADLINE)
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", find)
    limits = choreoai.Timeout(connect=0.05)

    async def main():
        client = choreoai.AsyncChoreoAI("k", "http://llm.test", timeout=limits, max_retries=0)
        try:
            with pytest.raises(choreoai.APITimeoutError, match="the time limit"):
                await client.models.list()
        finally:
            finish.set()

    run(main)


def test_sends_a_body_larger_than_the_socket_buffer(server, run):
    """It is sent in pieces, as the server reads them."""
    text = "x" * 8_000_000
    server.then(lambda peer: peer.json({"choices": [{}]}))

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            messages = [{"role": "user", "content": text}]
            await client.chat.completions.create(model="m", messages=messages)

    run(main)
    assert server.requests[0].json()["messages"][0]["content"] == text


def test_trio_cancellation_closes_the_connection(server):
    trio = pytest.importorskip("trio")
    script = SilentAfter(*answer("partial")[:2])
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            async with trio.open_nursery() as nursery:

                async def consume():
                    async for _ in stream:
                        pass

                nursery.start_soon(consume)
                assert await trio.to_thread.run_sync(script.silent.wait, DEADLINE)
                nursery.cancel_scope.cancel()
            assert stream.partial_text in ("", "partial")

    trio.run(main)
    assert script.closed.wait(DEADLINE)


# --- a thousand streams -------------------------------------------------------------------

MANY = """
import asyncio, gc, os, resource, sys, threading
from choreoai import AsyncChoreoAI

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    client = AsyncChoreoAI("k", sys.argv[1])

    async def open_one():
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        assert (await stream.__anext__()).choices[0].delta.content == "a"
        return stream

    streams = [await open_one()]  # the first stream allocates what all share
    gc.collect()
    before, threads = memory(), threading.active_count()
    streams += await asyncio.gather(*(open_one() for _ in range(1000)))
    reading = [asyncio.create_task(stream.__anext__()) for stream in streams]
    await asyncio.sleep(0)
    gc.collect()
    print((memory() - before) // 1000, threading.active_count() - threads)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)

asyncio.run(main())
print(threading.active_count())
"""


def test_1000_streams_need_few_threads_and_little_memory():
    """Under 25 kB each with its task (about 12 measured), and at most 3 threads for all."""
    first = b"data: " + json.dumps(answer("a")[1]).encode() + b"\n\n"

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + first)
        while await reader.read(65536):
            pass
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "localhost", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        command = [sys.executable, "-c", MANY, f"http://localhost:{port}"]
        client = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out = await asyncio.wait_for(client.stdout.read(), 60)
        assert await client.wait() == 0
        server.close()
        return out.split()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    size, threads, remaining = map(int, asyncio.run(main()))
    assert size < 25_000
    assert threads <= 3
    assert remaining == 1
