"""Message batches through the whole gateway: the official SDK, prices, ends of every kind, and who may see what."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import pytest
from sqlalchemy import Connection, update

from elkapi.clock import SystemClock
from elkapi.errors import GatewayError, InsufficientQuota, Unavailable
from elkapi.ids import new_id, request_id_text
from elkapi.money import format_usd, parse_usd
from elkapi.relay.batches import line as line_module
from elkapi.relay.batches import runner
from elkapi.relay.batches.line import Collected
from elkapi.relay.batches.pages import delete_batch
from elkapi.relay.batches.store import BatchStore
from elkapi.relay.serve import serve
from elkapi.sandbox.server import Running
from elkapi.storage.repos import batch_lines, keys
from elkapi.storage.repos import batches as batches_repo
from elkapi.storage.repos.batch_lines import LeasedLine
from elkapi.storage.schema import batch_lines as lines_table
from elkapi.storage.schema import idempotency, message_batches, requests
from elkapi.testing.ledger import a_settlement, an_order, funded_account, unpaid
from elkapi.types import Amounts, HoldOrder, IdempotencyClaim, Policy, StoredReply, Variant
from tests.canned import canned
from tests.gateway import ACTOR, Gateway, gateway
from tests.relay.test_text_usage import priced, whole_of
from tests.scripted import scripted
from tests.text_calls import UPSTREAMS
from tests.waiting import until

MODEL = "batch-model"
THEIRS = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-4o", "gemini": "gemini-2.5-pro"}
WAIT_S = 30.0
QUICK: dict[str, Any] = {"batch_retry_s": 0.01, "batch_parallel_max": 8, "batch_key_parallel_max": 4}


@pytest.fixture
async def gate(tmp_path: Path, database_url: str) -> AsyncIterator[Gateway]:
    """On both databases; what failed is tried again at once."""
    async with gateway(tmp_path, database_url=database_url, **QUICK) as served:
        yield served


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Gateway]:
    """On SQLite alone, for what is no matter of SQL."""
    async with gateway(tmp_path, **QUICK) as served:
        yield served


async def staged(gate: Gateway, sandbox: Running, family: str = "openai", **channel: Any) -> None:
    secret, options = UPSTREAMS[family]
    await gate.channel(
        sandbox.base_url,
        (MODEL,),
        family=family,
        secrets=(secret,),
        options=options,
        model_map={MODEL: THEIRS[family]},
        **channel,
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="3")


def line(number: int, text: str, **params: Any) -> Any:
    message = {"role": "user", "content": text}
    return {
        "custom_id": f"line-{number}",
        "params": {"model": MODEL, "max_tokens": 50, "messages": [message], **params},
    }


_clients: list[anthropic.AsyncAnthropic] = []


def client(gate: Gateway, key: str, prefix: str = "") -> anthropic.AsyncAnthropic:
    _clients.append(anthropic.AsyncAnthropic(base_url=gate.origin + prefix, api_key=key, max_retries=0))
    return _clients[-1]


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    yield
    while _clients:
        await _clients.pop().close()


async def ended(sdk: anthropic.AsyncAnthropic, batch_id: str) -> Any:
    async def batch() -> Any:
        found = await sdk.messages.batches.retrieve(batch_id)
        return found if found.processing_status == "ended" else None

    return await until(batch)


async def results_of(sdk: anthropic.AsyncAnthropic, batch_id: str) -> dict[str, Any]:
    return {found.custom_id: found.result async for found in await sdk.messages.batches.results(batch_id)}


def counts_of(batch: Any) -> dict[str, int]:
    return {name: count for name, count in batch.request_counts.to_dict().items() if count}


@pytest.mark.parametrize(
    ("family", "prefix"), [("anthropic", ""), ("openai", ""), ("openai", "/anthropic"), ("gemini", "/anthropic")]
)
async def test_the_official_sdk_makes_follows_lists_and_deletes_a_batch_on_any_upstream(
    lite: Gateway, sandbox: Running, family: str, prefix: str
) -> None:
    await staged(lite, sandbox, family)
    sdk = client(lite, await lite.key("1"), prefix)
    lines = [line(n, f"[[say: answer {n}]]") for n in range(12)]
    batch = await sdk.messages.batches.create(requests=lines)
    assert batch.id.startswith("msgbatch_")
    assert (batch.processing_status, batch.results_url, batch.ended_at) == ("in_progress", None, None)
    assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
    done = await ended(sdk, batch.id)
    assert counts_of(done) == {"succeeded": 12}
    assert done.results_url == f"{lite.origin}{prefix}/v1/messages/batches/{batch.id}/results"
    results = await results_of(sdk, batch.id)
    for n in range(12):
        result = results[f"line-{n}"]
        assert result.type == "succeeded"
        assert result.message.model == MODEL
        assert result.message.content[0].text == f"answer {n}"
    assert [found.id async for found in sdk.messages.batches.list()] == [batch.id]
    assert (await sdk.messages.batches.delete(batch.id)).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.batches.retrieve(batch.id)
    lite.closed_books()


async def test_the_address_of_results_is_the_operators_public_one(tmp_path: Path, sandbox: Running) -> None:
    async with gateway(tmp_path, public_url="https://ai.example.org/gate", **QUICK) as gate:
        await staged(gate, sandbox)
        sdk = client(gate, await gate.key("1"), "/anthropic")
        batch = await sdk.messages.batches.create(requests=[line(0, "hello")])
        done = await ended(sdk, batch.id)
    assert done.results_url == f"https://ai.example.org/gate/anthropic/v1/messages/batches/{batch.id}/results"


async def test_g31_each_line_is_settled_by_itself_and_a_bad_one_zeroes_no_other(
    gate: Gateway, sandbox: Running
) -> None:
    await staged(gate, sandbox)
    key = await gate.key("1")
    sdk = client(gate, key)
    lines = [line(n, f"[[say: answer {n}]]") for n in range(8)]
    # One that the upstream refuses, one that no upstream can do, one that never answers rightly.
    lines[2] = line(2, "[sandbox: status=400]")
    lines[5] = line(5, "[[nonsense: x]]")
    lines[6] = line(6, "[sandbox: status=500]")
    batch = await ended(sdk, (await sdk.messages.batches.create(requests=lines)).id)
    assert counts_of(batch) == {"succeeded": 5, "errored": 3}
    results = await results_of(sdk, batch.id)
    kinds = {name: results[name].error.error.type for name in ("line-2", "line-5", "line-6")}
    assert kinds == {"line-2": "invalid_request_error", "line-5": "invalid_request_error", "line-6": "api_error"}
    records = gate.sql("select record from requests")
    records = [msgspec.json.decode(bytes(record)) for (record,) in records]
    charged = [record for record in records if record["charge_nano"]]
    assert {record["line"]["number"] for record in charged} == {0, 1, 3, 4, 7}
    for record in charged:
        usage = results[f"line-{record['line']['number']}"].message.usage
        assert record["charge_nano"] == usage.input_tokens * 1000 + usage.output_tokens * 3000
        assert record["operation"] == "anthropic.batches-create"
        assert record["line"] == {"batch": batch.id, "number": record["line"]["number"], "ratio_micro": 1_000_000}
    # A line that failed was tried again, but not for ever.
    assert Counter(record["line"]["number"] for record in records)[6] == 5
    assert gate.sql("select count(*) from alerts")[0][0] == 0
    gate.closed_books()


@pytest.mark.parametrize("wrong", [b'"a" @', b'"a"\n@', b'"\xff"'])
async def test_g31_an_answer_that_nobody_can_read_fails_its_own_line_free(lite: Gateway, wrong: bytes) -> None:
    usage = {"input_tokens": 3, "output_tokens": 2}
    said = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    async with canned(200, {**said, "content": [{"type": "text", "text": "XX"}], "usage": usage}) as upstream:
        upstream.body = upstream.body.replace(b'"XX"', wrong)
        await lite.channel(upstream.url, (MODEL,), family="anthropic", secrets=("sk-ant-x",))
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="3")
        key = await lite.key("10")
        sdk = client(lite, key)
        batch = await sdk.messages.batches.create(requests=[line(1, "a"), line(2, "b")])
        assert counts_of(await ended(sdk, batch.id)) == {"errored": 2}
        results = await results_of(sdk, batch.id)
    assert {result.error.error.message.partition(" (")[0] for result in results.values()} == {
        "No provider of the model gave a usable answer"
    }
    lite.closed_books()
    assert lite.sql("select posted_nano from accounts where kind = 'customer'") == [(parse_usd("10"),)]


@pytest.mark.parametrize(
    ("settings_ratio", "group_ratio", "expected"), [("0.5", None, 500_000), ("0.333333", 700_001, 700_001)]
)
async def test_the_batch_ratio_is_applied_exactly_and_named(
    tmp_path: Path, sandbox: Running, settings_ratio: str, group_ratio: int | None, expected: int
) -> None:
    async with gateway(tmp_path, batch_ratio=settings_ratio) as gate:
        await staged(gate, sandbox)
        await gate.group("default", 1_250_001, Policy(batch_ratio_micro=group_ratio))
        key = await gate.key("1")
        sdk = client(gate, key)
        batch = await sdk.messages.batches.create(requests=[line(0, "[[tokens: 7]]")])
        await ended(sdk, batch.id)
        usage = (await results_of(sdk, batch.id))["line-0"].message.usage
        ((request_id, charge, record),) = gate.sql("select id, charge_nano, record from requests")
        exact = (usage.input_tokens * 1000 + usage.output_tokens * 3000) * 1_250_001 * expected
        assert charge == (exact + 5 * 10**11) // 10**12
        account = await gate.account(f"req_{bytes(request_id).hex()}", key)
        assert account["batch"] == {"id": batch.id, "line": 0}
        assert parse_usd(account["cost_usd"]) == charge
        assert account["price"]["batch_ratio"] == f"0.{expected:06d}".rstrip("0")
        held = msgspec.json.decode(bytes(record))["hold_nano"]
        assert held >= charge
        gate.closed_books()


async def test_a_cancelled_batch_ends_with_what_was_under_way(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1"))
    lines = [line(n, "[sandbox: delay=300ms] hello") for n in range(40)]
    batch = await sdk.messages.batches.create(requests=lines)
    await until(sandbox.sandbox.recorder.shown)
    canceled = await sdk.messages.batches.cancel(batch.id)
    assert canceled.processing_status in ("canceling", "ended")
    assert canceled.cancel_initiated_at is not None
    done = await ended(sdk, batch.id)
    counts = counts_of(done)
    assert set(counts) == {"succeeded", "canceled"}
    assert sum(counts.values()) == 40
    assert counts["succeeded"] == len(sandbox.sandbox.recorder.shown())
    results = await results_of(sdk, batch.id)
    assert Counter(result.type for result in results.values()) == counts
    assert (await sdk.messages.batches.cancel(batch.id)).processing_status == "ended"
    lite.closed_books()


async def test_a_line_that_was_not_begun_in_time_is_expired(lite: Gateway) -> None:
    async with canned(200, {"never": "answered"}) as upstream:
        upstream.gate.clear()
        await lite.channel(upstream.url, (MODEL,))
        await lite.price(MODEL, per_1m_usd="1")
        sdk = client(lite, await lite.key("1"))
        batch = await sdk.messages.batches.create(requests=[line(n, "hello") for n in range(20)])
        await until(lambda: upstream.waiting >= 4)
        with lite.database.write() as connection:
            connection.execute(update(message_batches).values(expires_ns=1))
        async with asyncio.timeout(WAIT_S):
            while counts_of(await sdk.messages.batches.retrieve(batch.id)) != {"processing": 4, "expired": 16}:
                await asyncio.sleep(0.02)
        upstream.gate.set()
        done = await ended(sdk, batch.id)
        assert done.request_counts.expired == 16
        results = await results_of(sdk, batch.id)
        assert Counter(result.type for result in results.values())["expired"] == 16
    lite.closed_books()


async def test_an_empty_balance_and_a_disabled_key_end_the_other_lines_free(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    poor = await lite.key("0.0001")
    sdk = client(lite, poor)
    batch = await sdk.messages.batches.create(requests=[line(n, "hello", max_tokens=20_000) for n in range(3)])
    await ended(sdk, batch.id)
    for result in (await results_of(sdk, batch.id)).values():
        assert (result.type, result.error.error.type) == ("errored", "permission_error")
        assert "balance" in result.error.error.message
    async with canned(200, _ANSWER) as upstream:
        upstream.gate.clear()
        await lite.channel(upstream.url, (MODEL,), priority=9)
        key = await lite.key("1")
        sdk = client(lite, key)
        batch = await sdk.messages.batches.create(requests=[line(n, "hello") for n in range(12)])
        await until(lambda: upstream.waiting >= 4)
        with lite.database.write() as connection:
            key_id = max(row.id for row in keys.list_keys(connection))
            keys.set_enabled(connection, key_id, False, now_ns=1, actor=ACTOR)
        await lite.settled()
        upstream.gate.set()
        await until(lambda: lite.sql("select status from message_batches order by id desc")[0][0] == "ended")
        with lite.database.write() as connection:
            keys.set_enabled(connection, key_id, True, now_ns=1, actor=ACTOR)
        await lite.settled()
        found = list((await results_of(sdk, batch.id)).values())
        errors = [result.error.error.type for result in found if result.type == "errored"]
        assert errors == ["authentication_error"] * 8
        assert len(upstream.bodies) == 4
    charged = lite.sql("select count(*) from requests where charge_nano > 0")
    assert charged[0][0] == 4
    lite.closed_books()


_ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}


@pytest.mark.parametrize("per_1m_usd", ["0", "1"], ids=["free", "paid"])
async def test_a_line_that_costs_nothing_fails_where_as_much_is_kept_of_such_as_may_be_in_a_day(
    tmp_path: Path, per_1m_usd: str
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x" * 3_000}, "finish_reason": "stop"}
    # An answer is kept twice, for its line and for repeats of the call.
    bounded = gateway(tmp_path, free_kept_bytes_max=10_000, **QUICK)
    async with canned(200, {**_ANSWER, "choices": [choice]}) as upstream, bounded as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd=per_1m_usd)
        sdk = client(gate, await gate.key("1"))
        for kept in (True, per_1m_usd != "0"):
            batch = await ended(sdk, (await sdk.messages.batches.create(requests=[line(1, "x")])).id)
            assert counts_of(batch) == {"succeeded" if kept else "errored": 1}
        if not kept:
            assert "cost nothing" in (await results_of(sdk, batch.id))["line-1"].error.error.message
        assert len(upstream.bodies) == 2
        gate.closed_books()


async def test_another_key_sees_nothing_of_a_batch(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    mine, other = client(lite, await lite.key("1")), client(lite, await lite.key("1"))
    batch = await mine.messages.batches.create(requests=[line(0, "hello")])
    await ended(mine, batch.id)
    for ask in (other.messages.batches.retrieve, other.messages.batches.cancel, other.messages.batches.delete):
        with pytest.raises(anthropic.NotFoundError) as refused:
            await ask(batch.id)
        told: Any = refused.value.body
        assert told["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.NotFoundError):
        await other.messages.batches.results(batch.id)
    reply = await lite.http.get(f"/v1/messages/batches/{batch.id}/results", headers={"x-api-key": other.api_key or ""})
    assert reply.status_code == 404
    assert [found.id async for found in other.messages.batches.list()] == []
    assert (await results_of(mine, batch.id))["line-0"].type == "succeeded"


async def test_lists_page_both_ways(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1"))
    made = [(await sdk.messages.batches.create(requests=[line(0, "hello")])).id for _ in range(7)]
    newest_first = made[::-1]
    assert [found.id async for found in sdk.messages.batches.list(limit=3)] == newest_first
    page = await sdk.messages.batches.list(limit=2, after_id=newest_first[2])
    assert ([found.id for found in page.data], page.has_more) == (newest_first[3:5], True)
    page = await sdk.messages.batches.list(limit=2, before_id=newest_first[4])
    assert ([found.id for found in page.data], page.has_more) == (newest_first[2:4], True)
    assert [found.id for found in (await sdk.messages.batches.list(before_id=newest_first[2])).data] == newest_first[:2]
    for bad in ({"limit": 0}, {"limit": 1001}, {"after_id": "msgbatch_x"}, {"before_id": made[0], "after_id": made[1]}):
        with pytest.raises(anthropic.BadRequestError):
            await sdk.messages.batches.list(**bad)
    slow = await sdk.messages.batches.create(requests=[line(0, "[sandbox: delay=500ms] x")])
    with pytest.raises(anthropic.BadRequestError, match="has not ended"):
        await sdk.messages.batches.delete(slow.id)


GOOD: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}


BAD: tuple[tuple[bytes, str], ...] = (
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"[]", "object"),
    (b"{}", "requests"),
    (b'{"requests":[]}', "requests"),
    (b'{"requests":{}}', "requests"),
    (b'{"requests":[1]}', "requests.0"),
    (b'{"requests":[{"custom_id":"a"}]}', "requests.0.params"),
    (json.dumps({"requests": [{"params": GOOD}]}).encode(), "requests.0.custom_id"),
    (json.dumps({"requests": [{"custom_id": "", "params": GOOD}]}).encode(), "requests.0.custom_id"),
    (json.dumps({"requests": [{"custom_id": "x" * 65, "params": GOOD}]}).encode(), "requests.0.custom_id"),
    (json.dumps({"requests": [{"custom_id": "a", "params": GOOD}] * 2}).encode(), "requests.1.custom_id"),
    (json.dumps({"requests": [{"custom_id": "a", "params": {**GOOD, "stream": True}}]}).encode(), "stream"),
    (json.dumps({"requests": [{"custom_id": "a", "params": {"model": MODEL}}]}).encode(), "max_tokens"),
    (json.dumps({"requests": [{"custom_id": "a", "params": {**GOOD, "messages": []}}]}).encode(), "messages"),
    (json.dumps({"requests": [{"custom_id": "a", "params": {**GOOD, "max_tokens": -1}}]}).encode(), "max_tokens"),
    (
        b'{"requests":[{"custom_id":"a","params":{"model":"%b","model":"other","max_tokens":1,"messages":[1]}}]}'
        % MODEL.encode(),
        "twice",
    ),
    (b'{"requests":[{"custom_id":"a","params":' + b"[" * 500_000 + b"]" * 500_000 + b"}]}", "deeply"),
    (b'{"requests":[{"custom_id":"\xff","params":{}}]}', "UTF-8"),
)


async def test_a_bad_batch_is_refused_naming_its_line_and_nothing_is_kept(lite: Gateway) -> None:
    await lite.channel("http://127.0.0.1:9", (MODEL,))
    await lite.price(MODEL, per_1m_usd="1")
    headers = {"x-api-key": await lite.key("1"), "content-type": "application/json"}
    for body, word in BAD:
        reply = await lite.http.post("/v1/messages/batches", content=body, headers=headers)
        assert reply.status_code == 400, (body, reply.text)
        error = reply.json()
        assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
        assert word in error["error"]["message"], (body, error)
    assert lite.sql("select count(*) from message_batches")[0][0] == 0


async def test_a_model_that_could_not_be_asked_refuses_the_batch(lite: Gateway) -> None:
    await lite.channel("http://127.0.0.1:9", (MODEL,))
    await lite.price(MODEL, per_1m_usd="1")
    for key, model, status in (
        (await lite.key("1", models=("other",)), MODEL, 403),
        (await lite.key("1"), "nobody-serves-this", 503),
    ):
        lines = [{"custom_id": "a", "params": {**GOOD, "model": model}}]
        headers = {"x-api-key": key}
        reply = await lite.http.post("/v1/messages/batches", json={"requests": lines}, headers=headers)
        assert reply.status_code == status, reply.text
        assert "requests.0.params.model" in reply.json()["error"]["message"]
    nobody = await lite.http.post("/v1/messages/batches", json={"requests": []})
    assert (nobody.status_code, nobody.json()["error"]["type"]) == (401, "authentication_error")
    key = await lite.key()
    wrong = await lite.http.post(
        "/v1/messages/batches", content=b"x", headers={"x-api-key": key, "content-type": "a/b"}
    )
    assert wrong.status_code == 415
    reply = await lite.http.get("/v1/messages/batches/msgbatch_1", headers={"x-api-key": key})
    assert reply.status_code == 404
    assert lite.sql("select count(*) from message_batches")[0][0] == 0


async def test_an_idempotency_key_makes_one_batch(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    key = await lite.key("1")
    headers = {"x-api-key": key, "idempotency-key": "nightly"}
    body = {"requests": [line(0, "hello")]}
    first = await lite.http.post("/v1/messages/batches", json=body, headers=headers)
    again = await lite.http.post("/v1/messages/batches", json=body, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await lite.http.post("/v1/messages/batches", json={"requests": [line(1, "hello")]}, headers=headers)
    assert other.status_code == 409
    both = await asyncio.gather(
        *(
            lite.http.post("/v1/messages/batches", json=body, headers={**headers, "idempotency-key": "twins"})
            for _ in range(4)
        )
    )
    assert len({reply.json()["id"] for reply in both if reply.status_code == 200}) == 1
    assert lite.sql("select count(*) from message_batches where status <> 'deleted'")[0][0] == 2
    with lite.database.write() as connection:
        connection.execute(update(message_batches).values(created_ns=1))
    anew = await lite.http.post("/v1/messages/batches", json={"requests": [line(1, "hello")]}, headers=headers)
    assert anew.json()["id"] not in (first.json()["id"], *(reply.json().get("id") for reply in both))
    # Its own key was kept long enough; nobody asked for the other one's.
    assert lite.sql("select count(*) from message_batches where idempotency_key = 'twins'") == [(1,)]
    with lite.database.write() as connection:
        connection.execute(update(message_batches).values(status="staging"))
    unsure = await lite.http.post("/v1/messages/batches", json={"requests": [line(1, "hello")]}, headers=headers)
    assert (unsure.status_code, "is being created" in unsure.text) == (409, True)


async def test_of_two_that_delete_a_batch_one_did_and_the_other_finds_none(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(0, "hello")])
    await ended(sdk, batch.id)
    write = lite.plane.batches.write

    async def late(work: Any) -> Any:
        # A runner writes too, and must not be the one that comes before.
        if delete_batch.__qualname__ in work.__qualname__:
            with lite.database.write() as connection:
                connection.execute(update(message_batches).values(status="deleted"))
        return await write(work)

    monkeypatch.setattr(lite.plane.batches, "write", late)
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.batches.delete(batch.id)


async def test_what_the_caller_says_in_headers_goes_with_each_line(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox, "anthropic", forward_headers=("X-Trace",))
    sdk = client(lite, await lite.key("1", policy=Policy(cache=True)))
    said = {"anthropic-beta": "b-2026-01-01", "anthropic-version": "2023-06-01", "x-trace": "t", "x-other": "o"}

    async def asked(cache: str, **query: str) -> list[dict[str, str]]:
        before = len(sandbox.sandbox.recorder.shown())
        headers = said | {"x-elkapi-cache": cache}
        batch = await sdk.messages.batches.create(requests=[line(0, "hello")], extra_headers=headers, extra_query=query)
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1}
        came = sandbox.sandbox.recorder.shown()[before:]
        targets.extend(request.target for request in came)
        return [dict(request.headers) for request in came]

    targets: list[str] = []
    (sent,) = await asked("on")
    assert {name: sent.get(name) for name in said} == said | {"x-other": None}
    assert await asked("on") == []
    assert len(await asked("off")) == 1
    assert len(await asked("on", beta="true", other="o")) == 1
    assert targets == ["/v1/messages", "/v1/messages", "/v1/messages?beta=true"]
    for name, wrong in (("x-elkapi-cache", "sometimes"), ("x-elkapi-fallback", "maybe")):
        with pytest.raises(anthropic.BadRequestError, match=name.title()):
            await sdk.messages.batches.create(requests=[line(0, "hello")], extra_headers={name: wrong})


async def test_a_key_has_so_many_batches_and_lines_to_do_and_no_more(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, batch_open_lines_max=3, **QUICK) as served:
        await staged(served, sandbox)
        sdk, other = client(served, await served.key("1")), client(served, await served.key("1"))
        slow = [line(number, "[sandbox: delay=60000ms] x") for number in range(4)]
        with pytest.raises(anthropic.RateLimitError, match="which has 0 of 100 open batches and 0 of 3 open requests"):
            await sdk.messages.batches.create(requests=slow)
        await sdk.messages.batches.create(requests=slow[:2])
        await sdk.messages.batches.create(requests=slow[:1])
        with pytest.raises(
            anthropic.RateLimitError, match="which has 2 of 100 open batches and 3 of 3 open requests"
        ) as refused:
            await sdk.messages.batches.create(requests=slow[:1])
        assert refused.value.response.headers["retry-after"] == "60"
        await other.messages.batches.create(requests=slow[:1])
        monkeypatch.setattr("elkapi.relay.batches.pages.OPEN_BATCHES_MAX", 1)
        with pytest.raises(anthropic.RateLimitError, match="which has 1 of 1 open batches and 1 of 3 open requests"):
            await other.messages.batches.create(requests=slow[:1])


async def test_a_batch_that_was_given_up_while_it_was_written_leaves_nothing(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staged(lite, sandbox)
    begin = batches_repo.begin

    def too_late(connection: Connection, batch_id: bytes) -> bool:
        # What a runner does with a batch that has been in the making for ten minutes; the last lines come after it.
        connection.execute(message_batches.delete())
        return begin(connection, batch_id)

    monkeypatch.setattr(batches_repo, "begin", too_late)
    headers = {"x-api-key": await lite.key("1")}
    lines = [line(n, "hello") for n in range(1200)]
    reply = await lite.http.post("/v1/messages/batches", json={"requests": lines}, headers=headers)
    assert reply.status_code == 500
    assert lite.sql("select count(*) from batch_lines")[0][0] == 0


async def test_a_caller_who_leaves_as_a_batch_is_begun_may_ask_for_it_again_at_once(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staged(lite, sandbox)
    add_staging, written, go_on = batches_repo.add_staging, threading.Event(), threading.Event()

    def slow(connection: Connection, batch: batches_repo.BatchRow, **room: int) -> bool:
        added = add_staging(connection, batch, **room)
        written.set()
        go_on.wait()
        return added

    monkeypatch.setattr(batches_repo, "add_staging", slow)
    headers = {"x-api-key": await lite.key("1"), "idempotency-key": "nightly"}
    body = {"requests": [line(0, "hello")]}
    asking = asyncio.create_task(lite.http.post("/v1/messages/batches", json=body, headers=headers))
    await until(written.is_set)
    asking.cancel()
    await until(lambda: not lite.server.connections)
    go_on.set()
    again = await lite.http.post("/v1/messages/batches", json=body, headers=headers)
    assert again.status_code == 200, again.text


async def test_a_key_at_its_own_limit_waits_instead_of_failing(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1", policy=Policy(parallel_max=1)))
    lines = [line(n, "[sandbox: delay=100ms] hello") for n in range(6)]
    batch = await sdk.messages.batches.create(requests=lines)
    await asyncio.sleep(0.2)
    for _ in range(20):
        # A call that somebody waits for takes the key's one place from time to time.
        with contextlib.suppress(anthropic.RateLimitError):
            await sdk.messages.create(**line(0, "hello")["params"])
        await asyncio.sleep(0.01)
    assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 6}
    assert all(found.message.content for found in (await results_of(sdk, batch.id)).values())


async def test_a_line_above_its_keys_tokens_per_minute_fails_and_does_not_stop_the_others(
    lite: Gateway, sandbox: Running
) -> None:
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1", policy=Policy(tokens_per_min=200)))
    batch = await sdk.messages.batches.create(requests=[line(0, "word " * 400), line(1, "[[say: yes]]")])
    assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1, "errored": 1}
    failed = (await results_of(sdk, batch.id))["line-0"]
    assert failed.error.error.type == "rate_limit_error"
    assert "may use in a minute (200)" in failed.error.error.message


async def test_nothing_is_remembered_of_keys_that_have_no_lines_under_way(lite: Gateway, sandbox: Running) -> None:
    await staged(lite, sandbox)
    lite.runner._paused_until_s[0] = 0.0  # a key that was at its limit some time ago
    sdk = client(lite, await lite.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(1, "[[say: yes]]")])
    assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1}
    await until(lambda: not lite.runner._of_key)
    assert not lite.runner._paused_until_s


async def test_a_line_that_the_balance_covers_waits_for_what_other_calls_hold(tmp_path: Path) -> None:
    async with canned(200, _ANSWER) as upstream, gateway(tmp_path, **QUICK) as gate:
        upstream.gate.clear()
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, output_per_1m_usd="1000")
        # A line holds 0.5 dollars and costs 0.001: one at a time is covered, and all of them are.
        sdk = client(gate, await gate.key("0.6"))
        batch = await sdk.messages.batches.create(requests=[line(n, "x", max_tokens=500) for n in range(4)])
        await until(lambda: upstream.waiting and gate.sql("select 1 from batch_lines where not_before_ns > 0"))
        upstream.gate.set()
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 4}
        assert upstream.most_waiting == 1
        gate.closed_books()


async def test_a_line_is_covered_by_what_was_given_back_after_each_of_its_refusals(
    gate: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staged(gate, sandbox)
    monkeypatch.setattr(line_module, "HELD_S", 0.0)
    hold, refused = gate.plane.ledger.hold, list[int]()

    async def held_by_others(order: HoldOrder) -> None:
        if len(refused) < 3:
            refused.append(order.nano)
            raise InsufficientQuota("held by a call that has ended since", order.nano)
        await hold(order)

    monkeypatch.setattr(gate.plane.ledger, "hold", held_by_others)
    sdk = client(gate, await gate.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(1, "[[say: yes]]")])
    assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1}
    assert len(refused) == 3
    gate.closed_books()


async def test_lines_are_carried_out_whose_lease_was_committed_and_not_answered(
    gate: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are this worker's by their rows, so nobody else would ever begin them."""
    await staged(gate, sandbox)
    monkeypatch.setattr(runner, "FAILED_S", 0.01)
    write, lost = BatchStore.write, list[Any]()

    async def unanswered(store: BatchStore, change: Any) -> Any:
        done = await write(store, change)
        if not lost and isinstance(done, list) and done:
            lost.extend(done)
            raise Unavailable("the connection was lost while the answer to the commit was waited for")
        return done

    monkeypatch.setattr(BatchStore, "write", unanswered)
    sdk = client(gate, await gate.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(number, "[[say: yes]]") for number in range(3)])
    assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 3}
    assert lost
    assert len(sandbox.sandbox.recorder.shown()) == 3
    gate.closed_books()


