"""Callers who leave at an awkward moment, or are told to try again: nothing stays held, nothing is charged unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from elkapi.ledger.ledger import _TIMED_OUT, Ledger, tried_again
from elkapi.ledger.orders import ClaimResult, Hold, Order, Refusal, Settle, UsageRow
from elkapi.ledger.writer import Entry
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.secrets import Sealer
from elkapi.testing.ledger import a_record, an_order
from elkapi.types import RequestRecord


class ScriptedLedger(Ledger):
    """A ledger whose answers are given by the test."""

    sent: list[Entry]

    @property
    def depth(self) -> int:
        return 0

    async def _start(self) -> None:
        self.sent = []

    async def _stop(self) -> None: ...

    def _send(self, entries: list[Entry]) -> None:
        self.sent += entries

    def orders(self) -> list[Order]:
        return [order for order, _ in self.sent]

    def grant(self) -> None:
        """Every hold sent so far was made."""
        holds = [entry for entry in self.sent if isinstance(entry[0], Hold)]
        self._deliver(holds, [None] * len(holds))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[ScriptedLedger]:

    database = Database.open(f"sqlite:///{tmp_path / 'books.sqlite3'}")
    migrate(database)
    made = ScriptedLedger(Settings(data_dir=str(tmp_path)), database, b"o" * 16, Sealer(b"k" * 32))
    await made.start()
    yield made
    await made.aclose()
    database.close()


async def until_sent(ledger: ScriptedLedger, count: int) -> None:
    while len(ledger.sent) < count:
        await asyncio.sleep(0)


@pytest.mark.parametrize("granted_first", [True, False])
async def test_g08_a_hold_granted_as_its_caller_leaves_is_given_back(
    ledger: ScriptedLedger, granted_first: bool
) -> None:
    order = an_order(1, nano=700)
    call = asyncio.create_task(ledger.hold(order))
    await until_sent(ledger, 1)
    # Both happen in one iteration of the loop: the caller's task has not run again in between.
    steps = [ledger.grant, lambda: call.cancel()]
    for step in steps if granted_first else reversed(steps):
        step()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_sent(ledger, 2)
    settle = ledger.orders()[1]
    assert isinstance(settle, Settle)
    assert (settle.request_id, settle.held, settle.charge_nano) == (order.request_id, True, 0)


async def test_a_hold_refused_as_its_caller_leaves_needs_nothing_more(ledger: ScriptedLedger) -> None:
    call = asyncio.create_task(ledger.hold(an_order(1, nano=700)))
    await until_sent(ledger, 1)
    ledger._deliver(ledger.sent, [Refusal("quota")])
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(ledger.sent) == 1


def settled(waiter: asyncio.Future[Refusal | None] | None, *, claim: ClaimResult | None = None) -> Settle:
    """What a settlement of 60 nano becomes when it is tried again."""
    order = an_order(1, nano=100)
    record = a_record(order, 60)
    row = UsageRow(1, 1, "m", 200, 1, msgspec.json.encode(record))
    again, _ = tried_again((Settle(order.request_id, True, 60, 0, row, claim), waiter))
    assert isinstance(again, Settle)
    return again


async def test_a_settlement_tried_again_is_free_only_once_its_caller_was_told_that_it_failed() -> None:
    waiter: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
    assert settled(waiter).charge_nano == 60
    assert settled(None).charge_nano == 60
    left: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
    left.cancel()  # A caller who left after the whole answer was there has been served.
    assert settled(left).charge_nano == 60
    waiter.set_result(_TIMED_OUT)
    late = settled(waiter)
    assert (late.held, late.charge_nano, late.loss_nano) == (True, 0, 60)
    assert late.row is not None
    record = msgspec.json.decode(late.row.record, type=RequestRecord)
    assert (record.charge_nano, record.loss_nano, record.flags) == (0, 60, ("settled_late",))
    # With an idempotency key the caller gets the kept answer by asking again.
    assert settled(waiter, claim=ClaimResult(1, "op", "k", "done", b"sealed")).charge_nano == 60
