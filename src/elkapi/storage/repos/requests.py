"""Reading usage rows; writing them is the ledger's, in the settlement's transaction. Every query can carry an owner."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from elkapi.storage import schema
from elkapi.types import RequestRecord

_requests = schema.requests
_RECORD = msgspec.json.Decoder(RequestRecord)


def get_request(connection: Connection, request_id: bytes, owner_id: int | None) -> RequestRecord | None:
    """The record of one call, or None. `owner_id` None is the operator's view; else only the owner's own are found."""
    query = select(_requests.c.record).where(_requests.c.id == request_id)
    if owner_id is not None:
        query = query.where(_requests.c.owner_id == owner_id)
    record = connection.execute(query).scalar()
    return None if record is None else _RECORD.decode(record)


def list_requests(
    connection: Connection, *, owner_id: int | None = None, before_id: bytes | None = None, limit: int = 50
) -> list[RequestRecord]:
    """The newest first; `before_id` continues a page (ids are ordered by time)."""
    query = select(_requests.c.record).order_by(_requests.c.id.desc()).limit(limit)
    if owner_id is not None:
        query = query.where(_requests.c.owner_id == owner_id)
    if before_id is not None:
        query = query.where(_requests.c.id < before_id)
    return [_RECORD.decode(record) for record in connection.execute(query).scalars()]
