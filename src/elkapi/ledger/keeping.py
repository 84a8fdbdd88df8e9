"""Stored answers inside the books' transactions, and their encryption; `translate.kept` defines their content.

An answer is written with the settlement of its call, so it can be read as soon as the caller has the last byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elkapi.ledger.orders import Keep, Kept, Settle
from elkapi.ledger.statements import Statements
from elkapi.storage.repos.stored import body_context, frames_context
from elkapi.storage.secrets import Sealer
from elkapi.types import StoredObject


async def seal_stored(sealer: Sealer, stored: StoredObject) -> Kept:
    """The encrypted row of a stored object."""
    first, frames = stored.frames or (0, b"")
    return Kept(
        stored.id,
        stored.kind,
        stored.owner_id,
        stored.key_id,
        stored.model,
        stored.status,
        stored.created_ns,
        stored.expires_ns,
        stored.previous,
        stored.worker,
        stored.metadata,
        await sealer.seal_beside(stored.body, body_context(stored.id)),
        stored.item_ids,
        stored.finishes,
        first,
        await sealer.seal_beside(frames, frames_context(stored.id, first)) if frames else None,
    )


class Keeper:
    """The tables of stored answers on the books' own cursor."""

    def __init__(self, cursor: Any, sql: Statements) -> None:
        self._cursor = cursor
        self._sql = sql

    def write(self, orders: Sequence[Settle | Keep]) -> None:
        """Insert or complete these objects; repeating it changes nothing."""
        for order in orders:
            kept = order.kept
            if kept is None:
                continue
            if not (type(order) is Keep and order.frames_only):
                self._object(kept)
            if kept.frames_sealed is not None and self._is_there(kept.id):
                self._sql.stored_events.insert(self._cursor, [kept.id, kept.first, kept.frames_sealed])

    def _is_there(self, object_id: bytes) -> bool:
        """Whether the object still exists; frames without their object would never be removed."""
        self._cursor.execute(self._sql.stored_lock, (object_id,))
        return self._cursor.fetchone() is not None

    def _object(self, kept: Kept) -> None:
        cursor, sql = self._cursor, self._sql
        if kept.finishes:
            cursor.execute(sql.stored_finish, (kept.status, kept.expires_ns, kept.sealed, kept.id))
            if cursor.rowcount != 1:
                return  # cancelled, deleted or given up by recovery meanwhile
        else:
            row: list[Any] = [kept.id, kept.kind, kept.owner_id, kept.key_id, kept.model, kept.status]
            row += (kept.created_ns, kept.expires_ns, kept.previous, kept.worker, kept.metadata, kept.sealed)
            sql.stored.insert(cursor, row)
        if kept.item_ids:
            flat: list[Any] = []
            for item_id in kept.item_ids:
                flat += (kept.key_id, item_id, kept.id)
            sql.stored_items.insert(cursor, flat)