@pytest.mark.parametrize(
    ("faults", "counts"), [(2, {"succeeded": 1}), (10**6, {"errored": 1})], ids=["passes", "stays"]
)
async def test_a_line_that_meets_a_fault_of_our_own_is_tried_again_a_few_times(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch, faults: int, counts: dict[str, int]
) -> None:
    """Before its hold, where the ledger knows nothing of it: not for as long as its batch may run, which is a day."""
    await staged(lite, sandbox)
    monkeypatch.setattr(runner, "UNSURE_S", 0.01)
    served = list[bytes]()

    async def broken(plane: Any, call: Any, admitted: Any) -> None:
        served.append(call.id)
        if len(served) <= faults:
            raise RuntimeError("a bug")
        await serve(plane, call, admitted)

    monkeypatch.setattr(line_module, "serve", broken)
    sdk = client(lite, await lite.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(1, "[[say: yes]]")])
    assert counts_of(await ended(sdk, batch.id)) == counts
    assert len(served) == min(faults + 1, line_module.TRIES_MAX)
    if "errored" in counts:
        assert (await results_of(sdk, batch.id))["line-1"].error.error.type == "api_error"
    lite.closed_books()


async def test_what_became_of_a_line_that_a_dead_worker_had_begun_is_what_the_ledger_keeps(lite: Gateway) -> None:
    """It is tried anew only where no upstream can have seen it."""
    plane = lite.plane
    account_id = funded_account(lite.database, 1_000)

    def begun(made_ns: int, number: int) -> LeasedLine:
        return LeasedLine(new_id(made_ns), number, b"", 0, 1, b"", "{}", resumed=True)

    async def claimed(line: LeasedLine) -> HoldOrder:
        name = line_module.claim_name(line.batch_id, line.number)
        claim = IdempotencyClaim(1, line_module.LINE.id, name, b"f" * 32)
        await plane.ledger.hold(order := an_order(account_id, nano=10, claim=claim))
        return order

    def told(error: GatewayError, _: bytes) -> bytes:
        return msgspec.json.encode(error.message)

    now_ns = time.time_ns()
    never = begun(now_ns, 1)
    long_ago = begun(now_ns - round((plane.settings.idempotency_keep_s + 60) * 1e9), 2)
    answered, streamed, failed, cut_off = (begun(now_ns, number) for number in range(3, 7))
    order = await claimed(answered)
    reply = StoredReply(order.request_id, 200, (), b'{"id":"msg"}')
    await plane.ledger.settle(a_settlement(order, 10, reply=reply))
    await plane.ledger.settle(a_settlement(await claimed(streamed), 10))
    await plane.ledger.settle(unpaid(await claimed(failed)))
    await claimed(cut_off)
    with lite.database.write() as connection:
        connection.execute(update(idempotency).where(idempotency.c.state == "open").values(state="unknown"))

    fates = [
        await line_module.resume(plane, one, told) for one in (never, long_ago, answered, streamed, failed, cut_off)
    ]
    later = line_module.Later(0.0)
    assert (fates[0], fates[4]) == (later, later)
    assert fates[2] == line_module.Ended("succeeded", b'{"type":"succeeded","message":{"id":"msg"}}', order.request_id)
    for fate, why in ((fates[1], "outcome is unknown"), (fates[3], "too large"), (fates[5], "outcome is unknown")):
        assert isinstance(fate, line_module.Ended)
        assert (fate.state, why.encode() in fate.result) == ("errored", True)


