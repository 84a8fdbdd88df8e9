"""A chat with a model that makes videos, by the official openai package: told as it moves, billed as the task."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from elkapi.admin.context import Admin
from elkapi.admin.explain import Question, explain
from elkapi.money import parse_usd
from elkapi.storage.repos import keys
from tests.canned import canned
from tests.tasks.conftest import MODEL, Tasks
from tests.waiting import until

HALF = parse_usd("0.50")
ASKED: list[Any] = [{"role": "user", "content": "a dog --ratio 9:16 --dur 10"}]
_LINK = re.compile(r"\[video\]\((\S+)\)")


@pytest.fixture(autouse=True)
def followed_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elkapi.relay.task_store.FOLLOW_S", 0.01)


@pytest.fixture
async def client(tasks: Tasks) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key=tasks.key, base_url=tasks.gate.origin + "/v1", max_retries=0) as client:
        yield client


def succeed_at_once(tasks: Tasks) -> None:
    """Every submit is accepted, and made by its first poll."""

    def submit(body: dict[str, Any]) -> tuple[int, Any]:
        asyncio.get_running_loop().call_soon(lambda: tasks.upstream.succeed(max(tasks.upstream.tasks)))
        return 0, None

    tasks.upstream.submit = submit


async def one_task(tasks: Tasks) -> str:
    """The provider's id of the task that it was asked for."""
    return max(await until(lambda: tasks.upstream.tasks))


async def test_a_whole_answer_ends_in_the_link_and_is_billed_as_the_task(tasks: Tasks, client: AsyncOpenAI) -> None:
    succeed_at_once(tasks)
    async with tasks.polling():
        raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=ASKED)
    content = raw.parse().choices[0].message.content or ""
    link = _LINK.findall(content)[-1]
    assert link.startswith(tasks.gate.origin + "/v1/assets/")
    body = tasks.upstream.requests[0][2]
    assert (body["prompt"], body["aspect_ratio"], body["duration"]) == ("a dog", "9:16", "10")
    ours = raw.headers["x-request-id"].replace("req_", "task_")
    assert ours in content
    assert raw.headers["x-elkapi-cost-usd"] == "0.50"
    shown = (await tasks.call("GET", f"/v1/tasks/{ours}")).json()
    assert (shown["status"], shown["model"]) == ("succeeded", MODEL)
    assert (await tasks.call("GET", f"/v1/videos/{ours}")).json()["status"] == "completed"
    report = tasks.gate.books()
    assert (report.charged_nano, report.customers_held_nano) == (HALF, 0)


async def test_a_stream_tells_progress_and_then_the_link(tasks: Tasks, client: AsyncOpenAI) -> None:
    async with tasks.polling():
        stream = await client.chat.completions.create(
            model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        told, usage, reason = "", None, None
        task_id = await one_task(tasks)
        tasks.upstream.tasks[task_id]["task_status"] = "processing"
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                told += choice.delta.content or ""
                reason = choice.finish_reason or reason
            if "running" in told:
                tasks.upstream.succeed(task_id)
    lines = told.splitlines()
    assert lines[0].startswith("> task: `task_")
    assert "> running" in lines
    assert _LINK.search(lines[-1])
    assert reason == "stop"
    assert usage is not None
    assert usage.total_tokens > 0
    assert tasks.gate.books().charged_nano == HALF


async def test_a_proxy_on_the_way_is_asked_not_to_collect_what_a_task_tells(tasks: Tasks) -> None:
    succeed_at_once(tasks)
    async with tasks.polling():
        chat = await tasks.call("POST", "/v1/chat/completions", {"model": MODEL, "messages": ASKED, "stream": True})
    task_id = chat.headers["x-request-id"].replace("req_", "task_")
    for followed in (chat, await tasks.call("GET", f"/v1/tasks/{task_id}/events")):
        assert followed.headers["content-type"].startswith("text/event-stream")
        assert followed.headers["x-accel-buffering"] == "no"


async def test_a_refusal_before_anything_was_sent_is_an_http_error(tasks: Tasks, client: AsyncOpenAI) -> None:
    tasks.upstream.submit = lambda body: (400, {"code": 1301, "message": "unsafe", "request_id": "r"})
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="unsafe"):
            await client.chat.completions.create(model=MODEL, messages=ASKED, stream=stream)
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano) == (0, 0)


async def test_a_task_that_fails_is_free_and_an_error(tasks: Tasks, client: AsyncOpenAI) -> None:
    async with tasks.polling():
        waiting = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        tasks.upstream.fail(await one_task(tasks))
        with pytest.raises(openai.InternalServerError, match="risk control"):
            await waiting
        stream = await client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        tasks.upstream.fail(max(tasks.upstream.tasks))
        with pytest.raises(openai.APIError, match="risk control"):
            [chunk async for chunk in stream]
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano) == (0, 0)


async def test_a_client_begins_no_other_task_by_itself_where_one_failed(tasks: Tasks) -> None:
    def submit(body: dict[str, Any]) -> tuple[int, Any]:
        asyncio.get_running_loop().call_soon(lambda: tasks.upstream.fail(max(tasks.upstream.tasks)))
        return 0, None

    tasks.upstream.submit = submit
    async with AsyncOpenAI(api_key=tasks.key, base_url=tasks.gate.origin + "/v1") as client, tasks.polling():
        with pytest.raises(openai.InternalServerError, match="risk control") as failed:
            await client.chat.completions.create(model=MODEL, messages=ASKED)
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert len(tasks.upstream.tasks) == 1


