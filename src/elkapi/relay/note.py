"""One finished call -> the log line and the counters; only names and numbers, never a header, a body or a key."""

from __future__ import annotations

import msgspec

from elkapi.ids import request_id_text
from elkapi.observe.log import Head
from elkapi.relay.plane import DataPlane
from elkapi.types import RequestRecord


def note(plane: DataPlane, record: RequestRecord) -> None:
    """Queue the log line and bump the counters of one call; does no I/O."""
    metrics = plane.metrics
    metrics.requests[(record.operation, record.status)] += 1
    metrics.durations[record.operation].add(record.duration_ms / 1000)
    metrics.tokens += record.usage.input_tokens + record.usage.cached_tokens
    metrics.charged_nano += record.charge_nano
    metrics.lost_nano += record.loss_nano
    for attempt in record.attempts:
        metrics.attempts[(attempt.channel_name, attempt.outcome)] += 1
    plane.log.write_later("request", "info" if record.status < 500 else "warning", _line, record)


class _Line(msgspec.Struct, frozen=True):
    time_ns: int
    level: str
    role: str
    pid: int
    event: str
    request_id: str
    key_id: int
    operation: str
    model: str
    status: int
    outcome: str
    channel: str | None
    attempts: int
    input_tokens: int
    charge_nano: int
    loss_nano: int
    flags: tuple[str, ...]
    ms: float


def _line(head: Head, record: RequestRecord) -> _Line:
    return _Line(
        *head,
        request_id_text(record.id),
        record.key_id,
        record.operation,
        record.model,
        record.status,
        record.outcome,
        record.channel_name,
        len(record.attempts),
        record.usage.input_tokens,
        record.charge_nano,
        record.loss_nano,
        record.flags,
        record.duration_ms,
    )
