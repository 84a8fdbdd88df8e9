"""A caller's receiver hears of every change of its task, in the shape of the route, after it is true (guarantee 72)."""

from __future__ import annotations

import gc
import time
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from elkapi.admin import webhooks
from elkapi.admin.context import Admin
from elkapi.clock import ManualClock
from tests.receiver import OK, Received, receiving
from tests.storage.test_notify import sending
from tests.tasks.conftest import MODEL, Tasks


async def test_a_receiver_hears_of_each_change_once_it_is_true_in_the_words_of_the_route(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    stood: list[tuple[str, str]] = []

    def says(event: Received) -> bytes:
        """At the moment of an event, our own state: it must be the one that the event tells of."""
        stood.append((msgspec.json.decode(event.body)["task_status"], tasks.rows()[0][0]))
        return OK

    installation = tasks.gate.installation
    async with receiving(says) as receiver, sending(installation.settings, ManualClock(time.time_ns())) as sender:
        asked = {"model_name": MODEL, "prompt": "a dog", "callback_url": receiver.url}
        reply = await tasks.submit(asked)
        assert reply.status_code == 200, reply.text
        task_id = reply.json()["data"]["task_id"]
        assert receiver.url not in str(tasks.upstream.requests)
        async with tasks.polling():
            tasks.upstream.tasks[task_id]["task_status"] = "processing"
            await tasks.until("running")
            sender.clock.advance(60)
            await sender.job.run_once()
            tasks.upstream.succeed(task_id)
            await tasks.until("succeeded")
        sender.clock.advance(60)
        await sender.job.run_once()
    assert stood == [("processing", "running"), ("succeed", "succeeded")]
    admin = Admin(installation, "test")
    secret = webhooks.tell_secret(admin, str(webhooks.list_notices(admin)[0].key_id)).secret
    bodies: list[Any] = [Webhook(secret).verify(event.body, event.headers) for event in receiver.got]
    assert [body["task_id"] for body in bodies] == [task_id] * 2
    assert bodies[1]["task_result"]["videos"][0]["url"].startswith(f"{tasks.gate.origin}/v1/assets/")
    assert tasks.upstream.origin.encode() not in receiver.got[1].body
    assert len({event.id for event in receiver.got}) == 2
    assert {row.state for row in webhooks.list_notices(admin)} == {"delivered"}
    gc.collect()  # A task that failed unseen is logged when it is forgotten.
    assert "never retrieved" not in caplog.text


async def test_an_address_that_cannot_be_called_is_refused_before_anything_is_held(tasks: Tasks) -> None:
    asked = {"model_name": MODEL, "prompt": "a dog", "callback_url": "ftp://hooks.example.test/"}
    reply = await tasks.submit(asked)
    assert reply.status_code == 400
    assert "callback_url" in reply.text
    assert not tasks.upstream.requests
    assert not tasks.rows()


async def test_a_task_without_an_address_tells_nobody(tasks: Tasks) -> None:
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    async with tasks.polling():
        await tasks.until("succeeded")
    assert tasks.gate.sql("select count(*) from notices")[0][0] == 0


@pytest.mark.parametrize(
    ("path", "body", "where", "words"),
    [
        ("/sora/v1/videos", {"prompt": "a dog"}, "notify_hook", {"IN_PROGRESS", "SUCCESS"}),
        ("/v1/task/submit", {"input": {"prompt": "a dog"}}, "callback_url", {"in_progress", "completed"}),
    ],
)
async def test_a_form_of_ours_is_told_in_its_own_shape(
    tasks: Tasks, path: str, body: dict[str, Any], where: str, words: set[str]
) -> None:
    installation = tasks.gate.installation
    async with (
        receiving(lambda event: OK) as receiver,
        sending(installation.settings, ManualClock(time.time_ns())) as sender,
    ):
        reply = await tasks.call("POST", path, {"model": MODEL, **body, where: receiver.url})
        assert reply.status_code == 200, reply.text
        (task_id,) = tasks.upstream.tasks
        async with tasks.polling():
            tasks.upstream.tasks[task_id]["task_status"] = "processing"
            await tasks.until("running")
            tasks.upstream.succeed(task_id)
            await tasks.until("succeeded")
        sender.clock.advance(60)
        await sender.job.run_once()
        sender.clock.advance(60)
        await sender.job.run_once()
    told = [msgspec.json.decode(event.body) for event in receiver.got]
    assert {one["status"] for one in told} == words
    assert {one.get("id") or one["task_id"] for one in told} == {reply.json().get("id") or reply.json()["data"]}


@pytest.mark.parametrize(
    ("family", "model", "path", "body", "failed"),
    [
        (
            "runway",
            "gen4_turbo",
            "/runwayml/v1/image_to_video",
            {"model": "gen4_turbo", "promptImage": "https://img.example.test/a.png", "ratio": "1280:720"},
            {"id": "r1", "status": "FAILED", "createdAt": "2026-01-01T00:00:00.000Z", "failure": "no"},
        ),
        (
            "pika",
            "pika-1.5",
            "/pika/generate",
            {"promptText": "a dog", "model": "1.5", "options": {"parameters": {}, "extend": False}},
            {"id": "r1", "promptText": "a dog", "videos": [{"id": "r1", "status": "error", "error": "no"}]},
        ),
    ],
)
async def test_a_provider_that_calls_nobody_back_is_told_no_address_and_its_caller_is_called_by_us(
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    model: str,
    path: str,
    body: dict[str, Any],
    failed: dict[str, Any],
) -> None:
    await tasks.gate.channel(tasks.upstream.origin, (model,), family=family, secrets=("key_1",))
    await tasks.gate.price(model, per_call_usd="0.10")
    came: list[Any] = []

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        came.append(body)
        return 200, {"id": "r1"} if method == "POST" else failed

    monkeypatch.setattr(tasks.upstream, "answer", answer)
    installation = tasks.gate.installation
    async with (
        receiving(lambda event: OK) as receiver,
        sending(installation.settings, ManualClock(time.time_ns())) as sender,
    ):
        reply = await tasks.call("POST", path, {**body, "callback_url": receiver.url})
        assert reply.status_code == 200, reply.text
        assert came == [body]
        async with tasks.polling():
            await tasks.until("failed")
        sender.clock.advance(60)
        await sender.job.run_once()
    (told,) = [msgspec.json.decode(event.body) for event in receiver.got]
    if family == "runway":
        assert (told["id"], told["status"], told["failure"]) == ("r1", "FAILED", "no")
    else:
        assert (told["type"], told["data"]["error"]["message"]) == ("task.failed", "no")