async def test_a_stream_of_a_failed_task_ends_in_done(tasks: Tasks) -> None:
    async with tasks.polling():
        asked = {"model": MODEL, "messages": ASKED, "stream": True}
        waiting = asyncio.create_task(tasks.call("POST", "/v1/chat/completions", asked))
        tasks.upstream.fail(await one_task(tasks))
        frames = (await waiting).text.strip().split("\n\n")
    assert "> failed: risk control" in frames[-3]
    assert '"error"' in frames[-2]
    assert frames[-1] == "data: [DONE]"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_caller_who_leaves_ends_nothing(tasks: Tasks, streamed: bool) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "stream": streamed}
    waiting = asyncio.create_task(tasks.call("POST", "/v1/chat/completions", asked))
    task_id = await one_task(tasks)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert tasks.rows()[0][0] == "queued"
    tasks.upstream.succeed(task_id)
    async with tasks.polling():
        await tasks.until("succeeded")
    assert tasks.gate.books().charged_nano == HALF


async def test_an_empty_balance_is_refused_before_anything_is_asked(tasks: Tasks) -> None:
    poor = await tasks.gate.key("0.10")
    asked = {"model": MODEL, "messages": ASKED, "stream": True}
    reply = await tasks.call("POST", "/v1/chat/completions", asked, key=poor)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_user_quota")
    assert tasks.upstream.requests == []


async def test_who_goes_on_from_a_video_comes_to_its_account(tasks: Tasks, client: AsyncOpenAI) -> None:
    succeed_at_once(tasks)
    for number in range(2, 6):
        await tasks.gate.channel(tasks.upstream.origin, (MODEL,), family="kling", secrets=(f"AK{number}|SK",))
    async with tasks.polling():
        first = await client.chat.completions.create(model=MODEL, messages=ASKED)
        said: Any = {"role": "assistant", "content": first.choices[0].message.content}
        further = [*ASKED, said, {"role": "user", "content": "now at night"}]
        for _ in range(3):
            await client.chat.completions.create(model=MODEL, messages=further)
    places = tasks.gate.sql("select distinct channel_id, channel_key_id from tasks")
    assert len(places) == 1


async def test_the_same_idempotency_key_tells_of_one_task(tasks: Tasks, client: AsyncOpenAI) -> None:
    succeed_at_once(tasks)
    once = {"Idempotency-Key": "once"}
    async with tasks.polling():
        first = await client.chat.completions.create(model=MODEL, messages=ASKED, extra_headers=once)
        again = await client.chat.completions.create(model=MODEL, messages=ASKED, extra_headers=once)
    assert first.id == again.id
    assert len(tasks.upstream.tasks) == 1


async def test_a_name_that_nothing_serves_is_refused_as_ever(tasks: Tasks) -> None:
    reply = await tasks.call("POST", "/v1/chat/completions", {"model": "nobody", "messages": ASKED})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "model_not_found"


async def test_an_account_of_texts_and_videos_takes_each_for_what_it_is(tasks: Tasks) -> None:
    """OpenAI's accounts have both wires: a chat with sora is a task, so its body must not go to the chat route."""
    await tasks.gate.channel(tasks.upstream.origin, ("sora-2",), family="openai", secrets=("sk",))
    await tasks.gate.price("sora-2", per_call_usd="0.50")
    await tasks.call("POST", "/v1/chat/completions", {"model": "sora-2", "messages": ASKED})
    assert [one[:2] for one in tasks.upstream.requests] == [("POST", "/v1/videos")]
    body = tasks.upstream.requests[0][2]
    assert (body["prompt"], body["seconds"]) == ("a dog", "10")


@pytest.mark.parametrize("fail", [{}, {"first": "503"}, {"first": "504"}, {"first": "400"}, {"first": "garbage"}])
async def test_g60_the_dry_run_of_a_chat_that_makes_a_video_tells_what_then_happens(
    tasks: Tasks, fail: dict[str, str]
) -> None:
    succeed_at_once(tasks)
    async with contextlib.AsyncExitStack() as stack:
        for name, what in fail.items():
            met = canned(200, "no") if what == "garbage" else canned(int(what), {"error": {"message": "no"}})
            url = (await stack.enter_async_context(met)).url
            await tasks.gate.channel(url, (MODEL,), name=name, priority=9, family="kling", secrets=("AK|SK",))
        with tasks.gate.database.read() as connection:
            (row,) = keys.list_keys(connection)
        said = explain(Admin(tasks.gate.installation, "test"), Question(key=row.name, model=MODEL, fail=fail))
        async with tasks.polling():
            reply = await tasks.call("POST", "/v1/chat/completions", {"model": MODEL, "messages": ASKED})
    if "outcome_unknown" not in (said.told or ""):
        # One of unknown fate has no record before its provider was asked for it.
        account = await tasks.gate.account(reply.headers["x-request-id"], tasks.key)
        assert [step.outcome for step in said.steps] == [one["outcome"] for one in account["attempts"]]
    assert len(said.steps) == len(fail) + (said.answered_by is not None)
    assert said.operation == "kling.text-to-video"
    assert "a chat with this model is a task" in said.notes[0]
    if said.answered_by is not None:
        assert (reply.status_code, said.answered_by) == (200, MODEL)
        return
    assert said.told is not None
    assert said.told.startswith(f"{reply.status_code} {reply.json()['error']['code'] or 'upstream'}")


async def test_the_dry_run_of_a_chat_tells_what_is_missing(tasks: Tasks) -> None:
    await tasks.gate.channel(tasks.upstream.origin, ("kling-v2",), family="kling", secrets=("AK|SK",))
    admin = Admin(tasks.gate.installation, "test")
    assert (explain(admin, Question(model="kling-v2")).told or "").startswith("503 model_price_error")
    assert (explain(admin, Question(model="nobody")).told or "").startswith("503 model_not_found")
