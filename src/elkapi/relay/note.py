"""A finished call or task -> log line, counters and telemetry; names and numbers, never a body or a key."""

from __future__ import annotations

import msgspec

from elkapi.ids import request_id_text
from elkapi.observe.log import Head
from elkapi.relay.plane import DataPlane
from elkapi.tasks.record import Task
from elkapi.types import RequestRecord


def note(plane: DataPlane, record: RequestRecord, *, timed: bool = True) -> None:
    """Queue the log line and count one call; no I/O. `timed`: its duration is that of its record."""
    plane.metrics.finished(record, timed=timed)
    plane.log.write_later("request", "info" if record.status < 500 else "warning", _line, record)


def note_end(plane: DataPlane, task: Task, record: RequestRecord, *, timed: bool) -> None:
    """The same for a task that was ended here; `timed`: it ended with its submit."""
    note(plane, record, timed=timed)
    if plane.telemetry is not None:
        plane.telemetry.ended(task, record)


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
