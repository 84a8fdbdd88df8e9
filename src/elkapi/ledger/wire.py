"""The protocol between workers and the ledger process: length-prefixed msgpack frames on a unix socket.

A worker sends `Orders`: consecutive orders and the number of the first. The process answers each transaction with
`Answers`: the numbers that are done, and the refusals among them. The first order is a heartbeat.
"""

from __future__ import annotations

import struct
from typing import Generic, TypeVar

import msgspec

from elkapi.ledger.orders import Order, Refusal

FRAME_BYTES_MAX = 64 * 1024 * 1024
_HEAD = struct.Struct(">I")

T = TypeVar("T")


class Orders(msgspec.Struct, frozen=True, array_like=True):
    """Orders `first`, `first + 1`, ... of this connection."""

    first: int
    orders: list[Order]


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """Orders that were carried out or refused; a number absent from `refused` is done and durable."""

    numbers: list[int]
    refused: dict[int, Refusal]


class FrameError(ValueError):
    """The peer violates this protocol."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Orders | Answers) -> bytes:
    """A message as one frame: its length in four bytes, then msgpack."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body)) + body


class Frames(Generic[T]):
    """Splits a byte stream into decoded frames of one type, sans I/O; keeps at most one incomplete frame."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Return every frame that is now complete. Raises FrameError."""
        buffer = self._buffer
        buffer += data
        found: list[T] = []
        at = 0
        while len(buffer) - at >= _HEAD.size:
            (size,) = _HEAD.unpack_from(buffer, at)
            if size > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {size} bytes")
            end = at + _HEAD.size + size
            if len(buffer) < end:
                break
            try:
                found.append(self._decoder.decode(memoryview(buffer)[at + _HEAD.size : end].tobytes()))
            except msgspec.DecodeError as error:
                raise FrameError(str(error)) from None
            at = end
        if at:
            del buffer[:at]
        return found


ORDERS_DECODER = msgspec.msgpack.Decoder(Orders)
ANSWERS_DECODER = msgspec.msgpack.Decoder(Answers)