async def test_a_line_that_nothing_given_back_could_cover_does_not_wait_for_it(tmp_path: Path) -> None:
    async with canned(200, _ANSWER) as upstream, gateway(tmp_path, **QUICK) as gate:
        upstream.gate.clear()
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, output_per_1m_usd="1000")
        sdk = client(gate, await gate.key("0.6"))
        asked = [line(1, "x", max_tokens=500), line(2, "x", max_tokens=700)]
        batch = await sdk.messages.batches.create(requests=asked)
        await until(lambda: gate.sql("select 1 from batch_lines where state = 'errored'"))
        await until(lambda: upstream.waiting == 1)
        upstream.gate.set()
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1, "errored": 1}
        found = await results_of(sdk, batch.id)
        assert found["line-2"].error.error.type == "permission_error"
        gate.closed_books()


async def test_batches_that_wait_keep_none_behind_them_from_being_begun(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OPEN_MAX", 2)
    async with gateway(tmp_path, batch_parallel_max=0) as first:
        await staged(first, sandbox)
        keys_made = [await first.key("1") for _ in range(4)]
        made = [
            await client(first, key).messages.batches.create(requests=[line(1, "[[say: yes]]")]) for key in keys_made
        ]
        wait = update(lines_table).values(not_before_ns=time.time_ns() + 10**15)
        last = bytes.fromhex(made[-1].id.removeprefix("msgbatch_"))
        await first.plane.batches.write(lambda c: c.execute(wait.where(lines_table.c.batch_id != last)))
    async with gateway(tmp_path, **QUICK) as second:
        assert counts_of(await ended(client(second, keys_made[-1]), made[-1].id)) == {"succeeded": 1}
        waits = await client(second, keys_made[0]).messages.batches.retrieve(made[0].id)
        assert counts_of(waits) == {"processing": 1}


async def test_a_line_that_waits_is_tried_again_after_the_clock_was_set_back(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, batch_retry_s=1.0) as gate:
        await staged(gate, sandbox)
        sdk = client(gate, await gate.key("1"))
        batch = await sdk.messages.batches.create(requests=[line(1, "[sandbox: status=503, times=1] hello")])
        await until(lambda: gate.sql("select 1 from batch_lines where tries = 1 and state = 'pending'"))
        monkeypatch.setattr(SystemClock, "now_ns", staticmethod(lambda: time.time_ns() - 3 * 3600 * 10**9))
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1}


