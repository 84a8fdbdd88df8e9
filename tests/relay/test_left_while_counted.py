"""The upstream answered in full, and what it comes to is still counted or booked: who leaves then has been served, and
whom the end of a drain cuts off has not."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.edge.server import CUT_WAIT_S
from elkapi.ledger.ledger import ThreadLedger
from elkapi.relay import count, hold
from elkapi.relay.batches.runner import BatchRunner
from elkapi.relay.note import note
from elkapi.sandbox.server import Running
from elkapi.types import RequestRecord
from elkapi.upstream import UpstreamFailure, UpstreamRequest
from elkapi.worker import drained, error_body
from tests.gateway import SMALL, Gateway, gateway
from tests.text_calls import Asked, ask
from tests.waiting import until

EMBEDDING = Asked("/v1/embeddings", {"model": SMALL, "input": "eight bytes of text and some more"}, {})
# The words of the answer that the model makes of it, and of the question, a token for every four bytes.
CHAT = ask("chat", "gpt-4o", "[[say: sixteen letters.]]")


def never_counting(asked: asyncio.Event) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A model process that is asked for a count and gives none."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the gateway gives up
        writer.close()

    return connected


@pytest.mark.parametrize(("asked", "tokens"), [(EMBEDDING, (9, 0)), (CHAT, (11, 4))], ids=["embedding", "chat"])
async def test_g39_a_call_without_usage_is_charged_although_its_caller_left_meanwhile(
    tmp_path: Path, sandbox: Running, asked: Asked, tokens: tuple[int, int]
) -> None:
    counting = asyncio.Event()
    async with gateway(tmp_path) as gate:
        path = gate.plane.settings.socket_path("models")
        async with await asyncio.start_unix_server(never_counting(counting), path):
            await gate.channel(sandbox.base_url, (SMALL, "gpt-4o"))
            await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
            key = await gate.key("1")
            sandbox.sandbox.stand("no-usage")
            call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
            await counting.wait()
            call.cancel()
            with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
                await call
            ((charge_nano, record),) = await until(lambda: gate.sql("select charge_nano, record from requests"))
    assert charge_nano > 0
    usage = msgspec.json.decode(record)["usage"]
    assert (usage["input_tokens"], usage.get("output_tokens", 0)) == tokens
    for flag in (b"usage_missing", b"client_gone", b"estimated_locally", b'"status":499'):
        assert flag in record
    assert b'"fate":"complete"' in record


@pytest.mark.parametrize("stream", [False, True])
async def test_g49_a_call_that_the_end_of_a_drain_cut_off_while_it_was_counted_is_free(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """docs/money.md: the gateway was stopped during the call, which is not the caller's doing."""
    counting = asyncio.Event()

    async def never_counts(*_: object) -> object:
        counting.set()
        return await asyncio.Event().wait()

    noted: list[RequestRecord] = []

    def noting(plane: Any, record: RequestRecord) -> None:
        noted.append(record)
        note(plane, record)

    monkeypatch.setattr(hold, "note", noting)
    monkeypatch.setattr(hold, "count_locally", never_counts)
    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url, ("gpt-4o",))
        await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        sandbox.sandbox.stand("no-usage")
        asked = ask("chat", "gpt-4o", "[[say: sixteen letters.]]", stream=stream)
        call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
        await counting.wait()
        assert await gate.server.drain(0, gate.plane.cut_off) == 1
        with pytest.raises(httpx.HTTPError):
            await call
        ((status, charge_nano, loss_nano, record),) = await until(
            lambda: gate.sql("select status, charge_nano, loss_nano, record from requests")
        )
        assert (status, charge_nano) == (503, 0)
        assert loss_nano == 11 * 1_000 + 4 * 2_000
        assert b'"fate":"complete"' in record
        # It is one call, and ends once.
        assert [(one.status, one.loss_nano) for one in noted] == [(503, loss_nano)]
        assert gate.closed_books().customers_posted_nano == 10**9


