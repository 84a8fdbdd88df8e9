"""A worker killed with kill -9 while it cancels a task: what the provider then says of the task is its end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster, Upstream, cluster, set_price, upstream
from tests.process.conftest import SETTINGS
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FRAME = {"model": "gen4_turbo", "promptImage": "https://pictures.example/a.png", "ratio": "1280:720", "duration": 5}
WITHIN_S = 60.0


class Caller:
    """A key with money at a gateway of one worker, in front of a Runway that makes films for an hour."""

    def __init__(self, gate: Cluster, sandbox: Upstream, http: httpx.AsyncClient) -> None:
        self.gate = gate
        self.sandbox = sandbox
        self.http = http

    async def begun(self) -> str:
        body = {**FRAME, "promptText": "[sandbox: task-queued=0s, task-takes=3600s]"}
        reply = await self.http.post("/runwayml/v1/image_to_video", json=body)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    async def cancelled(self, task_id: str) -> httpx.Response:
        return await self.http.delete(f"/runwayml/v1/tasks/{task_id}")

    async def killed_at(self, point: str, task_id: str) -> None:
        """The worker's successor dies at the point, while it cancels the task."""
        gate = self.gate
        gate.crash_order.write_text(f"{point}:1", "ascii")
        gate.kill(min(gate.children("worker")))
        await until(lambda: not gate.crash_order.exists(), WITHIN_S, "the order to crash was taken")
        await until(gate.is_complete, WITHIN_S, "it serves again")
        with pytest.raises(httpx.TransportError):
            await self.cancelled(task_id)
        await until(gate.is_complete, WITHIN_S, "it serves again")

    def state(self) -> str:
        ((state,),) = self.gate.sql("select state from tasks")
        return str(state)


@pytest.fixture
async def caller(database_url: str) -> AsyncIterator[Caller]:
    settings: dict[str, Any] = {**SETTINGS, "workers": 1, "task_poll_every_s": 0.2}
    with cluster(database_url, **settings) as gate, upstream(gate.folder) as sandbox:
        gate.channel("runway", sandbox.base_url + "/runway", ("gen4_turbo",), family="runway", secrets=("key_r",))
        set_price(gate.admin, "gen4_turbo", per_second="0.05")
        gate.start()
        await gate.ready()
        headers = {"authorization": f"Bearer {gate.key('caller', 10**9)}"}
        async with contextlib.AsyncExitStack() as stack:
            # A killed worker's connections are not used again.
            limits = httpx.Limits(max_keepalive_connections=0)
            http = httpx.AsyncClient(base_url=gate.origin, headers=headers, timeout=20, limits=limits)
            yield Caller(gate, sandbox, await stack.enter_async_context(http))


async def test_a_cancel_that_the_provider_carried_out_ends_its_task_though_nobody_is_left_to_say_so(
    caller: Caller,
) -> None:
    task_id = await caller.begun()
    await caller.killed_at("tasks.cancel.after", task_id)
    await until(lambda: caller.state() == "cancelled", WITHIN_S, "it ends by itself")
    report = caller.gate.check()
    assert report.ok, "\n".join(report.lines())
    assert (report.open_holds, report.charged_nano, report.loss_nano) == (0, 0, 0)
    assert caller.sandbox.bill() == []


async def test_a_cancel_that_was_not_asked_leaves_its_task_as_it_is(caller: Caller) -> None:
    task_id = await caller.begun()
    await caller.killed_at("tasks.cancel.before", task_id)
    await until(lambda: caller.state() == "running", WITHIN_S, "it runs")
    assert caller.gate.check().open_holds == 1
    assert (await caller.cancelled(task_id)).status_code == 204
    assert caller.state() == "cancelled"
    assert caller.gate.check().open_holds == 0
