"""Takes back a committed charge whose caller was told that the call failed, inside the books' transactions.

This happens if a settlement is committed and its answer is lost; `told` knows these calls. Entries are never changed:
each leg gets a `reverse` entry against its post, and the upstream's cost is the operator's loss.
"""

from __future__ import annotations

from typing import Any

from elkapi.ledger import accounts
from elkapi.ledger.orders import flagged_record
from elkapi.ledger.statements import Statements
from elkapi.ledger.told import WAIVED_FLAG
from elkapi.ledger.transfers import (
    REFUND_STEP,
    RESOLVE_STEP,
    REVERSE_SUFFIX,
    REVERSED_LOSS_SUFFIX,
    entries_range,
)


class Reversal:
    """Works on the books' own cursor; `house` comes from accounts.ensure_system_accounts()."""

    def __init__(self, cursor: Any, sql: Statements, house: dict[str, int]) -> None:
        self._cursor = cursor
        self._sql = sql
        self._loss = house[accounts.OPERATOR_LOSS]
        self._upstream = house[accounts.UPSTREAM]

    def take_back(self, request_id: bytes, charge: int, loss: int, record: bytes, now_ns: int) -> None:
        """Give back the charge of a usage row, less what an operator has refunded; repeating it changes nothing."""
        cursor, sql = self._cursor, self._sql
        # Refunds put the same amount on every leg, so the first leg tells how much.
        refunded = sum(nano for *_, nano in self._entries(request_id, REFUND_STEP + b"\x00", "refund"))
        amount = charge - refunded
        posts = self._entries(request_id, RESOLVE_STEP, "post")
        if amount <= 0 or not posts:
            return
        rows: list[Any] = []
        for leg, (account, counter, _) in enumerate(posts):
            rows += (request_id + REVERSE_SUFFIX[leg], "reverse", counter, account, amount, now_ns)
        rows += (request_id + REVERSED_LOSS_SUFFIX, "loss", self._loss, self._upstream, amount, now_ns)
        sql.entries.insert(cursor, rows)
        # Lock order of the whole ledger: customers' rows before system rows, each by id.
        moves = [(account, amount) for account, _, _ in sorted(posts)]
        house = [(counter, -amount) for _, counter, _ in posts]
        house += [(self._loss, -amount), (self._upstream, amount)]
        for account, nano in (*moves, *sorted(house)):
            cursor.execute(sql.account_change, (-nano, 0, account))
        row = flagged_record(record, charge - amount, loss + amount, WAIVED_FLAG)
        cursor.execute(sql.usage_row_change, (charge - amount, loss + amount, row, request_id))

    def _entries(self, request_id: bytes, step: bytes, kind: str) -> list[tuple[int, int, int]]:
        self._cursor.execute(self._sql.entries_of, (*entries_range(request_id, step), kind))
        return list(self._cursor.fetchall())
