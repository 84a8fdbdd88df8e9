"""One finished call -> the log line and the counters; only names and numbers, never a header, a body or a key."""

from __future__ import annotations

from functools import partial

from elkapi.ids import request_id_text
from elkapi.relay.plane import DataPlane
from elkapi.types import RequestRecord


def note(plane: DataPlane, record: RequestRecord) -> None:
    """Queue the log line and bump the counters of one call; does no I/O."""
    metrics = plane.metrics
    metrics.requests[(record.operation, record.status)] += 1
    metrics.took(record.operation, record.duration_ms / 1000)
    metrics.tokens += record.usage.input_tokens + record.usage.cached_tokens
    metrics.charged_nano += record.charge_nano
    metrics.lost_nano += record.loss_nano
    for attempt in record.attempts:
        metrics.attempts[(attempt.channel_name, attempt.outcome)] += 1
    plane.log.write_later("request", "info" if record.status < 500 else "warning", partial(_fields, record))


def _fields(record: RequestRecord) -> dict[str, object]:
    return {
        "request_id": request_id_text(record.id),
        "key_id": record.key_id,
        "operation": record.operation,
        "model": record.model,
        "status": record.status,
        "outcome": record.outcome,
        "channel": record.channel_name,
        "attempts": len(record.attempts),
        "input_tokens": record.usage.input_tokens,
        "charge_nano": record.charge_nano,
        "loss_nano": record.loss_nano,
        "flags": record.flags,
        "ms": record.duration_ms,
    }
