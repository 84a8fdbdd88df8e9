"""One balance, one idempotency key, four workers: what several processes may decide at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.chaos.driver import assert_bill_is_explained
from tests.cluster import PER_CALL, PER_CALL_NANO, PER_CALL_WORDS, PER_TOKEN, Answer, client, words
from tests.process.conftest import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FUNDED_CALLS = 20
CALLS = 50 * FUNDED_CALLS
CONNECTIONS = 100
REPEATED_CALLS = 100


def codes(answers: list[Answer]) -> Counter[str]:
    return Counter("ok" if answer.status == 200 else answer.code for answer in answers)


async def test_g01_g15_funds_for_exactly_n_calls_admit_exactly_n_of_50_n_parallel_calls(shared_stage: Stage) -> None:
    stage = shared_stage
    billed_before = len(stage.sandbox.bill())
    key = stage.gate.key("exact", FUNDED_CALLS * PER_CALL_NANO)
    async with client(stage.gate.origin, CONNECTIONS) as caller:
        asked = (caller.embed(key, PER_CALL, words(PER_CALL_WORDS, str(n))) for n in range(CALLS))
        answers = await asyncio.gather(*asked)
    assert codes(answers) == {"ok": FUNDED_CALLS, "insufficient_user_quota": CALLS - FUNDED_CALLS}
    assert all(answer.status == 403 for answer in answers if answer.status != 200)
    assert len(stage.sandbox.bill()) == billed_before + FUNDED_CALLS
    assert available_nano(stage, "exact") == 0
    assert_bill_is_explained(stage.gate, stage.sandbox)


async def test_g04_g15_a_per_token_price_never_spends_more_than_the_funds(shared_stage: Stage) -> None:
    stage = shared_stage
    # What one call holds is bounded by its bytes and what it costs is its tokens, so how many fit depends on the
    # interleaving; that the sum stays within the funds does not.
    nano = 40_000
    key = stage.gate.key("tokens", nano)
    async with client(stage.gate.origin, CONNECTIONS) as caller:
        asked = (caller.embed(key, PER_TOKEN, words(1 + n % 40, str(n))) for n in range(CALLS))
        answers = await asyncio.gather(*asked)
        found = codes(answers)
        assert set(found) == {"ok", "insufficient_user_quota"}, found
        # What is left of the funds is spendable to the last: nothing stays held by calls that are over.
        left = available_nano(stage, "tokens")
        spent = sum(answer.cost_nano for answer in answers if answer.status == 200)
        assert spent + left == nano
        assert left >= 0
    assert_bill_is_explained(stage.gate, stage.sandbox)


async def test_g75_a_hundred_parallel_calls_with_one_idempotency_key_are_one_upstream_call(shared_stage: Stage) -> None:
    stage = shared_stage
    billed_before = len(stage.sandbox.bill())
    key = stage.gate.key("repeated", 10**9)
    text = words(PER_CALL_WORDS, "same")
    async with client(stage.gate.origin, REPEATED_CALLS) as caller:
        asked = (caller.embed(key, PER_CALL, text, **{"idempotency-key": "one"}) for _ in range(REPEATED_CALLS))
        answers = await asyncio.gather(*asked)
    assert codes(answers) == {"ok": REPEATED_CALLS}
    assert len({answer.body for answer in answers}) == 1
    fresh = [answer for answer in answers if "idempotent-replayed" not in answer.headers]
    assert len(fresh) == 1
    assert len(stage.sandbox.bill()) == billed_before + 1
    assert available_nano(stage, "repeated") == 10**9 - PER_CALL_NANO
    assert_bill_is_explained(stage.gate, stage.sandbox)


def available_nano(stage: Stage, key_name: str) -> int:
    statement = (
        "select a.posted_nano - a.held_nano from accounts a join keys k on k.account_id = a.id where k.name = :name"
    )
    ((nano,),) = stage.gate.sql(statement, name=key_name)
    return int(nano)
