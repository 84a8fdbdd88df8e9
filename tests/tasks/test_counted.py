"""What a task's end comes to is counted once, by whoever made it, and told to a collector as one span."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client import CollectorRegistry

from elkapi.control import tasking
from elkapi.control.server import listening_socket
from elkapi.control.tasking import Ends, opened_poller, polling
from elkapi.control.telemetry import telemetry_running
from elkapi.money import parse_usd
from elkapi.observe.calls import CallFacts
from elkapi.observe.metrics import CallCounts, Metrics, TaskMetrics
from elkapi.relay.telemetry import Telemetry
from elkapi.roles import WorkerOrder
from elkapi.storage.db import cancel_all
from elkapi.tasks.copying import CopyFailed
from elkapi.tasks.poller import Poller
from elkapi.types import TaskStep
from tests.collector import collecting, points, values
from tests.tasks.conftest import Tasks
from tests.waiting import until

HALF = parse_usd("0.50")
TEXT = "kling.text-to-video"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Counted:
    """A poller's counts and spans, in the place of its process's."""

    def __init__(self) -> None:
        self.counts = CallCounts(CollectorRegistry())
        self.told: list[CallFacts] = []
        self.ends: Ends
        self.poller: Poller

    @property
    def nano(self) -> tuple[int, int]:
        return self.counts.charged_nano, self.counts.lost_nano


@contextlib.asynccontextmanager
async def counting(tasks: Tasks) -> AsyncIterator[Counted]:
    """A poller at work whose ends are counted."""
    counted = Counted()
    settings = msgspec.structs.replace(tasks.gate.plane.settings, task_poll_every_s=0.02)
    counted.ends = Ends(settings, counted.counts, counted.told.extend)
    opening = opened_poller(
        WorkerOrder(settings=settings), tasks.gate.installation, lambda *_: tasks.copies, ends=counted.ends
    )
    async with opening as counted.poller, polling(counted.poller):
        yield counted
        # An end shows in its row a moment before it is counted.
        await until(lambda: not len(counted.poller))
    counted.ends.flush()


def counted_of(tasks: Tasks) -> Metrics:
    """The worker's metrics, with everything counted that has finished."""
    tasks.gate.plane.metrics.count()
    return tasks.gate.plane.metrics


