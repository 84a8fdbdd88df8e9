"""Text calls and their holds where several things come together: choices, models that stand in, repeats, odd bills."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import msgspec
import pytest

from elkapi.errors import InsufficientQuota, Unavailable
from elkapi.money import parse_usd
from elkapi.sandbox.server import Running
from elkapi.types import HoldOrder, Policy, Settlement
from elkapi.worker import READERS
from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import ask, has_error

FIRST, SECOND, THIRD = "first-model", "second-model", "third-model"
BROKEN = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"theirs","choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"four letters"},"finish_reason":null}]}\n\n'
)
TEN_AND_ONE = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}


def answer(usage: dict[str, int], finish: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "so"}, "finish_reason": finish}
    if finish == "content_filter":
        choice["message"] = {"role": "assistant", "content": ""}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "theirs",
        "choices": [choice],
        "usage": usage,
    }


async def post(
    lite: Gateway, key: str, prompt: str = "hello", headers: dict[str, str] | None = None, **more: Any
) -> Any:
    asked = ask("chat", FIRST, prompt, **more)
    return await lite.ask(key, asked.body, path=asked.path, headers={**asked.headers, **(headers or {})})


async def test_long_lists_of_others_do_not_delay_the_first_call_of_a_key(lite: Gateway, sandbox: Running) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    await lite.price(FIRST, output_per_1m_usd="10")
    key, read = await lite.key("1"), threading.Event()
    lists = [asyncio.create_task(lite.plane.reader.run(lambda _: read.wait())) for _ in range(2 * READERS)]
    try:
        await asyncio.sleep(0)
        reply = await post(lite, key)
        assert reply.status_code == 200, reply.text
    finally:
        read.set()
        await asyncio.gather(*lists, return_exceptions=True)


async def test_several_choices_share_what_the_balance_covers(lite: Gateway, sandbox: Running) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    # A cent buys 1,000 tokens of output, which four answers have between them.
    await lite.price(FIRST, per_1m_usd="0", output_per_1m_usd="10")
    body = ask("chat", FIRST, "[[tokens: 4000]]", n=4).body
    del body["max_tokens"]
    reply = await lite.ask(key := await lite.key("0.01"), body, path="/v1/chat/completions")
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    sent = msgspec.json.decode(base64.b64decode(received.body_base64))
    assert (sent["n"], sent.get("max_tokens") or sent["max_completion_tokens"]) == (4, 250)
    account = await lite.account(reply.headers["x-request-id"], key)
    assert (account["held_usd"], account["flags"]) == ("0.01", [])
    # What is no answer for each of them is not asked for.
    short = await lite.ask(await lite.key("0.0006"), body, path="/v1/chat/completions")
    assert short.json()["error"]["code"] == "insufficient_user_quota"
    assert len(sandbox.sandbox.recorder.shown()) == 1
    lite.closed_books()


async def test_a_call_that_the_balance_covers_once_others_gave_back_what_they_held_is_not_refused(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lite.channel(sandbox.base_url, (FIRST,))
    await lite.price(FIRST, per_1m_usd="0", output_per_1m_usd="10")
    hold, asked_nano = lite.plane.ledger.hold, list[int]()

    async def held_by_another(order: HoldOrder) -> None:
        asked_nano.append(order.nano)
        if len(asked_nano) in refusals:
            raise InsufficientQuota("held by a call that has ended since", order.nano)
        await hold(order)

    monkeypatch.setattr(lite.plane.ledger, "hold", held_by_another)
    body = ask("chat", FIRST, "[[tokens: 4]]").body
    del body["max_tokens"]
    refusals = {1}
    reply = await lite.ask(key := await lite.key("10"), body, path="/v1/chat/completions")
    assert reply.status_code == 200, reply.text
    assert len(asked_nano) == 2
    assert asked_nano[0] == asked_nano[1]
    account = await lite.account(reply.headers["x-request-id"], key)
    assert parse_usd(account["held_usd"]) == asked_nano[0]
    # It asks once more, and not for ever.
    asked_nano.clear()
    refusals = {1, 2}
    refused = await lite.ask(key, body, path="/v1/chat/completions")
    assert refused.json()["error"]["code"] == "insufficient_user_quota"
    assert len(asked_nano) == 2
    lite.closed_books()


async def test_g36_what_an_answer_costs_above_its_hold_is_the_operators_loss_and_flagged(lite: Gateway) -> None:
    async with canned(200, answer({"prompt_tokens": 10, "completion_tokens": 70, "total_tokens": 80})) as upstream:
        await lite.channel(upstream.url, (FIRST,))
        await lite.price(FIRST, per_1m_usd="0", output_per_1m_usd="10")
        reply = await post(lite, key := await lite.key("1"), max_tokens=50)
    account = await lite.account(reply.headers["x-request-id"], key)
    assert (account["held_usd"], account["cost_usd"], account["flags"]) == ("0.0005", "0.0005", ["above_hold"])
    assert lite.sql("select charge_nano, loss_nano from requests") == [(500_000, 200_000)]
    lite.closed_books()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", ["chat", "responses", "gemini"])
async def test_g36_an_answer_longer_than_its_model_was_known_for_costs_its_hold(
    lite: Gateway, client: str, stream: bool
) -> None:
    """And not the gateway's count of the little that is shown of it."""
    usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 20_000, "total_tokens": 20_010}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 19_990}}
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage}
    asked = ask(client, "unheard-of", "hi", stream=stream)
    for limit in ("max_tokens", "max_output_tokens", "generationConfig"):
        asked.body.pop(limit, None)
    async with canned(200, answer(usage), b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode(chunk)) as upstream:
        await lite.channel(upstream.url, ("unheard-of",), family="compatible")
        await lite.price("unheard-of", per_1m_usd="0", output_per_1m_usd="10")
        key = await lite.key("1")
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
    account = await lite.account(reply.headers["x-request-id"], key)
    assert (account["held_usd"], account["cost_usd"], account["flags"]) == ("0.08192", "0.08192", ["above_hold"])
    assert lite.sql("select charge_nano, loss_nano from requests") == [(81_920_000, 118_080_000)]
    lite.closed_books()


