"""Random appends and reads return the exact bytes, in every backend."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nightly import examples
from replay_helpers import Opener, create, frame, frames, look, read_all

from choreo_wsgi.errors import StreamGone
from choreo_wsgi.replay import Reader, Store, Writer
from choreo_wsgi.replay.reader import frames_after, last_frame

# Each example creates its own stream in the same store.
SAME_STORE = settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

#: The number of frames in a block, the length of their text, whether append waits.
APPEND = st.tuples(st.just("append"), st.integers(1, 9), st.integers(0, 700), st.booleans())
#: Opens a reader at a number, in thousandths of the last one.
OPEN = st.tuples(st.just("open"), st.integers(0, 1000))
#: Lets one reader receive.
READ = st.tuples(st.just("read"), st.integers(0, 7))
STEPS = st.lists(st.one_of(APPEND, OPEN, READ), max_size=40)


class Model:
    """The expected state of a stream, compared with the one in the store."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store = store
        self.limit = limit
        self.writer: Writer = create(store)
        self.frames: list[bytes] = []
        self.readers: list[tuple[Reader, int, bytearray]] = []

    def append(self, count: int, size: int, wait: bool) -> None:
        first = len(self.frames) + 1
        block = [frame(number, "x" * size) for number in range(first, first + count)]
        self.writer.append(b"".join(block), count, wait=wait)
        self.frames += block

    def open(self, thousandth: int) -> None:
        after = len(self.frames) * thousandth // 1000
        try:
            self.readers.append(
                (self.store.read(self.writer.id, "alice", after), after, bytearray())
            )
        except StreamGone:
            self.check_gone(after)

    def read(self, index: int) -> None:
        if index < len(self.readers):
            reader, after, received = self.readers[index]
            try:
                received += reader.receive(0)
            except StreamGone:
                self.check_gone(reader.last)
                self.readers.pop(index)
            assert bytes(received) == b"".join(self.frames[after : reader.last])

    def check_gone(self, after: int) -> None:
        """Check that the frames after *after* exceed the limit, so they may be dropped."""
        assert len(b"".join(self.frames[after:])) > self.limit // 4

    def finish(self) -> None:
        self.writer.append(b"", 0, end=True)
        for reader, after, received in self.readers:
            try:
                received += read_all(reader)
            except StreamGone:
                self.check_gone(reader.last)
            else:
                assert bytes(received) == b"".join(self.frames[after:])
        status = look(self.store, self.writer.id)
        assert status.last == len(self.frames)
        kept = len(b"".join(self.frames[status.first - 1 :]))
        assert kept <= self.limit
        for after in range(status.first - 1, len(self.frames) + 1):
            replay = read_all(self.store.read(self.writer.id, "alice", after))
            assert replay == b"".join(self.frames[after:])


def play(store: Store, limit: int, steps: list[tuple[object, ...]]) -> None:
    model = Model(store, limit)
    for name, *values in steps:
        getattr(model, str(name))(*values)
    model.finish()


@pytest.mark.usefixtures("patient")
def test_random_reads_return_all_frames(open_any: Opener) -> None:
    store = open_any()

    @SAME_STORE
    @given(STEPS)
    def check(steps: list[tuple[object, ...]]) -> None:
        play(store, 4 * 1024 * 1024, steps)

    check()


@pytest.mark.usefixtures("patient")
def test_random_reads_return_the_retained_frames(open_any: Opener) -> None:
    store = open_any(replay_stream_bytes=30_000)

    @SAME_STORE
    @given(STEPS)
    def check(steps: list[tuple[object, ...]]) -> None:
        play(store, 30_000, steps)

    check()


@given(st.integers(1, 10**6), st.integers(1, 30), st.data())
def test_block_can_be_cut_at_any_frame(first: int, count: int, data: st.DataObject) -> None:
    block = frames(first, first + count - 1)
    after = data.draw(st.integers(first - 1, first + count - 1))
    for buffer in (block, bytearray(block)):
        assert frames_after(buffer, after) == frames(after + 1, first + count - 1)
    assert last_frame(block) == frame(first + count - 1)
