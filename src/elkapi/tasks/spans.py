"""A task's end -> its span for the collector, from its submit to its end, in its caller's trace. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from elkapi.observe.calls import CallFacts, facts_of
from elkapi.observe.trace import is_sampled, trace_of
from elkapi.tasks.record import Task
from elkapi.types import Channel, RequestRecord


def span_of(
    task: Task, record: RequestRecord, channels: Mapping[int, Channel], *, sample_ratio: float, with_errors: bool
) -> CallFacts:
    """The span of `record`, the end of `task`."""
    trace = trace_of(task.row.id, task.asked.traceparent.encode("latin-1", "ignore"))
    return facts_of(
        record,
        trace,
        channels,
        sampled=is_sampled(trace.trace_id, sample_ratio),
        with_errors=with_errors,
        start_ns=record.created_ns,
        end_ns=record.created_ns + int(record.duration_ms * 1_000_000),
        wire=task.row.wire,
        stream=False,
        key_name=task.asked.key_name,
        output_limit=None,
        is_task=True,
    )
