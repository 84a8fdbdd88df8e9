"""A worker's access to stored answers, unsealed: reads on the reader's threads, changes on a separate thread.

The queries check ownership; another's object is not found, with the same message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import Connection

from elkapi.clock import Clock
from elkapi.errors import BadRequest, NotFound
from elkapi.ids import parse_prefixed_id
from elkapi.settings import Settings
from elkapi.storage.db import Database, Reader, Writer
from elkapi.storage.repos import stored as rows
from elkapi.storage.repos.stored import StoredRow
from elkapi.storage.secrets import Sealer
from elkapi.translate import kept as stored
from elkapi.translate.kept import Kept
from elkapi.types import Grant

T = TypeVar("T")
Kind = Literal["response", "chat"]

PREFIXES: dict[Kind, str] = {"response": stored.RESPONSE_PREFIX, "chat": stored.CHAT_PREFIX}
_NAMES: dict[Kind, str] = {"response": "Response", "chat": "Chat completion"}
TOUCH_EVERY_NS = 24 * 3600 * 1_000_000_000
_DERIVED = re.compile(r"[a-z]+_([0-9a-f]{32})_[0-9]+")


class Found(msgspec.Struct, frozen=True):
    """An unsealed object."""

    row: StoredRow
    kept: Kept


def parse_stored_id(kind: Kind, text: str) -> bytes | None:
    """The id behind an object's public spelling, or None if it is not one."""
    return parse_prefixed_id(text, PREFIXES[kind])


def stored_id_text(kind: Kind, object_id: bytes) -> str:
    """The public spelling."""
    return PREFIXES[kind] + object_id.hex()


def unknown(kind: Kind, text: str) -> NotFound:
    """The error for an id that does not exist or is not the caller's."""
    return NotFound(f"{_NAMES[kind]} with id '{text[:100]}' not found.", param="id")