async def submitted(tasks: Tasks, **headers: str) -> tuple[str, Any]:
    reply = await tasks.submit(headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["task_id"], reply


async def test_a_success_counts_its_charge_its_submit_and_its_attempt(tasks: Tasks) -> None:
    task_id, _ = await submitted(tasks)
    tasks.upstream.succeed(task_id)
    async with counting(tasks) as counted:
        await tasks.until("succeeded")
    assert counted.nano == (HALF, 0) == (tasks.gate.books().charged_nano, 0)
    assert counted.counts.requests == {(TEXT, 200): 1}
    assert {outcome: count for (_, outcome), count in counted.counts.attempts.items()} == {"ok": 1}
    worker = counted_of(tasks)
    assert (worker.requests, worker.charged_nano, worker.attempts) == ({}, 0, {})


async def test_a_failure_counts_and_is_free(tasks: Tasks) -> None:
    task_id, _ = await submitted(tasks)
    tasks.upstream.fail(task_id)
    async with counting(tasks) as counted:
        await tasks.until("failed")
    assert counted.nano == (0, 0)
    assert counted.counts.requests == {(TEXT, 502): 1}


async def test_a_lost_result_counts_as_the_operators_loss(tasks: Tasks) -> None:
    task_id, _ = await submitted(tasks)
    tasks.upstream.succeed(task_id)
    tasks.copies.fail = CopyFailed("it is gone", again=False)
    async with counting(tasks) as counted:
        await tasks.until("failed")
    assert counted.nano == (0, HALF) == (0, tasks.gate.books().loss_nano)


async def test_of_two_pollers_one_counts_an_end(tasks: Tasks) -> None:
    """The step of the other is refused."""
    for _ in range(10):
        tasks.upstream.succeed((await submitted(tasks))[0])
    async with counting(tasks) as first:
        async with counting(tasks) as second:
            await tasks.until("succeeded", 10)
    assert first.counts.charged_nano + second.counts.charged_nano == 10 * HALF == tasks.gate.books().charged_nano
    assert len(first.told) + len(second.told) == 10


async def test_an_end_whose_step_is_refused_is_not_counted(tasks: Tasks) -> None:
    """Somebody else ends the task while this poller is about to."""
    task_id, _ = await submitted(tasks)
    tasks.copies.go_on.clear()
    tasks.upstream.succeed(task_id)
    async with counting(tasks) as counted:
        await until(lambda: tasks.copies.asked)
        with tasks.gate.database.write() as connection:
            connection.exec_driver_sql("update tasks set version = version + 1, state = 'cancelled'")
        tasks.copies.go_on.set()
        await until(lambda: not len(counted.poller))
    assert counted.nano == (0, 0)
    assert (counted.counts.requests, counted.told) == ({}, [])


async def test_a_submit_that_was_refused_counts_in_its_worker(tasks: Tasks) -> None:
    tasks.upstream.submit = lambda body: (400, {"code": 1301, "message": "unsafe", "request_id": "r"})
    assert (await tasks.submit()).status_code == 400
    metrics = counted_of(tasks)
    assert len(metrics.requests) == 1
    assert list(metrics.durations) == [TEXT]
    async with counting(tasks) as counted:
        pass
    assert counted.counts.requests == {}


async def test_a_submit_whose_end_somebody_else_wrote_is_not_counted(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(step: TaskStep) -> bool:
        return False

    tasks.upstream.submit = lambda body: (400, {"code": 1301, "message": "unsafe", "request_id": "r"})
    monkeypatch.setattr(tasks.gate.plane.ledger, "step", refuse)
    assert (await tasks.submit()).status_code == 400
    assert counted_of(tasks).requests == {}


async def test_a_cancel_counts_in_its_worker_and_not_as_a_duration(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runway(method: str, path: str, body: Any) -> Any:
        return (200, {"id": "11111111-2222-3333-4444-555555555555"}) if method == "POST" else (204, None)

    monkeypatch.setattr(tasks.upstream, "answer", runway)
    await tasks.gate.channel(tasks.upstream.origin, ("gen4_turbo",), family="runway", secrets=("key_runway",))
    await tasks.gate.price("gen4_turbo", per_call_usd="0.50")
    body = {"model": "gen4_turbo", "promptImage": "https://a.example/a.png", "ratio": "1280:720", "duration": 5}
    begun = await tasks.call("POST", "/runwayml/v1/image_to_video", body)
    reply = await tasks.call("DELETE", f"/runwayml/v1/tasks/{begun.json()['id']}")
    assert reply.status_code == 204, reply.text
    metrics = counted_of(tasks)
    assert [(status, count) for (_, status), count in metrics.requests.items()] == [(499, 1)]
    assert not metrics.durations


async def test_an_end_is_a_span_in_the_trace_of_its_submit(tasks: Tasks) -> None:
    with collecting() as collector:
        settings = msgspec.structs.replace(
            tasks.gate.plane.settings, otlp_endpoint=collector.url, otlp_metrics_s=0.1, task_poll_every_s=0.02
        )
        tasks.gate.plane.settings = settings
        listening = listening_socket(Path(settings.socket_path("telemetry")))
        with listening as calls, telemetry_running(settings, calls) as running:
            good, reply = await submitted(tasks, traceparent=f"00-{TRACE}-{PARENT}-01")
            bad, _ = await submitted(tasks)
            tasks.upstream.succeed(good)
            tasks.upstream.fail(bad)
            async with counting(tasks) as counted:
                await tasks.until("succeeded")
                await tasks.until("failed")
            running.tell(counted.told)
            await until(lambda: len(collector.spans) >= 2)
            await until(lambda: collector.metrics)
    by_outcome = {values(span.attributes)["elkapi.outcome"]: span for span in collector.spans}
    span = by_outcome["ok"]
    told = values(span.attributes)
    assert span.name == "generate_content kling-v1-6"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert told["elkapi.request_id"] == reply.headers["x-request-id"]
    assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("generate_content", "kling")
    assert told["gen_ai.response.model"] == "kling-v1-6"
    assert (told["elkapi.charge_nano_usd"], told["elkapi.loss_nano_usd"]) == (HALF, 0)
    assert told["user.id"].startswith("test-")
    (attempt,) = span.events
    assert span.start_time_unix_nano <= attempt.time_unix_nano <= span.end_time_unix_nano
    failed = by_outcome["task_failed"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert values(failed.attributes)["elkapi.charge_nano_usd"] == 0
    durations = points(collector, "gen_ai.client.operation.duration")
    assert {of["gen_ai.operation.name"] for of, _ in durations} == {"generate_content"}
    assert b"a dog" not in b"".join(collector.raw)


async def test_what_ended_last_is_told_when_the_process_ends(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[CallFacts] = []
    counted, add = asyncio.Event(), Ends.add

    def added(ends: Ends, *end: Any) -> None:
        add(ends, *end)
        counted.set()

    monkeypatch.setattr(Ends, "add", added)
    monkeypatch.setattr(tasking, "FOLD_EVERY_S", 3600.0)
    tasks.upstream.succeed((await submitted(tasks))[0])
    settings = msgspec.structs.replace(tasks.gate.plane.settings, task_poll_every_s=0.02, otlp_endpoint="http://a")
    order = WorkerOrder(settings=settings)
    running = asyncio.ensure_future(tasking.run_poller(order, lambda *_: tasks.copies, told.extend))
    await counted.wait()
    assert told == []
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert [one.charge_nano for one in told] == [HALF]


async def test_a_poller_that_finds_no_room_to_count_in_polls_once_there_is_some(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = iter((OSError(errno.ENOSPC, "No space left on device"),))

    def without_room_at_first() -> TaskMetrics:
        for failure in full:
            raise failure
        return TaskMetrics()

    monkeypatch.setattr(tasking, "TaskMetrics", without_room_at_first)
    monkeypatch.setattr(tasking, "AGAIN_MAX_S", 0.01)
    tasks.upstream.succeed((await submitted(tasks))[0])
    settings = msgspec.structs.replace(tasks.gate.plane.settings, task_poll_every_s=0.02)
    running = asyncio.ensure_future(tasking.run_poller(WorkerOrder(settings=settings), lambda *_: tasks.copies))
    await tasks.until("succeeded")
    await cancel_all((running,))
    assert [record.message for record in caplog.records if record.name == "elkapi.tasks"] == ["poller_waits"]


async def test_an_end_made_by_a_worker_is_a_span_too(tasks: Tasks) -> None:
    plane = tasks.gate.plane
    with collecting() as collector:
        settings = msgspec.structs.replace(plane.settings, otlp_endpoint=collector.url, otlp_metrics_s=0.0)
        listening = listening_socket(Path(settings.socket_path("telemetry")))
        with listening as calls, telemetry_running(settings, calls):
            plane.telemetry = Telemetry(settings, plane.snapshots, plane.clock)
            try:
                tasks.upstream.submit = lambda body: (400, {"code": 1301, "message": "unsafe", "request_id": "r"})
                assert (await tasks.submit()).status_code == 400
                await until(lambda: len(collector.spans) == 1)
            finally:
                plane.telemetry.close()
                plane.telemetry = None
    told = values(collector.spans[0].attributes)
    assert (told["elkapi.operation"], told["elkapi.outcome"]) == (TEXT, "upstream_rejected")
