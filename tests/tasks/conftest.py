"""A gateway with a poller beside it, and a provider that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.catalog.task import Made, Poll
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.control.tasking import opened_poller, polling
from elkapi.ids import new_id
from elkapi.roles import WorkerOrder
from elkapi.tasks.copying import CopyFailed
from elkapi.tasks.poller import Poller
from elkapi.tasks.record import Task
from elkapi.types import TaskAsset
from elkapi.upstream import UpstreamRequest
from tests.gateway import Gateway, gateway
from tests.tasks.provider import Provider, provider
from tests.waiting import until

MODEL = "kling-v1-6"


class Copies:
    """Copies nothing, and says what it was asked to copy; `fail` is raised instead, and none ends before `go_on`."""

    def __init__(self) -> None:
        self.asked: list[UpstreamRequest] = []
        self.fail: CopyFailed | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def copy(self, task: Task, number: int, made: Made, request: UpstreamRequest, source: str) -> TaskAsset:
        self.asked.append(request)
        await self.go_on.wait()
        if self.fail is not None:
            raise self.fail
        return TaskAsset(
            id=new_id(),
            kind=made.kind,
            content_type="video/mp4",
            size_bytes=1,
            source=source,
            duration_ms=5000,
            width=1280,
            height=720,
        )


class Tasks:
    """What a test of tasks drives: a key that may pay, a provider, a gateway, and a poller that can be started."""

    def __init__(self, gate: Gateway, upstream: Provider, key: str) -> None:
        self.gate = gate
        self.upstream = upstream
        self.key = key
        self.copies = Copies()
        self.poller: Poller | None = None

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {key or self.key}", **more.pop("headers", {})}
        return await self.gate.http.request(method, path, json=body, headers=headers, **more)

    async def submit(self, body: Any = None, **more: Any) -> Any:
        asked = {"model_name": MODEL, "prompt": "a dog"} if body is None else body
        return await self.call("POST", "/kling/v1/videos/text2video", asked, **more)

    @contextlib.asynccontextmanager
    async def polling(self, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> AsyncIterator[Poller]:
        order = WorkerOrder(settings=msgspec.structs.replace(self.gate.plane.settings, **settings))
        async with opened_poller(order, self.gate.installation, lambda *_: self.copies, clock) as poller:
            async with polling(poller):
                yield poller

    def rows(self) -> list[Any]:
        return self.gate.sql("select state, version, error_code, native_id, progress from tasks order by id")

    async def until(self, state: str, number: int = 1) -> None:
        await until(lambda: sum(row[0] == state for row in self.rows()) >= number, what=f"a task that is {state}")


def polled_at_once(patch: pytest.MonkeyPatch, every_s: float = 0.02) -> None:
    """Providers are asked about their tasks as soon as they may be, so that no test waits for a clock."""
    patch.setattr("elkapi.tasks.poller.LOOK_S", 0.01)
    patch.setattr(Poll, "first_s", property(lambda _: 0.0))
    for name in ("every_s", "every_max_s"):
        patch.setattr(Poll, name, property(lambda _: every_s))


@pytest.fixture
async def tasks(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tasks]:
    polled_at_once(monkeypatch)
    async with (
        provider() as upstream,
        gateway(tmp_path, database_url=database_url, sqlite_synchronous="NORMAL", webhook_allow_private=True) as gate,
    ):
        await gate.channel(upstream.origin, (MODEL, "kling-video-extend"), family="kling", secrets=("AK|SK",))
        await gate.price(MODEL, per_call_usd="0.50")
        await gate.price("kling-video-extend", per_call_usd="0.25")
        yield Tasks(gate, upstream, await gate.key("10"))
