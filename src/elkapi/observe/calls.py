"""Finished calls as workers send them to the control process for telemetry, and their frames."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.observe.trace import Trace
from elkapi.types import Channel, RequestRecord, Usage

# The name of the unix socket in the data directory.
SOCKET = "telemetry"
LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 8 * 1024 * 1024


class AttemptFacts(msgspec.Struct, frozen=True, array_like=True):
    """One try at an upstream; `error` is for the operator only."""

    channel: str
    outcome: str
    status: int | None
    error: str | None
    duration_ms: float
    model: str | None


class CallFacts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One call; times in Unix nanoseconds. Its content is None unless the operator enabled that.

    `wire` is the caller's. `body` is the request as received, `answer` a whole reply in the caller's wire (also read
    for its finish reason), `said` the parts of a streamed one as (kind, text, name). `first_s` is the time to the first
    content of a stream. `is_task`: the span of a task, from its submit to its end.
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
    is_task: bool = False


def facts_of(
    record: RequestRecord,
    trace: Trace,
    channels: Mapping[int, Channel],
    *,
    sampled: bool,
    with_errors: bool,
    **more: Any,
) -> CallFacts:
    """The facts of a record, and `more`. `with_errors`: include upstreams' errors, which may quote the request."""
    last = record.attempts[-1] if record.attempts else None
    channel_id = record.channel_id
    if channel_id is None and last is not None:
        channel_id = last.channel_id
    channel = None if channel_id is None else channels.get(channel_id)
    return CallFacts(
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        sampled=sampled,
        request_id=record.id,
        operation=record.operation,
        key_id=record.key_id,
        group=record.group,
        model=record.model,
        asked=record.asked,
        status=record.status,
        outcome=record.outcome,
        error=record.error_code,
        flags=record.flags,
        usage=record.usage,
        charge_nano=record.charge_nano,
        loss_nano=record.loss_nano,
        family=channel.family if channel is not None else None,
        base_url=channel.base_url if channel is not None else "",
        upstream_model=last.upstream_model if last is not None else None,
        upstream_request_id=record.upstream_request_id,
        attempts=tuple(
            AttemptFacts(
                one.channel_name,
                one.outcome,
                one.status,
                one.error if with_errors else None,
                one.duration_ms,
                one.model,
            )
            for one in record.attempts
        ),
        **more,
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[CallFacts])


def frame_of(calls: list[CallFacts]) -> bytes:
    """Encode calls as one frame: a four-byte length, then the calls."""
    body = _encoder.encode(calls)
    return LENGTH.pack(len(body)) + body


def calls_in(body: bytes) -> list[CallFacts]:
    """Decode a frame without its length. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
