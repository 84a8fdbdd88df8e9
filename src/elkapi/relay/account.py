"""The account of one call from the tables: the record, the price version of its charge, and its ledger entries."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from elkapi.ledger import Entry, entries_of
from elkapi.storage.repos.prices import get_price
from elkapi.storage.repos.requests import get_request
from elkapi.types import Price, RequestRecord


class RequestAccount(msgspec.Struct, frozen=True):
    """`price` is None for a call that needed no price record (the sandbox, bundled models)."""

    record: RequestRecord
    price: Price | None
    entries: tuple[Entry, ...]


def read_account(connection: Connection, request_id: bytes, owner_id: int | None) -> RequestAccount | None:
    """The account of one call, or None; `owner_id` None is the operator's view, otherwise only the owner's own is
    found."""
    record = get_request(connection, request_id, owner_id)
    if record is None:
        return None
    entries = tuple(entries_of(connection, request_id))
    price = get_price(connection, record.price_id) if record.price_id > 0 else None
    return RequestAccount(record, price.price if price else None, entries)
