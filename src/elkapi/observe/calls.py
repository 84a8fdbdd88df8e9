"""A finished call as a worker tells it to the control process for telemetry, and the frames it travels in."""

from __future__ import annotations

import struct

import msgspec

from elkapi.types import Usage

# Of the unix socket in the data directory.
SOCKET = "telemetry"
LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 8 * 1024 * 1024


class AttemptFacts(msgspec.Struct, frozen=True, array_like=True):
    """One try at an upstream; `error` is the operator's to see."""

    channel: str
    outcome: str
    status: int | None
    error: str | None
    duration_ms: float
    model: str | None


class CallFacts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One call; times in Unix nanoseconds. What is told of its content is None unless the operator wants it.

    `wire` is the caller's. `body` is the request as it came, `answer` a whole reply in the caller's wire (also read for
    its finish reason), `said` the parts of a streamed one as (kind, text, name). `first_s` is the time to the first
    content of a stream.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    sampled: bool
    request_id: bytes
    start_ns: int
    end_ns: int
    operation: str
    wire: str
    is_text: bool
    stream: bool
    key_id: int
    key_name: str
    group: str
    model: str
    asked: str | None
    output_limit: int | None
    status: int
    outcome: str
    error: str | None
    flags: tuple[str, ...]
    usage: Usage
    charge_nano: int
    loss_nano: int
    family: str | None
    base_url: str
    upstream_model: str | None
    upstream_request_id: str | None
    attempts: tuple[AttemptFacts, ...]
    first_s: float | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None
    answer: bytes | None = None
    body: bytes | None = None
    said: tuple[tuple[str, str, str], ...] | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[CallFacts])


def frame_of(calls: list[CallFacts]) -> bytes:
    """Calls as one frame: its length in four bytes, then the calls."""
    body = _encoder.encode(calls)
    return LENGTH.pack(len(body)) + body


def calls_in(body: bytes) -> list[CallFacts]:
    """The calls of a frame without its length. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
