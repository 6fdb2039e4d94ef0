"""Blocks: whole frames, joined.  They are cut only where a reading begins inside one."""

from __future__ import annotations


def check_block(frames: bytes, count: int, last: int) -> None:
    """Raise ValueError unless *frames* look like *count* frames that follow *last*."""
    if not count:
        if frames:
            raise ValueError("frames without a count")
    elif not (frames.startswith(b"id: %d\n" % (last + 1)) and frames.endswith(b"\n\n")):
        raise ValueError(f"not {count} whole frames from number {last + 1}")


def cut(block: bytes | bytearray, after: int) -> bytes:
    """Return what follows frame *after* in *block*, which holds the frame after it.

    A number is found by its line at the start of a frame.  It cannot occur elsewhere: data
    is one line, and so a blank line only ever ends a frame.
    """
    line = b"id: %d\n" % (after + 1)
    if block.startswith(line):
        return bytes(block)
    # From the end: who follows a stream live is nearly there.
    at = block.rfind(b"\n\n" + line)
    if at < 0:
        return b""
    with memoryview(block) as view:  # one copy, also of a bytearray
        return view[at + 2 :].tobytes()


def last_frame(block: bytes) -> bytes:
    """Return the last frame of *block*."""
    at = block.rfind(b"\n\nid: ", 0, -2)
    return block[at + 2 :] if at >= 0 else block
