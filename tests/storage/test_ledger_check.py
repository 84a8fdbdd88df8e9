"""What `elkapi ledger check` says of books that something else wrote to: nothing that is wrong in them stays unsaid."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection

from elkapi.ids import new_id
from elkapi.ledger import balances, check, open_ledger, refund
from elkapi.ledger.check import PROBLEMS_MAX, CheckReport
from elkapi.ledger.orders import TASKS
from elkapi.ledger.transfers import ADMIN_STEP, HOLD_SUFFIX, RESOLVE_SUFFIX
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.schema import requests, transfers
from elkapi.testing.ledger import a_settlement, an_order, funded_account

NOBODYS = 10**9


class Books:
    """A charged call, one under a limit too, one that is the operator's loss and one that was free, and ways to spoil
    what is written."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.account = funded_account(database, 1000)
        self.charged, self.lost, self.free = (an_order(self.account, nano=100) for _ in range(3))
        self.limited = an_order(self.account, funded_account(database, 500, "quota"), nano=100)

    async def written(self, settings: Settings, installation: Installation) -> None:
        ledger = open_ledger(settings, self.database, os.urandom(16), in_process=True, sealer=installation.sealer)
        await ledger.start()
        calls = ((self.charged, 60, 0), (self.lost, 0, 5), (self.free, 0, 0), (self.limited, 20, 0))
        for order, charge, loss in calls:
            await ledger.hold(order)
            await ledger.settle(a_settlement(order, charge, loss_nano=loss))
        await ledger.aclose()

    def entry(self, connection: Connection, id_: bytes, kind: str, nano: int, **fields: Any) -> None:
        house = {balance.code: balance.account_id for balance in balances(connection)}
        row = {"id": id_, "kind": kind, "debit_account": self.account, "credit_account": house["revenue"], "nano": nano}
        connection.execute(transfers.insert(), {**row, "created_ns": 1, **fields})

    def entry_of_nobody(self, connection: Connection) -> None:
        self.entry(connection, new_id() + ADMIN_STEP + b"\x00", "adjust", 3, credit_account=NOBODYS)

    def hold_of_a_task(self, connection: Connection) -> None:
        self.entry(connection, new_id() + HOLD_SUFFIX[0], "hold", 7, owner=TASKS)

    def resolution_of_nothing(self, connection: Connection) -> None:
        self.entry(connection, new_id() + RESOLVE_SUFFIX[0], "void", 7)

    def leg_that_stayed_open(self, connection: Connection) -> None:
        self.entry(connection, self.charged.request_id + HOLD_SUFFIX[1], "hold", 100)

    def post_above_the_hold(self, connection: Connection) -> None:
        connection.execute(transfers.update().where(transfers.c.kind == "post").values(nano=101))

    def lost_rows(self, connection: Connection) -> None:
        connection.execute(requests.delete())

    def invented_charge(self, connection: Connection) -> None:
        self._row_of_the_free_call(connection, charge_nano=8)

    def invented_loss(self, connection: Connection) -> None:
        self._row_of_the_free_call(connection, loss_nano=9)

    def _row_of_the_free_call(self, connection: Connection, **fields: int) -> None:
        connection.execute(requests.update().where(requests.c.id == self.free.request_id).values(**fields))


@pytest.fixture
async def books(settings: Settings, installation: Installation) -> Books:
    made = Books(installation.database)
    await made.written(settings, installation)
    return made


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Books.entry_of_nobody, [f"entries name account {NOBODYS}, which does not exist"]),
        (Books.hold_of_a_task, ["holds 7 nano for a task that ended"]),
        (Books.resolution_of_nothing, ["was resolved without a hold"]),
        (Books.leg_that_stayed_open, ["has 2 holds and 1 resolutions"]),
        (Books.post_above_the_hold, ["was posted for more than it held: 101 of 100 nano"]),
        (Books.lost_rows, ["has a post of 60 nano and no usage row", "has a loss of 5 nano and no usage row"]),
        (Books.invented_charge, ["records 8 nano but has no post"]),
        (Books.invented_loss, ["records 9 nano but has no loss"]),
    ],
)
@pytest.mark.parametrize("rows_at_once", [1, 10_000])
def test_g10_whatever_is_wrong_in_the_books_is_named(
    books: Books, spoil: Any, said: list[str], rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package's `check` is the function.
    monkeypatch.setattr(sys.modules["elkapi.ledger.check"], "ROWS_AT_ONCE", rows_at_once)
    with books.database.read() as connection:
        assert check(connection).problems == []
    with books.database.write() as connection:
        spoil(books, connection)
    with books.database.read() as connection:
        report = check(connection)
    assert not report.ok
    for words in said:
        assert any(words in problem for problem in report.problems), report.problems


def test_g10_the_numbers_of_a_check_are_those_of_the_books_and_a_limit_earns_nothing(books: Books) -> None:
    with books.database.write() as connection:
        refund(connection, books.charged.request_id, 10, "slow", "test")
        refund(connection, books.limited.request_id, 5, "slow", "test")
        report = check(connection)
    told = {name: number for name, number in msgspec.structs.asdict(report).items() if number}
    accounts = told.pop("accounts")
    assert told == {
        # Two deposits, four calls of two entries, a loss, a limit's two, and three of two refunds.
        "entries": 2 + 8 + 1 + 2 + 3,
        "customers_posted_nano": 1000 - 80 + 15,
        "charged_nano": 80,
        "posted_nano": 80,
        "refunded_nano": 15,
        "loss_nano": 5,
    }
    lines = report.lines()
    assert lines[:2] == [f"accounts: {accounts}", "entries: 16"]
    assert "refunded nano: 15 (0.000000015 USD)" in lines
    assert lines[-2:] == ["unknown outcomes nano: 0", "the ledger is consistent"]


def test_problems_too_many_to_print_are_counted() -> None:
    report = CheckReport()
    for number in range(PROBLEMS_MAX + 2):
        report.problem(f"number {number}")
    assert not report.ok
    assert report.lines()[-3:] == [
        f"PROBLEM: number {PROBLEMS_MAX - 1}",
        "PROBLEM: and 2 more",
        "the ledger has ERRORS",
    ]