async def test_no_line_expires_by_a_clock_that_was_set_ahead_and_soon_set_right(
    lite: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = batch_lines.open_batches

    def noted(connection: Connection, limit: int, now_ns: int, after: bytes = b"") -> Any:
        looks.append(now_ns)
        return look(connection, limit, now_ns, after)

    monkeypatch.setattr(batch_lines, "open_batches", noted)
    async with canned(200, _ANSWER) as upstream:
        upstream.gate.clear()
        await lite.channel(upstream.url, (MODEL,))
        await lite.price(MODEL, per_1m_usd="1")
        sdk = client(lite, await lite.key("1"))
        batch = await sdk.messages.batches.create(requests=[line(n, "hello") for n in range(8)])
        await until(lambda: upstream.waiting >= 4)
        ahead_ns = time.time_ns() + 2 * 86_400 * 10**9
        with monkeypatch.context() as wrong:
            wrong.setattr(SystemClock, "now_ns", staticmethod(lambda: ahead_ns))
            await until(lambda: looks.count(ahead_ns) >= 2)
        assert counts_of(await sdk.messages.batches.retrieve(batch.id)) == {"processing": 8}
        upstream.gate.set()
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 8}
    lite.closed_books()


async def test_lines_have_few_places_and_a_key_fewer(tmp_path: Path) -> None:
    async with canned(200, _ANSWER) as upstream:
        async with gateway(tmp_path, batch_parallel_max=5, batch_key_parallel_max=3) as gate:
            upstream.gate.clear()
            await gate.channel(upstream.url, (MODEL,))
            await gate.price(MODEL, per_1m_usd="1")
            clients = [client(gate, await gate.key("1")) for _ in range(2)]
            made = [await sdk.messages.batches.create(requests=[line(n, "x") for n in range(9)]) for sdk in clients]
            await until(lambda: upstream.waiting >= 5)
            # A call that somebody waits for finds its way beside them.
            direct = asyncio.create_task(clients[0].messages.create(**line(0, "now")["params"]))
            await until(lambda: upstream.waiting >= 6)
            running = gate.sql("select batch_id, count(*) from batch_lines where state = 'running' group by batch_id")
            assert sorted(count for _, count in running) == [2, 3]
            upstream.gate.set()
            assert (await direct).content[0].text == "hi"
            for sdk, batch in zip(clients, made, strict=True):
                assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 9}
            assert upstream.most_waiting == 6