@pytest.mark.parametrize("how", ["whole", "stream", "repeatable", "kept"])
async def test_g49_a_call_that_the_end_of_a_drain_cut_off_while_it_was_booked_is_free(
    tmp_path: Path, sandbox: Running, how: str
) -> None:
    """What a repeat would be told is sealed before it is booked, as is an answer that is kept: they are a way apart."""
    asked = ask("responses" if how == "kept" else "chat", "gpt-4o", "[[say: ok]]", stream=how == "stream")
    body = {**asked.body, "store": True} if how == "kept" else asked.body
    headers = {"idempotency-key": "once"} if how == "repeatable" else {}
    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url, ("gpt-4o",))
        await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        booking, disk = gate.books_slowly()
        call = asyncio.create_task(gate.ask(key, body, path=asked.path, headers=headers))
        await booking.wait()
        draining = asyncio.create_task(gate.server.drain(0, gate.plane.cut_off))
        with pytest.raises(httpx.HTTPError):
            await call
        disk.release()
        assert await draining == 1
        free = "select record from requests where charge_nano = 0 and loss_nano > 0"
        ((record,),) = await until(lambda: gate.sql(free), within_s=10)
        assert b'"settled_late"' in record
        assert gate.closed_books().customers_posted_nano == 10**9


async def test_a_booking_that_fails_after_its_caller_left_is_no_fault_that_nobody_handled(
    tmp_path: Path, sandbox: Running
) -> None:
    faults = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with gateway(tmp_path, settle_wait_s=0.05) as gate:
        await gate.channel(sandbox.base_url, ("gpt-4o",))
        await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        booking, disk = gate.books_slowly()
        ledger = gate.plane.ledger
        assert isinstance(ledger, ThreadLedger)
        asked = ask("chat", "gpt-4o", "[[say: ok]]")
        headers = {"idempotency-key": "once"}
        call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=headers))
        await booking.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: len(ledger._told))
        disk.release()
        await until(lambda: not len(ledger._told))
        assert gate.closed_books().customers_posted_nano == 10**9
    gc.collect()
    assert not faults


def deadlines_of_counts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every count fails from here on; how long each may have taken, in seconds."""
    seconds: list[float] = []

    async def no_count(_: object, order: UpstreamRequest, *__: object) -> None:
        seconds.append(order.deadlines.total_s)
        raise UpstreamFailure("no", phase="connect", sent=False)

    monkeypatch.setattr(count, "answer_to", no_count)
    return seconds


async def test_a_count_that_is_begun_while_the_gateway_stops_is_over_with_the_drain(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller left, and is charged for what had come; the stop waits no longer than for any other call."""
    seconds = deadlines_of_counts(monkeypatch)
    async with gateway(tmp_path) as gate:
        call = await under_way(gate, sandbox)
        draining = asyncio.create_task(drained(gate.plane, gate.server, BatchRunner(gate.plane, error_body), 2))
        await asyncio.sleep(0)
        call.cancel()
        await draining
        ((charge_nano, record),) = gate.sql("select charge_nano, record from requests")
    assert charge_nano > 0
    for flag in (b"client_gone", b"estimated_locally"):
        assert flag in record
    assert seconds
    assert all(0 < each <= 2 < count.COUNT_DEADLINES.total_s for each in seconds)


async def test_a_count_that_is_begun_before_a_short_drain_is_over_with_it(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker would be gone before its caller, who left, is charged."""
    seconds = deadlines_of_counts(monkeypatch)
    async with gateway(tmp_path, drain_s=0.5) as gate:
        (await under_way(gate, sandbox)).cancel()
        await until(lambda: gate.sql("select charge_nano from requests"))
    assert seconds
    assert all(each <= 0.5 + count.AFTER_DRAIN_S < 0.5 + CUT_WAIT_S for each in seconds)


async def under_way(gate: Gateway, sandbox: Running) -> asyncio.Task[httpx.Response]:
    """A chat whose stream stalls behind its first words."""
    await gate.channel(sandbox.base_url, ("gpt-4o",))
    await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
    key = await gate.key("1")
    asked = ask("chat", "gpt-4o", "[[tokens: 9]] [sandbox: stall-after=5]", stream=True)
    call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
    await until(lambda: any(one.current and one.current.started for one in gate.server.connections))
    return call


async def test_what_the_end_of_a_drain_cuts_off_is_not_counted_exactly(tmp_path: Path, sandbox: Running) -> None:
    """Its supervisor does not wait as long as a model process may be asked for."""
    counting = asyncio.Event()
    async with gateway(tmp_path) as gate:
        path = gate.plane.settings.socket_path("models")
        async with await asyncio.start_unix_server(never_counting(counting), path):
            call = await under_way(gate, sandbox)
            assert await gate.server.drain(0, gate.plane.cut_off) == 1
            with pytest.raises(httpx.HTTPError):
                await call
            ((charge_nano, loss_nano, record),) = await until(
                lambda: gate.sql("select charge_nano, loss_nano, record from requests")
            )
    assert charge_nano == 0 < loss_nano
    assert b'"estimated_locally"' in record
    assert not counting.is_set()
