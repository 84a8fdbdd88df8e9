"""The way of a task: held, begun, polled, copied, ended once, whoever asks and whatever the provider does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Connection, text

from elkapi.catalog.task import TaskSpec
from elkapi.clock import SYSTEM_CLOCK, ManualClock
from elkapi.control.expiry import Expiry
from elkapi.control.tasking import PollerStorage
from elkapi.errors import Unavailable
from elkapi.ids import new_id
from elkapi.ledger.recovery import recover_owners
from elkapi.money import parse_usd
from elkapi.relay import putting
from elkapi.relay.submit import Submit
from elkapi.storage.repos import tasks as rows
from elkapi.tasks.copying import CopyFailed
from elkapi.tasks.polls import Polls, Watched
from elkapi.tasks.record import Task
from elkapi.types import ChannelLimits, Policy, RequestRecord, TaskStep
from tests.tasks.conftest import MODEL, Tasks
from tests.tasks.provider import Answer
from tests.waiting import until

HALF = parse_usd("0.50")


async def test_a_task_is_held_polled_and_charged_once(tasks: Tasks) -> None:
    reply = await tasks.submit()
    assert reply.status_code == 200, reply.text
    task_id = reply.json()["data"]["task_id"]
    assert reply.json()["data"]["task_status"] == "submitted"
    assert tasks.gate.books().customers_held_nano == HALF
    assert tasks.upstream.headers[0]["authorization"].startswith("Bearer ey")
    path = f"/kling/v1/videos/text2video/{task_id}"
    assert (await tasks.call("GET", path)).json()["data"]["task_status"] == "submitted"
    async with tasks.polling():
        tasks.upstream.tasks[task_id]["task_status"] = "processing"
        await tasks.until("running")
        assert (await tasks.call("GET", path)).json()["data"]["task_status"] == "processing"
        tasks.upstream.succeed(task_id)
        await tasks.until("succeeded")
    done = (await tasks.call("GET", path)).json()["data"]
    assert done["task_status"] == "succeed"
    assert done["task_result"]["videos"][0]["url"].startswith(tasks.gate.origin + "/v1/assets/")
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano, report.open_holds) == (HALF, 0, 0)
    ours = reply.headers["x-request-id"].replace("req_", "task_")
    assert (await tasks.call("GET", f"/kling/v1/videos/text2video/{ours}")).json()["data"]["task_id"] == task_id


async def test_a_submit_is_answered_by_what_its_provider_says_of_it_but_its_end(tasks: Tasks) -> None:
    said: list[dict[str, Any]] = [
        {"task_status": "submitted"},
        {"task_status": "processing"},
        {"task_status": "dreaming"},
        {"task_status": "succeed", "task_result": {"videos": [{"id": "v", "url": "https://theirs.test/v.mp4"}]}},
    ]
    tasks.upstream.submit = lambda _: (200, {"code": 0, "data": {"task_id": str(len(said)), **said.pop(0)}})
    # One at a time: each gives the place of its key back.
    key, replies = await tasks.gate.key("10", policy=Policy(parallel_max=1)), []
    while said:
        replies.append(await tasks.submit(key=key))
    words = [one.json()["data"]["task_status"] for one in replies]
    assert words == ["submitted", "processing", "dreaming", "submitted"]
    # An end is the poller's to write, with its files and its money.
    assert "theirs.test" not in replies[-1].text
    rows = tasks.gate.sql("select state, version, progress, started_ns is null from tasks order by id")
    assert [tuple(row) for row in rows] == [
        ("queued", 1, 0, True),
        ("running", 1, 0, False),
        *[("queued", 1, 0, True)] * 2,
    ]
    assert tasks.gate.books().customers_held_nano == 4 * HALF


async def test_a_failed_task_is_free(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.fail(task_id)
    async with tasks.polling():
        await tasks.until("failed")
    shown = (await tasks.call("GET", f"/kling/v1/videos/text2video/{task_id}")).json()["data"]
    assert (shown["task_status"], shown["task_status_msg"]) == ("failed", "risk control")
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano) == (0, 0)


async def test_a_foreign_owner_finds_nothing(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    other = await tasks.gate.key("10")
    reply = await tasks.call("GET", f"/kling/v1/videos/text2video/{task_id}", key=other)
    assert reply.status_code == 404
    assert "task_not_exist" in reply.text


async def test_an_unknown_word_keeps_it_running_and_is_told_once(tasks: Tasks) -> None:
    task_id, another = [(await tasks.submit()).json()["data"]["task_id"] for _ in range(2)]
    for one in (task_id, another):
        tasks.upstream.tasks[one]["task_status"] = "dreaming"
    async with tasks.polling() as poller:
        await tasks.until("running", 2)
        assert poller.counts["task_unknown_word"] >= 2
        assert tasks.gate.books().customers_held_nano == 2 * HALF
        tasks.upstream.succeed(task_id)
        await tasks.until("succeeded")
    # Once for the word, not for each task that meets it.
    assert len(tasks.gate.sql("select kind from alerts where kind = 'task_unknown_word'")) == 1


async def test_a_task_that_its_provider_forgot_stays_open_and_the_operator_is_told(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elkapi.catalog.families import kling

    monkeypatch.setattr(type(kling.VIDEO.poll), "limit_s", property(lambda _: 0.0), raising=False)
    await tasks.submit()
    tasks.upstream.tasks.clear()
    async with tasks.polling() as poller:
        await until(lambda: poller.counts["task_overdue"])
    assert tasks.rows()[0][0] == "queued"
    assert tasks.gate.books().customers_held_nano == HALF


async def test_a_step_that_the_database_never_takes_is_not_tried_in_a_hurry(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elkapi.tasks.poller.FAILED_S", 0.01)
    if tasks.gate.database.dialect == "sqlite":
        refusing = "create trigger refusing before update on tasks when new.state = 'succeeded' begin"
        refusing, undone = f"{refusing} select raise(abort, 'refused'); end", "drop trigger refusing"
    else:
        refusing = "alter table tasks add constraint refusing check (state <> 'succeeded')"
        undone = "alter table tasks drop constraint refusing"
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    with tasks.gate.database.write() as connection:
        connection.exec_driver_sql(refusing)
    async with tasks.polling() as poller:
        await until(lambda: poller.counts["task_step_refused"])
        await asyncio.sleep(0.2)
        assert (len(tasks.copies.asked), tasks.rows()[0][0]) == (1, "queued")
        assert tasks.gate.books().customers_held_nano == HALF
        assert tasks.gate.sql("select kind from alerts") == [("task_step_refused",)]
        with tasks.gate.database.write() as connection:
            connection.exec_driver_sql(undone)
            connection.exec_driver_sql("update tasks set poked = true")
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


@pytest.mark.parametrize("status", [400, 200])
async def test_a_refused_submit_is_free_and_answered_as_the_provider_does(tasks: Tasks, status: int) -> None:
    """Kling refuses by a code, under whatever status it comes."""
    tasks.upstream.submit = lambda body: (status, {"code": 1301, "message": "unsafe", "request_id": "r"})
    reply = await tasks.submit()
    assert (reply.status_code, reply.json()["code"]) == (status, 1301)
    assert tasks.rows()[0][:3] == ("failed", 1, "upstream_rejected")
    assert tasks.gate.sql("select status from requests") == [(400,)]
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano, report.unknown_outcomes) == (0, 0, 0)
    shown = await tasks.call("GET", f"/v1/tasks/{reply.headers['x-request-id'].replace('req_', 'task_')}")
    assert shown.json()["error"] == {"code": "upstream_rejected", "message": "unsafe"}


async def test_what_a_provider_compresses_unasked_is_read_all_the_same(tasks: Tasks) -> None:
    tasks.upstream.squeezes = True
    tasks.upstream.submit = lambda _: (400, {"code": 1201, "message": "prompt is too long"})
    refused = await tasks.submit()
    assert (refused.status_code, refused.json()["message"]) == (400, "prompt is too long")
    tasks.upstream.submit = None
    reply = await tasks.submit()
    assert reply.status_code == 200, reply.text
    task_id = reply.json()["data"]["task_id"]
    async with tasks.polling():
        tasks.upstream.succeed(task_id)
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


async def test_a_file_is_fetched_by_the_name_that_its_provider_gave_it(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    (video,) = tasks.upstream.tasks[task_id]["task_result"]["videos"]
    video["url"] = f"{tasks.upstream.origin}/files/ein Hündchen+1%2F2.mp4?sig=a/b%3D%3D&t=é#x"
    async with tasks.polling():
        await tasks.until("succeeded")
    (asked,) = tasks.copies.asked
    assert asked.target == b"/files/ein%20H%C3%BCndchen+1%2F2.mp4?sig=a/b%3D%3D&t=%C3%A9"


async def test_a_busy_account_sends_the_submit_to_the_next_channel(tasks: Tasks) -> None:
    answers = iter([(429, {"code": 1303, "message": "too many"}), (0, None)])
    tasks.upstream.submit = lambda body: next(answers)
    await tasks.gate.channel(tasks.upstream.origin, ("kling-v1-6",), family="kling", secrets=("AK2|SK2",))
    reply = await tasks.submit()
    assert reply.status_code == 200
    assert len([one for one in tasks.upstream.requests if one[0] == "POST"]) == 2
    async with tasks.polling():
        tasks.upstream.succeed(reply.json()["data"]["task_id"])
        await tasks.until("succeeded")
    account = await tasks.gate.account(reply.headers["x-request-id"], tasks.key)
    assert [one["outcome"] for one in account["attempts"]] == ["status_429", "ok"]


@pytest.mark.parametrize(
    ("more", "sent"),
    [
        ({"param_set": {"mode": msgspec.Raw(b'"pro"')}}, {"mode": "pro", "prompt": "a dog"}),
        ({"param_default": {"cfg_scale": msgspec.Raw(b"0.5")}}, {"cfg_scale": 0.5, "mode": "std", "prompt": "a dog"}),
        ({"param_remove": ("mode",)}, {"prompt": "a dog"}),
    ],
    ids=lambda value: next(iter(value)),
)
async def test_a_channel_changes_a_submit_as_its_operator_wants(
    tasks: Tasks, more: dict[str, Any], sent: dict[str, Any]
) -> None:
    await tasks.gate.price(model := "kling-v2-master", per_call_usd="0.50")
    await tasks.gate.channel(tasks.upstream.origin, (model,), family="kling", secrets=("AK|SK",), **more)
    reply = await tasks.submit({"model_name": model, "prompt": "a dog", "mode": "std"})
    assert reply.status_code == 200, reply.text
    ((_, _, body),) = tasks.upstream.requests
    assert {name: body[name] for name in ("cfg_scale", "mode", "prompt") if name in body} == sent


async def test_a_channel_that_accepts_a_submit_again_cools_down_no_longer(tasks: Tasks) -> None:
    answers = iter([(503, {"code": 5001, "message": "down"}), (0, None)])
    tasks.upstream.submit = lambda body: next(answers)
    assert (await tasks.submit()).status_code >= 500
    assert tasks.gate.plane.health.cooling()
    assert (await tasks.submit()).status_code == 200
    assert not tasks.gate.plane.health.cooling()


async def test_a_credential_that_cannot_sign_sends_the_submit_to_the_next_channel(tasks: Tasks) -> None:
    await tasks.gate.price(model := "kling-v2-master", per_call_usd="0.50")
    for priority, secret in ((9, "of one part"), (0, "AK|SK")):
        await tasks.gate.channel(tasks.upstream.origin, (model,), family="kling", secrets=(secret,), priority=priority)
    reply = await tasks.submit({"model_name": model, "prompt": "a dog"})
    assert reply.status_code == 200, reply.text
    assert len(tasks.upstream.requests) == 1


async def test_a_channels_own_meaning_of_a_status_decides_where_a_submit_goes(tasks: Tasks) -> None:
    answers = iter([(400, {"code": 1, "message": "busy"}), (0, None)])
    tasks.upstream.submit = lambda body: next(answers)
    model = "kling-v2-master"
    await tasks.gate.price(model, per_call_usd="0.50")
    for priority, status_map in ((9, {400: 503}), (0, {})):
        secrets = (f"AK{priority}|SK",)
        await tasks.gate.channel(
            tasks.upstream.origin, (model,), family="kling", secrets=secrets, priority=priority, status_map=status_map
        )
    assert (await tasks.submit({"model_name": model, "prompt": "a dog"})).status_code == 200
    assert len(tasks.upstream.requests) == 2


async def test_a_submit_of_unknown_outcome_is_asked_about_and_never_repeated(tasks: Tasks) -> None:
    """Guarantee 75."""
    tasks.upstream.cut_submits = True
    await tasks.gate.channel(tasks.upstream.origin, ("kling-v1-6",), family="kling", secrets=("AK2|SK2",))
    once = {"idempotency-key": "once"}
    reply = await tasks.submit(headers=once)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "outcome_unknown")
    assert reply.headers["x-should-retry"] == "false"
    repeated = await tasks.submit(headers=once)
    assert (repeated.status_code, repeated.json()["error"]["code"]) == (409, "outcome_unknown")
    assert len([one for one in tasks.upstream.requests if one[0] == "POST"]) == 1
    assert tasks.gate.books().customers_held_nano == HALF
    async with tasks.polling():
        tasks.upstream.succeed(next(iter(tasks.upstream.tasks)))
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


async def test_a_submit_of_unknown_outcome_that_nobody_can_be_asked_about_ends_free_and_listed_at_once(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskSpec, "recall", property(lambda _: ""), raising=False)
    tasks.upstream.cut_submits = True
    reply = await tasks.submit()
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "outcome_unknown")
    assert tasks.rows()[0][:3] == ("failed", 1, "outcome_unknown")
    ((status, charged_nano, kept),) = tasks.gate.sql("select status, charge_nano, record from requests")
    record = msgspec.json.decode(kept, type=RequestRecord)
    assert (status, charged_nano, record.flags) == (502, 0, ("unknown_outcome",))
    assert [one.fate for one in record.attempts] == ["unknown"]
    report = tasks.gate.closed_books()
    assert (report.customers_held_nano, report.unknown_outcomes) == (0, 1)


@pytest.mark.parametrize(
    ("broken", "code", "again"),
    [("request_for", "internal_error", 200), ("on_submit_status", "outcome_unknown", 409)],
    ids=["before it is sent", "after its answer"],
)
async def test_a_fault_of_the_gateways_own_ends_a_submit_free_and_is_listed_where_it_may_have_been_begun(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, broken: str, code: str, again: int
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    tasks.upstream.submit = lambda body: (500, {"code": 5000, "message": "no"})
    once = {"idempotency-key": "once"}
    with monkeypatch.context() as patched:
        patched.setattr(putting, broken, fault)
        reply = await tasks.submit(headers=once)
    assert reply.status_code == 500
    assert "a bug" not in reply.text
    assert tasks.rows()[0][:3] == ("failed", 1, code)
    assert tasks.gate.sql("select status from requests") == [(500,)]
    report = tasks.gate.closed_books()
    assert (report.charged_nano, report.unknown_outcomes) == (0, int(code == "outcome_unknown"))
    tasks.upstream.submit = None
    assert (await tasks.submit(headers=once)).status_code == again


async def test_of_two_submits_under_one_name_that_come_at_once_one_begins_a_task(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a caller gave up waiting and asks again under the name that is to be there once."""
    ledger, go_on = tasks.gate.plane.ledger, asyncio.Event()
    step = ledger.step

    async def slow(one: TaskStep) -> bool:
        await go_on.wait()
        return await step(one)

    monkeypatch.setattr(ledger, "step", slow)
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    first = asyncio.create_task(tasks.submit(body))
    await until(lambda: tasks.upstream.requests)
    second = asyncio.create_task(tasks.submit({**body, "prompt": "a cat"}))
    await until(lambda: second.done() or len(tasks.upstream.requests) > 1)
    # Those without a name have none in common.
    nameless = [asyncio.create_task(tasks.submit()) for _ in range(2)]
    await until(lambda: len(tasks.upstream.requests) == 3 or any(one.done() for one in nameless))
    assert len(tasks.gate.plane.tasks.submits) == 3
    go_on.set()
    replies = [await first, await second, await tasks.submit(body)]
    assert [(one.status_code, one.json()["code"]) for one in replies] == [(200, 0), (400, 1201), (400, 1201)]
    assert [(await one).status_code for one in nameless] == [200, 200]
    assert len(tasks.upstream.requests) == 3
    await until(lambda: not tasks.gate.plane.tasks.submits)
    assert tasks.gate.sql("select count(*) from idempotency") == [(0,)]
    # What was never begun leaves its name free.
    other = {**body, "external_task_id": "order-18"}
    tasks.upstream.submit = lambda _: (400, {"code": 1301, "message": "unsafe", "request_id": "r"})
    assert (await tasks.submit(other)).json()["code"] == 1301
    tasks.upstream.submit = None
    assert (await tasks.submit(other)).status_code == 200