async def test_g30_a_finished_batch_without_its_charge_raises_an_alert(gate: Gateway, sandbox: Running) -> None:
    await staged(gate, sandbox)
    sdk = client(gate, await gate.key("1"))
    batch = await sdk.messages.batches.create(requests=[line(n, "hello") for n in range(3)])
    await ended(sdk, batch.id)
    await _closed(gate)
    assert gate.sql("select count(*) from alerts")[0][0] == 0
    # The records of two lines are lost, one of them with its charge; then the end is looked at again.
    with gate.database.write() as connection:
        of_lines = requests.select().join(lines_table, lines_table.c.request_id == requests.c.id)
        first, second, _ = connection.execute(of_lines.order_by(lines_table.c.line)).all()
        record = msgspec.json.decode(second.record) | {"charge_nano": 0}
        connection.execute(requests.delete().where(requests.c.id == first.id))
        changed = update(requests).where(requests.c.id == second.id)
        connection.execute(changed.values(charge_nano=0, record=msgspec.json.encode(record)))
        connection.execute(update(message_batches).values(is_done=False))
    gate.plane.batches.look()
    await _closed(gate)
    ((kind, subject, detail),) = gate.sql("select kind, subject, detail from alerts")
    assert (kind, subject) == ("batch_without_charge", f"batch:{batch.id}")
    assert json.loads(detail) == {"uncharged": 2, "succeeded": 3, "first_request": bytes(first.id).hex()}
    assert gate.plane.metrics.alerts == {"batch_without_charge": 1}