class StoredObjects:
    """One per worker. Every method raises Unavailable if the database does not answer."""

    def __init__(self, settings: Settings, database: Database, reader: Reader, sealer: Sealer, clock: Clock) -> None:
        self._keep_ns = round(settings.stored_keep_s * 1e9)
        self._bytes_max = settings.body_bytes_max
        self._reader = reader
        self._sealer = sealer
        self._clock = clock
        self._writer = Writer(database, "stored")

    async def find(self, grant: Grant, kind: Kind, text: str) -> Found:
        """The caller's own object. Raises NotFound."""
        object_id = parse_stored_id(kind, text)
        found = None if object_id is None else await self._read(self._one, grant, kind, object_id)
        if found is None:
            raise unknown(kind, text)
        return found

    async def conversation(self, grant: Grant, text: str) -> list[Found]:
        """The turns that lead to a response, itself last; their retention starts anew.

        Raises BadRequest if it cannot be continued, BodyTooLarge.
        """
        object_id = parse_stored_id("response", text)
        turns = None if object_id is None else await self._read(self._turns, grant, object_id)
        if turns is None:
            raise BadRequest(
                f"Previous response with id '{text[:100]}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        if any(turn.row.status not in rows.ANSWERED for turn in turns):
            raise BadRequest(
                f"Previous response with id '{text[:100]}' has no answer to continue from; its status is "
                f"'{turns[-1].row.status}'.",
                code="previous_response_not_completed",
                param="previous_response_id",
            )
        self._touch(turns)
        return turns

    async def turns(self, grant: Grant, text: str) -> list[Found]:
        """A response as the last of the turns that lead to it; alone if one of those exists no more.

        Raises NotFound, BodyTooLarge.
        """
        object_id = parse_stored_id("response", text)
        turns = None if object_id is None else await self._read(self._turns, grant, object_id)
        return turns or [await self.find(grant, "response", text)]

    def _touch(self, turns: list[Found]) -> None:
        """Extend the expiry of a continued conversation, at most once in TOUCH_EVERY_NS; nobody waits for it, and if
        the database is unavailable the next turn does it."""
        expires_ns = self._clock.now_ns() + self._keep_ns
        stale = [turn.row.id for turn in turns if turn.row.expires_ns < expires_ns - TOUCH_EVERY_NS]
        if stale:
            self._writer.begin(lambda connection: rows.touch(connection, stale, expires_ns))

    async def items(self, grant: Grant, item_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Items of the caller's responses by their ids; missing ones are left out. Raises BodyTooLarge."""
        return await self._read(self._items, grant, item_ids)

    async def page(
        self,
        grant: Grant,
        *,
        limit: int,
        ascending: bool,
        after: bytes | None,
        model: str | None,
        metadata: Mapping[str, str],
    ) -> tuple[list[Found], bool]:
        """(chat completions in the order of creation, whether there are more)."""

        def read(connection: Connection) -> tuple[list[Found], bool]:
            page, has_more = rows.page(
                connection,
                grant,
                "chat",
                self._clock.now_ns(),
                limit=limit,
                bytes_max=self._bytes_max,
                ascending=ascending,
                after=after,
                model=model,
                metadata=metadata,
            )
            return [self._opened(row) for row in page], has_more

        return await self._reader.run(read)

    async def frames(self, object_id: bytes, first: int) -> list[tuple[int, bytes]]:
        """(number of the first frame, frames) of the stored pieces of a stream, from the one that contains `first`
        on."""

        def read(connection: Connection) -> list[tuple[int, bytes]]:
            pieces = rows.frames(connection, object_id, first)
            return [
                (number, self._sealer.open(sealed, rows.frames_context(object_id, number))) for number, sealed in pieces
            ]

        return await self._reader.run(read)

    async def still_wanted(self, ids: Collection[bytes]) -> set[bytes]:
        """Those of these background responses that are neither cancelled nor deleted, in any worker."""
        return await self._read(rows.still_wanted, ids, timed=False)

    async def set_metadata(self, grant: Grant, text: str, metadata: str | None) -> None:
        """Change a chat completion's metadata. Raises NotFound."""
        await self._change(rows.set_metadata, grant, "chat", text, metadata)

    async def remove(self, grant: Grant, kind: Kind, text: str) -> None:
        """Delete an object. Raises NotFound."""
        await self._change(rows.remove, grant, kind, text)

    async def cancel(self, grant: Grant, object_id: bytes) -> bool:
        """Mark a background response as cancelled; False if it has ended already."""
        return await self._writer.run(lambda connection: rows.cancel(connection, grant, object_id))

    async def aclose(self) -> None:
        """Wait for the current change."""
        await asyncio.to_thread(self._writer.close)

    async def _change(self, change: Callable[..., bool], grant: Grant, kind: Kind, text: str, *more: Any) -> None:
        object_id = parse_stored_id(kind, text)
        if object_id is None or not await self._writer.run(
            lambda connection: change(connection, grant, kind, object_id, *more)
        ):
            raise unknown(kind, text)

    async def _read(self, ask: Callable[..., T], *what: Any, timed: bool = True) -> T:
        now = (self._clock.now_ns(),) if timed else ()
        return await self._reader.run(lambda connection: ask(connection, *what, *now))

    # On a thread

    def _one(self, connection: Connection, grant: Grant, kind: Kind, object_id: bytes, now_ns: int) -> Found | None:
        row = rows.read(connection, grant, kind, object_id, now_ns)
        return None if row is None else self._opened(row)

    def _turns(self, connection: Connection, grant: Grant, object_id: bytes, now_ns: int) -> list[Found] | None:
        turns = rows.conversation(connection, grant, object_id, self._bytes_max, now_ns)
        return None if turns is None else [self._opened(row) for row in turns]

    def _items(
        self, connection: Connection, grant: Grant, item_ids: Collection[str], now_ns: int
    ) -> dict[str, dict[str, Any]]:
        derived = {bytes.fromhex(hit[1]) for hit in map(_DERIVED.fullmatch, item_ids) if hit is not None}
        bytes_max = self._bytes_max
        items: dict[str, dict[str, Any]] = {}
        for row in rows.items_of(connection, grant, item_ids, derived, bytes_max, now_ns):
            items |= stored.items_with(self._opened(row).kept, stored_id_text("response", row.id), item_ids)
        return items

    def _opened(self, row: StoredRow) -> Found:
        return Found(row, stored.kept_decoder.decode(self._sealer.open(row.sealed, rows.body_context(row.id))))