async def test_a_name_of_the_callers_own_is_given_to_no_second_task_under_another_idempotency_key(tasks: Tasks) -> None:
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    once, other = {"idempotency-key": "once"}, {"idempotency-key": "other"}
    first = await tasks.submit(body, headers=once)
    again = await tasks.submit(body, headers=once)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    for headers in (other, {}):
        refused = await tasks.submit(body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "external_task_id")
    assert len(tasks.upstream.requests) == 1
    # Its claim was never taken, so it is free for what the caller means by it.
    assert (await tasks.submit({**body, "external_task_id": "order-18"}, headers=other)).status_code == 200


async def test_of_two_submits_at_once_under_one_name_and_two_idempotency_keys_one_begins_a_task(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, looked, go_on = tasks.gate.plane.tasks.find_or_none, [0], asyncio.Event()

    async def slow(*args: Any) -> Any:
        found = await find(*args)
        looked[0] += 1
        await go_on.wait()
        return found

    monkeypatch.setattr(tasks.gate.plane.tasks, "find_or_none", slow)
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    headers: tuple[dict[str, str], ...] = ({"idempotency-key": "once"}, {"idempotency-key": "other"}, {})
    both = [asyncio.create_task(tasks.submit(body, headers=one)) for one in headers]
    # Each has looked before any has begun.
    await until(lambda: looked[0] == len(both))
    go_on.set()
    replies = [await one for one in both]
    assert sorted((one.status_code, one.json()["code"]) for one in replies) == [(200, 0), (400, 1201), (400, 1201)]
    assert len(tasks.upstream.requests) == 1
    (held,) = tasks.gate.sql("select count(*) from transfers where kind = 'hold'")
    assert held == (1,)
    # The claims of those that were refused are free again.
    won = [one.status_code for one in replies].index(200)
    assert tasks.gate.sql("select idempotency_key from idempotency") == [
        (one["idempotency-key"],) for one in headers[won : won + 1] if one
    ]


async def test_a_submit_that_the_balance_does_not_cover_leaves_its_name_and_its_idempotency_key_free(
    tasks: Tasks,
) -> None:
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    spend = text("update accounts set posted_nano = posted_nano - :nano where kind = 'customer'")
    ((all_nano,),) = tasks.gate.sql("select posted_nano from accounts where kind = 'customer'")
    with tasks.gate.database.write() as connection:
        connection.execute(spend, {"nano": all_nano})
    refused = await tasks.submit(body, headers={"idempotency-key": "once"})
    assert refused.json()["error"]["code"] == "insufficient_user_quota", refused.text
    for table in ("task_refs", "idempotency"):
        assert tasks.gate.sql(f"select count(*) from {table}") == [(0,)]
    with tasks.gate.database.write() as connection:
        connection.execute(spend, {"nano": -all_nano})
    assert (await tasks.submit(body)).status_code == 200


async def test_the_name_of_a_deleted_task_may_be_given_again(tasks: Tasks) -> None:
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    await tasks.submit(body)
    with tasks.gate.database.write() as connection:
        connection.execute(text("update tasks set deleted_ns = 1"))
    assert (await tasks.submit(body)).status_code == 200
    (_, newest) = tasks.upstream.tasks
    shown = (await tasks.call("GET", "/kling/v1/videos/text2video/order-17")).json()["data"]
    assert shown["task_id"] == newest


async def test_a_submit_whose_answer_was_lost_is_found_by_the_callers_own_name(tasks: Tasks) -> None:
    tasks.upstream.cut_submits = True
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    assert (await tasks.submit(body)).json()["error"]["code"] == "outcome_unknown"
    tasks.upstream.cut_submits = False
    # Nobody knows yet whether it was begun, so it is not begun again.
    assert (await tasks.submit(body)).json()["code"] == 1201
    (task_id,) = tasks.upstream.tasks
    async with tasks.polling():
        tasks.upstream.succeed(task_id)
        await tasks.until("succeeded")
    shown = (await tasks.call("GET", "/kling/v1/videos/text2video/order-17")).json()["data"]
    assert (shown["task_id"], shown["task_status"]) == (task_id, "succeed")
    assert (await tasks.submit(body)).json()["code"] == 1201
    assert tasks.gate.sql("select count(*) from idempotency") == [(0,)]


async def test_the_callers_own_name_of_a_submit_that_the_provider_does_not_know_of_is_free_again(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elkapi.tasks.polls.RECALLS_MAX", 1)
    tasks.upstream.submit = lambda _: None
    body = {"model_name": MODEL, "prompt": "a dog", "external_task_id": "order-17"}
    assert (await tasks.submit(body)).json()["error"]["code"] == "outcome_unknown"
    async with tasks.polling():
        await tasks.until("failed")
    tasks.upstream.submit = None
    assert (await tasks.submit(body)).status_code == 200


@pytest.mark.parametrize("made", [False, True], ids=["not made", "made"])
async def test_a_begun_task_is_kept_however_long_the_ledger_does_not_answer(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    """Its caller is told of it once; until then nobody else could know of what the provider is making."""
    ledger, steps = tasks.gate.plane.ledger, list[TaskStep]()
    step = ledger.step

    async def away(one: TaskStep) -> bool:
        steps.append(one)
        if len(steps) > 2:
            return await step(one)
        if made and len(steps) == 1:
            await step(one)
        raise Unavailable("The ledger is away.")

    monkeypatch.setattr("elkapi.relay.submit.STEP_AGAIN_S", 0.0)
    monkeypatch.setattr(ledger, "step", away)
    reply = await tasks.submit()
    assert reply.status_code == 200, reply.text
    assert len(steps) == 3
    ((state, version, _, native_id, _),) = tasks.rows()
    assert (state, version, native_id) == ("queued", 1, next(iter(tasks.upstream.tasks)))
    monkeypatch.setattr(ledger, "step", step)
    async with tasks.polling():
        tasks.upstream.succeed(native_id)
        await tasks.until("succeeded")
    assert tasks.gate.closed_books().charged_nano == HALF


async def test_a_submit_takes_a_place_of_its_channel_and_gives_it_back_whatever_came_of_it(tasks: Tasks) -> None:
    one_place, one_a_minute = "kling-v2-master", "kling-v2-1"
    for model, limits in (
        (one_place, ChannelLimits(parallel_max=1)),
        (one_a_minute, ChannelLimits(requests_per_min=1)),
    ):
        await tasks.gate.channel(tasks.upstream.origin, (model,), family="kling", secrets=("AK2|SK2",), limits=limits)
        await tasks.gate.price(model, per_call_usd="0.50")
    tasks.upstream.cut_submits = True
    assert (await tasks.submit({"model_name": one_place, "prompt": "a dog"})).status_code == 502
    tasks.upstream.cut_submits = False
    for _ in range(2):
        assert (await tasks.submit({"model_name": one_place, "prompt": "a dog"})).status_code == 200
    asked = len(tasks.upstream.requests)
    first, second = [await tasks.submit({"model_name": one_a_minute, "prompt": "a dog"}) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "upstream_rate_limited"
    assert int(second.headers["retry-after"]) > 1
    assert len(tasks.upstream.requests) == asked + 1
    assert tasks.rows()[-1][:3] == ("failed", 1, "upstream_rate_limited")
    # Three may be under way, and the one that was refused holds nothing.
    assert tasks.gate.books().customers_held_nano == 4 * HALF


async def test_a_submit_that_the_provider_does_not_know_of_ends_free_and_is_listed(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elkapi.tasks.polls.RECALLS_MAX", 1)
    tasks.upstream.submit = lambda body: None
    assert (await tasks.submit()).json()["error"]["code"] == "outcome_unknown"
    assert len(tasks.upstream.requests) == 1
    async with tasks.polling():
        await tasks.until("failed")
    assert tasks.rows()[0][2] == "not_begun"
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano, report.unknown_outcomes) == (0, 0, 1)


@pytest.mark.parametrize(("recall", "code"), [(True, "not_begun"), (False, "outcome_unknown")])
async def test_what_a_worker_was_submitting_when_it_died_ends_free_listed_and_told(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, recall: bool, code: str
) -> None:
    monkeypatch.setattr("elkapi.tasks.polls.RECALLS_MAX", 1)
    if not recall:
        monkeypatch.setattr(TaskSpec, "recall", property(lambda _: ""), raising=False)

    async def killed(_: Submit) -> tuple[int, bytes]:
        raise CancelledError

    monkeypatch.setattr(Submit, "run", killed)
    address = "https://hooks.example/in"
    with contextlib.suppress(httpx.HTTPError):
        await tasks.submit({"model_name": MODEL, "prompt": "a dog", "callback_url": address})
    ((owner,),) = tasks.gate.sql("select worker from tasks")
    with tasks.gate.database.write() as connection:
        recover_owners(connection, [bytes(owner)], time.time_ns())
    assert tasks.gate.books().customers_held_nano == HALF
    async with tasks.polling():
        await tasks.until("failed")
    assert tasks.rows()[0][2] == code
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano, report.unknown_outcomes) == (0, 0, 1)
    assert len(tasks.gate.sql("select number from notices")) == 1
    assert len(tasks.gate.sql("select id from requests")) == 1


@pytest.mark.parametrize("given_up", [False, True])
async def test_what_a_worker_began_that_was_taken_for_dead_is_not_to_be_begun_again(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, given_up: bool
) -> None:
    """It stood still, and recovery had left its submit to the pollers, when the provider's answer was read."""
    monkeypatch.setattr(TaskSpec, "recall", property(lambda _: ""), raising=False)
    accepted = Submit._accepted

    async def after_recovery(one: Submit, *answer: Any) -> tuple[int, bytes]:
        ((owner,),) = tasks.gate.sql("select worker from tasks")
        with tasks.gate.database.write() as connection:
            recover_owners(connection, [bytes(owner)], time.time_ns())
        if given_up:
            async with tasks.polling():
                await tasks.until("failed")
        return await accepted(one, *answer)

    monkeypatch.setattr(Submit, "_accepted", after_recovery)
    once = {"idempotency-key": "once"}
    reply = await tasks.submit(headers=once)
    if given_up:
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "outcome_unknown")
        assert reply.headers["x-should-retry"] == "false"
        assert (await tasks.submit(headers=once)).json()["error"]["code"] == "outcome_unknown"
    else:
        assert reply.status_code == 200, reply.text
        assert (await tasks.submit(headers=once)).json() == reply.json()
        tasks.upstream.succeed(reply.json()["data"]["task_id"])
        async with tasks.polling():
            await tasks.until("succeeded")
    assert len(tasks.upstream.tasks) == 1
    report = tasks.gate.books()
    charged_nano = 0 if given_up else HALF
    assert (report.charged_nano, report.customers_held_nano, report.unknown_outcomes) == (charged_nano, 0, given_up)


@pytest.mark.parametrize("recall", [True, False])
async def test_what_a_worker_that_was_taken_for_dead_began_after_a_poller_leased_it_is_not_given_up(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, recall: bool
) -> None:
    """Its caller was told of it, so the poller must not book it as a submit whose outcome nobody knows."""
    monkeypatch.setattr("elkapi.tasks.polls.RECALLS_MAX", 1)
    monkeypatch.setattr(TaskSpec, "recall", property(lambda _: "GET /recalled" if recall else ""), raising=False)
    accepted, opened, begun = Submit._accepted, Polls._open, asyncio.Event()

    async def opened_late(polls: Polls, watched: Watched) -> Task | None:
        await begun.wait()
        return await opened(polls, watched)

    async def after_the_lease(one: Submit, *answer: Any) -> tuple[int, bytes]:
        ((owner,),) = tasks.gate.sql("select worker from tasks")
        with tasks.gate.database.write() as connection:
            recover_owners(connection, [bytes(owner)], time.time_ns())
        await until(lambda: tasks.gate.sql("select poller from tasks where poller is not null"))
        told = await accepted(one, *answer)
        begun.set()
        return told

    monkeypatch.setattr(Submit, "_accepted", after_the_lease)
    monkeypatch.setattr(Polls, "_open", opened_late)
    async with tasks.polling():
        reply = await tasks.submit()
        assert reply.status_code == 200, reply.text
        tasks.upstream.succeed(reply.json()["data"]["task_id"])
        await tasks.until("succeeded")
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano, report.unknown_outcomes) == (HALF, 0, 0)


async def test_an_answer_that_the_caller_did_not_stay_for_is_no_fault_that_nobody_handled(tasks: Tasks) -> None:
    faults = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    answers: list[Answer] = [(400, {"code": 1201, "message": "no such mode"}), (0, None)]

    def answer(_: dict[str, Any]) -> Answer:
        for connection in tasks.gate.server.connections:
            connection.transport.abort()
        return answers.pop(0)

    tasks.upstream.submit = answer
    for state in ("failed", "queued"):
        with pytest.raises(httpx.HTTPError):
            await tasks.submit()

        def is_told(state: str = state) -> bool:
            return bool(tasks.rows()) and tasks.rows()[-1][:2] == (state, 1)

        await until(is_told)
    await until(lambda: not tasks.gate.plane.tasks.submits)
    gc.collect()
    assert not faults
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano) == (0, HALF)


