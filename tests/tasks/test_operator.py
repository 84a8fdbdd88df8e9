"""What an operator does about tasks: sees them, has them asked about, ends them free, on the record."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from elkapi.admin import channels as admin_channels
from elkapi.admin import tasks as admin_tasks
from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.money import parse_usd
from elkapi.storage.repos import alerts, audit
from elkapi.tasks.copying import CopyFailed
from elkapi.types import State
from tests.tasks.conftest import MODEL, Tasks
from tests.waiting import until


@pytest.fixture
def admin(tasks: Tasks) -> Admin:
    return Admin(tasks.gate.installation, "test")


async def submitted(tasks: Tasks) -> str:
    reply = await tasks.submit()
    assert reply.status_code == 200, reply.text
    name: str = reply.headers["x-request-id"].replace("req_", "task_")
    return name


async def test_tasks_are_listed_and_shown_whoever_began_them(tasks: Tasks, admin: Admin) -> None:
    first, second = await submitted(tasks), await submitted(tasks)
    listed = await asyncio.to_thread(admin_tasks.list_tasks, admin, state="open")
    assert [f"task_{row.id.hex()}" for row in listed] == [second, first]
    assert await asyncio.to_thread(admin_tasks.list_tasks, admin, state="succeeded") == []
    assert len(await asyncio.to_thread(admin_tasks.list_tasks, admin, key=str(listed[0].key_id), limit=1)) == 1
    for name in (first, first.replace("task_", "req_")):
        found = await asyncio.to_thread(admin_tasks.show_task, admin, name)
        assert found.task is not None
        assert found.task.asked.body["prompt"] == "a dog"
        assert (found.row.model, found.task.told.attempts[0].outcome) == (MODEL, "ok")


async def test_a_poke_has_the_provider_asked_at_once(
    tasks: Tasks, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elkapi.catalog.families import kling

    monkeypatch.setattr(type(kling.VIDEO.poll), "first_s", property(lambda _: 3600.0), raising=False)
    name = await submitted(tasks)
    async with tasks.polling() as poller:
        await until(lambda: len(poller))
        tasks.upstream.succeed(next(iter(tasks.upstream.tasks)))
        await asyncio.to_thread(admin_tasks.poll_task, admin, name)
        await tasks.until("succeeded")
    with pytest.raises(Refused, match="succeeded"):
        await asyncio.to_thread(admin_tasks.poll_task, admin, name)


async def test_an_ended_task_gives_back_its_hold_once_and_says_why(tasks: Tasks, admin: Admin) -> None:
    name = await submitted(tasks)
    assert tasks.gate.books().customers_held_nano == parse_usd("0.50")
    task = await asyncio.to_thread(admin_tasks.end_task, admin, name, "the provider lost it")
    assert (task.state, task.row.error_code) == (State.FAILED, "ended_by_operator")
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano, report.unknown_outcomes) == (0, 0, 1)
    with tasks.gate.database.read() as connection:
        row = audit.newest(connection, limit=1)[0]
    assert (row.action, row.subject) == ("task.end", f"task:{name}")
    assert "the provider lost it" in row.detail
    with pytest.raises(Refused, match="failed"):
        await asyncio.to_thread(admin_tasks.end_task, admin, name, "again")
    shown = (await tasks.call("GET", f"/v1/tasks/{name}")).json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "ended_by_operator")
    # What the provider makes of it afterwards changes nothing.
    tasks.upstream.succeed(next(iter(tasks.upstream.tasks)))
    async with tasks.polling():
        await asyncio.sleep(0.1)
    assert tasks.gate.books().charged_nano == 0


async def test_what_is_no_task_is_said_to_be_none(tasks: Tasks, admin: Admin) -> None:
    with pytest.raises(InvalidInput):
        await asyncio.to_thread(admin_tasks.show_task, admin, "x")
    with pytest.raises(Missing):
        await asyncio.to_thread(admin_tasks.show_task, admin, "task_" + "0" * 32)
    with pytest.raises(InvalidInput):
        await asyncio.to_thread(admin_tasks.end_task, admin, await submitted(tasks), " ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("the host {origin} refused AK|SK, see https://kling.example.test/x", "the host *** refused ***, see ***"),
        ("our account has no credits left", "The provider of this model refused the request."),
        ("risk control", "risk control"),
    ],
)
async def test_a_failure_tells_its_caller_nothing_of_the_upstream_and_the_operator_all_but_the_key(
    tasks: Tasks, admin: Admin, words: str, told: str
) -> None:
    name = await submitted(tasks)
    words = words.format(origin=tasks.upstream.origin.removeprefix("http://"))
    native = next(iter(tasks.upstream.tasks))
    tasks.upstream.fail(native, words)
    async with tasks.polling():
        await tasks.until("failed")
    shown = (await tasks.call("GET", f"/v1/tasks/{name}")).json()
    assert shown["error"]["message"] == told
    own = (await tasks.call("GET", f"/kling/v1/videos/text2video/{native}")).json()["data"]
    assert (own["task_status"], own["task_status_msg"]) == ("failed", told)
    wrapped = (await tasks.call("GET", f"/runway/feed?task_id={name}")).json()["data"]
    assert (wrapped["fail_reason"], wrapped["data"]["task_status_msg"]) == (told, told)
    kept = (await asyncio.to_thread(admin_tasks.show_task, admin, name)).task
    assert kept is not None
    assert (kept.told.said or kept.told.error) == words.replace("AK|SK", "***")


async def test_a_file_that_cannot_be_had_names_no_upstream_either(tasks: Tasks, admin: Admin) -> None:
    name = await submitted(tasks)
    tasks.upstream.succeed(next(iter(tasks.upstream.tasks)))
    why = f"127.0.0.1 [127.0.0.1]:{tasks.upstream.origin.rpartition(':')[2]}: refused"
    tasks.copies.fail = CopyFailed(why, again=False)
    async with tasks.polling():
        await tasks.until("failed")
    shown = (await tasks.call("GET", f"/v1/tasks/{name}")).json()
    assert shown["error"]["code"] == "result_unavailable"
    assert "127.0.0.1" not in shown["error"]["message"]
    kept = (await asyncio.to_thread(admin_tasks.show_task, admin, name)).task
    assert kept is not None
    assert why in kept.told.said


async def test_a_disabled_channel_is_asked_about_its_tasks_and_a_removed_one_is_an_alert(
    tasks: Tasks, admin: Admin
) -> None:
    await submitted(tasks)
    await submitted(tasks)
    first, _ = tasks.upstream.tasks
    (channel,) = await asyncio.to_thread(admin_channels.list_channels, admin)
    await asyncio.to_thread(admin_channels.set_channel_enabled, admin, channel.name, False)
    tasks.upstream.succeed(first)
    async with tasks.polling():
        await tasks.until("succeeded")
    await asyncio.to_thread(admin_channels.remove_channel, admin, channel.name)
    # Another account is no account of the tasks that the removed one took.
    await tasks.gate.channel(tasks.upstream.origin, ("another-model",), family=channel.family)
    asked = len(tasks.upstream.requests)
    found: list[Any] = []
    async with tasks.polling():
        while not found:
            await asyncio.sleep(0.01)
            with admin.database.read() as connection:
                found = alerts.list_alerts(connection)
    detail = msgspec.json.decode(found[0].detail)
    assert (found[0].kind, detail["channel"]) == ("task_channel_gone", channel.id)
    assert len(tasks.upstream.requests) == asked
