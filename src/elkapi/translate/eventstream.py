"""Decode AWS event streams, in pieces of any size, into frames and failures, without I/O.

Format (`application/vnd.amazon.eventstream`, big-endian): total bytes, header bytes, CRC32 of those two; headers;
payload; CRC32 of everything before it. A frame's `event` is its `:event-type` (or `:exception-type`), `data` its
payload. A `chunk` of invoke-with-response-stream is unwrapped, so that the model's own dialect can read the event.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from zlib import crc32

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import Failure
from elkapi.translate.sse import FRAME_BYTES_MAX, Frame, FrameTooLarge

# Total, header bytes and their checksum; the checksum at the end.
PRELUDE_BYTES = 12
CHECKSUM_BYTES = 4

# Sizes of header value types with fixed length; 6 (bytes) and 7 (string) have a length of two bytes.
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7

_STATUS = {
    b"validationException": 400,
    b"accessDeniedException": 403,
    b"resourceNotFoundException": 404,
    b"modelTimeoutException": 408,
    b"throttlingException": 429,
    b"modelNotReadyException": 429,
    # AWS's status for these is 424, but the model failed, which is not an error of the caller.
    b"modelStreamErrorException": 500,
    b"modelErrorException": 500,
    b"internalServerException": 500,
    b"serviceUnavailableException": 503,
}


class _Chunk(msgspec.Struct):
    bytes: str


class _Inner(msgspec.Struct):
    type: str = ""


class _Exception(msgspec.Struct):
    message: str = ""


_chunk = msgspec.json.Decoder(_Chunk)
_inner = msgspec.json.Decoder(_Inner)
_exception = msgspec.json.Decoder(_Exception)


class EventStreamDecoder:
    """Splits bytes into frames; memory is bounded by one frame."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes. Raises FrameTooLarge, and Unreadable for a wrong checksum."""
        pending = self._pending
        pending += chunk
        frames: list[Frame] = []
        start = 0
        while len(pending) - start >= PRELUDE_BYTES:
            total, header_bytes = _prelude(pending, start)
            if len(pending) - start < total:
                break
            frames.append(_frame(bytes(pending[start : start + total]), header_bytes))
            start += total
        del pending[:start]
        return frames

    def close(self) -> list[Frame]:
        """No frames, since they have a length. Raises Unreadable if the stream ended inside one."""
        if self._pending:
            raise Unreadable
        return []


def failure_of_exception(frame: Frame) -> Failure:
    """The failure of an exception frame, which the stream sends after its 200."""
    try:
        message = _exception.decode(frame.data or b"{}").message
    except NOT_JSON:
        message = ""
    kind = frame.event[:1].lower() + frame.event[1:]
    return Failure(_STATUS.get(kind, 500), kind.decode("utf-8", "replace"), message)


def _prelude(data: bytearray, start: int) -> tuple[int, int]:
    """(total bytes, header bytes) of the frame at `start`, whose prelude must be complete."""
    total, header_bytes, checksum = struct.unpack_from(">III", data, start)
    if crc32(data[start : start + 8]) != checksum:
        raise Unreadable
    if total > FRAME_BYTES_MAX:
        raise FrameTooLarge
    if total < PRELUDE_BYTES + header_bytes + CHECKSUM_BYTES:
        raise Unreadable
    return total, header_bytes


def _frame(raw: bytes, header_bytes: int) -> Frame:
    if crc32(raw[:-CHECKSUM_BYTES]) != int.from_bytes(raw[-CHECKSUM_BYTES:], "big"):
        raise Unreadable
    headers = _headers(raw[PRELUDE_BYTES : PRELUDE_BYTES + header_bytes])
    payload = raw[PRELUDE_BYTES + header_bytes : -CHECKSUM_BYTES]
    kind = headers.get(b":message-type")
    if kind == b"error":
        words = b": ".join(headers.get(name, b"") for name in (b":error-code", b":error-message"))
        message = msgspec.json.encode({"message": words.decode("utf-8", "replace")})
        return Frame(raw, b"internalServerException", message)
    if kind == b"exception":
        name = headers.get(b":exception-type", b"")
        return Frame(raw, name if name.endswith(b"Exception") else name + b"Exception", payload)
    event = headers.get(b":event-type", b"")
    return _unwrapped(raw, payload) if event == b"chunk" else Frame(raw, event, payload)


def _headers(block: bytes) -> dict[bytes, bytes]:
    """The headers with text or bytes values; others are skipped."""
    headers: dict[bytes, bytes] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            kind = block[name_end]
            value = name_end + 1
            if kind in (_BYTES, _STRING):
                value, length = value + 2, int.from_bytes(block[value : value + 2], "big")
                headers[block[at + 1 : name_end]] = block[value : value + length]
            else:
                length = _FIXED_BYTES[kind]
            at = value + length
    except (IndexError, KeyError):
        raise Unreadable from None
    if at != len(block):
        raise Unreadable
    return headers


def _unwrapped(raw: bytes, payload: bytes) -> Frame:
    """The event inside a chunk: `{"bytes": base64 of the model's own event, "p": padding}`."""
    try:
        data = b64decode(_chunk.decode(payload).bytes, validate=True)
        # The type is usually the first field; otherwise the event is decoded to find it.
        found = _LEADING_TYPE.match(data)
        return Frame(raw, found.group(1) if found else _inner.decode(data).type.encode(), data)
    except (ValueError, *NOT_JSON):
        raise Unreadable from None


_LEADING_TYPE = re.compile(rb'\{\s*"type"\s*:\s*"([a-z_]+)"')