async def _closed(gate: Gateway) -> None:
    await until(lambda: not gate.sql("select count(*) from message_batches where not is_done")[0][0])


async def test_a_gateway_that_stops_finishes_its_lines_and_the_next_one_goes_on(
    tmp_path: Path, sandbox: Running
) -> None:
    async with gateway(tmp_path, batch_parallel_max=3) as first:
        await staged(first, sandbox)
        key = await first.key("1")
        lines = [line(n, f"[[say: answer {n}]] [sandbox: delay=100ms]") for n in range(8)]
        batch = await client(first, key).messages.batches.create(requests=lines)
        await until(lambda: first.sql("select count(*) from batch_lines where state = 'running'")[0][0])
    async with gateway(tmp_path) as second:
        sdk = client(second, key)
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 8}
        assert len(sandbox.sandbox.recorder.shown()) == 8
        second.closed_books()


async def test_lines_that_a_stop_cuts_off_are_free_and_no_fault_of_ours(tmp_path: Path) -> None:
    async with canned(200, _ANSWER) as upstream:
        upstream.gate.clear()
        async with gateway(tmp_path, **QUICK) as first:
            await first.channel(upstream.url, (MODEL,))
            await first.price(MODEL, output_per_1m_usd="1000")
            key = await first.key("1")
            batch = await client(first, key).messages.batches.create(requests=[line(n, "x") for n in range(2)])
            await until(lambda: upstream.waiting == 2)
            await first.runner.drain(0)
            assert first.closed_books().customers_posted_nano == 10**9
        assert '"unexpected"' not in (tmp_path / "gateway.log").read_text()
        async with gateway(tmp_path, **QUICK) as second:
            sdk = client(second, key)
            assert counts_of(await ended(sdk, batch.id)) == {"errored": 2}
            for found in (await results_of(sdk, batch.id)).values():
                assert "its outcome is unknown" in found.error.error.message
            assert second.closed_books().customers_posted_nano == 10**9