async def test_what_a_poller_found_before_its_submit_gave_up_is_not_to_be_begun_again(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.upstream.cut_submits = True
    refused = Submit._refused

    async def after_recovery(one: Submit) -> tuple[int, bytes]:
        ((owner,),) = tasks.gate.sql("select worker from tasks")
        with tasks.gate.database.write() as connection:
            recover_owners(connection, [bytes(owner)], time.time_ns())
        tasks.upstream.succeed(next(iter(tasks.upstream.tasks)))
        async with tasks.polling():
            await tasks.until("succeeded")
        return await refused(one)

    monkeypatch.setattr(Submit, "_refused", after_recovery)
    reply = await tasks.submit()
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "outcome_unknown")
    assert (len(tasks.upstream.tasks), tasks.gate.books().charged_nano) == (1, HALF)


async def test_tasks_are_asked_about_whose_lease_was_committed_and_not_answered(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are this poller's by their rows, so nobody else would ever ask."""
    monkeypatch.setattr("elkapi.tasks.poller.FAILED_S", 0.01)
    tasks.upstream.succeed((await tasks.submit()).json()["data"]["task_id"])
    write, lost = PollerStorage.write, list[Any]()

    async def unanswered(storage: PollerStorage, change: Any) -> Any:
        done = await write(storage, change)
        if not lost:
            lost.append(done)
            raise Unavailable("the connection was lost while the answer to the commit was waited for")
        return done

    monkeypatch.setattr(PollerStorage, "write", unanswered)
    async with tasks.polling():
        await tasks.until("succeeded")
    assert len(lost[0]) == 1
    assert tasks.gate.closed_books().charged_nano == HALF


async def test_tasks_are_asked_about_whose_poller_was_killed_before_its_first_heartbeat(tasks: Tasks) -> None:
    tasks.upstream.succeed((await tasks.submit()).json()["data"]["task_id"])
    database = tasks.gate.database
    with database.write() as connection:
        assert len(rows.lease(connection, new_id(), 10)) == 1

    async def write(change: Callable[[Connection], int]) -> int:
        with database.write() as connection:
            return change(connection)

    async with tasks.polling():
        await Expiry(write, SYSTEM_CLOCK, notices_keep_s=3600, tasks_keep_s=0).run_once()
        await tasks.until("succeeded")
    assert tasks.gate.closed_books().charged_nano == HALF


async def test_what_a_poller_owns_that_lives_is_nobody_elses(tasks: Tasks) -> None:
    await tasks.submit()
    async with tasks.polling() as poller:
        await until(lambda: len(poller))
        await until(lambda: tasks.gate.sql("select 1 from workers join tasks on tasks.poller = workers.owner"))
        with tasks.gate.database.write() as connection:
            assert rows.release_orphans(connection) == 0


class SetClock(ManualClock):
    """Runs as time does, and is set by `set_s` seconds."""

    set_s = 0.0

    def now_ns(self) -> int:
        return time.time_ns() + round(self.set_s * 1e9)

    def monotonic_s(self) -> float:
        return time.monotonic()


async def test_a_task_is_asked_about_though_the_clock_was_set_back_by_hours(tasks: Tasks) -> None:
    reply = await tasks.submit()
    tasks.upstream.succeed(reply.json()["data"]["task_id"])
    clock = SetClock()
    clock.set_s = -3 * 3600.0
    async with tasks.polling(clock):
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF
    assert (await tasks.gate.account(reply.headers["x-request-id"], tasks.key))["duration_ms"] >= 0


async def test_a_task_is_not_overdue_because_the_clock_was_set(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    clock = SetClock()
    async with tasks.polling(clock) as poller:
        await until(lambda: poller.counts["polls"])
        clock.set_s = 72 * 3600.0
        polls = poller.counts["polls"]
        await until(lambda: poller.counts["polls"] >= polls + 3)
        assert not poller.counts["task_overdue"]
        tasks.upstream.succeed(task_id)
        await tasks.until("succeeded")


async def test_the_same_idempotency_key_begins_one_task(tasks: Tasks) -> None:
    headers = {"idempotency-key": "once"}
    replies = await asyncio.gather(*(tasks.submit(headers=headers) for _ in range(5)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["data"]["task_id"] for reply in replies}) == 1
    assert len(tasks.upstream.tasks) == 1
    assert len(tasks.rows()) == 1


async def test_no_balance_no_task(tasks: Tasks) -> None:
    poor = await tasks.gate.key("0.10")
    reply = await tasks.submit(key=poor)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_user_quota")
    assert not tasks.rows()
    assert not tasks.upstream.requests


async def test_a_follow_up_reaches_the_account_that_made_it(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    async with tasks.polling():
        await tasks.until("succeeded")
    await tasks.gate.channel(
        tasks.upstream.origin, ("kling-video-extend",), family="kling", secrets=("AK9|SK9",), priority=9
    )
    asked = {"video_id": f"v-{task_id}", "prompt": "on"}
    assert (await tasks.call("POST", "/kling/v1/videos/video-extend", asked)).status_code == 200
    first, last = tasks.upstream.headers[0]["authorization"], tasks.upstream.headers[-1]["authorization"]
    assert _issuer(last) == _issuer(first) == "AK"
    reply = await tasks.call("POST", "/kling/v1/videos/video-extend", asked | {"video_id": "v-of-others"})
    assert reply.status_code == 404


async def test_a_result_that_cannot_be_fetched_is_free_and_the_operators_loss(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    tasks.copies.fail = CopyFailed("it is a page", again=False)
    async with tasks.polling():
        await tasks.until("failed")
    assert tasks.rows()[0][2] == "result_unavailable"
    report = tasks.gate.books()
    assert (report.charged_nano, report.loss_nano, report.customers_held_nano) == (0, HALF, 0)


@pytest.mark.parametrize("lost", ["the file", "the answer"])
async def test_a_file_that_its_provider_has_no_longer_when_our_store_is_back_is_the_operators_loss(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr("elkapi.tasks.polls.COPY_AGAIN_FIRST_S", 0.01)
    monkeypatch.setattr("elkapi.tasks.polls.COPY_AGAIN_MAX_S", 0.02)
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    tasks.copies.fail = CopyFailed("the store is away", again=True, ours=True)
    async with tasks.polling(asset_copy_tries_max=3) as poller:
        await until(lambda: poller.counts["copies_failed"] >= 6)
        assert tasks.rows()[0][0] == "running"
        if lost == "the file":
            tasks.copies.fail = CopyFailed("the provider answered 403", again=True)
        else:
            tasks.upstream.tasks[task_id]["task_result"] = {"videos": []}
        await tasks.until("failed")
    assert tasks.rows()[0][2] == {"the file": "result_unavailable", "the answer": "no_result"}[lost]
    report = tasks.gate.books()
    assert (report.charged_nano, report.loss_nano, report.customers_held_nano) == (0, HALF, 0)


async def test_a_fault_of_our_own_at_one_look_leaves_a_task_to_the_next(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, faults = Polls._poll, list[bytes]()

    async def broken(polls: Polls, watched: Watched) -> float | None:
        if len(faults) < 3:
            faults.append(watched.owned.id)
            raise RuntimeError("a bug")
        return await poll(polls, watched)

    monkeypatch.setattr(Polls, "_poll", broken)
    monkeypatch.setattr("elkapi.tasks.poller.backoff_s", lambda watched: watched.failures / 1000)
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    async with tasks.polling() as poller:
        await tasks.until("succeeded")
        # Its place was given back each time.
        await until(lambda: not poller._polling)
    assert len(faults) == 3
    assert tasks.gate.closed_books().charged_nano == HALF


async def test_two_pollers_end_a_task_once(tasks: Tasks) -> None:
    """Guarantee 69."""
    for _ in range(20):
        task_id = (await tasks.submit()).json()["data"]["task_id"]
        tasks.upstream.succeed(task_id)
    async with tasks.polling(), tasks.polling():
        await tasks.until("succeeded", 20)
    assert tasks.gate.books().charged_nano == 20 * HALF


async def test_big_files_keep_nobody_from_asking_about_other_tasks(tasks: Tasks) -> None:
    tasks.copies.go_on.clear()
    first = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(first)
    async with tasks.polling(task_polls_per_channel_max=1):
        await until(lambda: tasks.copies.asked)
        second = (await tasks.submit()).json()["data"]["task_id"]
        tasks.upstream.tasks[second]["task_status"] = "processing"
        await tasks.until("running")
        tasks.copies.go_on.set()
        await tasks.until("succeeded")
    assert len(tasks.copies.asked) == 1


async def test_a_file_that_was_not_there_keeps_its_turn_however_often_its_provider_calls(tasks: Tasks) -> None:
    tasks.upstream.succeed((await tasks.submit()).json()["data"]["task_id"])
    tasks.copies.fail = CopyFailed("not yet", again=True)
    async with tasks.polling() as poller:
        await until(lambda: any(one.copies and not one.running for one in poller._watched.values()))
        (watched,) = poller._watched.values()
        due_s = watched.due_s
        poller._poke(watched.owned.id)
        assert watched.due_s == due_s


async def test_a_call_of_a_provider_that_comes_while_its_task_is_asked_about_asks_once_more(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tasks.submit()
    looks = 0

    async def look(_: Polls, watched: Watched) -> float:
        nonlocal looks
        looks += 1
        if looks == 1:
            poller._poke(watched.owned.id)
        return 1000.0

    monkeypatch.setattr(Polls, "of", look)
    async with tasks.polling(task_poll_every_s=0.01) as poller, asyncio.timeout(10):
        await until(lambda: looks >= 2 and not next(iter(poller._watched.values())).running)
        (watched,) = poller._watched.values()
    assert watched.due_s > SYSTEM_CLOCK.monotonic_s() + 900


async def test_calls_of_a_provider_for_a_task_that_waits_for_its_turn_are_one(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await tasks.submit()
    looked: list[bytes] = []
    go_on = asyncio.Event()

    async def look(_: Polls, watched: Watched) -> float:
        looked.append(watched.owned.id)
        await go_on.wait()
        return 1000.0

    monkeypatch.setattr(Polls, "of", look)
    async with tasks.polling(task_poll_every_s=0.01, task_polls_per_channel_max=1) as poller:
        await until(lambda: any(poller._waiting.values()))
        (waits,) = (one for one in poller._watched.values() if not one.running)
        for _ in range(5):
            poller._poke(waits.owned.id)
            await asyncio.sleep(0.02)
        go_on.set()
        await until(
            lambda: not any(one.running or one.due_s < SYSTEM_CLOCK.monotonic_s() for one in poller._watched.values())
        )
    assert looked == [*(one for one in poller._watched if one != waits.owned.id), waits.owned.id]


async def test_a_burst_of_polls_comes_apart(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look counts from when this one began, so a poll that was late once is not late each time."""
    for _ in range(3):
        await tasks.submit()
    looked: list[Watched] = []
    clock = ManualClock(time.time_ns() + 10**9)

    async def look(_: Polls, watched: Watched) -> float:
        looked.append(watched)
        clock.advance(2.0)
        return 1000.0

    monkeypatch.setattr(Polls, "of", look)
    async with tasks.polling(clock=clock, task_polls_per_channel_max=1):
        await until(lambda: len(looked) >= 3)
    assert sorted(one.due_s for one in looked) == [1000.0, 1002.0, 1004.0]


def _issuer(authorization: str) -> Any:
    import base64
    import json

    payload = authorization.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]


async def test_a_providers_list_holds_what_it_began_and_ours_every_submit(tasks: Tasks) -> None:
    begun = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.submit = lambda body: (400, {"code": 1201, "message": "bad", "request_id": "r"})
    assert (await tasks.submit()).status_code == 400
    listed = (await tasks.call("GET", "/kling/v1/videos/text2video")).json()["data"]
    assert [one["task_id"] for one in listed] == [begun]
    assert [one["status"] for one in (await tasks.call("GET", "/v1/tasks")).json()["data"]] == ["failed", "queued"]


@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_a_list_goes_on_after_a_task_that_was_deleted_meanwhile(tasks: Tasks, order: str) -> None:
    for _ in range(3):
        assert (await tasks.submit()).status_code == 200
    async with tasks.polling():
        for task_id in tuple(tasks.upstream.tasks):
            tasks.upstream.succeed(task_id)
        await tasks.until("succeeded", 3)
    seen, after = [], ""
    while True:
        page = (await tasks.call("GET", f"/v1/tasks?limit=1&order={order}&after={after}")).json()
        for one in page["data"]:
            seen.append(one["native_id"])
            assert (await tasks.call("DELETE", f"/v1/tasks/{one['id']}")).status_code == 200
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert sorted(seen) == sorted(tasks.upstream.tasks)
    assert (await tasks.call("GET", "/v1/tasks?after=nothing")).status_code == 404


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("code", [1302, 1303])
async def test_a_rate_limit_is_one_by_whatever_status_and_code_it_comes(tasks: Tasks, status: int, code: int) -> None:
    tasks.upstream.submit = lambda body: (status, {"code": code, "message": "too fast", "request_id": "r"})
    reply = await tasks.submit()
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "upstream_rate_limited"), reply.text
    assert reply.json()["code"] == 1302
    assert int(reply.headers["retry-after"]) > 0
    assert tasks.gate.books().customers_held_nano == 0


async def test_an_answer_that_says_neither_yes_nor_no_is_no_refusal(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.upstream.tasks["k1"] = {"task_id": "k1", "task_status": "submitted"}
    tasks.upstream.submit = lambda body: (200, {"data": tasks.upstream.tasks["k1"]})
    begun = await tasks.submit()
    assert (begun.status_code, begun.json()["data"]["task_id"]) == (200, "k1")
    tasks.upstream.succeed("k1")
    monkeypatch.setattr(tasks.upstream, "told", {})
    async with tasks.polling():
        await tasks.until("succeeded")
    # Without a task in it, it may have begun one all the same.
    tasks.upstream.submit = lambda body: (200, {"message": "SUCCEED"})
    unclear = await tasks.submit()
    assert (unclear.status_code, unclear.json()["error"]["code"]) == (502, "outcome_unknown"), unclear.text
    assert unclear.headers["x-should-retry"] == "false"
    books = tasks.gate.books()
    assert (books.charged_nano, books.customers_held_nano) == (HALF, HALF)
