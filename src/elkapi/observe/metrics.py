"""Prometheus metrics without a lock on the hot path: calls count in plain numbers, a timer folds them in the registry.

Each process writes to prometheus-client's multi-process files in the data directory, so any worker can answer
`/metrics` for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, Literal

from elkapi.clock import Clock
from elkapi.types import RequestRecord

log = logging.getLogger("elkapi.metrics")

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
FOLD_EVERY_S = 1.0
# Calls are counted in rounds: one alone finds the code for it out of the caches, at three times the cost.
COUNTED_TOGETHER = 64
# Metrics that anybody may read: none names a channel, or counts money or usage. New metrics are for the operator only.
PUBLIC = frozenset(
    {
        "elkapi_requests",
        "elkapi_request_seconds",
        "elkapi_connections",
        "elkapi_snapshot_age_seconds",
        "elkapi_log_lines_dropped",
    }
)


def prepare(folder: Path, *, fresh: bool = False) -> None:
    """Set the shared folder before prometheus_client is imported; the supervisor empties it at start (`fresh`)."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


class Durations:
    """Counts by bucket and their sum, as plain numbers until they are folded."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def pour_into(self, histogram: Any) -> None:
        # `observe` per call would block the loop for tens of milliseconds per second, so counts are added in bulk.
        # The library has no public API for that; tests/unit/observe/test_metrics.py guards this access.
        for bucket, count in zip(histogram._buckets, self.counts, strict=True):
            if count:
                bucket.inc(count)
        histogram._sum.inc(self.total_s)


def _gauge(registry: Any, name: str, text: str, mode: Literal["livesum", "livemax"] = "livesum") -> Any:
    """A gauge per live process, of which the page shows the sum or the maximum."""
    from prometheus_client import Gauge

    return Gauge(name, text, registry=registry, multiprocess_mode=mode)


class CallCounts:
    """Totals of finished calls and ended tasks, as plain numbers until they are folded; one per process."""

    def __init__(self, registry: Any) -> None:
        from prometheus_client import Counter

        from elkapi.observe import metric_files  # noqa: F401 - before the first value is made

        text = "Calls answered, and tasks ended."
        self._requests = Counter("elkapi_requests", text, ["operation", "status"], registry=registry)
        self._tokens = Counter("elkapi_input_tokens", "Input tokens metered.", registry=registry)
        self._charged = Counter("elkapi_charged_nano_usd", "Charged to customers.", registry=registry)
        self._lost = Counter("elkapi_operator_loss_nano_usd", "Cost borne by the operator.", registry=registry)
        self._attempts = Counter("elkapi_attempts", "Attempts at upstreams.", ["channel", "outcome"], registry=registry)
        self.requests: dict[tuple[str, int], int] = defaultdict(int)
        self.attempts: dict[tuple[str, str], int] = defaultdict(int)
        self.tokens = self.charged_nano = self.lost_nano = 0

    def add(self, record: RequestRecord) -> None:
        """Count one call, or one task at its end."""
        self.requests[(record.operation, record.status)] += 1
        self.tokens += record.usage.input_total
        self.charged_nano += record.charge_nano
        self.lost_nano += record.loss_nano
        for attempt in record.attempts:
            self.attempts[(attempt.channel_name, attempt.outcome)] += 1

    def fold_calls(self) -> None:
        """Move the plain numbers into the registry."""
        requests, self.requests = self.requests, defaultdict(int)
        attempts, self.attempts = self.attempts, defaultdict(int)
        for (operation, status), count in requests.items():
            self._requests.labels(operation, str(status)).inc(count)
        for (channel, outcome), count in attempts.items():
            self._attempts.labels(channel, outcome).inc(count)
        self._tokens.inc(self.tokens)
        self._charged.inc(self.charged_nano)
        self._lost.inc(self.lost_nano)
        self.tokens = self.charged_nano = self.lost_nano = 0


class Metrics(CallCounts):
    """The counters of one worker. `prepare` must have been called before the first instance is made."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()
        super().__init__(registry)
        self._seconds = Histogram(
            "elkapi_request_seconds",
            "Time from request head to reply end.",
            ["operation"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._alerts = Counter("elkapi_alerts", "Open alerts for the operator.", ["kind"], registry=registry)
        self._gauges = {
            "connections": _gauge(registry, "elkapi_connections", "Open client connections."),
            "snapshot_age_seconds": _gauge(
                registry, "elkapi_snapshot_age_seconds", "Age of the oldest worker's snapshot.", mode="livemax"
            ),
            "log_lines_dropped": _gauge(
                registry, "elkapi_log_lines_dropped", "Log lines dropped because the disk was slow."
            ),
            "records_dropped": _gauge(
                registry,
                "elkapi_usage_rows_dropped",
                "Records of free calls dropped because the ledger's queue was full.",
            ),
            "telemetry_dropped": _gauge(
                registry,
                "elkapi_telemetry_calls_dropped",
                "Calls not exported because the collector was slow or unreachable.",
            ),
        }
        self.durations: dict[str, Durations] = defaultdict(Durations)
        self.alerts: dict[str, int] = defaultdict(int)
        self._finished: list[tuple[RequestRecord, bool]] = []

    def finished(self, record: RequestRecord, *, timed: bool) -> None:
        """Note a finished call or ended task, to be counted soon. `timed`: its duration is that of its record."""
        self._finished.append((record, timed))
        if len(self._finished) >= COUNTED_TOGETHER:
            self.count()

    def count(self) -> None:
        """Count what has finished."""
        for record, timed in self._finished:
            self.add(record)
            if timed:
                self.durations[record.operation].add(record.duration_ms / 1000)
        self._finished.clear()

    def fold(self, gauges: dict[str, float]) -> None:
        """Move the plain numbers into the registry; called about once a second."""
        with _while_the_disk_has_room():
            self.count()
            self.fold_calls()
            durations, self.durations = self.durations, defaultdict(Durations)
            for operation, taken in durations.items():
                taken.pour_into(self._seconds.labels(operation))
            alerts, self.alerts = self.alerts, defaultdict(int)
            for kind, count in alerts.items():
                self._alerts.labels(kind).inc(count)
            for name, value in gauges.items():
                self._gauges[name].set(value)

    @staticmethod
    def page(*, for_operator: bool) -> bytes:
        """The text format over all processes: everything, or only `PUBLIC` metrics."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        collector: Any = MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        registry.register(collector if for_operator else _PublicPart(collector))
        return generate_latest(registry)


class MetricsPages:
    """Caches `Metrics.page` for FOLD_EVERY_S; the numbers do not change faster.

    A page takes milliseconds of a thread that DNS lookups need too, and anybody may request one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pages: dict[bool, tuple[float, asyncio.Task[bytes]]] = {}

    async def page(self, *, for_operator: bool) -> bytes:
        now_s = self._clock.monotonic_s()
        begun_s, making = self._pages.get(for_operator, (-inf, None))
        if making is None or (making.done() and (now_s - begun_s >= FOLD_EVERY_S or making.exception())):
            making = asyncio.get_running_loop().create_task(asyncio.to_thread(Metrics.page, for_operator=for_operator))
            self._pages[for_operator] = now_s, making
        # A caller who leaves must not cancel the page for the others.
        return await asyncio.shield(making)


def telemetry_lost() -> Any:
    """The counter of spans that the collector did not accept. Call `prepare` first."""
    from prometheus_client import CollectorRegistry, Counter

    from elkapi.observe import metric_files  # noqa: F401 - before the first value is made

    text = "Spans that the collector refused or did not accept in time."
    return Counter("elkapi_telemetry_spans_lost", text, registry=CollectorRegistry())


class TaskMetrics(CallCounts):
    """The metrics of a task poller. `prepare` must have been called before the first instance is made."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter

        registry = CollectorRegistry()
        super().__init__(registry)
        self._events = Counter(
            "elkapi_task_events",
            "Polls of tasks, their failures, undeclared states, failed copies, and ends by state.",
            ["kind"],
            registry=registry,
        )
        self._open = _gauge(registry, "elkapi_tasks_open", "Open tasks.")
        self._late = _gauge(registry, "elkapi_task_poll_late_seconds", "Delay of the last poll.", mode="livemax")

    def fold(self, events: Mapping[str, int], open_tasks: int, late_s: float) -> None:
        """Move the plain numbers and the `events` since the last call into the registry; called about once a second."""
        with _while_the_disk_has_room():
            self.fold_calls()
            for kind, count in events.items():
                self._events.labels(kind).inc(count)
            self._open.set(open_tasks)
            self._late.set(late_s)


@contextlib.contextmanager
def _while_the_disk_has_room() -> Iterator[None]:
    """If the disk is full, new counts are lost; earlier ones stay."""
    try:
        yield
    except OSError as error:
        log.warning("cannot record metrics: %s", error)


class _PublicPart:
    """A collector that yields only the PUBLIC families of another."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def collect(self) -> Iterable[Any]:
        return [family for family in self._whole.collect() if family.name in PUBLIC]
