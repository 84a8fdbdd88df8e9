"""What tasks cost, by the rows of docs/guarantees.md, whatever prices, files, books and providers do meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.ledger import books
from elkapi.money import parse_usd
from elkapi.testing.crash import point
from elkapi.types import TaskAsset
from tests.tasks.conftest import MODEL, Copies, Tasks
from tests.tasks.test_engine import HALF
from tests.waiting import until

CENT = parse_usd("0.01")


def film(monkeypatch: pytest.MonkeyPatch, duration_ms: int) -> None:
    """From now on what is copied is so long."""
    copy = Copies.copy

    async def of_that_length(self: Copies, *asked: Any) -> TaskAsset:
        return msgspec.structs.replace(await copy(self, *asked), duration_ms=duration_ms)

    monkeypatch.setattr(Copies, "copy", of_that_length)


async def made(tasks: Tasks, **asked: str) -> tuple[int, int, int]:
    """(what a task of so many words held, was charged, was lost), made whole; nobody asks for it meanwhile."""
    before = tasks.gate.books()
    reply = await tasks.submit({"model_name": MODEL, "prompt": "a dog", **asked})
    assert reply.status_code == 200, reply.text
    held = tasks.gate.books().customers_held_nano
    tasks.upstream.succeed(reply.json()["data"]["task_id"])
    async with tasks.polling():
        await tasks.until("succeeded")
    after = tasks.gate.books()
    assert after.customers_held_nano == 0
    return held, after.charged_nano - before.charged_nano, after.loss_nano - before.loss_nano


async def test_g35_a_price_that_changes_while_a_task_runs_changes_nothing_of_it(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    await tasks.gate.price(MODEL, per_call_usd="7")
    tasks.upstream.succeed(task_id)
    async with tasks.polling():
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


@pytest.mark.parametrize(
    ("asked", "made_ms", "cents"),
    [
        # Nothing was asked for: the provider's own default is held, and what came is what is charged.
        ({}, 5000, (5, 5, 0)),
        ({"duration": "10"}, 10_000, (10, 10, 0)),
        ({"duration": "10"}, 5000, (10, 5, 0)),
        # Longer than asked for: the caller pays what was held, the operator bears the rest.
        ({}, 10_000, (5, 5, 5)),
    ],
)
async def test_g32_a_video_costs_its_measured_length_and_never_more_than_was_held(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], made_ms: int, cents: tuple[int, int, int]
) -> None:
    await tasks.gate.price(MODEL, per_second_usd="0.01")
    film(monkeypatch, made_ms)
    assert await made(tasks, **asked) == tuple(number * CENT for number in cents)


async def test_g30_a_finished_task_that_came_to_nothing_raises_an_alert(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(tasks)
    assert tasks.gate.sql("select kind from alerts") == []
    await tasks.gate.price(MODEL, per_second_usd="0.01")
    film(monkeypatch, 0)
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    async with tasks.polling() as poller:
        await tasks.until("succeeded", 2)
        assert poller.counts["task_without_charge"] == 1
    assert tasks.gate.books().charged_nano == HALF
    assert [row[0] for row in tasks.gate.sql("select kind from alerts")] == ["task_without_charge"]


@pytest.mark.parametrize("ends", ["succeeded", "failed"])
async def test_g68_a_tasks_state_and_its_money_move_together_or_not_at_all(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The books fail behind the change of state, before the entries: neither is there. Then both."""
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    (tasks.upstream.succeed if ends == "succeeded" else tasks.upstream.fail)(task_id)
    failures: list[str] = []

    def fails(name: str) -> None:
        if name == "ledger.settle.before":
            failures.append(name)
            raise RuntimeError("the disk is full")
        point(name)

    with monkeypatch.context() as broken:
        broken.setattr(books, "point", fails)
        async with tasks.polling():
            await until(lambda: failures)
    assert tasks.rows()[0][0] == "queued"
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano) == (HALF, 0)
    async with tasks.polling():
        await tasks.until(ends)
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano) == (0, HALF if ends == "succeeded" else 0)
