"""The binary framing of AWS event streams (``application/vnd.amazon.eventstream``).

A message is a prelude (total length, length of the headers, CRC of these), headers, a
payload and a CRC of all before it; integers are big-endian, CRCs those of zlib.  See
https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream.
Nothing here touches a socket.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_OVERHEAD = _PRELUDE.size + _CRC.size
_STRING = 7
#: The sizes of the header values that have one; 6 and 7 carry a length of two bytes.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class FrameError(ValueError):
    """The bytes are not messages; *frames* are those that were whole before."""

    frames: list[Frame] = []


class Frame(NamedTuple):
    """One message: its headers that are strings, and its payload."""

    headers: dict[str, str]
    payload: bytes


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return the message of string *headers* and *payload*."""
    head = b"".join(
        bytes((len(name),))
        + name.encode()
        + bytes((_STRING,))
        + _LENGTH.pack(len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    sizes = struct.pack(">II", len(head) + len(payload) + _OVERHEAD, len(head))
    message = sizes + _CRC.pack(zlib.crc32(sizes)) + head + payload
    return message + _CRC.pack(zlib.crc32(message))


class FrameDecoder:
    """Turns bytes, split anywhere, into messages; *limit* bounds the bytes of one."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._limit = limit
        self._rest = bytearray()

    @property
    def pending(self) -> bool:
        """Whether a part of a message is being held."""
        return bool(self._rest)

    def receive_data(self, data: bytes) -> list[Frame]:
        """Take the next bytes; return the messages that they complete, in order.

        Raises FrameError when a checksum or a length is wrong.
        """
        self._rest += data
        frames: list[Frame] = []
        start = 0
        try:
            while (size := self._size(start)) and len(self._rest) - start >= size:
                frames.append(_frame(bytes(self._rest[start : start + size])))
                start += size
        except FrameError as error:
            error.frames = frames
            raise
        finally:
            del self._rest[:start]
        return frames

    def _size(self, start: int) -> int:
        """Return the length of the message at *start*; 0 when too little of it came."""
        if len(self._rest) - start < _PRELUDE.size:
            return 0
        total, headers, crc = _PRELUDE.unpack_from(self._rest, start)
        if zlib.crc32(self._rest[start : start + 8]) != crc:
            raise FrameError("the checksum of a message's prelude is wrong")
        if total < headers + _OVERHEAD or total > self._limit:
            raise FrameError(f"a message cannot have {total} bytes")
        return int(total)


def _frame(message: bytes) -> Frame:
    _, length, _ = _PRELUDE.unpack_from(message)
    (crc,) = _CRC.unpack_from(message, len(message) - _CRC.size)
    if zlib.crc32(message[: -_CRC.size]) != crc:
        raise FrameError("the checksum of a message is wrong")
    end = _PRELUDE.size + length
    try:
        headers = dict(_headers(message[_PRELUDE.size : end]))
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"the headers of a message cannot be read: {error!r}") from error
    return Frame(headers, message[end : -_CRC.size])


def _headers(block: bytes) -> Iterator[tuple[str, str]]:
    """Yield the string headers of *block*; headers of other types are passed over."""
    at = 0
    while at < len(block):
        name_end = at + 1 + block[at]
        name, kind = block[at + 1 : name_end].decode(), block[name_end]
        at = name_end + 1
        if kind in (6, _STRING):
            (size,) = _LENGTH.unpack_from(block, at)
            at += _LENGTH.size
        else:
            size = _SIZES[kind]
        if at + size > len(block):
            raise IndexError("a value is cut")
        if kind == _STRING:
            yield name, block[at : at + size].decode()
        at += size
