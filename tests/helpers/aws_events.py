"""An encoder for AWS event-stream messages; botocore has only a decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return the message with *headers*, all strings, and *payload*."""
    block = b"".join(
        bytes((len(name),))
        + name.encode()
        + struct.pack(">BH", 7, len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    return message(block, payload)


def message(block: bytes, payload: bytes) -> bytes:
    """Return the message with the encoded headers *block* and *payload*."""
    sizes = struct.pack(">II", len(block) + len(payload) + 16, len(block))
    data = sizes + struct.pack(">I", zlib.crc32(sizes)) + block + payload
    return data + struct.pack(">I", zlib.crc32(data))
