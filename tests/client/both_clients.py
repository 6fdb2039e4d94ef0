"""The async client with the interface of the sync one, so that one test runs with both."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from raw_server import DEADLINE

from choreoai import AsyncChoreoAI, ChoreoAI

#: Runs a test with both kinds of client: for behaviour that depends on threads, loops, sockets or
#: time.  Other tests need only the sync one, which is generated from the async one.
both = pytest.mark.parametrize("clients", ["sync", "async"], indirect=True)


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


async def _awaited(value):
    return await value


class _Proxy:
    """Forwards attributes; runs coroutine methods to their end."""

    def __init__(self, loop: Loop, inner) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if name in ("chat", "completions", "models", "responses"):
            return _Proxy(self._loop, value)
        if hasattr(value, "__anext__"):
            return IteratorProxy(self._loop, value)
        if not callable(value) or isinstance(value, type):
            return value
        return lambda *args, **options: self._result(value(*args, **options))

    def _result(self, value):
        if inspect.isawaitable(value):
            value = self._loop.run(_awaited(value))
        if hasattr(value, "__anext__"):
            return IteratorProxy(self._loop, value)
        return _Proxy(self._loop, value) if hasattr(value, "__aenter__") else value

    def __enter__(self):
        entered = self._loop.run(self._inner.__aenter__())
        return self if entered is self._inner else IteratorProxy(self._loop, entered)

    def __exit__(self, *error):
        self._loop.run(self._inner.__aexit__(*error))

    def __repr__(self):
        return repr(self._inner)


class IteratorProxy(_Proxy):
    """A proxy for a stream or any other async iterator."""

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._loop.run(self._inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


class Clients:
    """Makes clients of one kind and closes them at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._loop = Loop() if kind == "async" else None
        self._made: list = []

    def __call__(self, base_url: str, **options):
        options.setdefault("api_key", "sk-test")
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", DEADLINE)
        if self._loop is None:
            client = ChoreoAI(base_url=base_url, **options)
        else:
            client = _Proxy(self._loop, AsyncChoreoAI(base_url=base_url, **options))
        self._made.append(client)
        return client

    def close(self) -> None:
        for client in self._made:
            client.close()
        if self._loop is not None:
            self._loop.close()
