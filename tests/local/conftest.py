"""Fixtures for the local model: the real file, and real processes closed after the test."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from choreo_wsgi.local.fetch import fetch_model
from choreo_wsgi.local.process import Launch, ModelProcess


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The default model's file, downloaded once per machine."""
    return fetch_model(print)


@pytest.fixture
def start() -> Iterator[Callable[..., ModelProcess]]:
    """``start(path, unix=..., slots=...)``: a model process that is closed after the test."""
    started: list[ModelProcess] = []

    def make(path: object, *, unix: bool = True, slots: int = 2) -> ModelProcess:
        process = ModelProcess(Launch(str(path), slots=slots, context=1024), unix=unix)
        started.append(process)
        return process

    yield make
    for process in started:
        process.close()


@pytest.fixture
def ended() -> Callable[[int], bool]:
    """``ended(pid)``: wait at most 20 seconds for the process; return whether it has ended."""

    def wait(pid: int) -> bool:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(20_000))
        finally:
            os.close(descriptor)

    return wait