async def test_g49_a_line_that_a_stop_cuts_off_in_the_middle_of_a_large_answer_is_free(tmp_path: Path) -> None:
    async with scripted() as upstream, gateway(tmp_path, reply_buffer_bytes_max=1000, **QUICK) as gate:
        await gate.channel(upstream.url, (MODEL,), family="anthropic")
        await gate.price(MODEL, per_1m_usd="1000")
        sdk = client(gate, await gate.key("1"))
        await sdk.messages.batches.create(requests=[line(1, "x")])
        played, reply = await upstream.calls.get(), Collected.start
        started = asyncio.Event()

        def starts(*what: Any) -> None:
            reply(*what)
            started.set()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Collected, "start", starts)
            played.answer_partly(b'{"id": "msg_1", "text": "' + b"x" * 50_000)
            await started.wait()
        await gate.runner.drain(0)
        assert gate.sql("select charge_nano, status from requests") == [(0, 503)]
        assert gate.closed_books().customers_posted_nano == 10**9


async def test_a_line_that_a_stop_cuts_off_while_it_is_booked_is_charged_and_told_by_the_next_gateway(
    tmp_path: Path, sandbox: Running
) -> None:
    """Nobody's connection waits for it: its answer is kept with its charge."""
    async with gateway(tmp_path, **QUICK) as first:
        await staged(first, sandbox)
        key = await first.key("1")
        booking, disk = first.books_slowly()
        batch = await client(first, key).messages.batches.create(requests=[line(0, "x")])
        await booking.wait()
        draining = asyncio.create_task(first.runner.drain(0))
        await until(lambda: first.plane.cutting)
        disk.release()
        await draining
    async with gateway(tmp_path, **QUICK) as second:
        sdk = client(second, key)
        assert counts_of(await ended(sdk, batch.id)) == {"succeeded": 1}
        (row,) = second.sql("select charge_nano, loss_nano from requests")
        assert row[0] > 0 == row[1]
        second.closed_books()


