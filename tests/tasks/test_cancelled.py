"""Cancels whose answer did not come back: the provider's word on the task afterwards is its end, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.money import parse_usd
from tests.tasks.conftest import Tasks
from tests.waiting import until

MODEL = "gen4_turbo"
HALF = parse_usd("0.50")
FRAME = {"model": MODEL, "promptImage": "https://pictures.example/a.png", "ratio": "1280:720", "duration": 5}
Answer = tuple[int, Any] | None


class Runway:
    """A provider with one task; `cancels` is how its cancels are answered, None for not at all.

    `knows`: whether it still has the task; a cancel that is carried out takes it away, answered or not.
    """

    def __init__(self) -> None:
        self.knows = True
        self.status = "RUNNING"
        self.cancels: list[Answer] = []
        self.carries_out = True
        self.asked = 0

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if method == "POST":
            return 200, {"id": "11111111-2222-3333-4444-555555555555"}
        if method == "DELETE":
            said = self.cancels.pop(0)
            self.knows = self.knows and not self.carries_out
            return said
        self.asked += 1
        if not self.knows:
            return 404, {"error": "Task not found"}
        made = {"output": ["https://files.example/a.mp4"]} if self.status == "SUCCEEDED" else {}
        return 200, {"id": path.rpartition("/")[2], "status": self.status, "createdAt": "2026-01-01T00:00:00Z", **made}


@pytest.fixture
async def runway(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> Runway:
    monkeypatch.setattr("elkapi.tasks.polls.BACKOFF_FIRST_S", 0.02)
    provider = Runway()
    monkeypatch.setattr(tasks.upstream, "answer", provider.answer)
    await tasks.gate.channel(tasks.upstream.origin, (MODEL,), family="runway", secrets=("key_runway",))
    await tasks.gate.price(MODEL, per_call_usd="0.50")
    return provider


async def begun(tasks: Tasks) -> str:
    reply = await tasks.call("POST", "/runwayml/v1/image_to_video", FRAME)
    assert reply.status_code == 200, reply.text
    assert tasks.gate.books().customers_held_nano == HALF
    return str(reply.json()["id"])


async def cancelled(tasks: Tasks, task_id: str) -> Any:
    return await tasks.call("DELETE", f"/runwayml/v1/tasks/{task_id}")


async def asked_again(runway: Runway) -> None:
    wanted = runway.asked + 3
    await until(lambda: runway.asked >= wanted)


def end_of(tasks: Tasks) -> tuple[str, str | None]:
    ((state, _, code, *_),) = tasks.rows()
    return state, code


async def test_what_its_provider_has_just_made_is_not_cancelled_but_charged(tasks: Tasks, runway: Runway) -> None:
    """It would delete it whatever its state, and bill it."""
    task_id = await begun(tasks)
    runway.status, runway.cancels = "SUCCEEDED", [(204, None)]
    reply = await cancelled(tasks, task_id)
    assert (reply.status_code, len(runway.cancels)) == (409, 1), reply.text
    async with tasks.polling(task_poll_every_s=0.02):
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


async def test_a_cancel_that_nobody_answered_ends_the_task_once_its_provider_knows_it_no_more(
    tasks: Tasks, runway: Runway
) -> None:
    task_id = await begun(tasks)
    runway.cancels = [None]
    assert (await cancelled(tasks, task_id)).status_code == 502
    assert end_of(tasks) == ("queued", None)
    async with tasks.polling(task_poll_every_s=0.02):
        await tasks.until("cancelled")
    assert end_of(tasks) == ("cancelled", "cancelled")
    report = tasks.gate.books()
    assert (report.charged_nano, report.loss_nano, report.customers_held_nano) == (0, 0, 0)
    assert len(tasks.gate.sql("select id from requests")) == 1


async def test_a_cancel_that_nobody_answered_and_that_did_not_arrive_changes_nothing(
    tasks: Tasks, runway: Runway
) -> None:
    task_id = await begun(tasks)
    runway.cancels, runway.carries_out = [None], False
    assert (await cancelled(tasks, task_id)).status_code == 502
    async with tasks.polling(task_poll_every_s=0.02):
        await asked_again(runway)
        assert end_of(tasks) == ("running", None)
        runway.status = "FAILED"
        await tasks.until("failed")
    assert tasks.gate.books().customers_held_nano == 0


async def test_a_cancel_is_asked_again_and_a_task_that_is_gone_by_then_is_cancelled(
    tasks: Tasks, runway: Runway
) -> None:
    task_id = await begun(tasks)
    runway.cancels = [None, (404, {"error": "Task not found"})]
    assert (await cancelled(tasks, task_id)).status_code == 502
    assert (await cancelled(tasks, task_id)).status_code == 204
    assert end_of(tasks) == ("cancelled", "cancelled")
    assert tasks.gate.books().customers_held_nano == 0


@pytest.mark.parametrize(("status", "answered"), [(404, 409), (409, 409), (401, 502)])
async def test_a_cancel_that_was_refused_is_as_if_it_had_not_been_asked(
    tasks: Tasks, runway: Runway, status: int, answered: int
) -> None:
    """What a provider loses later is no cancel: only the operator may end it."""
    task_id = await begun(tasks)
    runway.cancels, runway.carries_out = [(status, {"error": "no"})], False
    assert (await cancelled(tasks, task_id)).status_code == answered
    runway.knows = False
    async with tasks.polling(task_poll_every_s=0.02):
        await asked_again(runway)
    assert end_of(tasks) == ("queued", None)
    assert tasks.gate.books().customers_held_nano == HALF


async def test_a_cancel_that_failed_at_the_provider_may_have_been_carried_out(tasks: Tasks, runway: Runway) -> None:
    task_id = await begun(tasks)
    runway.cancels = [(503, {"error": "busy"})]
    assert (await cancelled(tasks, task_id)).status_code == 502
    async with tasks.polling(task_poll_every_s=0.02):
        await tasks.until("cancelled")
    assert tasks.gate.books().customers_held_nano == 0


async def test_a_task_without_a_cancel_is_not_ended_by_a_provider_that_lost_it(tasks: Tasks, runway: Runway) -> None:
    await begun(tasks)
    runway.knows = False
    async with tasks.polling(task_poll_every_s=0.02):
        await asked_again(runway)
    assert end_of(tasks) == ("queued", None)
    assert tasks.gate.books().customers_held_nano == HALF
