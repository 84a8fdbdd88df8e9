"""What is kept of calls that cost nothing has an end for each key: its answers go on, and so do paid ones' keeping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elkapi.clock import ManualClock
from elkapi.relay.free_kept import DAY_NS, ROW_BYTES, FreeKept
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.scripted import frames_of
from tests.text_calls import ask, events
from tests.waiting import until

MODEL = "gpt-4o"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 3000}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def test_a_days_account_is_a_keys_own_and_begins_anew() -> None:
    clock = ManualClock(1_800_000_000_000_000_000 // DAY_NS * DAY_NS)
    kept = FreeKept(2 * ROW_BYTES + 20, clock)
    assert [kept.take(1, 10) for _ in range(3)] == [True, True, False]
    assert kept.take(2, 10)
    assert kept.until_next_day_s() == 86_401
    clock.advance(86_400)
    assert kept.take(1, 10)


@pytest.mark.parametrize("paid", [False, True], ids=["free", "paid"])
async def test_a_free_answer_above_what_is_kept_in_a_day_is_not_repeated(tmp_path: Path, paid: bool) -> None:
    async with canned(200, ANSWER) as upstream, gateway(tmp_path, free_kept_bytes_max=6_000) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="1" if paid else "0")
        key, asked = await gate.key("1"), ask("chat", MODEL, "hello")
        codes: list[Any] = []
        for name in ("a", "a", "b", "b"):
            headers = {**asked.headers, "idempotency-key": name}
            reply = await gate.ask(key, asked.body, path=asked.path, headers=headers)
            codes.append(reply.json().get("error", {}).get("code", reply.headers.get("idempotent-replayed")))
        assert codes == [None, "true", None, "true" if paid else "idempotent_replay_unavailable"]
        assert len(upstream.bodies) == 2


async def test_a_free_answer_above_what_is_kept_in_a_day_is_not_stored(tmp_path: Path) -> None:
    async with canned(200, ANSWER) as upstream, gateway(tmp_path, free_kept_bytes_max=6_000) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="0")
        key, asked = await gate.key("1"), ask("chat", MODEL, "hello", store=True)
        flags, there = [], []
        for _ in range(2):
            reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            assert reply.status_code == 200
            flags.append((await gate.account(reply.headers["x-request-id"], key))["flags"])
            mine = {"authorization": f"Bearer {key}"}
            there.append((await gate.http.get(f"{asked.path}/{reply.json()['id']}", headers=mine)).status_code)
        assert (flags, there) == ([[], ["not_stored"]], [200, 404])


INPUT_BYTES = 50_000
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": MODEL,
    "output": [],
    "usage": {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10},
}


async def in_background(gate: Gateway, key: str, **more: Any) -> Any:
    body = {"model": MODEL, "input": "x" * INPUT_BYTES, "background": True, **more}
    return await gate.ask(key, body, path="/v1/responses")


def kept_bytes(gate: Gateway) -> int:
    ((objects,),) = gate.sql("select coalesce(sum(length(sealed)), 0) from stored_objects")
    ((frames,),) = gate.sql("select coalesce(sum(length(sealed)), 0) from stored_events")
    return int(objects + frames)


async def test_a_free_response_above_what_is_kept_in_a_day_is_not_begun_in_the_background(tmp_path: Path) -> None:
    """All that its caller would have of it is what is kept, and what it was asked is kept before it is made."""
    async with canned(200, RESPONSE) as upstream, gateway(tmp_path, free_kept_bytes_max=3 * INPUT_BYTES) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="0")
        key = await gate.key("1")
        replies = [await in_background(gate, key) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 429, 429]
        assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(replies[-1].headers["retry-after"]) <= 86_401
        assert kept_bytes(gate) < 3 * INPUT_BYTES
        assert (await in_background(gate, await gate.key("1"))).status_code == 200


async def test_all_frames_of_a_free_stream_count_to_what_is_kept_in_a_day(tmp_path: Path) -> None:
    frames = b"".join(frames_of("responses-text"))
    async with canned(200, RESPONSE, frames) as upstream, gateway(tmp_path, free_kept_bytes_max=30_000) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="0")
        key, states = await gate.key("1"), list[Any]()
        for _ in range(20):
            reply = await in_background(gate, key, input="hi", stream=True)
            states.append(events(reply.text)[-1]["type"] if reply.status_code == 200 else reply.status_code)
        assert (states[0], states[-1]) == ("response.completed", 429)
        assert kept_bytes(gate) < 30_000


async def test_what_is_asked_of_responses_that_fail_is_kept_no_longer_than_there_is_room(tmp_path: Path) -> None:
    """They are free as well, whatever their model costs: nothing else would end them before the disk."""
    no = {"error": {"message": "no", "type": "x"}}
    async with canned(400, no) as upstream, gateway(tmp_path, free_kept_bytes_max=3 * INPUT_BYTES) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1")
        for number in range(1, 7):
            made = (await in_background(gate, key)).json()
            await until(lambda: gate.sql("select count(*) from stored_objects where status = 'failed'") == [(number,)])  # noqa: B023
        assert 2 * INPUT_BYTES < kept_bytes(gate) < 3 * INPUT_BYTES
        headers = {"authorization": f"Bearer {key}"}
        found = (await gate.http.get(f"/v1/responses/{made['id']}", headers=headers)).json()
        assert (found["status"], found["error"]["code"]) == ("failed", "invalid_prompt")
        items = (await gate.http.get(f"/v1/responses/{made['id']}/input_items", headers=headers)).json()
        assert items["data"] == []
