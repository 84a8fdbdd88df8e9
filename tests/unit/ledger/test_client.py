"""A worker's side of the ledger process, whose part the test plays: what is sent, sent again, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from elkapi.clock import ManualClock
from elkapi.errors import Unavailable
from elkapi.ledger import client
from elkapi.ledger.client import RemoteLedger
from elkapi.ledger.ledger import Boot
from elkapi.ledger.orders import Beat, Hold, Order, Refusal, Settle
from elkapi.ledger.wire import ORDERS_DECODER, Answers, Frames, encode
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.secrets import Sealer
from elkapi.testing.ledger import a_settlement, an_order
from elkapi.types import IdempotencyClaim, StoredReply
from tests.waiting import until


class Process:
    """The ledger process: what came on the connection that it has now, by number, and how many frames that were."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.frames = 0
        self.connections = 0
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.orders, self._writer, frames = {}, writer, Frames(ORDERS_DECODER)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                for frame in frames.feed(data):
                    self.frames += 1
                    self.orders |= dict(enumerate(frame.orders, frame.first))
        writer.close()

    def numbers(self, kind: type[Order]) -> list[int]:
        return [number for number, order in self.orders.items() if type(order) is kind]

    def answer(self, *numbers: int, **refused: Refusal) -> None:
        assert self._writer is not None
        self._writer.write(encode(Answers(list(numbers), {int(name[1:]): one for name, one in refused.items()})))

    def die(self) -> None:
        assert self._writer is not None
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def working(folder: Path, **fields: Any) -> AsyncIterator[tuple[RemoteLedger, Process, ManualClock]]:
    """A worker connected to a process that says nothing by itself."""
    settings = Settings(data_dir=str(folder), **{"heartbeat_s": 60.0, "settle_wait_s": 60.0, **fields})
    database, process, clock = Database.open(f"sqlite:///{folder / 'books.sqlite3'}"), Process(), ManualClock()
    migrate(database)
    ledger = RemoteLedger(Boot(settings, database, b"o" * 16, Sealer(b"k" * 32), clock=clock))
    async with await asyncio.start_unix_server(process.serve, settings.socket_path("ledger")):
        await ledger.start()
        await until(lambda: process.orders)
        yield ledger, process, clock
        # Whatever is left is answered, so that the worker need not wait for it at its end.
        closing = asyncio.create_task(ledger.aclose())
        answered = 0
        while not closing.done():
            if process.connections and len(process.orders) != answered:
                process.answer(*process.orders)
                answered = len(process.orders)
            await asyncio.sleep(0)
        await closing
    database.close()


async def test_a_worker_beats_as_long_as_it_lives_and_knows_since_when_it_is_not_written(tmp_path: Path) -> None:
    async with working(tmp_path, heartbeat_s=0.01) as (ledger, process, clock):
        await until(lambda: len(process.numbers(Beat)) >= 3)
        clock.advance(5)
        assert ledger.unwritten_s == 5
        holding = asyncio.create_task(ledger.hold(an_order(1, nano=10)))
        await until(lambda: process.numbers(Hold))
        # A hold may be refused by a process that can write nothing.
        process.answer(*process.numbers(Hold))
        await holding
        assert ledger.unwritten_s == 5
        process.answer(*process.numbers(Beat))
        await until(lambda: ledger.unwritten_s == 0)


async def test_what_a_process_that_died_left_unanswered_is_sent_to_the_next_one_and_a_hold_given_up_is_given_back(
    tmp_path: Path,
) -> None:
    async with working(tmp_path) as (ledger, process, _):
        first, left, ended = (an_order(1, nano=nano) for nano in (1, 2, 3))
        calls = [asyncio.create_task(one) for one in (ledger.hold(first), ledger.hold(left))]
        settling = asyncio.create_task(ledger.settle(a_settlement(ended, 3)))
        await until(lambda: len(process.orders) == 4)
        assert ledger.depth == 4
        assert process.frames <= 3
        refused = process.numbers(Hold)[0]
        calls[1].cancel()
        await asyncio.sleep(0)
        process.die()
        await until(lambda: process.connections == 2 and len(process.orders) == 4)
        # Its heartbeat first: no hold is made for an owner that looks dead. Numbers of the old connection mean nothing.
        beat, again, given_back, settled = process.orders.values()
        assert isinstance(beat, Beat)
        assert not set(process.orders) & set(range(4))
        assert isinstance(again, Hold)
        assert again.request_id == first.request_id
        assert isinstance(given_back, Settle)
        assert (given_back.request_id, given_back.held, given_back.charge_nano) == (left.request_id, True, 0)
        assert isinstance(settled, Settle)
        assert (settled.request_id, settled.charge_nano) == (ended.request_id, 3)
        process.answer(refused)
        (number,) = process.numbers(Hold)
        process.answer(*process.orders, **{f"n{number}": Refusal("unavailable", "no room")})
        await settling
        with pytest.raises(Unavailable, match="no room"):
            await calls[0]
        assert ledger.depth == 0


async def test_large_replies_leave_in_frames_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FRAME_REPLY_BYTES_MAX", 1000)
    async with working(tmp_path) as (ledger, process, _):
        before, settling = process.frames, []
        for number in range(6):
            order = an_order(1, nano=1, claim=IdempotencyClaim(1, "op", f"key {number}", b"f" * 32))
            reply = StoredReply(order.request_id, 200, (), b"x" * 600)
            settling.append(asyncio.create_task(ledger.settle(a_settlement(order, 1, reply=reply))))
        await until(lambda: len(process.orders) == 7)
        # They are sealed on threads, so they may come by one turn of the loop or by several.
        assert 3 <= process.frames - before <= 6
        assert list(process.orders) == list(range(7))
        process.answer(*process.numbers(Settle))
        await asyncio.gather(*settling)


async def test_a_worker_that_ends_waits_for_its_answers_and_then_says_farewell(tmp_path: Path) -> None:
    async with working(tmp_path) as (ledger, process, _):
        settling = [asyncio.create_task(ledger.settle(a_settlement(an_order(1, nano=1), 1))) for _ in range(2)]
        await until(lambda: len(process.numbers(Settle)) == 2)
        closing = asyncio.create_task(ledger.aclose())
        for number in (1, 2):
            assert len(process.orders) == 3
            process.answer(number)
            await settling[number - 1]
        # Its first heartbeat is still to be answered.
        assert len(process.orders) == 3
        process.answer(0)
        await until(lambda: len(process.orders) == 4)
        farewell = process.orders[3]
        assert isinstance(farewell, Beat)
        assert farewell.ended
        assert not closing.done()
        process.answer(3)
        await closing
