"""Accounts: codes, balances and entries of system, customer and quota accounts; `books` writes them.

A customer account is a purse: its posts earn revenue. A quota account is a limit that a call must pass besides the
purse (a key's, team's or budget's): its posts go to `quota-spent`, so no call earns twice. Available = posted - held +
credit line, in nano-USD, never below zero (a CHECK and the conditional UPDATE enforce it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, select

from elkapi.ids import new_id
from elkapi.ledger.transfers import entries_range, step_of
from elkapi.storage import dialect as sql
from elkapi.storage.schema import accounts, transfers

REVENUE = "revenue"
OPERATOR_LOSS = "operator-loss"
FUNDING = "funding"
UPSTREAM = "upstream"
QUOTA_FUNDING = "quota-funding"
QUOTA_SPENT = "quota-spent"

# code -> kind
SYSTEM_ACCOUNTS = {
    REVENUE: "revenue",
    OPERATOR_LOSS: "loss",
    FUNDING: "funding",
    UPSTREAM: "upstream",
    QUOTA_FUNDING: "funding",
    QUOTA_SPENT: "spent",
}

CUSTOMER = "customer"
QUOTA = "quota"
HELD_KINDS = frozenset({CUSTOMER, QUOTA})

IDS_AT_ONCE = 1_000


class Balance(msgspec.Struct, frozen=True):
    """An account in nano-USD at one moment; `available_nano` is what a hold may still take."""

    account_id: int
    code: str
    kind: str
    posted_nano: int
    held_nano: int
    credit_nano: int

    @property
    def available_nano(self) -> int:
        return self.posted_nano - self.held_nano + self.credit_nano


class Entry(msgspec.Struct, frozen=True):
    """One entry of a call, for display; `nano` in nano-USD."""

    kind: str
    nano: int
    created_ns: int


class AccountError(ValueError):
    """An account that does not exist or cannot be used this way; the message is for an operator."""


def key_account_code(now_ns: int) -> str:
    """The code of a new key's account, with an id of its own: the account is created before its key has a number."""
    return f"key:{new_id(now_ns).hex()}"


def ensure_system_accounts(connection: Connection) -> dict[str, int]:
    """The system accounts, created if absent: code -> account id. Safe to call from several processes at once."""
    rows = [{"code": code, "kind": kind} for code, kind in SYSTEM_ACCOUNTS.items()]
    if len(system_ids(connection)) < len(rows):
        sql.upsert(connection, accounts, rows, key=["code"])
    return system_ids(connection)


def system_ids(connection: Connection) -> dict[str, int]:
    """The existing system accounts: code -> account id."""
    found = connection.execute(select(accounts.c.code, accounts.c.id).where(accounts.c.code.in_(SYSTEM_ACCOUNTS)))
    return {row.code: row.id for row in found}


def create_account(connection: Connection, code: str, kind: str = CUSTOMER) -> int:
    """A new empty account's id; kind is "customer" or "quota". Raises AccountError, IntegrityError for a taken code."""
    if kind not in HELD_KINDS:
        raise AccountError(f"{kind!r} accounts are system accounts; use {CUSTOMER!r} or {QUOTA!r}")
    done = connection.execute(accounts.insert(), {"code": code, "kind": kind})
    key = done.inserted_primary_key
    if key is None:
        raise AccountError(f"the database gave the account {code!r} no id")
    return int(key[0])


def balance(connection: Connection, account_id: int) -> Balance:
    """The account as it stands in the database now, never from a cache (guarantee 4). Raises AccountError."""
    found = connection.execute(_balance_query().where(accounts.c.id == account_id)).one_or_none()
    if found is None:
        raise AccountError(f"the account {account_id} does not exist")
    return _balance_of(found)


def balances_of(connection: Connection, account_ids: Sequence[int]) -> dict[int, Balance]:
    """The balances of those accounts that exist, by id."""
    found: dict[int, Balance] = {}
    for start in range(0, len(account_ids), IDS_AT_ONCE):
        asked = _balance_query().where(accounts.c.id.in_(account_ids[start : start + IDS_AT_ONCE]))
        found |= {row.id: _balance_of(row) for row in connection.execute(asked)}
    return found


def available_nano(connection: Connection, account_ids: Iterable[int]) -> int:
    """What a hold on all of these accounts may still take, in nano-USD. Raises AccountError."""
    return min(balance(connection, account_id).available_nano for account_id in account_ids)


def balances(connection: Connection, rows_at_once: int = 1_000) -> Iterator[Balance]:
    """Every account in order of id, streamed with `rows_at_once` in memory."""
    query = _balance_query().order_by(accounts.c.id)
    streamed = query.execution_options(stream_results=True, yield_per=rows_at_once)
    for part in connection.execute(streamed).partitions():
        yield from map(_balance_of, part)


def _balance_of(row: Row[Any]) -> Balance:
    return Balance(row.id, row.code, row.kind, row.posted_nano, row.held_nano, row.credit_nano)


def _balance_query() -> Select[Any]:
    c = accounts.c
    return select(c.id, c.code, c.kind, c.posted_nano, c.held_nano, c.credit_nano)


def entries_of(connection: Connection, request_id: bytes) -> list[Entry]:
    """The entries of one call by step, and within a step (such as several refunds) by time of creation."""
    t = transfers.c
    query = select(t.id, t.kind, t.nano, t.created_ns).where(t.id.between(*entries_range(request_id)))
    rows = sorted(connection.execute(query), key=lambda row: (step_of(row.id), row.created_ns, row.id))
    return [Entry(row.kind, row.nano, row.created_ns) for row in rows]
