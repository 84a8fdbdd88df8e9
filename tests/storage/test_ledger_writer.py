"""The writer on SQLite: on the loop while that is quick, on its thread otherwise; another thread moves the log."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from elkapi.clock import ManualClock
from elkapi.errors import Unavailable
from elkapi.ledger import Boot, ThreadLedger, balance, balances, check, checkpoint
from elkapi.ledger import books as books_module
from elkapi.ledger import writer as writer_module
from elkapi.ledger.books import Books
from elkapi.ledger.checkpoint import Checkpointer
from elkapi.ledger.ledger import open_books
from elkapi.ledger.orders import Beat, Hold, Order, Settle, UsageRow
from elkapi.ledger.writer import Entry, Limits, Writer
from elkapi.settings import Settings
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.dialect import SQLITE_PAGE_BYTES
from elkapi.storage.installation import Installation, open_installation
from elkapi.testing.ledger import a_record, a_settlement, an_order, funded_account, unpaid
from tests.waiting import until


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Installation]:
    installation = open_installation(Settings(data_dir=str(tmp_path / "data")))
    yield installation
    with installation.database.read() as connection:
        assert check(connection).problems == []
    installation.database.close()


async def opened(installation: Installation, **fields: object) -> ThreadLedger:
    settings = msgspec.structs.replace(installation.settings, **fields)
    ledger = ThreadLedger(Boot(settings, installation.database, os.urandom(16), installation.sealer))
    await ledger.start()
    return ledger


async def pairs(ledger: ThreadLedger, account: int, calls: int, at_once: int) -> None:
    gate = asyncio.Semaphore(at_once)

    async def call() -> None:
        async with gate:
            order = an_order(account, nano=3)
            await ledger.hold(order)
            await ledger.settle(a_settlement(order, 3))

    await asyncio.gather(*(call() for _ in range(calls)))


def count_inline(ledger: ThreadLedger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    written: list[int] = []
    real = ledger.writer.write_now

    def counting(entries: list[Entry]) -> Any:
        outcomes = real(entries)
        if outcomes is not None:
            written.append(len(entries))
        return outcomes

    monkeypatch.setattr(ledger.writer, "write_now", counting)
    return written


async def test_small_batches_are_written_on_the_loop_and_large_ones_by_the_thread(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "INLINE_FAST_S", 60.0)  # how fast this machine is right now is not the question
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite, heartbeat_s=1000.0, heartbeat_lost_s=2000.0)  # A heartbeat that is due goes first.
    inline = count_inline(ledger, monkeypatch)
    await pairs(ledger, account, 50, 1)
    assert sum(inline) > 50
    inline.clear()
    await pairs(ledger, account, 100, 100)
    assert inline[:2] == [writer_module.INLINE_ORDERS_MAX, 100 - writer_module.INLINE_ORDERS_MAX]
    inline.clear()
    before = ledger.writer.stats.orders
    await pairs(ledger, account, 400, 400)
    assert max(inline, default=0) <= writer_module.INLINE_ORDERS_MAX
    assert ledger.writer.stats.orders - before >= 800
    assert ledger.depth == 0
    await ledger.aclose()
    with sqlite.database.read() as connection:
        assert balance(connection, account).posted_nano == 10**6 - 550 * 3


async def test_with_a_flush_per_commit_the_loop_never_writes(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite, sqlite_synchronous="FULL")
    inline = count_inline(ledger, monkeypatch)
    await pairs(ledger, account, 20, 4)
    assert inline == []
    await ledger.aclose()


async def test_the_loop_goes_on_while_another_process_writes(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "INLINE_FAST_S", 60.0)
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite, heartbeat_s=1000.0, heartbeat_lost_s=2000.0)
    inline = count_inline(ledger, monkeypatch)
    await pairs(ledger, account, 20, 1)
    assert inline, "the loop writes by itself"
    slept: list[threading.Thread] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        slept.append(threading.current_thread())
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    path = sqlite.settings.effective_database_url.removeprefix("sqlite:///")
    locked, release = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        locked.set()
        release.wait()
        other.execute("COMMIT")
        other.close()

    thread = threading.Thread(target=hold_the_lock)
    thread.start()
    await asyncio.to_thread(locked.wait)
    waiting = asyncio.create_task(pairs(ledger, account, 20, 20))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not waiting.done()
    assert slept, "the ledger's thread waits for the other process"
    assert threading.main_thread() not in slept
    release.set()
    await waiting
    thread.join()
    await ledger.aclose()


class TimedBooks:
    """Books whose transactions take as long as the test says, by a clock that only they move."""

    in_doubt = False
    open_holds = 0

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.takes_s = 0.0
        self.fails = False
        self.fails_for: type = object

    def apply(self, orders: list[Order], *, patient: bool = True) -> list[None]:
        self.clock.advance(self.takes_s)
        if self.fails and isinstance(orders[0], self.fails_for):
            raise sqlite3.OperationalError("database is locked")
        return [None] * len(orders)

    def close(self) -> None: ...


class NotedBooks(TimedBooks):
    """Timed books that remember what they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[Order]] = []

    def apply(self, orders: list[Order], *, patient: bool = True) -> list[None]:
        self.asked.append(orders)
        return super().apply(orders, patient=patient)


