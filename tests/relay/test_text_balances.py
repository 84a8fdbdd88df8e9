"""Random prices with tiers, balances, limits and usages: nobody ends below zero, no charge is above its hold."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import msgspec
import pytest

from elkapi.ledger import check
from elkapi.money import format_usd, parse_usd
from elkapi.storage.repos import prices
from elkapi.types import Amounts, Tier
from tests.gateway import ACTOR, gateway
from tests.scripted import MODEL, scripted
from tests.text_calls import CLIENTS, Asked, ask

CALLS = 40


def some_rates(rng: random.Random) -> dict[str, int]:
    """Up to a thousand dollars a million tokens, most far below; some classes without a rate of their own."""
    names = ("cached", "cache_write_5m", "cache_write_1h", "audio_input", "reasoning")
    own = {f"{name}_nano_per_1m": rng.randrange(10**12) >> rng.randrange(40) for name in names if rng.random() < 0.5}
    return {
        "input_nano_per_1m": rng.randrange(10**12) >> rng.randrange(40),
        "output_nano_per_1m": rng.randrange(10**12) >> rng.randrange(40),
        "call_nano": rng.randrange(10**9) >> rng.randrange(30),
        **own,
    }


def some_amounts(rng: random.Random) -> Amounts:
    bounds = sorted(rng.sample(range(1, 4000), rng.randrange(3)))
    return Amounts(**some_rates(rng), tiers=tuple(Tier(above_tokens=above, **some_rates(rng)) for above in bounds))


def some_balance(rng: random.Random, amounts: Amounts) -> int:
    """Nano-USD: what some thousand tokens cost, more often than not too little for the whole call."""
    dearest = max(max(rates.input_nano_per_1m, rates.output_nano_per_1m) for rates in (amounts, *amounts.tiers))
    return max(1, dearest * rng.randrange(1, 40_000) // 10**6 + rng.randrange(2) * amounts.call_nano)


def some_call(rng: random.Random, client: str) -> Asked:
    """A question of any length, half of them without an output limit where the dialect allows that."""
    asked = ask(client, MODEL, "word " * rng.randrange(1, 1500), max_tokens=rng.choice((1, 50, 5000, 100_000)))
    if client != "anthropic" and rng.random() < 0.5:
        for name in ("max_tokens", "max_output_tokens", "generationConfig"):
            asked.body.pop(name, None)
    return asked


def some_answer(rng: random.Random, limit: int) -> dict[str, object]:
    """A chat completion whose usage is mostly possible, sometimes huge, sometimes missing."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "so " * 50}, "finish_reason": "stop"}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    if rng.random() < 0.1:
        return answer
    given, made = rng.randrange(1, 9000), rng.randrange(limit * 2 + 2)
    return answer | {
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": rng.randrange(given)},
            "completion_tokens_details": {"reasoning_tokens": rng.randrange(made + 1)},
        }
    }


@pytest.mark.parametrize("client", CLIENTS)
async def test_g03_g36_random_prices_and_balances_never_end_below_zero_nor_above_a_hold(
    tmp_path: Path, client: str
) -> None:
    rng = random.Random(f"{client} 2026")
    async with scripted() as upstream, gateway(tmp_path) as gate:
        await gate.channel(upstream.url, (MODEL,), family="compatible")
        capped = refused = answered = 0
        for number in range(CALLS):
            amounts = some_amounts(rng)
            with gate.database.write() as connection:
                prices.add_version(
                    connection, model=MODEL, amounts=amounts, source="test", now_ns=time.time_ns(), actor=ACTOR
                )
            await gate.settled()
            key = await gate.key(format_usd(some_balance(rng, amounts)))
            asked = some_call(rng, client)
            call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
            arrival = asyncio.create_task(upstream.calls.get())
            await asyncio.wait((call, arrival), return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                arrival.cancel()
                assert call.result().status_code == 403, (number, call.result().text)
                refused += 1
                continue
            played = arrival.result()
            sent = msgspec.json.decode(played.body)
            limit = sent.get("max_tokens") or sent.get("max_completion_tokens") or 0
            played.answer(some_answer(rng, limit))
            reply = await call
            assert reply.status_code == 200, (number, reply.text)
            account = await gate.account(reply.headers["x-request-id"], key)
            answered += 1
            capped += bool(limit and str(limit) not in str(asked.body))
            assert 0 <= parse_usd(account["cost_usd"]) <= parse_usd(account["held_usd"]), (number, account)
        query = "select min(posted_nano - held_nano), sum(held_nano) from accounts where kind = 'customer'"
        ((lowest, held),) = gate.sql(query)
        assert lowest >= 0
        assert held == 0
        with gate.database.read() as connection:
            assert check(connection).ok
        # The numbers were worth drawing.
        assert answered > CALLS // 5
        assert refused > 0
        assert client == "anthropic" or capped > 0
