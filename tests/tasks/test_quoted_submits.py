"""`POST /v1/quote` of tasks and of chats that are tasks: what is said is what is then held, and nobody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from elkapi.types import Guard, Policy
from tests.canned import canned
from tests.tasks.conftest import MODEL, Tasks
from tests.tasks.test_guarded_submits import nothing_begun

CHAT, VIDEO = "/v1/chat/completions", "/kling/v1/videos/text2video"
SAID: list[Any] = [{"role": "user", "content": "a dog"}]
ASKED: dict[str, Mapping[str, Any]] = {
    VIDEO: {"model_name": MODEL, "prompt": "a dog"},
    "/v1/tasks": {"model": "nick", "input": {"prompt": "a dog", "seconds": 5}},
    CHAT: {"model": MODEL, "messages": SAID, "stream": True},
}


async def quoted(tasks: Tasks, path: str, body: Any, key: str) -> Any:
    return await tasks.call("POST", "/v1/quote", {"path": path, "body": body}, key=key)


@pytest.mark.parametrize("path", ASKED)
async def test_a_task_holds_what_was_quoted(tasks: Tasks, path: str) -> None:
    await tasks.gate.group("default", 1_500_000)
    key = await tasks.gate.key("0.75", policy=Policy(aliases={"nick": MODEL}))
    first = await quoted(tasks, path, ASKED[path], key)
    assert first.status_code == 200, first.text
    said = first.json()
    nothing_begun(tasks)
    assert tasks.gate.sql("select count(*) from requests")[0][0] == 0
    assert (said["object"], said["operation"], said["model"]) == ("quote", "kling.text-to-video", MODEL)
    assert said.get("asked_model") == ("nick" if path == "/v1/tasks" else None)
    assert (said["hold_usd"], said["covered"], said["fallbacks"]) == ("0.75", True, [])
    tasks.upstream.submit = lambda body: (400, {"code": 1301, "message": "no"}) if path == CHAT else (0, None)
    await tasks.call("POST", path, ASKED[path], key=key)
    (held,) = tasks.gate.sql("select nano from transfers where kind = 'hold'")
    assert held[0] == said["hold_nano_usd"] == said["most_nano_usd"]
    if path != CHAT:
        assert (await quoted(tasks, path, ASKED[path], key)).json()["covered"] is False
        assert (await tasks.call("POST", path, ASKED[path], key=key)).status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (VIDEO, {"model_name": MODEL, "prompt": "xyzzy"}),
        (VIDEO, {"model_name": "nobody", "prompt": "x"}),
        (VIDEO, {"model_name": MODEL, "prompt": "x", "duration": "long"}),
        (VIDEO, {"model_name": MODEL, "prompt": "x", "callback_url": "ftp://x.test"}),
        ("/kling/v1/videos/video-extend", {"video_id": "v-unknown", "prompt": "x"}),
        ("/v1/tasks", {"model": MODEL}),
        (CHAT, {"model": MODEL, "messages": [{"role": "user", "content": "xyzzy"}]}),
        (CHAT, {"model": MODEL, "messages": [{"role": "user"}]}),
    ],
)
async def test_a_quote_is_refused_as_the_submit_itself(tasks: Tasks, path: str, body: Any) -> None:
    await tasks.gate.guard(Guard(name="no-magic", kind="words", words=("xyzzy",)))
    key = await tasks.gate.key("5", policy=Policy(guards=("no-magic",)))
    reply = await quoted(tasks, path, body, key)
    records = tasks.gate.sql("select count(*) from requests")[0][0]
    itself = await tasks.call("POST", path, body, key=key)
    assert records == 0
    assert reply.status_code == itself.status_code >= 400
    told = itself.json()
    message = told["error"]["message"] if "error" in told else told["message"]
    # Each names its own call behind the words.
    assert reply.json()["error"]["message"].split(" (request")[0] == message.split(" (request")[0]
    nothing_begun(tasks)


async def test_a_quote_does_not_ask_the_callbacks_address(tasks: Tasks) -> None:
    path, model = "/minimax/v1/video_generation", "MiniMax-Hailuo-02"
    async with canned(200, {}) as upstream, canned(400, {}) as callback:
        await tasks.gate.channel(upstream.url, (model,), family="minimax", secrets=("sk",))
        await tasks.gate.price(model, per_call_usd="0.50")
        body = {"model": model, "prompt": "a dog", "callback_url": callback.url}
        reply = await quoted(tasks, path, body, tasks.key)
        assert (reply.status_code, callback.bodies) == (200, []), reply.text
        # The submit itself does, and is refused where it is not wanted.
        await tasks.call("POST", path, body)
        assert (len(callback.bodies), upstream.bodies) == (1, [])
    nothing_begun(tasks)


async def test_what_holds_nothing_has_no_quote(tasks: Tasks) -> None:
    reply = await quoted(tasks, "/v1/tasks/task_1/cancel", {}, tasks.key)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "path")