def writer_of(books: Any, limits: Limits, **more: Any) -> Writer:
    return Writer(lambda: books, lambda *_: None, limits, **more)


async def test_the_loop_writes_only_while_transactions_are_measured_to_be_fast() -> None:
    books = TimedBooks()
    beat = Beat(b"o" * 16, "worker", 1)
    limits = Limits(batch_max=256, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    writer = writer_of(books, limits, beat=beat, monotonic_s=books.clock.monotonic_s)
    writer._with_beat([])
    entry: Entry = (Settle(b"r" * 16, False, 0, 0, None), None)

    def on_the_loop() -> bool:
        return writer.write_now([entry]) is not None

    def on_the_thread(times: int, takes_s: float) -> None:
        books.takes_s = takes_s
        for _ in range(times):
            writer._taken += 1
            writer._write([entry])

    fast, slow, enough = 0.001, 0.026, writer_module.INLINE_FAST_IN_A_ROW
    assert not on_the_loop()  # nothing has been measured yet
    on_the_thread(enough - 1, fast)
    assert not on_the_loop()
    on_the_thread(1, fast)
    assert on_the_loop()
    books.takes_s = slow
    assert on_the_loop()  # this one could not be foreseen,
    on_the_thread(2 * enough, fast)
    assert not on_the_loop()  # the next ones could
    books.clock.advance(writer_module.INLINE_PAUSE_S)
    assert on_the_loop()
    # The thread's transactions count too, and so do its failures.
    on_the_thread(1, slow)
    on_the_thread(enough - 1, fast)
    assert not on_the_loop()
    on_the_thread(1, fast)
    assert on_the_loop()
    books.fails = True
    on_the_thread(1, fast)
    books.fails = False
    on_the_thread(enough - 1, fast)
    assert not on_the_loop()


async def test_the_write_ahead_log_begins_anew_under_load(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LOG_BYTES_BEGIN_ANEW", 200 * SQLITE_PAGE_BYTES)
    monkeypatch.setattr(checkpoint, "LOOK_EVERY_S", 0.02)
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite)
    log = Path(sqlite.settings.effective_database_url.removeprefix("sqlite:///") + "-wal")
    beginnings: set[bytes] = set()
    largest, all_of_it = 0, 0
    # A transaction touches three pages at least; a log that never began anew would hold them all.
    while len(beginnings) < 4 or largest >= all_of_it / 2:
        assert ledger.writer.stats.transactions < 20_000
        await pairs(ledger, account, 50, 4)
        with log.open("rb") as head:
            beginnings.add(head.read(16)[12:])  # SQLite's file format: the number of the checkpoint.
        largest = max(largest, log.stat().st_size)
        all_of_it = ledger.writer.stats.transactions * 3 * SQLITE_PAGE_BYTES
    await ledger.aclose()


class Looks:
    """A checkpointer of commits that the test counts, and what it asks of the database."""

    def __init__(self, database: Database) -> None:
        self.commits = 0
        self._database = database
        self._asked: list[str] = []
        self._rounds = 0
        self.checkpointer = Checkpointer(self._connect, threading.Lock(), self._committed)

    def _connect(self) -> Any:
        connection = self._database.raw_writer()
        connection.set_trace_callback(self._asked.append)
        return connection

    def _committed(self) -> int:
        self._rounds += 1
        return self.commits

    async def after(self, rounds: int) -> int:
        """Checkpoints after so many more rounds, of which the last is complete."""
        until_round = self._rounds + rounds + 1
        await until(lambda: self._rounds >= until_round)
        return sum("wal_checkpoint" in text for text in self._asked)


async def test_the_log_is_looked_at_first_and_then_only_after_a_commit(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LOOK_EVERY_S", 0.01)
    looks = Looks(sqlite.database)
    looks.checkpointer.start()
    assert await looks.after(5) == 1
    looks.commits += 1
    assert await looks.after(5) == 2
    await asyncio.to_thread(looks.checkpointer.stop)


async def test_what_a_reader_kept_from_the_checkpoint_is_copied_after_it(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LOOK_EVERY_S", 0.01)
    looks = Looks(sqlite.database)
    with sqlite.database.read() as reading:
        reading.execute(select(schema.meta)).all()
        with sqlite.database.write() as connection:
            connection.execute(schema.meta.insert(), {"name": "later", "value": "1"})
        looks.checkpointer.start()
        assert await looks.after(5) >= 5
    await looks.after(5)
    assert await looks.after(5) == await looks.after(5)
    assert b"later" in Path(sqlite.settings.effective_database_url.removeprefix("sqlite:///")).read_bytes()
    await asyncio.to_thread(looks.checkpointer.stop)


async def test_a_checkpoint_that_fails_is_tried_again_and_told_once(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "LOOK_EVERY_S", 0.01)
    caplog.set_level(logging.INFO, logger="elkapi.ledger")
    failures = iter([OSError("no"), OSError("no"), OSError("no"), None])
    opened: list[sqlite3.Connection] = []
    asked: list[str] = []

    def connect() -> Any:
        error = next(failures, None)
        if error is not None:
            raise error
        opened.append(sqlite.database.raw_writer())
        opened[0].set_trace_callback(asked.append)
        return opened[0]

    checkpointer = Checkpointer(connect, threading.Lock(), itertools.count().__next__)
    checkpointer.start()
    await until(lambda: sum("wal_checkpoint" in text for text in asked) >= 3)
    await asyncio.to_thread(checkpointer.stop)
    # One connection, for as long as the thread, which is over.
    assert len(opened) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    assert caplog.messages == [
        "cannot checkpoint the write-ahead log: OSError('no')",
        "checkpointing the write-ahead log works again after 3 failures",
    ]


class LosesAnAnswer:
    """A cursor whose next COMMIT is carried out, and then the connection is gone."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> object:
        return getattr(self._cursor, name)

    def execute(self, text: str, *values: Any) -> object:
        result = self._cursor.execute(text, *values)
        if text == "COMMIT":
            raise sqlite3.OperationalError("the answer got lost")
        return result


class FailsAt(LosesAnAnswer):
    """A cursor of a disk that cannot be read at one statement."""

    def __init__(self, cursor: sqlite3.Cursor, statement: str, error: Exception) -> None:
        super().__init__(cursor)
        self._statement = statement
        self._error = error

    def execute(self, text: str, *values: Any) -> object:
        if text == self._statement:
            raise self._error
        return self._cursor.execute(text, *values)


class RefusesACharge(FailsAt):
    """One of a database that does not take what a customer would have spent."""

    def execute(self, text: str, *values: Any) -> object:
        spends = text == self._statement and values[0][:2] == (3, -7)
        return super().execute(text, *values) if spends else self._cursor.execute(text, *values)


async def test_a_hold_whose_commit_was_not_answered_is_given_back(sqlite: Installation) -> None:
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite, sqlite_synchronous="FULL")  # so that the thread writes
    await pairs(ledger, account, 1, 1)
    books = ledger.writer._books
    assert books is not None
    books._cursor = LosesAnAnswer(books._cursor)
    with pytest.raises(Unavailable):
        await ledger.hold(an_order(account, nano=3))
    await ledger.aclose()
    with sqlite.database.read() as connection:
        assert balance(connection, account).held_nano == 0


async def test_a_hold_that_may_have_been_made_is_one_order_until_it_was_given_back() -> None:
    books = TimedBooks()
    limits = Limits(batch_max=256, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    writer = writer_of(books, limits)
    books.fails = books.in_doubt = True
    settle = Settle(b"s" * 16, True, 5, 0, None)
    writer._taken = 2
    writer._write([(Hold(b"h" * 16, 1, (1,), 3, "m", 7, b"o" * 16), None), (settle, None)])
    assert writer.depth == 2
    # The settlement beside it is written again as it is.
    assert [order for order, _ in writer._owed] == [settle, Settle(b"h" * 16, True, 0, 0, None)]
    books.fails = books.in_doubt = False
    writer._write(writer._owed)
    # With more orders answered than were taken nothing would be written on the loop any more.
    assert writer.depth == 0


async def test_giving_back_a_hold_that_was_never_made_changes_nothing(sqlite: Installation) -> None:
    account = funded_account(sqlite.database, 10**6)
    ledger = await opened(sqlite)
    order = an_order(account, nano=3)
    await ledger.settle(unpaid(order))
    await ledger.settle(unpaid(order))
    await pairs(ledger, account, 2, 2)
    await ledger.aclose()
    with sqlite.database.read() as connection:
        assert balance(connection, account).held_nano == 0
        assert check(connection).ok


async def test_a_writer_that_is_behind_leaves_out_holds_nobody_waits_for_and_never_a_settlement() -> None:
    books = NotedBooks()
    limits = Limits(batch_max=256, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    writer = writer_of(books, limits, abandoned=lambda waiter: waiter == "left")
    hold = Hold(b"h" * 16, 1, (1,), 3, "m", 7, b"o" * 16)
    settle = Settle(b"r" * 16, True, 3, 0, None)
    writer._taken = 3
    writer._write([(hold, "left"), (hold, "waits"), (settle, "left")])
    assert books.asked == [[hold, settle]]
    assert writer.depth == 0


@pytest.mark.parametrize("ends", [False, True])
async def test_what_could_not_be_written_is_tried_again_as_it_stands_then_and_with_a_heartbeat(ends: bool) -> None:
    books = NotedBooks()
    beat = Beat(b"o" * 16, "worker", 1)
    settle, free = Settle(b"r" * 16, True, 3, 0, None), Settle(b"r" * 16, True, 0, 3, None, waived=True)
    limits = Limits(batch_max=256, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    writer = writer_of(books, limits, beat=beat, again=lambda entry: (free, entry[1]))
    writer._loop = asyncio.get_running_loop()
    books.fails = True
    writer._write([*writer._with_beat([]), (settle, None)])
    books.fails = False
    if ends:
        # Its caller was told meanwhile that the call failed, and the gateway is stopped.
        writer._end()
        assert books.asked == [[beat, settle], [free], [msgspec.structs.replace(beat, ended=True)]]
    else:
        writer._gather_and_write()
        assert books.asked == [[beat, settle], [free, beat]]


async def test_a_writer_that_ends_gives_up_on_what_it_owes_after_its_time_and_says_no_farewell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books, beat = TimedBooks(), Beat(b"o" * 16, "worker", 1)
    limits = Limits(batch_max=256, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    writer = writer_of(books, limits, beat=beat, monotonic_s=books.clock.monotonic_s)
    writer._loop = asyncio.get_running_loop()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    settle = Settle(b"r" * 16, True, 3, 0, None)
    books.fails, books.takes_s = True, 0.6
    writer._write([(settle, None)])
    writer._end()
    # Two tries are within a second; recovery finds an owner that did not say that it ended.
    assert (writer.stats.failures, writer._owed) == (3, [(settle, None)])


async def test_the_books_wait_for_nobody_unless_they_are_told_to(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for another that writes, of which SQLite's own wait would keep the loop, nor for a checkpoint."""
    raw = sqlite.database.raw_writer()
    monkeypatch.setattr(sqlite.database, "raw_writer", lambda: raw)
    books = open_books(sqlite.database, sqlite.settings)
    assert [raw.execute(f"PRAGMA {name}").fetchone() for name in ("busy_timeout", "wal_autocheckpoint")] == [(0,), (0,)]
    books.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("SELECT 1")


async def test_of_very_many_workers_only_the_heartbeats_of_the_last_are_remembered(
    sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books_module, "OWNERS_MAX", 2)
    books = open_books(sqlite.database, sqlite.settings)
    for owner in (b"first", b"second", b"first", b"third"):
        assert books.apply([Beat(owner, "worker", 1)]) == [None]
    assert list(books._scanned_from) == [b"first", b"third"]
    assert books.apply([Beat(b"first", "worker", 1, ended=True)]) == [None]
    assert list(books._scanned_from) == [b"third"]
    books.close()


def malformed() -> sqlite3.DatabaseError:
    """As the driver raises it: also for a read that failed for once, which SQLite cannot tell from a damaged page."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


@pytest.mark.parametrize(
    "error",
    [sqlite3.OperationalError("disk I/O error"), malformed(), MemoryError()],
    ids=lambda error: type(error).__name__,
)
async def test_a_settlement_that_meets_an_outage_is_tried_again_and_not_refused(
    sqlite: Installation, error: Exception
) -> None:
    account = funded_account(sqlite.database, 1000)
    books = open_books(sqlite.database, sqlite.settings)
    order = an_order(account, nano=3)
    row = UsageRow(1, 1, "m", 200, 1, msgspec.json.encode(a_record(order, 3)))
    # Nothing is known here of such a hold, so the settlement is taken by itself.
    settle = Settle(order.request_id, True, 3, 0, row)
    cursor = books._cursor
    books._cursor = FailsAt(cursor, books._sql.usage_row, error)
    with pytest.raises(type(error)):
        books.apply([settle])
    books._cursor = cursor
    assert books.apply([settle]) == [None]
    books.close()


async def test_a_charge_that_the_database_refuses_gives_its_hold_back_at_the_operators_loss(
    sqlite: Installation,
) -> None:
    """Also where nothing is to be kept, so that not that was what it refused."""
    account = funded_account(sqlite.database, 1000)
    books = open_books(sqlite.database, sqlite.settings)
    order = an_order(account, nano=7)
    hold = Hold(order.request_id, 1, order.accounts, 7, "m", 1, b"o" * 16)
    row = UsageRow(1, 1, "m", 200, 1, msgspec.json.encode(a_record(order, 3)))
    assert books.apply([Beat(b"o" * 16, "worker", 1), hold]) == [None, None]
    books._cursor = RefusesACharge(books._cursor, books._sql.account_change, sqlite3.IntegrityError("too large"))
    (told,) = books.apply([Settle(order.request_id, True, 3, 0, row)])
    assert told is not None
    assert told.kind == "unavailable"
    books.close()
    with sqlite.database.read() as connection:
        assert balance(connection, account).available_nano == 1000
        assert {one.code: one.posted_nano for one in balances(connection)}["operator-loss"] == -3


async def test_a_writer_knows_how_long_it_has_not_written_all_that_there_was() -> None:
    books = TimedBooks()
    limits = Limits(batch_max=1, heartbeat_s=1e6, tick_s=1e6, drain_s=1)
    beat: Entry = (Beat(b"o" * 16, "worker", 1), None)
    writer = writer_of(books, limits, beat=beat[0], monotonic_s=books.clock.monotonic_s)
    writer._loop = asyncio.get_running_loop()
    entry: Entry = (Settle(b"r" * 16, False, 0, 0, None), None)
    books.fails = True
    books.clock.advance(7)
    writer._write_in_batches([beat])
    assert writer.unwritten_s == 7
    # A disk that is full may still take a heartbeat.
    books.fails_for = Settle
    writer._write_in_batches([beat, entry])
    assert writer.unwritten_s == 7
    books.fails = False
    writer._write_in_batches([beat, entry])
    assert writer.unwritten_s == 0


async def test_a_heartbeat_that_cannot_be_written_is_tried_again_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried_s: list[float] = []

    def refuse() -> Books:
        tried_s.append(time.monotonic())
        unavailable = Unavailable("Please try again.")
        unavailable.add_note("too many clients already")
        raise unavailable

    limits = Limits(batch_max=256, heartbeat_s=1.0, tick_s=1e6, drain_s=0)
    writer = Writer(refuse, lambda *_: None, limits, beat=Beat(b"o" * 16, "worker", 1))
    writer.start()
    await until(lambda: len(tried_s) >= 5)
    await writer.stop()
    # A pause may be longer on a busy machine, never shorter.
    pauses = [after - before for before, after in itertools.pairwise(tried_s[:5])]
    assert all(pause >= writer_module.RETRY_FIRST_S * 2 ** (n + 1) for n, pause in enumerate(pauses)), pauses
    assert "too many clients already" in caplog.text
