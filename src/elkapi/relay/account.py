"""One call's account as kept in the tables: the record, the price version it was charged by, and its ledger entries."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from elkapi.ledger.transfers import entries_range
from elkapi.storage.repos.prices import get_price
from elkapi.storage.repos.requests import get_request
from elkapi.storage.schema import transfers
from elkapi.types import Price, RequestRecord


class Entry(msgspec.Struct, frozen=True):
    """One ledger entry of the call; `nano` in nano-USD."""

    kind: str
    nano: int
    created_ns: int


class RequestAccount(msgspec.Struct, frozen=True):
    """`price` is None for a call that needed no price record (the sandbox, bundled models)."""

    record: RequestRecord
    price: Price | None
    entries: tuple[Entry, ...]


def read_account(connection: Connection, request_id: bytes, owner_id: int | None) -> RequestAccount | None:
    """The account of one call, or None; `owner_id` None is the operator's view, else only the owner's own is found."""
    record = get_request(connection, request_id, owner_id)
    if record is None:
        return None
    low, high = entries_range(request_id)
    query = (
        select(transfers.c.kind, transfers.c.nano, transfers.c.created_ns)
        .where(transfers.c.id.between(low, high))
        .order_by(transfers.c.id)
    )
    entries = tuple(Entry(*row) for row in connection.execute(query))
    price = get_price(connection, record.price_id) if record.price_id > 0 else None
    return RequestAccount(record, price.price if price else None, entries)