async def test_two_gateways_share_a_batch_and_run_no_line_twice(
    tmp_path: Path, database_url: str, sandbox: Running
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    url = database_url if database_url.startswith("postgres") else f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    secret = "0" * 64
    async with (
        gateway(here, database_url=url, secret_key=secret) as first,
        gateway(there, database_url=url, secret_key=secret) as second,
    ):
        await staged(first, sandbox)
        await second.settled()
        sdk = client(first, await first.key("1"))
        lines = [line(n, f"[[say: answer {n}]] [sandbox: delay=20ms]") for n in range(60)]
        batch = await ended(sdk, (await sdk.messages.batches.create(requests=lines)).id)
        assert counts_of(batch) == {"succeeded": 60}
        texts = {name: found.message.content[0].text for name, found in (await results_of(sdk, batch.id)).items()}
        assert texts == {f"line-{n}": f"answer {n}" for n in range(60)}
        assert len(sandbox.sandbox.recorder.shown()) == 60
        for one in (first, second):
            one.plane.metrics.count()
        taken = [sum(one.plane.metrics.attempts.values()) for one in (first, second)]
        assert sum(taken) == 60
        assert min(taken) > 0
        first.closed_books()


@pytest.fixture
async def restless(tmp_path: Path) -> AsyncIterator[Gateway]:
    """It looks for old results all the time."""
    async with gateway(tmp_path, batch_look_s=0.02) as served:
        yield served


async def test_results_are_archived_when_they_were_kept_long_enough(restless: Gateway, sandbox: Running) -> None:
    lite = restless
    await staged(lite, sandbox)
    sdk = client(lite, await lite.key("1"))
    batch = await ended(sdk, (await sdk.messages.batches.create(requests=[line(0, "x")])).id)
    await _closed(lite)
    with lite.database.write() as connection:
        connection.execute(update(message_batches).values(ended_ns=1))
        assert batch_lines.is_any_kept_since(connection, 2)
    async with asyncio.timeout(WAIT_S):
        while (await sdk.messages.batches.retrieve(batch.id)).archived_at is None:
            await asyncio.sleep(0.02)
    assert (await sdk.messages.batches.retrieve(batch.id)).results_url is None
    assert lite.sql("select count(*) from batch_lines")[0][0] == 0
    reply = await lite.http.get(f"/v1/messages/batches/{batch.id}/results", headers={"x-api-key": sdk.api_key or ""})
    assert reply.status_code == 404


async def test_a_line_costs_what_its_speed_costs_times_the_batch_ratio(tmp_path: Path) -> None:
    usage = {"input_tokens": 10, "output_tokens": 7, "speed": "fast"}
    fast = Variant(when={"speed": ("fast",)}, input_nano_per_1m=6 * 10**9, output_nano_per_1m=30 * 10**9)
    amounts = Amounts(input_nano_per_1m=10**9, output_nano_per_1m=5 * 10**9, variants=(fast,))
    async with canned(200, whole_of("anthropic", usage)) as upstream, gateway(tmp_path, batch_ratio="0.5") as gate:
        await priced(gate, MODEL, "anthropic", upstream.url, amounts)
        key = await gate.key("1")
        sdk = client(gate, key)
        batch = await sdk.messages.batches.create(requests=[line(0, "hello", speed="fast")])
        await ended(sdk, batch.id)
        (request_id,) = gate.sql("select id from requests")[0]
        account = await gate.account(request_id_text(request_id), key)
        assert account["features"] == {"speed": "fast"}
        assert account["cost_usd"] == format_usd((10 * 6_000 + 7 * 30_000) // 2)
        assert (await results_of(sdk, batch.id))["line-0"].type == "succeeded"
        gate.closed_books()
