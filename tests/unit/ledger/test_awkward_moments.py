"""Callers who leave at an awkward moment, or are told to try again: nothing stays held, nothing is charged unseen."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.errors import Unavailable
from elkapi.ledger.ledger import Boot, Ledger
from elkapi.ledger.orders import ClaimResult, Hold, Order, Refusal, Settle
from elkapi.ledger.told import ToldFailures
from elkapi.ledger.writer import Entry
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.secrets import Sealer
from elkapi.testing.ledger import a_record, a_settlement, an_order
from elkapi.types import HoldOrder, IdempotencyClaim, RequestRecord, StoredObject, StoredReply


class ScriptedLedger(Ledger):
    """A ledger whose answers are given by the test."""

    sent: list[Entry]

    @property
    def depth(self) -> int:
        return 0

    @property
    def unwritten_s(self) -> float:
        return 0.0

    async def _start(self) -> None:
        self.sent = []

    async def _stop(self) -> None: ...

    def _send(self, entries: list[Entry]) -> list[Entry]:
        self.sent += entries
        return entries

    def orders(self) -> list[Order]:
        return [order for order, _ in self.sent]

    def grant(self) -> None:
        """Every hold sent so far was made."""
        holds = [entry for entry in self.sent if isinstance(entry[0], Hold)]
        self._deliver(holds, [None] * len(holds))


@contextlib.asynccontextmanager
async def scripted(folder: Path, owner: bytes, **fields: Any) -> AsyncIterator[ScriptedLedger]:
    """One worker's ledger in a data directory."""
    database = Database.open(f"sqlite:///{folder / 'books.sqlite3'}")
    migrate(database)
    made = ScriptedLedger(Boot(Settings(data_dir=str(folder), **fields), database, owner, Sealer(b"k" * 32)))
    await made.start()
    yield made
    await made.aclose()
    database.close()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[ScriptedLedger]:
    async with scripted(tmp_path, b"o" * 16) as made:
        yield made


async def until_sent(ledger: ScriptedLedger, count: int) -> None:
    while len(ledger.sent) < count:
        await asyncio.sleep(0)


@pytest.mark.parametrize("granted_first", [True, False])
@pytest.mark.parametrize("nano", [700, 0])
async def test_g08_a_hold_granted_as_its_caller_leaves_is_given_back(
    ledger: ScriptedLedger, granted_first: bool, nano: int
) -> None:
    order = an_order(1, nano=nano, claim=IdempotencyClaim(1, "op", "key", b"f" * 32))
    call = asyncio.create_task(ledger.hold(order))
    await until_sent(ledger, 1)
    # Both happen in one iteration of the loop: the caller's task has not run again in between.
    steps: list[Callable[[], object]] = [ledger.grant, call.cancel]
    for step in steps if granted_first else reversed(steps):
        step()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_sent(ledger, 2)
    settle = ledger.orders()[1]
    assert isinstance(settle, Settle)
    assert (settle.request_id, settle.held, settle.charge_nano) == (order.request_id, nano > 0, 0)
    # Its Idempotency-Key with it: whoever repeats the call would wait for nobody.
    assert settle.claim == ClaimResult(1, "op", "key", "forget")


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


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[ScriptedLedger]:
    async with scripted(tmp_path, b"i" * 16, settle_wait_s=0.01, hold_wait_s=600.0) as made:
        yield made


async def test_a_hold_that_is_made_after_its_caller_was_refused_is_given_back(tmp_path: Path) -> None:
    async with scripted(tmp_path, b"h" * 16, settle_wait_s=600.0, hold_wait_s=0.01) as ledger:
        order = an_order(1, nano=700)
        with pytest.raises(Unavailable):
            await ledger.hold(order)
        ledger.grant()
        await until_sent(ledger, 2)
        settle = ledger.orders()[1]
        assert isinstance(settle, Settle)
        assert (settle.request_id, settle.held, settle.charge_nano) == (order.request_id, True, 0)


async def test_a_full_ledger_takes_no_holds_and_counts_the_records_that_it_drops(tmp_path: Path) -> None:
    async with scripted(tmp_path, b"f" * 16, ledger_queue_max=0) as ledger:
        order = an_order(1, nano=700)
        with pytest.raises(Unavailable):
            await ledger.hold(order)
        ledger.record(a_record(order, 0))
        await asyncio.sleep(0)
        assert (ledger.sent, ledger.records_dropped) == ([], 1)


async def told_to_try_again(ledger: ScriptedLedger, stored: StoredObject | None = None, **fields: Any) -> HoldOrder:
    """A settlement of 60 of 100 nano, beside a loss of 5, that is not answered in time."""
    order = an_order(1, nano=100, **fields)
    reply = StoredReply(order.request_id, 200, (), b"{}") if order.claim else None
    with pytest.raises(Unavailable):
        await ledger.settle(msgspec.structs.replace(a_settlement(order, 60, reply=reply, loss_nano=5), stored=stored))
    return order


def is_free(order: Order, request_id: bytes) -> bool:
    assert isinstance(order, Settle)
    assert order.row is not None
    record = msgspec.json.decode(order.row.record, type=RequestRecord)
    assert order.request_id == request_id
    return (order.waived, order.held, order.charge_nano, order.loss_nano) == (True, True, 0, 65) and (
        record.charge_nano,
        record.loss_nano,
        record.flags,
    ) == (0, 65, ("settled_late",))


