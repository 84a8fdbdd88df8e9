"""Rows of files that tasks made: owner, location, size and expiry; `elkapi.assets` stores the files themselves.

A caller's query carries their key; `signed` serves signed addresses instead, which name one file.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, delete, func, select, update

from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import keys
from elkapi.types import AssetKind, Grant, TaskAsset

_assets = schema.assets
FOR_EVER_NS = (1 << 63) - 1
# How many of a key's files are read at a time while room is made for a new one, which mostly takes the place of a few.
OLDEST_AT_ONCE = 100


class AssetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file; `number` is its index among those of its task."""

    id: bytes
    task_id: bytes
    number: int
    owner_id: int
    key_id: int
    kind: AssetKind
    content_type: str
    size_bytes: int
    sha256: bytes
    width: int | None
    height: int | None
    duration_ms: int | None
    location: str
    created_ns: int
    expires_ns: int

    def shown(self, source: str = "") -> TaskAsset:
        """The file as a task shows it."""
        return TaskAsset(
            id=self.id,
            kind=self.kind,
            content_type=self.content_type,
            size_bytes=self.size_bytes,
            source=source,
            width=self.width,
            height=self.height,
            duration_ms=self.duration_ms,
            expires_ns=0 if self.expires_ns == FOR_EVER_NS else self.expires_ns,
        )


_COLUMNS = [_assets.c[name] for name in AssetRow.__struct_fields__]


def add(connection: Connection, row: AssetRow, key_bytes_max: int = 0) -> AssetRow:
    """Insert the row; returns it, or the row that another process wrote for the same place, in which case the caller
    drops its own file.

    With a quota, the key's oldest files expire until the new one fits.
    """
    values = msgspec.structs.asdict(row)
    if key_bytes_max:
        keys.take_turns(connection, row.key_id)
    if sql.upsert(connection, _assets, values, key=["id"]):
        if key_bytes_max:
            _make_room(connection, row, key_bytes_max)
        return row
    found = of_place(connection, row.task_id, row.number)
    assert found is not None
    return found


def _make_room(connection: Connection, row: AssetRow, key_bytes_max: int) -> None:
    over = used_bytes(connection, row.key_id, row.created_ns) - key_bytes_max
    c = _assets.c
    kept = (c.key_id == row.key_id, c.expires_ns > row.created_ns, c.id != row.id)
    others = select(c.id, c.size_bytes).where(*kept).order_by(c.created_ns, c.id).limit(OLDEST_AT_ONCE)
    while over > 0 and (found := connection.execute(others).all()):
        oldest = []
        for other in found:
            if over <= 0:
                break
            oldest.append(other.id)
            over -= other.size_bytes
        connection.execute(update(_assets).where(c.id.in_(oldest)).values(expires_ns=row.created_ns))


def used_bytes(connection: Connection, key_id: int, now_ns: int) -> int:
    """The total size of a key's files, in bytes."""
    c = _assets.c
    total = select(func.coalesce(func.sum(c.size_bytes), 0)).where(c.key_id == key_id, c.expires_ns > now_ns)
    return int(connection.execute(total).scalar_one())


def of_place(connection: Connection, task_id: bytes, number: int) -> AssetRow | None:
    """The file that was already copied for this place of a task."""
    return _one(connection, select(*_COLUMNS).where(_assets.c.task_id == task_id, _assets.c.number == number))


def find(connection: Connection, grant: Grant, asset_id: bytes, now_ns: int) -> AssetRow | None:
    """The caller's own file, or None."""
    mine = (_assets.c.key_id == grant.key_id, _assets.c.owner_id == grant.owner_id)
    return _one(connection, _kept(asset_id, now_ns).where(*mine))


def signed(connection: Connection, asset_id: bytes, now_ns: int) -> AssetRow | None:
    """A file whose id came with a valid signature, or None."""
    return _one(connection, _kept(asset_id, now_ns))


def expired(connection: Connection, now_ns: int, rows_max: int, after: int = 0) -> list[tuple[bytes, str]]:
    """(id, location) of expired files in the order of expiry, skipping the first `after`."""
    c = _assets.c
    query = select(c.id, c.location).where(c.expires_ns <= now_ns).order_by(c.expires_ns, c.id)
    query = query.limit(rows_max).offset(after)
    return [(row.id, row.location) for row in connection.execute(query)]


def forget(connection: Connection, ids: Collection[bytes]) -> int:
    """Delete rows whose files are gone."""
    return connection.execute(delete(_assets).where(_assets.c.id.in_(ids))).rowcount


def known_locations(connection: Connection, locations: Collection[str]) -> set[str]:
    """Those of these locations that rows refer to."""
    return set(connection.execute(select(_assets.c.location).where(_assets.c.location.in_(locations))).scalars())


def _kept(asset_id: bytes, now_ns: int) -> Select[Any]:
    return select(*_COLUMNS).where(_assets.c.id == asset_id, _assets.c.expires_ns > now_ns)


def _one(connection: Connection, query: Select[Any]) -> AssetRow | None:
    found = connection.execute(query).first()
    return None if found is None else AssetRow(**found._mapping)
