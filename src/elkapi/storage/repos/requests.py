"""Reading usage rows; the ledger writes them, in the settlement's transaction."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from elkapi.storage import schema
from elkapi.types import RequestRecord

_requests = schema.requests
decode_record = msgspec.json.Decoder(RequestRecord).decode


def get_request(connection: Connection, request_id: bytes, owner_id: int | None) -> RequestRecord | None:
    """The record of one call, or None. `owner_id` None is the operator's view; otherwise only the owner's own are
    found."""
    query = select(_requests.c.record).where(_requests.c.id == request_id)
    if owner_id is not None:
        query = query.where(_requests.c.owner_id == owner_id)
    record = connection.execute(query).scalar()
    return None if record is None else decode_record(record)


def list_requests(
    connection: Connection, limit: int, *, key_id: int | None = None, before: bytes | None = None
) -> list[RequestRecord]:
    """The newest records of all owners, or of one key, newest first; `before` continues a page.

    There is no index by key, which every call would pay for: the records of a key are searched among all, from the
    newest.
    """
    query = select(_requests.c.record).order_by(_requests.c.id.desc()).limit(limit)
    if key_id is not None:
        query = query.where(_requests.c.key_id == key_id)
    if before is not None:
        query = query.where(_requests.c.id < before)
    return [decode_record(record) for record in connection.execute(query).scalars()]