@pytest.mark.parametrize("claim", [None, IdempotencyClaim(1, "op", "key", b"f" * 32)])
async def test_a_settlement_is_free_once_its_caller_was_told_that_it_failed(
    impatient: ScriptedLedger, claim: IdempotencyClaim | None
) -> None:
    order = await told_to_try_again(impatient, claim=claim)
    (entry,) = impatient.sent
    assert isinstance(entry[0], Settle)
    assert entry[0].charge_nano == 60
    # Not carried out yet: it is tried again as a free one.
    assert is_free(impatient._again(entry)[0], order.request_id)
    # Carried out although the caller heard that it was not: the charge is taken back, once.
    impatient._deliver([entry], [None])
    await until_sent(impatient, 2)
    assert is_free(impatient.orders()[1], order.request_id)
    (kept,) = impatient._settings.data_path.glob("*.waived")
    assert kept.stat().st_size
    impatient._deliver(impatient.sent[1:], [None])
    assert impatient._again(entry) == entry
    assert not kept.stat().st_size


async def test_an_answer_is_not_kept_once_its_caller_was_told_that_it_failed(impatient: ScriptedLedger) -> None:
    await told_to_try_again(impatient, StoredObject(b"s" * 16, "response", 1, 1, "m", "completed", 1, 2, b"{}"))
    (entry,) = impatient.sent
    for order, is_kept in ((entry[0], True), (impatient._again(entry)[0], False)):
        assert isinstance(order, Settle)
        assert (order.kept is not None) is is_kept


async def test_a_settlement_whose_caller_was_not_told_that_it_failed_stays_charged(ledger: ScriptedLedger) -> None:
    call = asyncio.create_task(ledger.settle(a_settlement(an_order(1, nano=100), 60)))
    await until_sent(ledger, 1)
    assert ledger._again(ledger.sent[0]) == ledger.sent[0]
    call.cancel()  # A caller who left after the whole answer was there has been served.
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ledger._again(ledger.sent[0]) == ledger.sent[0]
    ledger._deliver(ledger.sent, [None])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(ledger.sent) == 1


async def test_what_callers_were_told_outlives_the_worker(tmp_path: Path) -> None:
    async with scripted(tmp_path, b"1" * 16, settle_wait_s=0.01) as dead:
        first = await told_to_try_again(dead)
        second = await told_to_try_again(dead)
        async with scripted(tmp_path, b"2" * 16) as beside:
            for _ in range(2):
                await asyncio.sleep(0)
            assert beside.sent == []  # The other one lives and will see to it.
    async with scripted(tmp_path, b"3" * 16) as successor:
        await until_sent(successor, 2)
        assert is_free(successor.orders()[0], first.request_id)
        assert is_free(successor.orders()[1], second.request_id)
        successor._deliver(successor.sent[:1], [None])
    async with scripted(tmp_path, b"4" * 16) as last:
        await until_sent(last, 2)
        last._deliver(last.sent, [None] * 2)
    assert list(tmp_path.glob("*.waived")) == []


@pytest.mark.parametrize(("module", "step"), [(os, "open"), (fcntl, "flock")])
async def test_what_a_dead_worker_left_is_taken_over_by_one_of_two_that_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str
) -> None:
    async with scripted(tmp_path, b"1" * 16, settle_wait_s=0.01) as dead:
        order = await told_to_try_again(dead)
    slow, quick = ToldFailures(tmp_path, b"2" * 16), ToldFailures(tmp_path, b"3" * 16)
    taken: list[Settle] = []

    def after_the_other(*given: Any) -> Any:
        monkeypatch.undo()
        taken.extend(quick.take_over())
        return getattr(module, step)(*given)

    monkeypatch.setattr(module, step, after_the_other)
    assert slow.take_over() == []
    assert [left.request_id for left in taken] == [order.request_id]
    slow.close()
    quick.close()


@pytest.mark.parametrize("short", [False, True])
async def test_what_a_dead_worker_left_stays_where_the_one_that_takes_it_over_cannot_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    async with scripted(tmp_path, b"1" * 16, settle_wait_s=0.01) as dead:
        order = await told_to_try_again(dead)
    write = os.write

    def on_a_full_disk(descriptor: int, data: bytes) -> int:
        if not short:
            raise OSError(errno.ENOSPC, "no room")
        return write(descriptor, data[:20])

    full, last = ToldFailures(tmp_path, b"2" * 16), ToldFailures(tmp_path, b"3" * 16)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", on_a_full_disk)
        (left,) = full.take_over()
    # Without even a file it is known as long as the worker lives.
    nowhere = ToldFailures(tmp_path / "gone", b"4" * 16)
    nowhere.note([msgspec.structs.replace(left, request_id=b"8" * 16, charge_nano=60)])
    assert nowhere.get(b"8" * 16) is not None
    nowhere.resolved(b"8" * 16)
    nowhere.close()
    # There is room again.
    full.note([msgspec.structs.replace(left, request_id=b"9" * 16, charge_nano=60)])
    full.close()
    assert {found.request_id for found in last.take_over()} == {order.request_id, b"9" * 16}
    last.close()


async def test_a_note_of_what_callers_were_told_may_end_anywhere(tmp_path: Path) -> None:
    async with scripted(tmp_path, b"1" * 16, settle_wait_s=0.01) as dead:
        order = await told_to_try_again(dead)
        await told_to_try_again(dead)
    (path,) = tmp_path.glob("*.waived")
    path.write_bytes(path.read_bytes()[:-3])
    async with scripted(tmp_path, b"2" * 16) as successor:
        await until_sent(successor, 1)
        assert is_free(successor.orders()[0], order.request_id)
        successor._deliver(successor.sent, [None])
    (tmp_path / "garbage.waived").write_bytes(b"\xff" * 100)
    async with scripted(tmp_path, b"3" * 16) as next_one:
        assert next_one.sent == []
