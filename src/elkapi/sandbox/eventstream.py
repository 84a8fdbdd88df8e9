"""AWS event streams: encodes one message, with both checksums.

The framing (`application/vnd.amazon.eventstream`): total length, length of the headers, CRC32 of those two; headers;
payload; CRC32 of all before it. Numbers are big-endian 32 bit.
"""

from __future__ import annotations

import struct
import zlib

import msgspec

MEDIA_TYPE = "application/vnd.amazon.eventstream"

_STRING = 7
_FRAME_BYTES = 16


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message. Header values are strings, the only type that Bedrock uses."""
    block = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", _FRAME_BYTES + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


def event(name: str, body: object) -> bytes:
    """A message with `body` as JSON and an event's name."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, msgspec.json.encode(body))


def exception(name: str, message: str) -> bytes:
    """The message that ends a stream that fails after its headers."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, msgspec.json.encode({"message": message}))


def _header(name: str, value: str) -> bytes:
    encoded_name, encoded = name.encode("ascii"), value.encode("utf-8")
    return struct.pack(">B", len(encoded_name)) + encoded_name + struct.pack(">BH", _STRING, len(encoded)) + encoded
