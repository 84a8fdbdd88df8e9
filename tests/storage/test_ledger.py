"""Holds and settlements through the writer thread, on both databases; named after the guarantee rows they keep."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from elkapi.clock import ManualClock
from elkapi.errors import InsufficientQuota, Unavailable
from elkapi.ids import request_id_text
from elkapi.ledger import (
    Ledger,
    ThreadLedger,
    balance,
    balances,
    check,
    open_ledger,
    reconcile,
    refund,
)
from elkapi.ledger.accounts import (
    SYSTEM_ACCOUNTS,
    AccountError,
    available_nano,
    ensure_system_accounts,
    entries_of,
    system_ids,
)
from elkapi.ledger.admin import RefundError, adjust, deposit, set_credit
from elkapi.ledger.orders import Settle, UsageRow
from elkapi.ledger.told import waived
from elkapi.ledger.transfers import MOVES
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.repos import audit
from elkapi.storage.repos.requests import get_request
from elkapi.storage.schema import accounts, metadata, requests, transfers
from elkapi.testing.ledger import a_record, a_settlement, an_order, funded_account, unpaid
from elkapi.types import HoldOrder, RequestRecord, StoredObject
from tests.storage.conftest import read_only, server_commands
from tests.waiting import until


@pytest.fixture
async def ledger(settings: Settings, installation: Installation) -> AsyncIterator[Ledger]:
    opened = open_ledger(settings, installation.database, os.urandom(16), in_process=True, sealer=installation.sealer)
    await opened.start()
    yield opened
    await opened.aclose()
    assert_in_order(installation.database)


def assert_in_order(database: Database) -> None:
    with database.read() as connection:
        report = check(connection)
    assert report.problems == []
    assert report.entries_sum_nano == 0


def available(database: Database, account: int) -> int:
    with database.read() as connection:
        return balance(connection, account).available_nano


def posted(database: Database, code: str) -> int:
    with database.read() as connection:
        return {b.code: b.posted_nano for b in balances(connection)}[code]


def record_of(database: Database, order: HoldOrder) -> RequestRecord | None:
    with database.read() as connection:
        return get_request(connection, order.request_id, None)


def audited(connection: Connection, last: int) -> list[tuple[str, str, object]]:
    """(action, subject, detail) of that many changes, the last one last."""
    rows = audit.newest(connection, limit=last)[::-1]
    return [(row.action, row.subject, msgspec.json.decode(row.detail)) for row in rows]


async def admitted(ledger: Ledger, order: HoldOrder) -> bool:
    try:
        await ledger.hold(order)
    except InsufficientQuota:
        return False
    return True


async def paid_call(ledger: Ledger, account: int, nano: int) -> bool:
    order = an_order(account, nano=nano)
    if not await admitted(ledger, order):
        return False
    await asyncio.sleep(0)
    await ledger.settle(a_settlement(order, nano))
    return True


# Admission


@pytest.mark.parametrize("covered", [0, 1, 50])
async def test_g01_parallel_calls_cannot_pass_one_balance_check(
    ledger: Ledger, database: Database, covered: int
) -> None:
    account = funded_account(database, covered * 1000 + 999)
    done = await asyncio.gather(*(paid_call(ledger, account, 1000) for _ in range(50 * max(1, covered))))
    assert sum(done) == covered
    assert available(database, account) == 999
    assert posted(database, "revenue") == covered * 1000


async def test_g14_g18_parallel_calls_of_mixed_prices_cannot_pass_together(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 10_000)
    orders = [an_order(account, nano=nano) for nano in (7000, 6000, 3000, 2500, 500)]
    verdicts = await asyncio.gather(*(admitted(ledger, order) for order in orders))
    assert verdicts == [True, False, True, False, False]
    assert available(database, account) == 0
    for order, held in zip(orders, verdicts, strict=True):
        if held:
            await ledger.settle(unpaid(order))
    assert available(database, account) == 10_000


async def test_g02_every_paid_call_has_a_hold_row(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 10**18)
    order = an_order(account, nano=5)
    await ledger.hold(order)
    with database.read() as connection:
        kinds = connection.execute(select(transfers.c.kind).where(transfers.c.debit_account == account)).scalars().all()
    assert kinds == ["hold"]
    with pytest.raises(Unavailable):
        await ledger.hold(an_order(account + 10**6, nano=5))
    # Whether it says that something was held or not: nobody pays for what was not.
    for unheld, loss in (
        (an_order(account, nano=5), 2),
        (an_order(account, nano=0), 2),
        (an_order(account, nano=0), 0),
    ):
        await ledger.settle(a_settlement(unheld, 5, loss_nano=loss))
        row = record_of(database, unheld)
        assert row is not None
        assert (row.charge_nano, row.loss_nano, row.flags) == (0, 5 + loss, ("hold_missing",))
    assert (posted(database, "revenue"), posted(database, "operator-loss")) == (0, -19)
    await ledger.settle(a_settlement(order, 5))
    assert available(database, account) == 10**18 - 5


async def test_g03_g20_the_database_itself_refuses_an_overdraft(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 100)
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(accounts.update().where(accounts.c.id == account).values(held_nano=101))
    with database.write() as connection:
        set_credit(connection, account, 50, "", "test")
    order = an_order(account, nano=150)
    assert await admitted(ledger, order)
    assert not await admitted(ledger, an_order(account, nano=1))
    with database.write() as connection:
        set_credit(connection, account, 50, "all of it is held", "test")
    with pytest.raises(AccountError), database.write() as connection:
        set_credit(connection, account, 49, "", "test")
    await ledger.settle(a_settlement(order, 150))
    with database.read() as connection:
        assert balance(connection, account).posted_nano == -50
        assert check(connection).problems == []


async def test_g04_g05_admission_sees_a_change_made_elsewhere_at_once(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    assert await paid_call(ledger, account, 400)
    with database.write() as connection:
        adjust(connection, account, -600, "charged elsewhere", "test")
    assert not await admitted(ledger, an_order(account, nano=1))


async def test_a_refusal_says_what_is_available_and_what_calls_under_way_hold(
    ledger: Ledger, database: Database
) -> None:
    account = funded_account(database, 10_000_000)
    wanted = "Your balance does not cover the most that this call may cost, 0.02 USD: "
    with pytest.raises(InsufficientQuota) as refused:
        await ledger.hold(an_order(account, nano=20_000_000))
    assert (refused.value.message, refused.value.wanted_nano) == (f"{wanted}0.01 USD are available.", 20_000_000)
    first, second, third = (an_order(account, nano=nano) for nano in (4_000_000, 5_000_000, 5_000_000))
    await ledger.hold(first)
    with pytest.raises(InsufficientQuota) as refused:
        await ledger.hold(an_order(account, nano=20_000_000))
    held = "0.006 USD are available, and 0.004 USD are held for calls in progress."
    assert refused.value.message == wanted + held
    # Of two that come together the second is told of the first.
    _, late = await asyncio.gather(ledger.hold(second), ledger.hold(third), return_exceptions=True)
    assert isinstance(late, InsufficientQuota)
    assert late.message.endswith("0.001 USD are available, and 0.009 USD are held for calls in progress.")
    await asyncio.gather(ledger.settle(unpaid(first)), ledger.settle(unpaid(second)))


async def test_g06_several_accounts_are_held_in_one_transaction_or_not_at_all(
    ledger: Ledger, database: Database
) -> None:
    user = funded_account(database, 10_000)
    key = funded_account(database, 300, "quota")
    team = funded_account(database, 500, "quota")
    first = an_order(user, key, team, nano=200)
    await ledger.hold(first)
    crowd = [an_order(user, key, team, nano=200) for _ in range(10)]
    assert not any(await asyncio.gather(*(admitted(ledger, order) for order in crowd)))
    assert [available(database, account) for account in (user, key, team)] == [9800, 100, 300]
    with database.read() as connection:
        assert available_nano(connection, (user, key, team)) == 100
    await ledger.settle(a_settlement(first, 150))
    assert [available(database, account) for account in (user, key, team)] == [9850, 150, 350]
    assert (posted(database, "revenue"), posted(database, "quota-spent")) == (150, 300)


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_on_accounts_that_overlap_holds_what_was_admitted_and_no_more(
    ledger: Ledger, database: Database, seed: int
) -> None:
    chance = random.Random(seed)
    users = [funded_account(database, chance.choice((150, 400, 900))) for _ in range(3)]
    quotas = [funded_account(database, chance.choice((150, 400, 900)), "quota") for _ in range(4)]
    have = {account: available(database, account) for account in (*users, *quotas)}
    held: list[HoldOrder] = []
    refused = 0
    for _ in range(8):
        shapes = [(chance.choice(users), *chance.sample(quotas, chance.randrange(4))) for _ in range(12)]
        crowd = [an_order(*chance.sample(shape, len(shape)), nano=chance.randrange(1, 120)) for shape in shapes]
        ending, held = held, []
        settled = [ledger.settle(a_settlement(order, order.nano // 2)) for order in ending]
        verdicts, _ = await asyncio.gather(
            asyncio.gather(*(admitted(ledger, order) for order in crowd)), asyncio.gather(*settled)
        )
        for order in ending:
            for account in order.accounts:
                have[account] += order.nano - order.nano // 2
        for order in (order for order, verdict in zip(crowd, verdicts, strict=True) if verdict):
            held.append(order)
            for account in order.accounts:
                have[account] -= order.nano
        refused += verdicts.count(False)
        assert {account: available(database, account) for account in have} == have
        assert min(have.values()) >= 0
    assert refused > 10
    assert held
    await asyncio.gather(*(ledger.settle(unpaid(order)) for order in held))


async def test_g37_every_wallet_of_a_call_is_settled_in_one_transaction_leg_by_leg_in_the_orders_order(
    ledger: Ledger, database: Database
) -> None:
    user, key, team = (funded_account(database, 1_000, kind) for kind in ("customer", "quota", "quota"))
    order = an_order(user, key, team, nano=200)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 150))
    query = select(transfers).where(transfers.c.kind == "post").order_by(transfers.c.id)
    with database.read() as connection:
        legs = connection.execute(query).all()
    assert [(leg.debit_account, leg.nano) for leg in legs] == [(user, 150), (key, 150), (team, 150)]
    # One wallet that cannot pay takes the others along: nobody is short of what another one paid.
    poor = funded_account(database, 100, "quota")
    with pytest.raises(InsufficientQuota):
        await ledger.hold(an_order(user, key, poor, nano=101))
    assert [available(database, account) for account in (user, key, team, poor)] == [850, 850, 850, 100]


async def test_an_order_needs_exactly_one_customer_account(ledger: Ledger, database: Database) -> None:
    one, other = funded_account(database, 100), funded_account(database, 100)
    quota = funded_account(database, 100, "quota")
    with database.read() as connection:
        house = {b.code: b.account_id for b in balances(connection)}["revenue"]
    for wrong in ((one, other), (quota,), (one, one), (one, quota, quota), (one, house)):
        with pytest.raises(Unavailable):
            await ledger.hold(an_order(*wrong, nano=1))
    assert available(database, one) == available(database, other) == available(database, quota) == 100


async def test_g15_settled_never_exceeds_the_funds_for_any_interleaving(ledger: Ledger, database: Database) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    account = funded_account(database, 20_000)

    async def call() -> None:
        order = an_order(account, nano=dice.randrange(1, 900))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if not await admitted(ledger, order):
            return
        await asyncio.sleep(dice.random() / 500)
        if dice.random() < 0.3:
            await ledger.settle(unpaid(order))
        else:
            await ledger.settle(a_settlement(order, dice.randrange(order.nano * 2)))

    await asyncio.gather(*(call() for _ in range(300)))
    revenue = posted(database, "revenue")
    assert 0 < revenue <= 20_000
    assert available(database, account) == 20_000 - revenue


async def test_g19_a_free_call_needs_no_hold_and_no_funds(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 0)
    order = an_order(account, nano=0)
    await ledger.hold(order)
    ledger.record(a_record(order, 0))
    other = an_order(account, nano=0)
    await ledger.settle(a_settlement(other, 0))
    assert record_of(database, order) is not None
    assert record_of(database, other) is not None
    with database.read() as connection:
        assert connection.execute(select(transfers.c.id).where(transfers.c.debit_account == account)).all() == []


async def test_g22_spend_is_visible_when_settle_returns(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=300)
    await ledger.hold(order)
    assert available(database, account) == 700
    await ledger.settle(a_settlement(order, 120))
    assert available(database, account) == 880
    with database.read() as connection:
        row = connection.execute(select(requests.c.charge_nano).where(requests.c.id == order.request_id)).scalar_one()
    assert row == 120


# Settlement


async def test_g12_settle_is_idempotent_by_hold_id(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=300)
    await asyncio.gather(ledger.hold(order), ledger.hold(order))
    await ledger.hold(order)
    assert available(database, account) == 700
    # The same call cannot come to hold another amount.
    with pytest.raises(Unavailable):
        await ledger.hold(msgspec.structs.replace(order, nano=200))
    settlement = a_settlement(order, 200)
    await asyncio.gather(*(ledger.settle(settlement) for _ in range(20)))
    await ledger.settle(a_settlement(order, 50))
    await ledger.settle(unpaid(order))
    assert available(database, account) == 800
    assert posted(database, "revenue") == 200


async def test_a_hold_resolves_only_once(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=300)
    await ledger.hold(order)
    # As a hold is given back that nobody waits for: without a usage row.
    assert await ledger._ask(Settle(order.request_id, True, 0, 0, None)) is None
    await ledger.settle(a_settlement(order, 300, loss_nano=5))
    row = record_of(database, order)
    assert row is not None
    assert (row.charge_nano, row.loss_nano, row.flags) == (0, 305, ("hold_resolved",))
    assert available(database, account) == 1000
    with pytest.raises(Unavailable):
        await ledger.hold(order)


async def test_g35_the_price_is_frozen_in_the_hold(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=10)
    await ledger.hold(order)
    with database.read() as connection:
        row = connection.execute(select(transfers).where(transfers.c.debit_account == account)).one()
    assert (row.price_id, row.note, row.key_id) == (order.price_id, order.model, order.key_id)
    await ledger.settle(a_settlement(order, 10))


async def test_g36_what_exceeds_the_hold_is_the_operators_loss_and_flagged(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 100)
    order = an_order(account, nano=100)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 130, flags=("usage_missing",)))
    row = record_of(database, order)
    assert row is not None
    assert (row.charge_nano, row.loss_nano, row.flags) == (100, 30, ("usage_missing", "above_hold"))
    assert available(database, account) == 0
    assert (posted(database, "operator-loss"), posted(database, "upstream")) == (-30, 30)


async def test_a_charge_of_all_that_was_held_is_nothing_to_flag(ledger: Ledger, database: Database) -> None:
    order = an_order(funded_account(database, 100), nano=100)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 100))
    row = record_of(database, order)
    assert row is not None
    assert (row.charge_nano, row.loss_nano, row.flags) == (100, 0, ())


async def test_a_calls_entries_say_what_was_held_and_what_was_charged_or_given_back(
    ledger: Ledger, database: Database
) -> None:
    account = funded_account(database, 1000)
    charged, free = an_order(account, nano=300), an_order(account, nano=200)
    for order in (charged, free):
        await ledger.hold(order)
    await ledger.settle(a_settlement(charged, 120))
    await ledger.settle(a_settlement(free, 0))
    with database.read() as connection:
        told = [entries_of(connection, order.request_id) for order in (charged, free)]
    assert [[(entry.kind, entry.nano) for entry in entries] for entries in told] == [
        [("hold", 300), ("post", 120)],
        [("hold", 200), ("void", 200)],
    ]


async def test_a_free_call_is_not_flagged_for_what_is_wrong_with_another_of_its_batch(
    ledger: Ledger, database: Database
) -> None:
    account = funded_account(database, 100)
    free, unheld = an_order(account, nano=0), an_order(account, nano=5)
    await asyncio.gather(ledger.settle(a_settlement(unheld, 5)), ledger.settle(a_settlement(free, 0)))
    rows = [record_of(database, order) for order in (unheld, free)]
    assert [row.flags for row in rows if row] == [("hold_missing",), ()]


async def test_a_loss_is_booked_beside_the_charge(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 100)
    order = an_order(account, nano=100)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 0, loss_nano=70, outcome="upstream_died"))
    assert available(database, account) == 100
    assert posted(database, "operator-loss") == -70
    free = an_order(account, nano=0)
    await ledger.settle(a_settlement(free, 0, loss_nano=5))
    assert posted(database, "operator-loss") == -75


async def test_one_bad_row_fails_alone(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 10_000)
    good = [an_order(account, nano=10) for _ in range(40)]
    # A lone surrogate cannot be written by either driver.
    bad = an_order(account, nano=10, model="\ud800")
    results = await asyncio.gather(
        *(ledger.hold(order) for order in [*good[:20], bad, *good[20:]]), return_exceptions=True
    )
    assert [type(result) for result in results if result is not None] == [Unavailable]
    assert available(database, account) == 10_000 - 400
    await asyncio.gather(*(ledger.settle(a_settlement(order, 10)) for order in good))
    assert available(database, account) == 10_000 - 400
    # Nor is it remembered as a call under way, which recovery would have to look for ever after.
    assert isinstance(ledger, ThreadLedger)
    assert ledger.writer.open_holds == 0


# What no database takes as text, and what PostgreSQL's indexes have no room for.
@pytest.mark.parametrize("item_id", ["secret\ud800", "secret" + random.Random(1).randbytes(9_000).hex()])
@pytest.mark.parametrize("charge", [50, 0])
async def test_a_settlement_that_the_database_refuses_gives_its_hold_back_at_the_operators_loss(
    ledger: Ledger, database: Database, charge: int, item_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = funded_account(database, 1000)
    await ledger.hold(order := an_order(account, nano=70))
    await ledger.hold(other := an_order(account, nano=30))
    stored = StoredObject(order.request_id, "response", 1, 1, "m", "completed", 1, 2**62, b"{}", item_ids=(item_id,))
    settlement = msgspec.structs.replace(a_settlement(order, charge, loss_nano=2), stored=stored)
    if database.dialect == "sqlite" and item_id.isascii():
        await ledger.settle(settlement)
        await ledger.settle(a_settlement(other, 20))
        return
    answers = await asyncio.gather(
        ledger.settle(settlement), ledger.settle(a_settlement(other, 20)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Unavailable, type(None)]
    assert available(database, account) == 980
    assert posted(database, "operator-loss") == -charge - 2
    record = record_of(database, order)
    assert record is not None
    assert (record.charge_nano, record.loss_nano, record.flags) == (0, charge + 2, ("settle_refused",))
    # Who reads the log is told of which call, and nothing of what it was about.
    assert request_id_text(order.request_id) in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("nano", [2**63 - 1, 2**63, 2**80])
async def test_no_balance_covers_what_no_account_could_hold(ledger: Ledger, database: Database, nano: int) -> None:
    account = funded_account(database, 1000)
    orders = [an_order(account, nano=one) for one in (600, nano, 400)]
    assert await asyncio.gather(*(admitted(ledger, order) for order in orders)) == [True, False, True]
    assert available(database, account) == 0
    await asyncio.gather(*(ledger.settle(unpaid(order)) for order in orders[::2]))


async def test_a_cancelled_hold_leaves_nothing_held(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    granted = []
    for _ in range(20):
        orders = [an_order(account, nano=1) for _ in range(20)]
        tasks = [asyncio.create_task(ledger.hold(order)) for order in orders]
        await asyncio.sleep(random.random() / 300)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)
        granted += [order for order, result in zip(orders, done, strict=True) if result is None]
    # Holds that were granted stay; those whose caller left are given back soon.
    await until(lambda: ledger.depth == 0)
    with database.read() as connection:
        held = balance(connection, account).held_nano
        open_now = check(connection).open_holds
    assert held == open_now == len(granted) >= 200
    await asyncio.gather(*(ledger.settle(unpaid(order)) for order in granted))


async def test_a_full_queue_refuses_holds_but_never_settlements(settings: Settings, installation: Installation) -> None:
    import msgspec

    small = msgspec.structs.replace(settings, ledger_queue_max=5)
    ledger = open_ledger(small, installation.database, os.urandom(16), in_process=True, sealer=installation.sealer)
    await ledger.start()
    account = funded_account(installation.database, 10_000)
    order = an_order(account, nano=1)
    await ledger.hold(order)
    settling = [asyncio.create_task(ledger.settle(a_settlement(order, 1))) for _ in range(20)]
    holds = [an_order(account, nano=1) for _ in range(30)]
    results = await asyncio.gather(*(ledger.hold(hold) for hold in holds), return_exceptions=True)
    assert any(isinstance(result, Unavailable) for result in results)
    await asyncio.gather(*settling)
    await asyncio.gather(*(ledger.settle(unpaid(h)) for h, r in zip(holds, results, strict=True) if r is None))
    await ledger.aclose()
    with pytest.raises(Unavailable):
        await ledger.hold(an_order(account, nano=1))
    assert_in_order(installation.database)


# Refunds and corrections


async def test_refunds_of_one_call_are_told_in_the_order_in_which_they_were_made(
    ledger: Ledger, database: Database
) -> None:
    order = an_order(funded_account(database, 1000), nano=500)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 400))
    amounts = list(range(1, 9))
    clock = ManualClock()
    for nano in amounts:
        clock.advance(60.0)
        with database.write() as connection:
            refund(connection, order.request_id, nano, "slow", "test", clock=clock)
    with database.read() as connection:
        told = [(entry.kind, entry.nano) for entry in entries_of(connection, order.request_id)]
    assert told == [("hold", 500), ("post", 400), *(("refund", nano) for nano in amounts)]


@pytest.mark.parametrize("quotas", [0, 1, 2])
async def test_a_refund_is_a_new_entry_and_never_more_than_was_charged(
    ledger: Ledger, database: Database, quotas: int
) -> None:
    taken_from = [funded_account(database, 1000), *(funded_account(database, 1000, "quota") for _ in range(quotas))]
    dearer = an_order(funded_account(database, 9000), nano=9000)
    order = an_order(*taken_from, nano=500)
    for of, charge in ((dearer, 9000), (order, 400)):
        await ledger.hold(of)
        await ledger.settle(a_settlement(of, charge))
    with database.write() as connection:
        assert refund(connection, order.request_id, 100, "slow", "test", name="ticket-1") == 100
        assert refund(connection, order.request_id, 100, "slow", "test", name="ticket-1") == 100
    assert {available(database, account) for account in taken_from} == {700}
    for nano in (301, 0, -1):
        with pytest.raises(RefundError, match="can be refunded, not"), database.write() as connection:
            refund(connection, order.request_id, nano, "too much or nothing", "test")
    with database.write() as connection:
        assert refund(connection, order.request_id, 1, "a little", "test") == 1
        assert refund(connection, order.request_id, None, "all the rest", "test") == 299
        # On all accounts.
        entries = entries_of(connection, order.request_id)
        assert sum(entry.nano for entry in entries if entry.kind == "refund") == len(taken_from) * 400
        assert audited(connection, 3) == [
            ("ledger.refund", request_id_text(order.request_id), {"nano": nano, "note": note})
            for nano, note in ((100, "slow"), (1, "a little"), (299, "all the rest"))
        ]
    with (
        pytest.raises(RefundError, match=r"the charge of 0\.0000004 USD is already refunded"),
        database.write() as connection,
    ):
        refund(connection, order.request_id, None, "nothing is left", "test")
    with pytest.raises(RefundError, match=r"the call req_[0-9a-f]{32} does not exist"), database.write() as connection:
        refund(connection, os.urandom(16), None, "never made", "test")
    assert {available(database, account) for account in taken_from} == {1000}
    assert posted(database, "revenue") == 9000


async def test_an_operators_booking_is_on_one_account_and_audited(database: Database) -> None:
    user, other, quota = (funded_account(database, 0, kind) for kind in ("customer", "customer", "quota"))
    with database.write() as connection:
        house = system_ids(connection)
        deposit(connection, user, 100, "paid", "anna")
        deposit(connection, quota, 30, "a limit", "anna")
        adjust(connection, user, -40, "too much", "anna")
        set_credit(connection, user, 7, "known well", "anna")
        set_credit(connection, quota, 0, "as before", "anna", subject="key:k")
        assert audited(connection, 5) == [
            ("ledger.deposit", f"account:{user}", {"nano": 100, "note": "paid", "from": house["funding"], "to": user}),
            (
                "ledger.deposit",
                f"account:{quota}",
                {"nano": 30, "note": "a limit", "from": house["quota-funding"], "to": quota},
            ),
            (
                "ledger.adjust",
                f"account:{user}",
                {"nano": 40, "note": "too much", "from": user, "to": house["funding"]},
            ),
            ("ledger.credit", f"account:{user}", {"nano": 7, "note": "known well"}),
            ("ledger.credit", "key:k", {"nano": 0, "note": "as before"}),
        ]
    assert [available(database, account) for account in (user, other, quota)] == [67, 0, 30]
    assert (posted(database, "funding"), posted(database, "quota-funding")) == (-60, -30)


def test_an_account_of_the_house_that_is_absent_is_made(database: Database) -> None:
    for _ in range(2):
        funded_account(database, 0)
    with database.write() as connection:
        before = system_ids(connection)
        connection.execute(accounts.delete().where(accounts.c.code == "upstream"))
        made = ensure_system_accounts(connection)
        assert made.keys() == before.keys() == SYSTEM_ACCOUNTS.keys()
        assert made.items() - before.items() <= {("upstream", made["upstream"])}


@pytest.mark.parametrize("book", [deposit, adjust, set_credit])
async def test_an_operators_booking_is_within_bounds_and_never_on_the_houses_accounts(
    database: Database, book: Callable[..., object]
) -> None:
    user = funded_account(database, 2**60)
    with database.read() as connection:
        house = system_ids(connection)
    too_little: dict[Any, tuple[int, ...]] = {deposit: (0, -1), adjust: (0, -(2**60) - 1), set_credit: (-1,)}
    for nano in (*too_little[book], 2**60 + 1):
        with pytest.raises(AccountError, match=r"is not possible|cannot have a credit line"):
            with database.write() as connection:
                book(connection, user, nano, "", "test")
    for account in (house["funding"], house["revenue"], 10**9):
        with pytest.raises(AccountError), database.write() as connection:
            book(connection, account, 5, "", "test")
    with database.write() as connection:
        book(connection, user, 2**60, "", "test")
    assert available(database, user) == 2**61
    with database.write() as connection:
        adjust(connection, user, -(2**60), "", "test")
        set_credit(connection, user, 0, "", "test")
    assert available(database, user) == (0 if book is set_credit else 2**60)


async def test_g70_every_total_is_a_sum_of_the_ledger_so_a_refund_lowers_it_too(
    ledger: Ledger, database: Database
) -> None:
    user, quota = funded_account(database, 1000), funded_account(database, 1000, "quota")
    for charge in (400, 250):
        order = an_order(user, quota, nano=500)
        await ledger.hold(order)
        await ledger.settle(a_settlement(order, charge))
    with database.write() as connection:
        refund(connection, order.request_id, 200, "slow", "test")

    def entries(account: int) -> int:
        """What the entries that move money come to, without the balances that cache it."""
        t = transfers.c
        with database.read() as connection:
            rows = connection.execute(select(t.nano, t.debit_account, t.credit_account).where(t.kind.in_(MOVES))).all()
        return sum(nano * ((credit == account) - (debit == account)) for nano, debit, credit in rows)

    with database.read() as connection:
        by_code = {one.code: one for one in balances(connection)}
    spent, revenue = by_code["quota-spent"], by_code["revenue"]
    assert entries(spent.account_id) == spent.posted_nano == 450
    assert entries(revenue.account_id) == revenue.posted_nano == 450
    assert entries(user) == entries(quota) == available(database, user) == available(database, quota) == 550
    # A balance caches its entries, a call keeps what it was charged: no row has a total that a refund could miss.
    assert {f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns
            if column.name.endswith("nano")} == {
        "accounts.posted_nano", "accounts.held_nano", "accounts.credit_nano", "transfers.nano",
        "requests.charge_nano", "requests.loss_nano", "unknown_outcomes.held_nano",
    }  # fmt: skip


def told_as_failed(order: HoldOrder, charge: int) -> Settle:
    """What a worker sends for a settlement whose caller was told to try again."""
    row = UsageRow(1, 1, order.model, 200, 1, msgspec.json.encode(a_record(order, charge)))
    return waived(Settle(order.request_id, True, charge, 0, row))


async def test_nobody_pays_for_a_call_that_was_told_as_failed(ledger: Ledger, database: Database) -> None:
    user, quota = funded_account(database, 1000), funded_account(database, 500, "quota")
    lost = an_order(user, quota, nano=100)
    await ledger.hold(lost)
    await ledger.settle(a_settlement(lost, 60))  # Committed, and then the answer gets lost.
    assert (available(database, user), available(database, quota)) == (940, 440)
    for _ in range(3):
        assert await ledger._ask(told_as_failed(lost, 60)) is None
        assert (available(database, user), available(database, quota)) == (1000, 500)
        assert (posted(database, "revenue"), posted(database, "operator-loss")) == (0, -60)
    row = record_of(database, lost)
    assert row is not None
    assert (row.charge_nano, row.loss_nano, row.flags) == (0, 60, ("settled_late",))
    with database.read() as connection:
        assert reconcile(connection, [(lost.request_id, 60)]).ok
    # The settlement itself may come after it: there is nothing left to charge.
    await ledger.settle(a_settlement(lost, 60))
    assert available(database, user) == 1000
    with database.write() as connection, pytest.raises(RefundError):
        refund(connection, lost.request_id, None, "too late", "test")


async def test_a_call_told_as_failed_before_it_was_charged_is_the_operators_loss(
    ledger: Ledger, database: Database
) -> None:
    user = funded_account(database, 1000)
    order = an_order(user, nano=100)
    await ledger.hold(order)
    # Both in one batch, in either order, as after a reconnect.
    settle = msgspec.structs.replace(told_as_failed(order, 60), charge_nano=60, loss_nano=0, waived=False)
    await asyncio.gather(ledger._ask(settle), ledger._ask(told_as_failed(order, 60)))
    assert available(database, user) == 1000
    assert posted(database, "operator-loss") == -60


async def test_what_an_operator_refunded_already_is_not_given_back_twice(ledger: Ledger, database: Database) -> None:
    user, quota = funded_account(database, 1000), funded_account(database, 1000, "quota")
    order = an_order(user, quota, nano=100)
    await ledger.hold(order)
    await ledger.settle(a_settlement(order, 130))  # 30 above the hold is a loss already
    with database.write() as connection:
        assert refund(connection, order.request_id, 45, "half", "test") == 45
    assert await ledger._ask(told_as_failed(order, 130)) is None
    assert available(database, user) == available(database, quota) == 1000
    assert posted(database, "operator-loss") == -85
    row = record_of(database, order)
    assert row is not None
    assert (row.charge_nano, row.loss_nano, row.flags) == (45, 85, ("above_hold", "settled_late"))


async def test_an_adjustment_cannot_take_what_is_held(ledger: Ledger, database: Database) -> None:
    account = funded_account(database, 1000)
    order = an_order(account, nano=600)
    await ledger.hold(order)
    with pytest.raises(AccountError), database.write() as connection:
        adjust(connection, account, -401, "", "test")
    with database.write() as connection:
        adjust(connection, account, -400, "", "test")
    await ledger.settle(a_settlement(order, 600))
    assert available(database, account) == 0


async def test_g78_a_server_that_only_reads_is_an_outage_and_what_it_owes_is_booked_afterwards(
    settings: Settings, installation: Installation, ledger: Ledger
) -> None:
    database = installation.database
    if database.dialect != "postgresql":
        pytest.skip("a SQLite file is no standby")
    account = funded_account(database, 100)
    await ledger.hold(order := an_order(account, nano=70))
    ledger._settings = msgspec.structs.replace(settings, settle_wait_s=2.0)
    with read_only(database):
        with pytest.raises(Unavailable):
            await ledger.settle(a_settlement(order, 50))
        with pytest.raises(Unavailable, match="cannot be written"):
            await ledger.hold(an_order(account, nano=1))
        assert ledger.unwritten_s > ledger._settings.settle_wait_s
    await until(lambda: admitted_again(ledger, account))
    assert available(database, account) == 100


async def test_g78_a_right_that_was_taken_away_is_an_outage_and_what_is_owed_is_booked_afterwards(
    settings: Settings, installation: Installation
) -> None:
    database = installation.database
    if database.dialect != "postgresql":
        pytest.skip("SQLite has no roles")
    account = funded_account(database, 100)
    with server_commands(database) as (_, name):
        role = f"served_{name}"
    with database.write() as connection:
        connection.exec_driver_sql(f'CREATE ROLE "{role}" LOGIN')
        connection.exec_driver_sql(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{role}"')
        connection.exec_driver_sql(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{role}"')
        url = connection.engine.url.set(username=role).render_as_string(hide_password=False)
    served = Database.open(url)
    try:
        quick = msgspec.structs.replace(settings, settle_wait_s=2.0)
        ledger = open_ledger(quick, served, os.urandom(16), in_process=True, sealer=installation.sealer)
        await ledger.start()
        await ledger.hold(order := an_order(account, nano=70))
        with database.write() as connection:
            connection.exec_driver_sql(f'REVOKE INSERT ON transfers FROM "{role}"')
        with pytest.raises(Unavailable):
            await ledger.settle(a_settlement(order, 50))
        with database.write() as connection:
            connection.exec_driver_sql(f'GRANT INSERT ON transfers TO "{role}"')
        await until(lambda: admitted_again(ledger, account))
        await ledger.aclose()
        assert available(database, account) == 100
    finally:
        served.close()
        with database.write() as connection:
            connection.exec_driver_sql(f'DROP OWNED BY "{role}"')
            connection.exec_driver_sql(f'DROP ROLE "{role}"')


async def admitted_again(ledger: Ledger, account: int) -> bool:
    """Whether a call of nothing that costs can be held and given back."""
    try:
        await ledger.hold(order := an_order(account, nano=100))
        await ledger.settle(unpaid(order))
    except (InsufficientQuota, Unavailable):
        return False
    return True
