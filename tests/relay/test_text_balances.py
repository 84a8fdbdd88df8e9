"""Random prices with tiers, balances, limits and usages: nobody ends below zero, no charge is above its hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.ledger import check
from elkapi.money import format_usd, parse_usd
from elkapi.storage.repos import prices
from elkapi.types import Amounts, Policy, Rates, Tier, Variant
from tests.gateway import ACTOR, gateway
from tests.scripted import MODEL, Played, Watch, scripted
from tests.text_calls import CLIENTS, Asked, ask
from tests.waiting import until

CALLS = 40


def some_rates(rng: random.Random) -> dict[str, Any]:
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


TIERS = ("default", "flex", "priority", "fast")
LIMIT = 60


def some_tiered(rng: random.Random) -> Amounts:
    """Whole nano-dollars a token, so that nothing is rounded."""

    def rates() -> dict[str, int]:
        return {name: rng.randrange(1, 500) * 10**6 for name in ("input_nano_per_1m", "output_nano_per_1m")}

    def variant() -> Variant:
        words = tuple(rng.sample(TIERS, rng.randrange(1, 3)))
        return Variant(when={"service_tier": words}, above_tokens=rng.choice((0, 0, 60)), **rates())

    tiers = (Tier(above_tokens=60, **rates()),) if rng.random() < 0.5 else ()
    return Amounts(**rates(), tiers=tiers, variants=tuple(variant() for _ in range(rng.randrange(4))))


def tiered_nano(amounts: Amounts, given: int, made: int, tier: str | None) -> int:
    """The law of docs/money.md, written anew."""
    rates: Rates = amounts
    for level in amounts.tiers:
        rates = level if given > level.above_tokens else rates
    for variant in amounts.variants:
        if tier in variant.when["service_tier"] and (not variant.above_tokens or given > variant.above_tokens):
            rates = variant
            break
    return (given * rates.input_nano_per_1m + made * rates.output_nano_per_1m) // 10**6


class Billing:
    """What an upstream does with its calls, and what it bills for those it answered."""

    def __init__(self, rng: random.Random, prices_of: dict[str, Amounts]) -> None:
        self.rng = rng
        self.prices_of = prices_of
        self.nano = 0
        self.fates: list[str] = []

    def answer(self, played: Played, stream: bool) -> str:
        """Do something with a call and say what: the answer is whole, `broken` off, or to be `left`."""
        sent = msgspec.json.decode(played.body)
        told = self.rng.choice((None, "auto", "default", sent.get("service_tier"), sent.get("service_tier")))
        fate: str = self.rng.choice(("ok", "ok", "failed", "refused", *(("broken", "left") if stream else ())))
        self.fates.append(fate)
        head = {"id": "1", "object": "chat.completion", "created": 1, "model": sent["model"]}
        head |= {} if told is None else {"service_tier": told}
        amounts = self.prices_of[sent["model"]]
        if fate == "failed":
            played.break_off()
        elif fate in ("broken", "left"):
            delta = {"index": 0, "delta": {"role": "assistant", "content": "so " * 8}, "finish_reason": None}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [delta]}
            played.begin()
            played.play(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
            self.unfinished = (amounts, told if told not in (None, "auto") else sent.get("service_tier"))
        else:
            given, made = self.rng.randrange(1, 120), self.rng.randrange(1, LIMIT)
            said = {"role": "assistant", "content": "so " * 8 if fate == "ok" else ""}
            choice = {"index": 0, "message": said, "finish_reason": "stop" if fate == "ok" else "content_filter"}
            usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
            played.answer({**head, "choices": [choice], "usage": usage})
            self.nano += tiered_nano(amounts, given, made, told)
        return fate


@pytest.mark.parametrize("client", ["chat", "responses", "anthropic"])
async def test_g03_g36_what_upstreams_bill_at_any_tier_is_what_is_charged_and_lost(
    tmp_path: Path, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels that ask for a tier or take it out, failures, refusals, models that stand in, callers who leave."""
    rng = random.Random(f"{client} tiers")
    seen: Counter[str] = Counter()
    async with scripted() as upstream, gateway(tmp_path) as gate:
        watch = Watch(monkeypatch)
        for model in ("first", "second"):
            await gate.channel(upstream.url, (model,), family="compatible")
            await gate.channel(upstream.url, (model,), family="compatible", param_remove=("service_tier",))
            flex = {"service_tier": msgspec.Raw(b'"flex"')}
            await gate.channel(upstream.url, (model,), family="compatible", param_set=flex)
        policy = Policy(fallbacks={"first": ("second",)})
        rich = await gate.key("1000", policy=policy)
        for number in range(CALLS * 2):
            prices_of = {"first": some_tiered(rng), "second": some_tiered(rng)}
            with gate.database.write() as connection:
                for model, amounts in prices_of.items():
                    prices.add_version(connection, model=model, amounts=amounts, source="t", now_ns=number, actor=ACTOR)
            await gate.settled()
            key = rich if rng.random() < 0.7 else await gate.key(format_usd(rng.randrange(1, 200_000)), policy=policy)
            tier = rng.choice((None, "auto", *TIERS))
            more = {} if tier is None or client == "anthropic" else {"service_tier": tier}
            stream = rng.random() < 0.6
            asked = ask(client, "first", "word " * rng.randrange(1, 60), stream=stream, max_tokens=LIMIT, **more)
            billing = Billing(rng, prices_of)
            wanted = {"path": asked.path, "body": asked.body}
            quoted = (await gate.ask(key, wanted, path="/v1/quote", headers=asked.headers)).json()
            call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
            while True:
                arrival = asyncio.create_task(upstream.calls.get())
                await asyncio.wait((call, arrival), return_when=asyncio.FIRST_COMPLETED)
                if not arrival.done():
                    arrival.cancel()
                    break
                passed = watch.passed
                fate = billing.answer(arrival.result(), stream)
                if fate in ("broken", "left"):
                    await watch.until(passed + 1)
                    arrival.result().break_off() if fate == "broken" else call.cancel()
                    break
            with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                await call
            assert bool(billing.fates) is quoted["covered"], (number, quoted)
            if not billing.fates:
                continue
            record = await asyncio.wait_for(watch.records.get(), 10)
            seen.update(billing.fates)
            bill = billing.nano
            if billing.fates[-1] in ("broken", "left"):
                amounts, tier = billing.unfinished
                bill += tiered_nano(amounts, record.usage.input_total, record.usage.output_total, tier)
            assert record.charge_nano <= record.hold_nano == quoted["hold_nano_usd"], (number, record)
            assert record.charge_nano + record.loss_nano == bill, (number, billing.fates, record)
            if record.outcome not in ("ok", "client_gone"):
                assert record.charge_nano == 0, (number, record)
        await until(lambda: gate.sql("select sum(held_nano) from accounts where kind = 'customer'") == [(0,)])
        gate.closed_books()
    assert all(seen[fate] > 2 for fate in ("ok", "failed", "refused", "broken", "left")), seen
