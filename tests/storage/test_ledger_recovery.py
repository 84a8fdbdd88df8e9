"""Recovery: what a worker that is gone held goes back, once, listed; a live worker's holds are never touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select

from elkapi.clock import SYSTEM_CLOCK, ManualClock
from elkapi.errors import Unavailable
from elkapi.ids import first_id_at, new_id
from elkapi.ledger import Ledger, balance, balances, check, mark_dead, open_ledger, reconcile, recover, recovery
from elkapi.ledger.ledger import open_books
from elkapi.ledger.orders import TASKS, Beat, Hold, NoticeRow
from elkapi.ledger.recovery import Recoverer, RecoveryReport, read_hold, recover_owners, standing_holds, unknown_calls
from elkapi.ledger.transfers import HOLD_SUFFIX
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.repos.notices import is_any_due
from elkapi.storage.repos.requests import get_request
from elkapi.storage.schema import notices, tasks, transfers, unknown_outcomes, workers
from elkapi.testing.ledger import a_settlement, an_order, funded_account, unpaid
from elkapi.types import CACHED_FLAG, AttemptRecord, HoldOrder, IdempotencyClaim, NewTask
from tests.waiting import until


@contextlib.asynccontextmanager
async def started(settings: Settings, installation: Installation, owner: bytes) -> AsyncIterator[Ledger]:
    ledger = open_ledger(settings, installation.database, owner, in_process=True, sealer=installation.sealer)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


def kinds_of(database: Database, order: HoldOrder) -> list[str]:
    with database.read() as connection:
        t = transfers.c
        rows = connection.execute(select(t.kind).where(t.id.between(order.request_id, order.request_id + b"\xff" * 3)))
        return list(rows.scalars())


def resolve_all(database: Database, settings: Settings, owner: bytes) -> int:
    with database.write() as connection:
        mark_dead(connection, owner, 1)
        return recover(connection, 1, settings).holds


async def held_by_one_that_was_killed(settings: Settings, installation: Installation) -> HoldOrder:
    account = funded_account(installation.database, 100)
    async with started(settings, installation, os.urandom(16)) as ledger:
        await ledger.hold(order := an_order(account, nano=70))
    with installation.database.write() as connection:
        connection.execute(workers.update().values(ended_ns=None))  # no farewell
    return order


def looks_beside_one_that_lives(database: Database, settings: Settings, clock: ManualClock) -> Callable[..., None]:
    """A function that lets the seconds pass, moves the heartbeat of another worker unless told not to, and looks."""
    alive = os.urandom(16)
    row = {"owner": alive, "role": "worker", "started_ns": 1, "heartbeat_ns": 1, "scan_from": b"\xff" * 16}
    with database.write() as connection:
        connection.execute(workers.insert().values(row))
    watch = Recoverer(database, settings, clock)

    def look(passed_s: float, *, moves: bool = True) -> None:
        clock.advance(passed_s)
        if moves:
            with database.write() as connection:
                mine = workers.update().where(workers.c.owner == alive)
                connection.execute(mine.values(heartbeat_ns=workers.c.heartbeat_ns + 1))
        watch.tick()

    return look


async def test_a_clock_that_was_set_back_before_a_start_is_told_of_and_keeps_nobody_waiting(
    settings: Settings, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    database = installation.database
    order = await held_by_one_that_was_killed(settings, installation)
    hour_ns = 3600 * 10**9
    with database.write() as connection:
        connection.execute(workers.update().values(heartbeat_ns=workers.c.heartbeat_ns + hour_ns))
        waiting = NoticeRow(b"t" * 16, 0, 1, 1, 1, "h", "standard", 1, SYSTEM_CLOCK.now_ns() + hour_ns, 2**62, b"s")
        columns = dict(zip(NoticeRow.__struct_fields__, msgspec.structs.astuple(waiting), strict=True))
        connection.execute(notices.insert().values(columns | {"state": "pending", "tries": 1}))
    quick = msgspec.structs.replace(settings, heartbeat_s=0.1, heartbeat_lost_s=0.6)
    async with started(quick, installation, os.urandom(16)):
        assert "behind the newest heartbeat of a worker" in caplog.text
        with database.read() as connection:
            assert is_any_due(connection, SYSTEM_CLOCK.now_ns())
        await until(lambda: kinds_of(database, order) == ["hold", "expire"])
    caplog.clear()
    async with started(settings, installation, os.urandom(16)):
        assert "behind the newest heartbeat" not in caplog.text


async def test_g08_holds_of_a_dead_worker_go_back_exactly_once(settings: Settings, installation: Installation) -> None:
    database, owner = installation.database, os.urandom(16)
    user, quota = funded_account(database, 10_000), funded_account(database, 10_000, "quota")
    async with started(settings, installation, owner) as ledger:
        orders = [an_order(user, quota, nano=100, model=f"m{n}") for n in range(20)]
        await asyncio.gather(*(ledger.hold(order) for order in orders))
        for order in orders[:5]:
            await ledger.settle(a_settlement(order, 60))
    assert resolve_all(database, settings, owner) == 15
    assert resolve_all(database, settings, owner) == 0
    with database.read() as connection:
        assert balance(connection, user).available_nano == balance(connection, quota).available_nano == 9700
        listed = connection.execute(select(unknown_outcomes)).all()
        report = check(connection)
    assert {(row.request_id, row.model, row.held_nano) for row in listed} == {
        (order.request_id, order.model, 100) for order in orders[5:]
    }
    assert report.problems == []
    assert (report.unknown_outcomes, report.unknown_outcomes_nano) == (15, 1500)
    assert kinds_of(database, orders[9]) == ["hold", "hold", "expire", "expire"]


async def test_g09_a_leaked_hold_is_visible_and_heals(settings: Settings, installation: Installation) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, owner) as ledger:
        await ledger.hold(an_order(account, nano=70))
    with database.read() as connection:
        report = check(connection)
    assert (report.open_holds, report.open_holds_nano) == (1, 70)
    assert "for a worker that is gone" in report.problems[0]
    assert resolve_all(database, settings, owner) == 1
    with database.read() as connection:
        assert check(connection).problems == []


async def test_a_live_workers_holds_are_never_expired(settings: Settings, installation: Installation) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, owner) as ledger:
        order = an_order(account, nano=70)
        await ledger.hold(order)
        with database.write() as connection:
            beat = connection.execute(select(workers.c.heartbeat_ns)).scalar_one()
            assert recover(connection, beat + round(settings.heartbeat_lost_s * 0.9e9), settings).holds == 0
            assert check(connection).problems == []
        await ledger.settle(a_settlement(order, 70))


async def test_g08_of_two_workers_only_the_dead_ones_holds_go_back(
    settings: Settings, installation: Installation
) -> None:
    database, dead = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, os.urandom(16)) as alive:
        await alive.hold(first := an_order(account, nano=10))
        async with started(settings, installation, dead) as ledger:
            await ledger.hold(order := an_order(account, nano=20))
        await alive.hold(second := an_order(account, nano=30))
        assert resolve_all(database, settings, dead) == 1
        assert [kinds_of(database, one) for one in (first, order, second)] == [["hold"], ["hold", "expire"], ["hold"]]
        for one in (first, second):
            await alive.settle(unpaid(one))


async def test_g73_what_a_dead_worker_submitted_or_polled_stays_held_and_is_left_to_a_poller(
    settings: Settings, installation: Installation
) -> None:
    database, dead = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    order = an_order(account, nano=70, claim=IdempotencyClaim(1, "op", "key", b"f" * 32))
    task = NewTask(order.request_id, 1, 1, "op", "wire", "native", "m", 1, b"{}")
    async with started(settings, installation, dead) as ledger:
        await ledger.hold(msgspec.structs.replace(order, task=task))
    with database.write() as connection:
        connection.execute(tasks.update().values(poller=dead))
        report = recover(connection, 1, settings)
        ((worker, poller, version),) = connection.execute(select(tasks.c.worker, tasks.c.poller, tasks.c.version)).all()
    # Whoever repeats the submit is told that nobody knows: nothing ends its Idempotency-Key but what its worker wrote.
    assert (report.holds, report.claims_unknown) == (0, 1)
    assert (worker, poller, version) == (None, None, 1)
    assert kinds_of(database, order) == ["hold"]
    with database.read() as connection:
        assert check(connection).problems == []


async def test_a_machine_that_slept_expires_nobody(settings: Settings, installation: Installation) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, owner) as ledger:
        await ledger.hold(order := an_order(account, nano=70))
        clock = ManualClock()  # a year ahead of the heartbeats
        watch = Recoverer(database, settings, clock)
        watch.tick()
        assert kinds_of(database, order) == ["hold"]
        await ledger.settle(unpaid(order))


async def test_a_heartbeat_that_stands_still_while_others_move_is_noticed(
    settings: Settings, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    database = installation.database
    order = await held_by_one_that_was_killed(settings, installation)
    clock = ManualClock()
    look = looks_beside_one_that_lives(database, settings, clock)
    for _ in range(4):
        look(settings.heartbeat_lost_s / 4)
    assert kinds_of(database, order) == ["hold"]
    look(settings.heartbeat_lost_s / 4)
    assert kinds_of(database, order) == ["hold", "expire"]
    # And the others are not taken for gone with it.
    with database.read() as connection:
        ends = connection.execute(select(workers.c.ended_ns.is_(None)).order_by(workers.c.ended_ns.is_(None)))
        assert list(map(bool, ends.scalars())) == [False, True]
    assert "1 worker gone, 1 hold of 70 nano released" in caplog.text


async def test_one_that_fell_silent_is_told_of_although_it_held_nothing(
    settings: Settings, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    silent = {"owner": b"s" * 16, "role": "worker", "started_ns": 1, "heartbeat_ns": 1, "scan_from": b"\xff" * 16}
    with installation.database.write() as connection:
        connection.execute(workers.insert().values(silent))
    look = looks_beside_one_that_lives(installation.database, settings, ManualClock())
    for _ in range(5):
        look(settings.heartbeat_lost_s / 4)
    assert "1 worker gone, 0 holds" in caplog.text


async def test_a_database_that_could_not_be_written_for_long_expires_nobody(
    settings: Settings, installation: Installation
) -> None:
    database = installation.database
    order = await held_by_one_that_was_killed(settings, installation)
    clock = ManualClock()
    look = looks_beside_one_that_lives(database, settings, clock)
    look(0)
    # Locked or full meanwhile for whoever writes a heartbeat, at many looks or with one that waited all the time.
    for _ in range(20):
        look(settings.heartbeat_lost_s / 4, moves=False)
    look(settings.heartbeat_lost_s * 20)
    assert kinds_of(database, order) == ["hold"]
    # Back again, this one a little later than the other.
    with database.write() as connection:
        connection.execute(workers.update().values(heartbeat_ns=workers.c.heartbeat_ns + 1))
    for _ in range(4):
        look(settings.heartbeat_lost_s / 4)
    assert kinds_of(database, order) == ["hold"]
    look(settings.heartbeat_lost_s / 4)
    assert kinds_of(database, order) == ["hold", "expire"]


async def test_g08_a_hold_that_reaches_the_disk_after_its_worker_was_given_up_goes_back_too(
    settings: Settings, installation: Installation
) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, owner):
        pass
    clock = ManualClock(SYSTEM_CLOCK.now_ns())
    watch = Recoverer(database, settings, clock)
    watch.tick()
    # Sent before the end, written after the first look: as when the writer waited for a lock meanwhile.
    late = an_order(account, nano=70)
    books = open_books(database, settings)
    sent = Hold(late.request_id, late.key_id, late.accounts, late.nano, late.model, late.price_id, owner)
    assert books.apply([sent]) == [None]
    books.close()
    watch.tick()
    assert kinds_of(database, late) == ["hold"]
    clock.advance(settings.heartbeat_lost_s * 1.1)
    watch.tick()
    assert kinds_of(database, late) == ["hold", "expire"]
    with database.read() as connection:
        assert check(connection).problems == []
        assert connection.execute(select(workers)).all() == []


@pytest.mark.parametrize("remembered", [200_000, 1])
async def test_g08_recovery_finds_a_hold_however_long_its_call_took(
    settings: Settings, installation: Installation, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr("elkapi.ledger.books.OPEN_MAX", remembered)
    database, owner, clock = installation.database, os.urandom(16), ManualClock(SYSTEM_CLOCK.now_ns())
    account = funded_account(database, 1000)
    books = open_books(database, settings, clock)

    def held(arrived_ns: int) -> Hold:
        order = an_order(account, nano=100)
        return Hold(new_id(arrived_ns), order.key_id, order.accounts, order.nano, order.model, order.price_id, owner)

    def die() -> int:
        assert books.apply([Beat(owner, "worker", 1, ended=True)]) == [None]
        with database.write() as connection:
            return recover_owners(connection, [owner], clock.now_ns()).holds

    # Streams of an hour, known by later heartbeats, also those that are not remembered any more.
    assert books.apply([held(clock.now_ns()) for _ in range(3)]) == [None] * 3
    clock.advance(3600)
    assert die() == 3
    # Also over a connection that was opened since, after an outage: it knows what was held over the one before.
    assert books.apply([held(clock.now_ns())]) == [None]
    books.close()
    books = open_books(database, settings, clock, owner)
    clock.advance(3600)
    assert die() == 1
    # And calls that came long before they were held, when no heartbeat knew of them.
    books.close()
    books = open_books(database, settings, clock)
    assert books.apply([Beat(owner, "worker", 1)]) == [None]
    late = held(clock.now_ns() - 290 * 10**9)
    assert books.apply([late]) == [None]
    with database.write() as connection:
        assert recover_owners(connection, [owner], clock.now_ns()).holds == 1
    books.close()
    with database.read() as connection:
        assert balance(connection, account).available_nano == 1000


async def test_g08_recovery_finds_a_hold_that_was_made_just_after_the_clock_was_set_back(
    settings: Settings, installation: Installation
) -> None:
    database, owner, clock = installation.database, os.urandom(16), ManualClock(SYSTEM_CLOCK.now_ns())
    account = funded_account(database, 1000)
    books = open_books(database, settings, clock)
    assert books.apply([Beat(owner, "worker", 1)]) == [None]
    clock.set_by(-3600)
    order = an_order(account, nano=100)
    hold = Hold(new_id(clock.now_ns()), order.key_id, order.accounts, order.nano, order.model, order.price_id, owner)
    assert books.apply([hold]) == [None]
    books.close()
    with database.write() as connection:
        # Killed before the next heartbeat, which would have told from where to look.
        mark_dead(connection, owner, clock.now_ns())
        assert recover(connection, clock.now_ns(), settings).holds == 1
    with database.read() as connection:
        assert balance(connection, account).available_nano == 1000


async def test_g08_recovery_gives_back_nothing_of_who_turns_out_to_live(
    settings: Settings, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, owner) as ledger:
        await ledger.hold(order := an_order(account, nano=70))
        with database.write() as connection:
            # Its heartbeat has moved on since it was seen to stand still.
            assert recover_owners(connection, [owner], 1, {owner: 1}).holds == 0
            stale = read_hold(connection, order.request_id)
        await ledger.settle(a_settlement(order, 30))
        # It was settled after recovery had found it open.
        monkeypatch.setattr("elkapi.ledger.recovery.open_holds", lambda *_: [stale])
        with database.write() as connection:
            assert recover_owners(connection, [owner], 1).holds == 0
    assert kinds_of(database, order) == ["hold", "post"]
    with database.read() as connection:
        assert balance(connection, account).available_nano == 70
        assert unknown_calls(connection, limit=100) == []


async def test_g08_recovery_by_hand_gives_back_nothing_of_one_whose_heartbeat_comes_at_that_moment(
    settings: Settings, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    gone_workers = recovery.gone_workers

    def gone_a_moment_ago(connection: Connection, now_ns: int, given: Settings) -> dict[bytes, int]:
        gone = gone_workers(connection, now_ns, given)
        assert list(gone) == [owner]
        connection.execute(workers.update().values(heartbeat_ns=now_ns))
        return gone

    async with started(settings, installation, owner) as ledger:
        await ledger.hold(order := an_order(account, nano=70))
        monkeypatch.setattr(recovery, "gone_workers", gone_a_moment_ago)
        with database.write() as connection:
            late_ns = SYSTEM_CLOCK.now_ns() + round(settings.heartbeat_lost_s * 2e9)
            assert recover(connection, late_ns, settings).holds == 0
        await ledger.settle(a_settlement(order, 30))
    assert kinds_of(database, order) == ["hold", "post"]


async def test_a_late_settlement_of_an_expired_hold_charges_nothing_and_is_kept(
    settings: Settings, installation: Installation
) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 100)

    def heartbeat_ns() -> object:
        with database.read() as connection:
            return connection.execute(select(workers.c.heartbeat_ns).where(workers.c.owner == owner)).scalar()

    async with started(settings, installation, owner) as ledger:
        orders = [an_order(account, nano=10) for _ in range(3)]
        await asyncio.gather(*(ledger.hold(order) for order in orders))
        assert resolve_all(database, settings, owner) == 3
        await asyncio.gather(*(ledger.settle(a_settlement(order, 8)) for order in orders))
        await ledger.settle(a_settlement(orders[0], 8))
        with database.read() as connection:
            rows = [get_request(connection, order.request_id, None) for order in orders]
            loss = {b.code: b.posted_nano for b in balances(connection)}["operator-loss"]
            assert balance(connection, account).available_nano == 100
            assert connection.execute(select(unknown_outcomes)).all() == []
        assert [(row.charge_nano, row.loss_nano, row.flags) for row in rows if row] == [(0, 8, ("hold_expired",))] * 3
        assert loss == -24
        # The worker was only cut off: its heartbeat revives it, and new holds are safe.
        order, before_ns = an_order(account, nano=100), heartbeat_ns()
        await until(lambda: heartbeat_ns() != before_ns)
        await ledger.hold(order)
        with database.read() as connection:
            assert check(connection).problems == []
        await ledger.settle(a_settlement(order, 100))


async def test_a_successor_declares_its_predecessor_dead(settings: Settings, installation: Installation) -> None:
    database, dead = installation.database, os.urandom(16)
    account = funded_account(database, 100)
    async with started(settings, installation, dead) as ledger:
        await ledger.hold(order := an_order(account, nano=10))
    with database.write() as connection:
        connection.execute(workers.update().values(ended_ns=None))
    quick = msgspec.structs.replace(settings, heartbeat_s=0.05)
    successor = open_ledger(quick, database, new_id(), in_process=True, sealer=installation.sealer, dead_owner=dead)
    await successor.start()
    await until(lambda: kinds_of(database, order) == ["hold", "expire"])
    await successor.aclose()


async def test_a_worker_that_said_farewell_is_no_news_to_the_next_start(
    settings: Settings, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    account = funded_account(installation.database, 1000)
    recoverer = Recoverer(installation.database, settings, SYSTEM_CLOCK)

    def news() -> list[str]:
        caplog.clear()
        recoverer.tick()
        return [record.getMessage().partition(" (")[0] for record in caplog.records]

    async with started(settings, installation, os.urandom(16)) as ledger:
        await ledger.hold(order := an_order(account, nano=1))
        await ledger.settle(a_settlement(order, 1))
    assert news() == []
    dead = os.urandom(16)
    async with started(settings, installation, dead) as ledger:
        claim = IdempotencyClaim(1, "op", "key", b"f" * 32)
        await ledger.hold(an_order(account, nano=5, claim=claim))
    assert news() == ["recovery: 1 worker gone, 1 hold of 5 nano released, 1 idempotent call unknown"]
    assert RecoveryReport(answers_failed=1).is_news
    two = RecoveryReport(workers=2, holds=0, claims_unknown=3)
    assert two.is_news
    assert two.text() == "2 workers gone, 0 holds of 0 nano released, 3 idempotent calls unknown"


async def test_g10_balances_are_rebuilt_from_entries_and_drift_is_named(
    settings: Settings, installation: Installation
) -> None:
    database = installation.database
    account = funded_account(database, 100)
    async with started(settings, installation, os.urandom(16)) as ledger:
        await ledger.hold(order := an_order(account, nano=10))
        await ledger.settle(a_settlement(order, 10))
    with database.write() as connection:
        from elkapi.storage.schema import accounts, requests

        connection.execute(accounts.update().where(accounts.c.id == account).values(posted_nano=91, held_nano=3))
        connection.execute(requests.update().values(charge_nano=9))
    with database.read() as connection:
        report = check(connection)
    assert not report.ok
    text = "\n".join(report.lines())
    for part in (
        # The number that `elkapi key show` prints; a customer's code is known to nobody.
        f"account {account} says 91 nano, its entries 90",
        f"account {account} holds 3 nano, its open holds 0",
        "a usage row of 9 nano",
        "is 1 nano",
    ):
        assert part in text


async def test_an_upstreams_bill_is_explained_to_the_nano(settings: Settings, installation: Installation) -> None:
    database, owner = installation.database, os.urandom(16)
    account = funded_account(database, 10_000)
    async with started(settings, installation, owner) as ledger:
        charged, lost, over, failed, killed, retried, broken, ghost = (an_order(account, nano=100) for _ in range(8))
        for order in (charged, lost, over, failed, killed, retried, broken):
            await ledger.hold(order)
        await ledger.settle(a_settlement(charged, 80))
        await ledger.settle(a_settlement(lost, 0, loss_nano=55))
        await ledger.settle(a_settlement(over, 130))
        await ledger.settle(a_settlement(failed, 0, flags=("unknown_outcome",)))
        attempt = AttemptRecord(1, "c", 1, "first", "timeout", "unknown")
        await ledger.settle(a_settlement(retried, 20, attempts=(attempt,)))
        await ledger.settle(a_settlement(broken, 0, loss_nano=40, attempts=(attempt,)))
        await ledger.hold(kept := an_order(account, nano=100))
        await ledger.settle(a_settlement(kept, 10, flags=(CACHED_FLAG,)))  # of no upstream's making, so on no bill
    resolve_all(database, settings, owner)
    bill = [(charged, 80), (lost, 55), (over, 130), (failed, 90), (killed, 70), (retried, 20), (retried, 19)]
    bill += [(broken, 40), (broken, 6)]
    with database.read() as connection:
        report = reconcile(connection, [(order.request_id, nano) for order, nano in bill])
        assert report.ok, report
        assert (report.charged_nano, report.loss_nano, report.unknown_nano) == (200, 125, 185)
        assert {line.request_id for line in report.unknown} == {
            order.request_id for order in (failed, killed, retried, broken)
        }
        # What is too much on one line is not what is missing on another.
        moved = [(order.request_id, nano + {charged: 1, lost: -1}.get(order, 0)) for order, nano in bill]
        assert not reconcile(connection, moved).ok
        wrong = reconcile(connection, [(charged.request_id, 81), (ghost.request_id, 5)])
        listed = unknown_calls(connection, limit=100)
        pages = [unknown_calls(connection, limit=1, after=call.request_id) for call in listed]
    assert pages == [[call] for call in listed[1:]] + [[]], "each of them on one page, the oldest first"
    assert not wrong.ok
    assert all("nano" in line.text() for line in wrong.unexplained)
    assert {line.request_id for line in wrong.unexplained} == {
        order.request_id for order in (charged, lost, over, retried, broken, ghost)
    }
    # The retried calls too: one is charged for its answer and one was lost, and the attempt before may be billed.
    assert {call.request_id: (call.reason, call.held_nano) for call in listed} == {
        failed.request_id: ("no_answer", 100),
        killed.request_id: ("worker_lost", 100),
        retried.request_id: ("retried", 100),
        broken.request_id: ("retried", 100),
    }


async def test_a_hold_older_than_recovery_looks_back_is_refused(settings: Settings, installation: Installation) -> None:
    account = funded_account(installation.database, 100)
    claim = IdempotencyClaim(1, "op", "key", b"f" * 32)
    async with started(settings, installation, os.urandom(16)) as ledger:
        again = an_order(account, nano=1, claim=claim)
        order = msgspec.structs.replace(again, request_id=new_id(1_700_000_000 * 10**9))
        with pytest.raises(Unavailable, match="waited too long"):
            await ledger.hold(order)
        # It is to be tried again, so its Idempotency-Key is free.
        await ledger.hold(again)
        await ledger.settle(unpaid(again))


def test_the_check_of_a_long_ledger_is_not_cut_off(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("SQLite cuts no statement off")

    def longest(connection: Connection) -> str:
        return str(connection.exec_driver_sql("SHOW statement_timeout").scalar())

    with database.read() as connection:
        assert check(connection).ok
        assert longest(connection) == "0"
    with database.read() as connection:
        assert reconcile(connection, []).ok
        assert longest(connection) == "0"
    with database.read() as connection:
        assert longest(connection) == "30s"


def test_holds_of_open_tasks_are_listed_however_old_they_are(database: Database) -> None:
    hour_ns, now_ns = 3600 * 10**9, time.time_ns()
    begun = {state: new_id(now_ns - 5 * hour_ns) for state in ("running", "failed")}
    account = funded_account(database, 1000)
    with database.write() as connection:
        for state, task_id in begun.items():
            hold = {"id": task_id + HOLD_SUFFIX[0], "kind": "hold", "debit_account": account, "credit_account": 1}
            connection.execute(transfers.insert(), {**hold, "nano": 7, "created_ns": 1, "owner": TASKS, "note": state})
            task: dict[str, Any] = dict.fromkeys(("operation", "wire", "form", "model"), "x")
            task |= dict.fromkeys(("owner_id", "key_id", "version", "progress", "created_ns", "updated_ns"), 1)
            row = {**task, "id": task_id, "state": state, "poked": False, "asked_sealed": b""}
            connection.execute(tasks.insert(), row)
        worker = {"owner": bytes(16), "role": "worker", "started_ns": 1, "heartbeat_ns": now_ns}
        connection.execute(workers.insert(), {**worker, "scan_from": first_id_at(now_ns - hour_ns)})
    with database.read() as connection:
        assert [hold.model for hold in standing_holds(connection)] == ["running"]