async def test_g36_the_ledger_holds_what_the_dearest_model_that_may_stand_in_costs(lite: Gateway) -> None:
    async with canned(503, {}) as down, canned(200, answer(TEN_AND_ONE)) as dear:
        await lite.channel(down.url, (FIRST,))
        await lite.channel(dear.url, (SECOND,))
        await lite.price(FIRST, per_1m_usd="0", output_per_1m_usd="0.01")
        await lite.price(SECOND, per_1m_usd="0", output_per_1m_usd="10000")
        key = await lite.key("10", policy=Policy(fallbacks={FIRST: (SECOND,)}))
        reply = await post(lite, key, max_tokens=50)
    account = await lite.account(reply.headers["x-request-id"], key)
    assert (account["held_usd"], account["cost_usd"], account["flags"]) == ("0.50", "0.01", [])
    entries = lite.sql("select nano from transfers where kind in ('hold', 'post') order by id")
    assert entries == [(500_000_000,), (10_000_000,)]
    lite.closed_books()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_every_refusal_that_was_bettered_is_a_loss_beside_what_became_of_the_call(
    lite: Gateway, stream: bool
) -> None:
    refusal, said = answer(TEN_AND_ONE, "content_filter"), answer(TEN_AND_ONE)
    async with canned(200, refusal) as first, canned(200, refusal) as second, canned(200, said, BROKEN) as last:
        for model, upstream in ((FIRST, first), (SECOND, second), (THIRD, last)):
            await lite.channel(upstream.url, (model,))
            await lite.price(model, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1", policy=Policy(fallbacks={FIRST: (SECOND, THIRD)}))
        reply = await post(lite, key, stream=stream)
        account = await lite.account(reply.headers["x-request-id"], key)
    assert [attempt["outcome"] for attempt in account["attempts"]][:2] == ["refusal", "refusal"]
    refusals = 2 * (10 * 1_000 + 1 * 2_000)
    if stream:
        # The question's five bytes and what frames it, and the answer's twelve, beside what the refusals cost.
        assert has_error("chat", reply.text)
        assert lite.sql("select charge_nano, loss_nano from requests") == [(0, refusals + 6 * 1_000 + 3 * 2_000)]
    else:
        assert lite.sql("select charge_nano, loss_nano from requests") == [(12_000, refusals)]
    lite.closed_books()


async def test_a_stream_under_an_idempotency_key_is_done_once_and_not_told_again(
    lite: Gateway, sandbox: Running
) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    await lite.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("1")
    once = {"idempotency-key": "once"}
    first = await post(lite, key, "[[say: so]]", once, stream=True)
    again = await post(lite, key, "[[say: so]]", once, stream=True)
    assert first.status_code == 200
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotent_replay_unavailable")
    assert len(sandbox.sandbox.recorder.shown()) == 1
    ((charge,),) = lite.sql("select sum(charge_nano) from requests")
    assert lite.closed_books().customers_posted_nano == 10**9 - charge


@pytest.mark.parametrize(
    ("key", "status"),
    [("k" * 255, 200), ("k" * 256, 400), ("", 400), ("one\ttwo", 400), ("one two", 200)],
    ids=["longest", "too long", "empty", "tab", "space"],
)
async def test_an_idempotency_key_is_printable_and_within_its_length_or_refused_before_any_money_is_held(
    lite: Gateway, sandbox: Running, key: str, status: int
) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    await lite.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
    reply = await post(lite, await lite.key("1"), headers={"idempotency-key": key})
    assert reply.status_code == status, reply.text
    if status == 400:
        assert reply.json()["error"]["param"] == "Idempotency-Key"
    calls = int(status == 200)
    assert lite.sql("select count(*) from transfers where kind = 'hold'") == [(calls,)]
    assert len(sandbox.sandbox.recorder.shown()) == calls


async def test_a_free_call_under_an_idempotency_key_is_done_once_too(lite: Gateway, sandbox: Running) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    await lite.price(FIRST, per_1m_usd="0")
    key = await lite.key()
    first, again = [await post(lite, key, headers={"idempotency-key": "once"}) for _ in range(2)]
    assert (first.status_code, again.content, again.headers["idempotent-replayed"]) == (200, first.content, "true")
    assert len(sandbox.sandbox.recorder.shown()) == 1


@pytest.mark.parametrize("last", [0, 503], ids=["unknown last", "unknown first"])
async def test_g75_of_several_attempts_one_whose_fate_is_unknown_is_enough_to_never_repeat_the_call(
    lite: Gateway, last: int
) -> None:
    # One refuses, the other takes the call and closes its connection.
    async with canned(503 - last, {}) as first, canned(last, {}) as second:
        await lite.channel(first.url, (FIRST,), priority=1)
        await lite.channel(second.url, (FIRST,))
        await lite.price(FIRST, per_1m_usd="1")
        key = await lite.key("1")
        once = {"idempotency-key": "once"}
        failed = await post(lite, key, headers=once)
        again = await post(lite, key, headers=once)
        assert (len(first.bodies), len(second.bodies)) == (1, 1)
    account = await lite.account(failed.headers["x-request-id"], key)
    assert (failed.status_code, account["flags"], account["cost_usd"]) == (502, ["unknown_outcome"], "0.00")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "outcome_unknown")
    assert len(lite.sql("select request_id from unknown_outcomes")) == 1
    lite.closed_books()


