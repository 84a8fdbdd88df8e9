"""What is kept of calls that cost nothing has an end for each key: its answers go on, and so do paid ones' keeping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elkapi.clock import ManualClock
from elkapi.relay.free_kept import DAY_NS, ROW_BYTES, FreeKept
from tests.canned import canned
from tests.gateway import gateway
from tests.text_calls import ask

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
        flags = []
        for _ in range(2):
            reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            assert reply.status_code == 200
            flags.append((await gate.account(reply.headers["x-request-id"], key))["flags"])
        assert flags == [[], ["not_stored"]]
