"""The async client on other loops than asyncio's own: trio, and uvloop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from scripted_server import DEADLINE, answer

import choreoai

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def on_asyncio(main):
    asyncio.run(main())


def on_trio(main):
    pytest.importorskip("trio").run(main)


def on_uvloop(main):
    pytest.importorskip("uvloop").run(main())


@pytest.fixture(params=[on_asyncio, on_trio, on_uvloop])
def run(request):
    """Runs an async function on one of the loops."""
    return request.param


class Silence:
    """Says some frames, then nothing, and notices when its client leaves."""

    def __init__(self, *frames):
        self.frames = frames
        self.silent, self.left = threading.Event(), threading.Event()

    def __call__(self, peer):
        peer.head()
        for value in self.frames:
            peer.frame(value)
        self.silent.set()
        peer.wait_until_left()
        self.left.set()


async def read(client):
    stream = await client.chat.completions.create(**HI, stream=True)
    return "".join([text async for text in stream.text])


def test_a_stream_and_its_connection_used_again(server, run):
    server.then(lambda peer: peer.stream(answer("a", "b")))

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            assert await read(client) == "ab"
            assert await read(client) == "ab"

    run(main)
    assert server.connections == 1


def test_a_client_from_one_loop_to_the_next(server, run):
    server.then(lambda peer: peer.stream(answer("a")))
    client = choreoai.AsyncChoreoAI(base_url=server.url)
    texts = []

    async def main():
        texts.append(await read(client))

    run(main)
    run(main)
    assert texts == ["a", "a"]
    assert server.connections == 1
    asyncio.run(client.close())


def test_a_time_limit(server, run):
    silence = Silence(answer("a")[0])
    server.then(silence)
    limits = choreoai.Timeout(first_byte=DEADLINE, idle=0.05)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url, timeout=limits) as client:
            with pytest.raises(choreoai.APITimeoutError, match="nothing new"):
                await read(client)

    run(main)
    assert silence.left.wait(DEADLINE)


def test_trio_cancels(server):
    trio = pytest.importorskip("trio")
    silence = Silence(*answer("partial")[:2])
    server.then(silence)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            async with trio.open_nursery() as nursery:

                async def consume():
                    async for _ in stream:
                        pass

                nursery.start_soon(consume)
                assert await trio.to_thread.run_sync(silence.silent.wait, DEADLINE)
                nursery.cancel_scope.cancel()
            assert stream.partial_text in ("", "partial")

    trio.run(main)
    assert silence.left.wait(DEADLINE)
