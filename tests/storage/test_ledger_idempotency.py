"""Idempotency keys: claimed in the hold's transaction, answered from the stored reply, in any worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import Connection, func, select

from elkapi.clock import SYSTEM_CLOCK, ManualClock
from elkapi.errors import Conflict, InsufficientQuota
from elkapi.ledger import (
    MARK_TAKEN,
    Boot,
    IdempotencyPending,
    IdempotencyReplay,
    Ledger,
    ThreadLedger,
    balance,
    mark_dead,
    open_ledger,
    recover,
)
from elkapi.ledger.idempotency import ReplyWaits, purge_claims
from elkapi.ledger.recovery import Recoverer
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.schema import idempotency, task_refs, tasks
from elkapi.testing.ledger import a_settlement, an_order, funded_account, unpaid
from elkapi.types import HoldOrder, IdempotencyClaim, NewTask, StoredReply
from tests.waiting import until


@contextlib.asynccontextmanager
async def started(settings: Settings, installation: Installation, owner: bytes | None = None) -> AsyncIterator[Ledger]:
    ledger = open_ledger(
        settings, installation.database, owner or os.urandom(16), in_process=True, sealer=installation.sealer
    )
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


@pytest.fixture
async def ledger(settings: Settings, installation: Installation) -> AsyncIterator[Ledger]:
    async with started(settings, installation) as opened:
        yield opened


def a_claim(key: str = "k", fingerprint: bytes = b"\x01" * 32) -> IdempotencyClaim:
    return IdempotencyClaim(1, "openai.embeddings", key, fingerprint)


def a_reply(order: HoldOrder, body: bytes | None = b'{"data": []}') -> StoredReply:
    return StoredReply(order.request_id, 200, ((b"content-type", b"application/json"),), body)


async def test_a_repeated_call_gets_the_stored_reply_and_no_second_charge(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=100, claim=a_claim())
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 100, reply=a_reply(order)))
    for _ in range(2):
        with pytest.raises(IdempotencyReplay) as replay:
            await ledger.hold(an_order(account, nano=100, claim=a_claim()))
        assert replay.value.reply == a_reply(order)
    with database.read() as connection:
        assert balance(connection, account).posted_nano == 900
        sealed = connection.execute(select(idempotency.c.reply_sealed)).scalar_one()
    assert b"data" not in sealed


async def test_a_key_used_for_another_body_is_a_conflict(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
    with pytest.raises(Conflict) as conflict:
        await ledger.hold(an_order(account, nano=1, claim=a_claim(fingerprint=b"\x02" * 32)))
    assert conflict.value.code == "idempotency_key_reused"
    await ledger.hold(other := an_order(account, nano=1, claim=a_claim("another key", b"\x02" * 32)))
    for done in (order, other):
        await ledger.settle(unpaid(done))


async def test_of_the_tasks_that_two_workers_begin_under_each_name_at_once_one_is_held_for(
    settings: Settings, installation: Installation
) -> None:
    """In opposite orders, as two writers would lock the names against each other."""
    account, names = funded_account(installation.database, 1000), [f"order-{number}" for number in range(40)]

    def naming(name: str, way: str) -> HoldOrder:
        order = an_order(account, nano=1, claim=a_claim(f"{name} {way}"))
        task = NewTask(order.request_id, 1, 1, "op", "wire", "native", "m", 1, b"{}", name)
        return msgspec.structs.replace(order, task=task)

    async with started(settings, installation) as one, started(settings, installation) as other:
        holds = [one.hold(naming(name, "one")) for name in names]
        holds += [other.hold(naming(name, "other")) for name in reversed(names)]
        outcomes = await asyncio.gather(*holds, return_exceptions=True)
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Conflict)] == [MARK_TAKEN] * len(names)
    assert outcomes.count(None) == len(names)
    with installation.database.read() as connection:
        assert balance(connection, account).held_nano == len(names)
        for table in (task_refs, idempotency, tasks):
            assert connection.scalar(select(func.count()).select_from(table)) == len(names)


async def test_a_claim_is_of_one_key_one_operation_and_one_name(ledger: Ledger, database: Database) -> None:
    account, mine = funded_account(database, 1000), a_claim()
    others = [msgspec.structs.replace(mine, key_id=2), msgspec.structs.replace(mine, operation="x"), a_claim("other")]
    orders = [an_order(account, nano=1, claim=claim) for claim in (mine, *others)]
    for order in orders:
        await ledger.hold(order)
    await ledger.settle(unpaid(orders[0]))
    await ledger.hold(again := an_order(account, nano=1, claim=mine))
    for order in orders[1:]:
        with pytest.raises(IdempotencyPending):
            await ledger.hold(an_order(account, nano=1, claim=order.claim))
    for number, order in enumerate([again, *orders[1:]]):
        await ledger.settle(a_settlement(order, 1, reply=a_reply(order, b"%d" % number)))
    for number, claim in enumerate((mine, *others)):
        reply = await ledger.wait_reply(claim)
        assert reply is not None
        assert reply.body == b"%d" % number
        with pytest.raises(IdempotencyReplay) as replay:
            await ledger.hold(an_order(account, nano=1, claim=claim))
        assert replay.value.reply == reply


async def test_g75_a_hundred_parallel_calls_with_one_key_are_one_call(
    settings: Settings, installation: Installation
) -> None:
    database = installation.database
    account = funded_account(database, 10**9)
    upstream_calls = 0
    async with started(settings, installation) as one, started(settings, installation) as two:

        async def call(ledger: Ledger) -> StoredReply:
            nonlocal upstream_calls
            while True:
                order = an_order(account, nano=100, claim=a_claim())
                try:
                    await ledger.hold(order)
                except IdempotencyReplay as replay:
                    return replay.reply
                except IdempotencyPending:
                    if (reply := await ledger.wait_reply(a_claim())) is not None:
                        return reply
                    continue
                upstream_calls += 1
                await asyncio.sleep(0.1)
                await ledger.settle(a_settlement(order, 100, reply=a_reply(order)))
                return a_reply(order)

        replies = await asyncio.gather(*(call(ledger) for ledger in (one, two) for _ in range(50)))
    assert upstream_calls == 1
    assert len({reply.request_id for reply in replies}) == 1
    with database.read() as connection:
        assert balance(connection, account).posted_nano == 10**9 - 100


async def test_a_call_that_failed_before_the_upstream_forgets_its_key(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
    waiting = asyncio.create_task(ledger.wait_reply(a_claim()))
    await asyncio.sleep(0.05)
    await ledger.settle(a_settlement(order, 0, forget=True))
    assert await waiting is None
    await ledger.hold(again := an_order(account, nano=1, claim=a_claim()))
    await ledger.settle(unpaid(again))
    await ledger.hold(third := an_order(account, nano=1, claim=a_claim()))
    await ledger.settle(unpaid(third))


@pytest.mark.parametrize("nano", [1, 0])
async def test_a_call_that_asks_for_its_hold_again_does_not_wait_for_itself(
    ledger: Ledger, database: Database, nano: int
) -> None:
    order = an_order(funded_account(database, 1000), nano=nano, claim=a_claim())
    # As its worker does when the ledger's process was killed before it answered.
    for _ in range(2):
        await ledger.hold(order)
    await ledger.settle(a_settlement(order, nano, reply=a_reply(order)))
    with pytest.raises(IdempotencyReplay):
        await ledger.hold(an_order(order.accounts[0], nano=nano, claim=a_claim()))


async def test_a_refused_hold_leaves_no_claim(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 10)
    results = await asyncio.gather(
        *(ledger.hold(an_order(account, nano=11, claim=a_claim(f"key {n % 3}"))) for n in range(9)),
        return_exceptions=True,
    )
    assert {type(result) for result in results} <= {InsufficientQuota, IdempotencyPending}
    with database.read() as connection:
        assert connection.execute(select(idempotency)).all() == []


async def test_a_free_call_can_be_idempotent(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 0)
    await ledger.hold(order := an_order(account, nano=0, claim=a_claim()))
    with pytest.raises(IdempotencyPending):
        await ledger.hold(an_order(account, nano=0, claim=a_claim()))
    await ledger.settle(a_settlement(order, 0, reply=a_reply(order)))
    assert await ledger.wait_reply(a_claim()) == a_reply(order)


@pytest.mark.parametrize("body", [None, b"x" * 1001])
async def test_a_reply_too_large_to_keep_is_a_conflict_when_repeated(
    settings: Settings, installation: Installation, body: bytes | None
) -> None:
    small = msgspec.structs.replace(settings, idempotency_reply_bytes_max=1000)
    account = funded_account(installation.database, 1000)
    async with started(small, installation) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        await ledger.settle(a_settlement(order, 1, reply=a_reply(order, body)))
        with pytest.raises(Conflict) as conflict:
            await ledger.hold(an_order(account, nano=1, claim=a_claim()))
    assert conflict.value.code == "idempotent_replay_unavailable"
    # A stream has no body to keep either, however short it was.
    assert "was streamed or too large" in str(conflict.value)


async def test_a_reply_as_large_as_may_be_kept_is_kept(settings: Settings, installation: Installation) -> None:
    small = msgspec.structs.replace(settings, idempotency_reply_bytes_max=1000)
    account = funded_account(installation.database, 1000)
    async with started(small, installation) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        await ledger.settle(a_settlement(order, 1, reply=(reply := a_reply(order, b"x" * 1000))))
        assert await ledger.wait_reply(a_claim()) == reply


async def test_a_large_reply_survives_sealing(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
    reply = a_reply(order, os.urandom(1_000_000))
    await ledger.settle(a_settlement(order, 1, reply=reply))
    assert await ledger.wait_reply(a_claim()) == reply


async def test_waiting_for_a_reply_ends(settings: Settings, installation: Installation) -> None:
    quick = msgspec.structs.replace(settings, idempotency_wait_s=0.2)
    account = funded_account(installation.database, 1000)
    async with started(quick, installation) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        with pytest.raises(Conflict) as conflict:
            await ledger.wait_reply(a_claim())
        assert conflict.value.code == "idempotency_in_progress"
        await ledger.settle(unpaid(order))


async def test_g75_each_waiter_waits_from_its_own_arrival(settings: Settings, installation: Installation) -> None:
    account = funded_account(installation.database, 1000)
    clock = ManualClock()
    waits = ReplyWaits(installation.database, installation.sealer, 60.0, clock)
    async with started(settings, installation) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        first = asyncio.create_task(waits.wait(a_claim()))
        await asyncio.sleep(0)
        clock.advance(50)
        second = asyncio.create_task(waits.wait(a_claim()))
        await asyncio.sleep(0)
        assert len(waits._polls) == 1  # one question to the database for both
        clock.advance(10)
        with pytest.raises(Conflict) as conflict:
            await first
        assert conflict.value.code == "idempotency_in_progress"
        clock.advance(49)
        reply = StoredReply(order.request_id, 200, (), b"late")
        await ledger.settle(a_settlement(order, 1, reply=reply))
        assert await second == reply
        # The last one took the poll with it, and a third that leaves does too.
        assert waits._polls == {}
        await ledger.hold(an_order(account, nano=1, claim=a_claim("other")))
        third = asyncio.create_task(waits.wait(a_claim("other")))
        await asyncio.sleep(0)
        third.cancel()
        await until(lambda: not waits._polls)
    fourth = asyncio.create_task(waits.wait(a_claim("other")))
    await asyncio.sleep(0)
    await waits.aclose()
    with pytest.raises(asyncio.CancelledError):
        await fourth


@pytest.mark.parametrize("flags", [(), ("unknown_outcome",)])
async def test_an_unknown_outcome_is_never_repeated(
    settings: Settings, installation: Installation, flags: tuple[str, ...]
) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 1000)
    async with started(settings, installation, owner) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        free = a_claim("free")
        await ledger.hold(an_order(account, nano=0, claim=free))
        if flags:
            await ledger.settle(a_settlement(order, 0, flags=flags))
    with database.write() as connection:
        mark_dead(connection, owner, 1)
        recover(connection, 1, settings)
    async with started(settings, installation) as other:
        for claim in (a_claim(), free):
            with pytest.raises(Conflict) as conflict:
                await other.hold(an_order(account, nano=1, claim=claim))
            assert conflict.value.code == "outcome_unknown"
    with database.read() as connection:
        assert balance(connection, account).available_nano == 1000


async def test_an_answer_that_was_kept_outlives_its_worker(settings: Settings, installation: Installation) -> None:
    database, owner, clock = installation.database, os.urandom(16), ManualClock(SYSTEM_CLOCK.now_ns())
    account = funded_account(database, 1000)
    async with started(settings, installation, owner) as ledger:
        await ledger.hold(order := an_order(account, nano=1, claim=a_claim()))
        await ledger.settle(a_settlement(order, 1, reply=a_reply(order)))
    with database.write() as connection:
        mark_dead(connection, owner, 1)
        assert recover(connection, 1, settings).claims_unknown == 0
    async with started(settings, installation) as other:
        assert await other.wait_reply(a_claim()) == a_reply(order)
        # It is forgotten in its time, whether a worker is gone at that moment or not.
        recoverer = Recoverer(database, settings, clock)
        clock.advance(2 * settings.heartbeat_lost_s)
        recoverer.tick()  # The dead one is looked at for the last time.
        assert await other.wait_reply(a_claim()) == a_reply(order)
        clock.advance(2 * settings.idempotency_keep_s)
        with database.write() as connection:
            assert purge(connection, clock.now_ns()) == 1
        assert await other.wait_reply(a_claim()) is None


def purge(connection: Connection, now_ns: int) -> int:
    return purge_claims(connection, now_ns, 100, 1_000)


def claims_that_are_over(database: Database, sizes: Sequence[int]) -> None:
    row = {"key_id": 1, "operation": "op", "fingerprint": b"f", "owner": b"o", "state": "done", "created_ns": 1}
    rows = [
        {
            **row,
            "idempotency_key": f"k{number}",
            "request_id": bytes([number]),
            "reply_sealed": bytes(size),
            "expires_ns": number,
        }
        for number, size in enumerate(sizes)
    ]
    with database.write() as connection:
        connection.execute(idempotency.insert(), rows)


def test_claims_are_forgotten_some_at_a_time(database: Database) -> None:
    claims_that_are_over(database, (600, 400, 1, 5_000, 0, 0, 0))
    forgotten: list[int] = []
    while not forgotten or forgotten[-1]:
        with database.write() as connection:
            forgotten.append(purge_claims(connection, 5, 2, 1_000))
    # No more than two, no more than 1,000 bytes, and never none.
    assert forgotten == [2, 1, 1, 2, 0]
    with database.read() as connection:
        assert connection.execute(select(idempotency.c.idempotency_key)).scalars().all() == ["k6"]


def test_processes_that_forget_claims_at_once_do_not_wait_for_each_other(database: Database) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    claims_that_are_over(database, (0,) * 6)
    with database.write() as one, database.write() as other:
        other.exec_driver_sql("SET LOCAL lock_timeout = 2000")
        assert purge_claims(one, 9, 4, 1_000) == 4
        assert purge_claims(other, 9, 4, 1_000) == 2


async def test_a_claim_is_forgotten_after_its_time(settings: Settings, installation: Installation) -> None:
    database, clock = installation.database, ManualClock()
    account = funded_account(database, 1000)
    ledger = ThreadLedger(Boot(settings, database, os.urandom(16), installation.sealer, clock=clock))
    await ledger.start()

    def claiming(key: str) -> HoldOrder:
        return an_order(account, nano=0, claim=a_claim(key))

    await ledger.hold(order := claiming("k"))
    await ledger.settle(a_settlement(order, 0, reply=a_reply(order)))
    with pytest.raises(IdempotencyReplay):
        await ledger.hold(claiming("k"))
    clock.advance(settings.idempotency_keep_s + 1)
    await ledger.hold(claiming("k"))
    await ledger.aclose()
    with database.write() as connection:
        assert purge(connection, clock.now_ns()) == 0
        assert purge(connection, clock.now_ns() + round(settings.idempotency_keep_s * 1e9)) == 1


async def test_a_claim_outlives_its_time_while_its_call_is_made(settings: Settings, installation: Installation) -> None:
    database, clock, owner = installation.database, ManualClock(), os.urandom(16)
    account = funded_account(database, 1000)
    ledger = ThreadLedger(Boot(settings, database, owner, installation.sealer, clock=clock))
    await ledger.start()
    await ledger.hold(order := an_order(account, nano=0, claim=a_claim()))
    clock.advance(settings.idempotency_keep_s + 1)
    with database.write() as connection:
        assert purge(connection, clock.now_ns()) == 0
    with pytest.raises(IdempotencyPending):
        await ledger.hold(an_order(account, nano=0, claim=a_claim()))
    await ledger.settle(a_settlement(order, 0, reply=a_reply(order)))
    with database.write() as connection:
        assert purge(connection, clock.now_ns()) == 1
    # Nobody makes the call of a worker that is gone.
    await ledger.hold(an_order(account, nano=0, claim=a_claim("left")))
    clock.advance(settings.idempotency_keep_s + 1)
    with database.write() as connection:
        mark_dead(connection, owner, clock.now_ns())
        assert purge(connection, clock.now_ns()) == 1
    await ledger.aclose()


async def test_cve_2026_42208_keys_and_values_are_bound_never_spelled_into_sql(
    ledger: Ledger, database: Database
) -> None:
    account = funded_account(database, 1000)
    hostile = "'); DROP TABLE transfers; --"
    await ledger.hold(order := an_order(account, nano=1, claim=a_claim(hostile), model=hostile))
    await ledger.settle(a_settlement(order, 1, reply=a_reply(order), operation=hostile))
    with pytest.raises(IdempotencyReplay):
        await ledger.hold(an_order(account, nano=1, claim=a_claim(hostile)))
