"""Interrupted calls: signals and cancelled tasks; TLS, and many streams at once."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from both_clients import both
from raw_server import DEADLINE, RawServer, answer, frame
from silent_script import SilentAfter

import choreoai

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


# --- signals, in the main thread --------------------------------------------------------


@pytest.fixture
def alarm():
    """Sends SIGALRM with a handler that raises a given exception, once an event is set.

    The signal is sent to the main thread, or else to the sending thread.
    """
    old = signal.getsignal(signal.SIGALRM)
    threads = []

    def arm(event, error, to_main=True):
        def handler(signum, frame):
            raise error

        def send():
            assert event.wait(DEADLINE)
            time.sleep(0.05)  # so that the main thread is usually waiting
            receiver = threading.main_thread() if to_main else threading.current_thread()
            signal.pthread_kill(receiver.ident, signal.SIGALRM)

        signal.signal(signal.SIGALRM, handler)
        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield arm
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGALRM, old)


# The client itself catches exceptions of the first two classes and converts them.
ERRORS = [TimeoutError("Stream timeout"), ConnectionResetError("mine"), KeyboardInterrupt()]


@pytest.mark.parametrize(
    ("error", "head", "stream"),
    [*((error, False, True) for error in ERRORS), (ERRORS[0], True, False)],
    ids=repr,
)
def test_create_raises_a_signal_handlers_exception_unchanged(server, alarm, error, head, stream):
    script = SilentAfter(head=head)
    server.then(script)
    alarm(script.silent, error)
    with choreoai.ChoreoAI(base_url=server.url, max_retries=5) as client:
        with pytest.raises(type(error)) as caught:
            client.chat.completions.create(**HI, stream=stream)
        assert caught.value is error
        assert script.closed.wait(DEADLINE)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("error", "frames"), [*zip(ERRORS, (0, 2, 2), strict=True)], ids=repr)
def test_iterating_raises_a_signal_handlers_exception_unchanged(server, alarm, error, frames):
    script = SilentAfter(*answer("partial")[:frames])
    server.then(script)
    alarm(script.silent, error)
    with choreoai.ChoreoAI(base_url=server.url, max_retries=5) as client:
        stream = client.chat.completions.create(**HI, stream=True)
        with pytest.raises(type(error)) as caught:
            for _ in stream:
                pass
        assert caught.value is error
        assert script.closed.wait(DEADLINE)
        assert stream.partial_text == ("partial" if frames else "")
        with pytest.raises(choreoai.StreamInterruptedError):
            next(stream)
    assert len(server.requests) == 1


def test_signal_received_by_another_thread_interrupts_the_wait(server, alarm):
    """That does not interrupt the main thread's system call; nor does a signal just before it."""
    script = SilentAfter(*answer("partial")[:2])
    server.then(script)
    error = TimeoutError("mine")
    alarm(script.silent, error, to_main=False)
    with choreoai.ChoreoAI(base_url=server.url) as client:
        with pytest.raises(TimeoutError) as caught:
            list(client.chat.completions.create(**HI, stream=True))
        assert caught.value is error


def test_signal_handlers_exception_ends_the_wait_between_retries(server, alarm):
    refused = threading.Event()

    def refuse(peer):
        peer.json({}, "503 X", Retry_After="50")
        refused.set()

    server.then(refuse)
    error = TimeoutError("mine")
    alarm(refused, error)
    with choreoai.ChoreoAI(base_url=server.url) as client:
        with pytest.raises(TimeoutError) as caught:
            client.models.list()
        assert caught.value is error
    assert len(server.requests) == 1


def test_signal_whose_handler_returns_does_not_disturb_the_stream(server):
    received = threading.Event()
    old = signal.signal(signal.SIGALRM, lambda *_: received.set())

    def script(peer):
        peer.head()
        peer.frame(answer("a")[0])
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        assert received.wait(DEADLINE)
        for value in [*answer("a")[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)
    try:
        with choreoai.ChoreoAI(base_url=server.url) as client:
            assert "".join(client.chat.completions.create(**HI, stream=True).text) == "a"
    finally:
        signal.signal(signal.SIGALRM, old)


# --- tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "body"), [(True, b""), (False, b"HTTP/1.1 200 OK\r\nX-Half")])
def test_cancelling_create_before_the_head_closes_the_connection(server, stream, body):
    script = SilentAfter(head=False, body=body)
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            task = asyncio.create_task(client.chat.completions.create(**HI, stream=stream))
            await asyncio.to_thread(script.silent.wait, DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(script.closed.wait, DEADLINE)

    asyncio.run(main())
    assert len(server.requests) == 1


def test_cancelling_an_iterating_task_closes_the_connection(server):
    script = SilentAfter(*answer("partial")[:2])
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)

            async def read():
                async for _ in stream:
                    pass

            task = asyncio.create_task(read())
            await asyncio.to_thread(script.silent.wait, DEADLINE)
            await asyncio.sleep(0.05)  # so that the task is usually waiting
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(script.closed.wait, DEADLINE)
            with pytest.raises(choreoai.StreamInterruptedError):
                await stream.__anext__()
            assert stream.partial_text == "partial"

    asyncio.run(main())


def test_wait_for_timeout_closes_the_connection(server):
    script = SilentAfter(*answer("a")[:1])
    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            await stream.__anext__()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.05)
            assert await asyncio.to_thread(script.closed.wait, DEADLINE)

    asyncio.run(main())


