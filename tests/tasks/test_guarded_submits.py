"""Guardrails on submits of tasks: a mask reaches the provider, a block begins nothing, in every form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from elkapi.types import Guard, Policy
from tests.canned import canned
from tests.tasks.conftest import MODEL, Tasks

WORD, MAIL = "xyzzy", "jane@example.com"
BLOCKING = Guard(name="no-magic", kind="words", words=(WORD, "pro"))
MASKING = Guard(name="no-mail", kind="pii", find=("email", "card"), action="mask")
OUTPUT = Guard(name="no-words-out", kind="words", words=("dog",), direction="output")
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": f"a dog {WORD}"}]}
# path -> (a body that says the word, where the caller's error has its message)
BLOCKED: dict[str, tuple[Mapping[str, Any], str]] = {
    "/kling/v1/videos/text2video": ({"model_name": MODEL, "prompt": f"a {WORD}"}, "message"),
    "/kling/v1/videos/image2video": (
        {"model_name": MODEL, "image": "https://x.test/a", "negative_prompt": WORD, "mode": "pro"},
        "message",
    ),
    "/v1/tasks": ({"model": MODEL, "input": {"prompt": WORD}}, "error.message"),
    "/v1/videos": ({"model": MODEL, "prompt": WORD}, "error.message"),
    "/v1/video/generations": ({"model": MODEL, "prompt": "x", "metadata": {"style": WORD}}, "error.message"),
    "/v1/video/create": ({"model": MODEL, "prompt": WORD}, "error.message"),
    "/v1/chat/completions": (CHAT, "error.message"),
}


async def guarded(tasks: Tasks, *guards: Guard, **policy: Any) -> str:
    for guard in guards:
        await tasks.gate.guard(guard)
    return await tasks.gate.key("10", policy=Policy(guards=tuple(one.name for one in guards), **policy))


def nothing_begun(tasks: Tasks) -> None:
    assert tasks.upstream.requests == []
    assert tasks.rows() == []
    assert tasks.gate.sql("select count(*) from transfers where kind = 'hold'")[0][0] == 0
    assert tasks.gate.books().customers_held_nano == 0


@pytest.mark.parametrize("path", BLOCKED)
async def test_a_blocked_submit_is_free_begins_nothing_and_leaves_a_record(tasks: Tasks, path: str) -> None:
    key = await guarded(tasks, BLOCKING)
    body, where = BLOCKED[path]
    reply = await tasks.call("POST", path, body, key=key)
    assert reply.status_code == 400, reply.text
    said = reply.json()
    for name in where.split("."):
        said = said[name] if isinstance(said, dict) and name in said else said
    assert "content_blocked by the guardrail 'no-magic'" in str(said)
    nothing_begun(tasks)
    account = await tasks.gate.account(reply.headers["x-request-id"], key)
    assert (account["status"], account["error_code"], account["guard"]) == (400, "content_blocked", "no-magic")
    assert (account["model"], account["attempts"], account["held_usd"]) == (MODEL, [], "0.00")
    assert account["ledger"] == []
    assert not any(WORD.encode() in bytes(row[0]) for row in tasks.gate.sql("select record from requests"))
    if body is not CHAT:
        plain = await tasks.call("POST", path, body)
        assert plain.status_code == 200, plain.text
        assert tasks.upstream.requests


async def test_a_mask_changes_what_the_provider_receives_and_what_is_kept(tasks: Tasks) -> None:
    key = await guarded(tasks, MASKING)
    asked = {
        "model_name": MODEL,
        "prompt": f"write {MAIL}",
        "image_list": [{"image": f"https://x.test/{MAIL}"}],
        "mode": "pro",
        "voice_id": "4111111111111111",
        "x_unknown": {"deep": [f"ask {MAIL}", 2.5]},
    }
    reply = await tasks.submit(asked, key=key)
    assert reply.status_code == 200, reply.text
    sent = tasks.upstream.requests[0][2]
    assert sent["prompt"] == "write [EMAIL]"
    assert sent["x_unknown"] == {"deep": ["ask [EMAIL]", 2.5]}
    for name in ("image_list", "mode", "voice_id"):
        assert sent[name] == asked[name]
    body = {"model": MODEL, "input": {"prompt": f"for {MAIL}", "seconds": 5}}
    ours = await tasks.call("POST", "/v1/tasks", body, key=key)
    assert tasks.upstream.requests[1][2]["prompt"] == "for [EMAIL]"
    shown = await tasks.call("GET", f"/v1/tasks/{ours.json()['id']}", key=key)
    assert MAIL not in shown.text


async def test_a_member_that_stands_twice_hides_nothing(tasks: Tasks) -> None:
    key = await guarded(tasks, MASKING)
    body = b'{"model_name":"%b","prompt":"for %b","prompt":"a dog"}' % (MODEL.encode(), MAIL.encode())
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    raw = await tasks.gate.http.post("/kling/v1/videos/text2video", content=body, headers=headers)
    assert raw.status_code == 400, raw.text
    assert "`prompt` twice" in raw.text
    nothing_begun(tasks)


async def test_a_form_is_looked_at_like_json(tasks: Tasks) -> None:
    async with canned(200, {"id": "video_1", "object": "video", "status": "queued"}) as upstream:
        await tasks.gate.channel(upstream.url, ("sora-2",), family="openai", secrets=("sk",))
        await tasks.gate.price("sora-2", per_call_usd="0.50")
        key = await guarded(tasks, BLOCKING, MASKING)
        headers = {"authorization": f"Bearer {key}"}

        async def post(**fields: str) -> Any:
            files = {name: (None, value) for name, value in {"model": "sora-2", **fields}.items()}
            return await tasks.gate.http.post("/v1/videos", files=files, headers=headers)

        blocked = await post(prompt=f"a {WORD}")
        assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_blocked")
        assert upstream.bodies == []
        assert (await post(prompt=f"for {MAIL}")).status_code == 200
        assert b"for [EMAIL]" in upstream.bodies[0]
        assert MAIL.encode() not in upstream.bodies[0]
        assert (await post(prompt="a dog")).status_code == 200
        assert b'name="prompt"' in upstream.bodies[1]


async def test_a_part_of_a_form_that_says_it_is_something_else_is_read_as_its_text(tasks: Tasks) -> None:
    key = await guarded(tasks, BLOCKING)
    part = b'--B\r\nContent-Disposition: form-data; name="%b"\r\nContent-Type: %b\r\n\r\n%b\r\n'
    model = part % (b"model", b"text/plain", MODEL.encode())
    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=B"}
    for kind, prompt, code in (
        (b"application/json", WORD.encode(), "content_blocked"),
        (b"image/png", WORD.encode(), "content_blocked"),
        (b"text/plain; charset=utf-16", WORD.encode("utf-16"), "invalid_multipart_form"),
    ):
        body = model + part % (b"prompt", kind, prompt) + b"--B--"
        reply = await tasks.gate.http.post("/v1/videos", content=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, code), reply.text
    twice = model + part % (b"prompt", b"", WORD.encode()) + part % (b"prompt", b"", b"a dog") + b"--B--"
    reply = await tasks.gate.http.post("/v1/videos", content=twice, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "duplicate_field")
    nothing_begun(tasks)


async def test_a_hook_sees_the_texts_of_a_submit_and_replaces_them(tasks: Tasks) -> None:
    async with canned(200, {"action": "replace", "texts": ["a cat"]}) as hook:
        key = await guarded(tasks, Guard(name="ask-us", kind="hook", url=hook.url, secret="s" * 32))
        assert (await tasks.submit(key=key)).status_code == 200
    assert tasks.upstream.requests[0][2]["prompt"] == "a cat"
    asked = hook.bodies[0]
    assert b'"texts":["a dog"]' in asked
    assert b'"operation":"kling.text-to-video","model":"%b"' % MODEL.encode() in asked


@pytest.mark.parametrize(("when_down", "status"), [("closed", 503), ("open", 200)])
async def test_a_hook_that_is_down_is_closed_or_open(tasks: Tasks, when_down: Any, status: int) -> None:
    async with canned(500, {}) as hook:
        guard = Guard(name="ask-us", kind="hook", url=hook.url, secret="s" * 32, when_down=when_down)
        key = await guarded(tasks, guard)
        reply = await tasks.submit(key=key)
    assert reply.status_code == status, reply.text
    if status == 200:
        assert len(tasks.rows()) == 1
        return
    nothing_begun(tasks)
    account = await tasks.gate.account(reply.headers["x-request-id"], key)
    assert (account["status"], account["error_code"], account.get("guard")) == (503, "guardrail_unavailable", None)


async def test_a_guardrail_that_is_gone_closes_and_one_of_the_output_does_not_apply(tasks: Tasks) -> None:
    gone = await tasks.gate.key("10", policy=Policy(guards=("nobody",)))
    reply = await tasks.submit(key=gone)
    assert reply.status_code == 503
    assert "guardrail" in reply.text
    nothing_begun(tasks)
    assert (await tasks.submit(key=await guarded(tasks, OUTPUT))).status_code == 200


async def test_a_blocked_submit_does_not_ask_the_callbacks_address(tasks: Tasks) -> None:
    key = await guarded(tasks, BLOCKING)
    async with canned(200, {}) as upstream, canned(200, {}) as callback:
        await tasks.gate.channel(upstream.url, ("MiniMax-Hailuo-02",), family="minimax", secrets=("sk",))
        await tasks.gate.price("MiniMax-Hailuo-02", per_call_usd="0.50")
        body = {"model": "MiniMax-Hailuo-02", "prompt": WORD, "callback_url": callback.url}
        reply = await tasks.call("POST", "/minimax/v1/video_generation", body, key=key)
        assert "content_blocked" in reply.text
        assert callback.bodies == upstream.bodies == []
    nothing_begun(tasks)
