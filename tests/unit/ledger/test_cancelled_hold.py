"""A caller who leaves while its hold is being made must leave nothing held, at whatever moment that happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from elkapi.ledger.ledger import Ledger
from elkapi.ledger.orders import Hold, Order, Refusal, Settle
from elkapi.ledger.writer import Entry
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.secrets import Sealer
from elkapi.testing.ledger import an_order


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