def test_cancelling_while_connecting_returns_at_once():
    """No connection is accepted, and the backlog is full: connect() hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)

        async def main():
            url = f"http://127.0.0.1:{address[1]}"
            timeout = choreoai.Timeout(connect=1)
            async with choreoai.AsyncChoreoAI(base_url=url, timeout=timeout) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.models.list(), 0.05)

        asyncio.run(main())
        for filler in fillers:
            filler.close()


def test_dropping_a_stream_after_its_loop_closed_closes_the_connection(server):
    script = SilentAfter(*answer("a")[:1])
    server.then(script)

    async def main():
        client = choreoai.AsyncChoreoAI(base_url=server.url)
        stream = await client.chat.completions.create(**HI, stream=True)
        await stream.__anext__()
        return stream

    stream = asyncio.run(main())
    del stream
    assert script.closed.wait(DEADLINE)


def test_slow_consumer_blocks_the_servers_send(server):
    """Unread chunks do not pile up in the client: the server's send blocks."""
    blocked = threading.Event()
    finish = threading.Event()
    sent = 0
    frames = answer(*["x" * 10_000] * 2_000)

    def script(peer):
        nonlocal sent
        peer.head()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.sock.settimeout(0.3)
        unsent = b""
        for value in frames:
            unsent += b"%x\r\n%b\r\n" % (len(frame(value)), frame(value))
            while unsent:
                try:
                    unsent = unsent[peer.sock.send(unsent) :]
                except TimeoutError:
                    blocked.set()
                    peer.sock.settimeout(DEADLINE)
            sent += 1
        finish.wait(DEADLINE)
        peer.frame("[DONE]")
        peer.end()

    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:
            stream = await client.chat.completions.create(**HI, stream=True)
            await stream.__anext__()
            assert await asyncio.to_thread(blocked.wait, DEADLINE)
            assert sent < len(frames) / 2
            finish.set()
            final = await stream.get_final_completion()
            assert len(final.choices[0].message.content) == 20_000_000

    asyncio.run(main())


def test_200_streams_run_concurrently_on_one_loop(server):
    """All are open at the same time, and none blocks the loop."""
    number = 200
    barrier = threading.Barrier(number, timeout=DEADLINE)

    def script(peer):
        peer.head()
        peer.frame(answer("a")[0])
        barrier.wait()
        for value in [*answer("a", "b")[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=server.url) as client:

            async def read():
                stream = await client.chat.completions.create(**HI, stream=True)
                return "".join([text async for text in stream.text])

            texts = await asyncio.gather(*(read() for _ in range(number)))
            assert texts == ["ab"] * number
            assert server.accepted == number
            # The connections were returned to the pool.
            assert await read_one(client) == "x"
            assert server.accepted == number

    async def read_one(client):
        server.scripts[:] = [lambda peer: peer.stream(answer("x"))]
        stream = await client.chat.completions.create(**HI, stream=True)
        return "".join([text async for text in stream.text])

    asyncio.run(main())


# --- TLS --------------------------------------------------------------------------------


@both
def test_streams_over_tls_and_reuses_the_connection(tls_server, clients):
    """Records that hold several frames, frames that span records, and reuse."""
    tls_server.then(lambda peer: peer.stream(answer("a", "x" * 40_000, "b")))
    client = clients(tls_server.url)
    for _ in range(2):
        stream = client.chat.completions.create(**HI, stream=True)
        assert "".join(stream.text) == "a" + "x" * 40_000 + "b"
    tls_server.scripts[:] = [lambda peer: peer.json({"id": "x" * 14_000, "choices": [{}]})]
    assert len(client.chat.completions.create(**HI).id) == 14_000  # in one record
    assert tls_server.accepted == 1
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    tls_server.scripts[:] = [lambda peer: peer.send(head + b'{"id": "x", "choices": [{}]}')]
    assert client.chat.completions.create(**HI).id == "x"  # without TLS's closing alert


def test_cancelling_a_tls_stream_closes_the_connection(tls_server):
    script = SilentAfter(*answer("a")[:1])
    tls_server.then(script)

    async def main():
        async with choreoai.AsyncChoreoAI(base_url=tls_server.url) as client:

            async def read():
                async for _ in await client.chat.completions.create(**HI, stream=True):
                    pass

            task = asyncio.create_task(read())
            await asyncio.to_thread(script.silent.wait, DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(script.closed.wait, DEADLINE)

    asyncio.run(main())


@both
def test_rejects_an_untrusted_certificate_without_a_retry(
    tls_server, clients, monkeypatch, tmp_path
):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    for verify in (True, None, str(tmp_path)):
        with pytest.raises(choreoai.APIConnectionError, match="certificate"):
            clients(tls_server.url, max_retries=5, verify=verify).models.list()
    assert tls_server.requests == []


@both
@pytest.mark.parametrize("proxied", [False, True])
def test_rejects_a_certificate_for_another_host(tls_server, clients, monkeypatch, proxied):
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", tls_server.port))

    def find(host, port, *args, **options):
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        return [address]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    proxies = {"https": f"https://llm.test:{tls_server.port}"} if proxied else {}
    with pytest.raises(choreoai.APIConnectionError, match="certificate"):
        clients(f"https://llm.test:{tls_server.port}", proxies=proxies).models.list()
    assert tls_server.requests == []


@both
def test_sends_the_client_certificate(clients, tls, tmp_path):
    trusted = Path(tls[1])
    key, joined = trusted.with_name("key.pem"), tmp_path / "joined.pem"
    joined.write_bytes(trusted.read_bytes() + key.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(trusted, key)
    with RawServer(context=context) as server:
        server.then(lambda peer: peer.json({"data": []}))
        for cert in (str(joined), (str(trusted), str(key)), [str(trusted), str(key)]):
            clients(server.url, verify=str(trusted), cert=cert).models.list()
        with pytest.raises(choreoai.APIConnectionError):
            clients(server.url, verify=str(trusted)).models.list()
        assert len(server.requests) == 3