async def test_a_call_whose_booking_failed_is_settled_by_nobody_else(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lite.channel(sandbox.base_url, (FIRST,), model_map={FIRST: "gpt-4o"})
    await lite.price(FIRST, per_1m_usd="1")
    settled = []

    async def too_slow(settlement: Settlement) -> None:
        settled.append(settlement.record.outcome)
        raise Unavailable("The ledger did not book this call in time.")

    monkeypatch.setattr(lite.plane.ledger, "settle", too_slow)
    reply = await post(lite, await lite.key("1"))
    assert (reply.status_code, settled) == (503, ["ok"])


async def test_g48_a_count_of_our_own_is_never_above_the_output_limit_of_the_call(lite: Gateway) -> None:
    said = answer(TEN_AND_ONE)
    said["choices"][0]["message"] |= {"content": "four" * 20, "reasoning_content": "four" * 1000}
    del said["usage"]
    async with canned(200, said) as upstream:
        await lite.channel(upstream.url, (FIRST,), family="deepseek")
        await lite.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        for limit, counted in ((50, (20, 30)), (15, (15, 0))):
            reply = await post(lite, key, max_tokens=limit)
            usage = (await lite.account(reply.headers["x-request-id"], key))["usage"]
            assert (usage["output_tokens"], usage.get("reasoning_tokens", 0)) == counted
