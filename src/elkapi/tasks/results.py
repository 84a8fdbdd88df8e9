"""Takes what a provider made into our store: fetched through the guarded dialer, checked, measured, and written down.

    copier = AssetCopier(installation, client, settings)            # a parts.Copier; the class is a tasking.MakeCopier
    asset = await copier.copy(task, number, made, request, source)  # raises NotCopied

`fetched` is the part without a database. Every hop of a redirect is judged anew by the guard, and a hop to another
host loses all headers that may be credentials. A copy may be repeated: a place of a task that has its file is not
fetched again, and of two copies at the same time one is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from elkapi.assets.kinds import FileKind
from elkapi.assets.probe import Facts, ProbeError, probe
from elkapi.assets.store import AssetStore, Stored, StoreFailed, TooLarge, WrongType, open_store
from elkapi.catalog.task import Made
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Unavailable
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.repos import assets as rows
from elkapi.storage.repos.assets import AssetRow
from elkapi.tasks.copying import CopyFailed
from elkapi.tasks.record import Task
from elkapi.types import AssetKind, TaskAsset
from elkapi.upstream import UpstreamClient, UpstreamFailure, UpstreamRequest
from elkapi.upstream.errors import AddressRefused, ProtocolViolation
from elkapi.upstream.follow import follow
from elkapi.upstream.reply import UpstreamReply

Reason = Literal["too_large", "wrong_type", "address_refused", "upstream", "store"]
# Statuses that may be temporary; a file that is not ready is usually there a moment later, and a signed address that
# expired while its copy waited (403 of most stores, 400 of Google's) is renewed in the next answer.
AGAIN_STATUSES = frozenset({400, 403, 404, 408, 409, 423, 425, 429})


class NotCopied(CopyFailed):
    """A file was not copied, and nothing of it is stored. `again`: it may be available later."""

    def __init__(self, message: str, *, reason: Reason, again: bool) -> None:
        super().__init__(message, again=again, ours=reason == "store")
        self.reason = reason


class Fetched(msgspec.Struct, frozen=True):
    """A stored file with its measured facts."""

    stored: Stored
    facts: Facts


async def fetched(
    client: UpstreamClient,
    store: AssetStore,
    location: str,
    request: UpstreamRequest,
    bytes_max: int,
    only: AssetKind | None = None,
) -> Fetched:
    """Copy the answer to a GET, following redirects, to `location`, if it is of the kind `only`, None for any. Raises
    NotCopied; a cancelled copy leaves nothing."""
    try:
        reply = await client.send(request)
        try:
            reply = await follow(client, reply, request)
            stored = await store.put(location, _body(reply, bytes_max), bytes_max, only)
        finally:
            await reply.aclose()
        try:
            return Fetched(stored, await _facts(store, location, stored))
        except BaseException:
            with contextlib.suppress(StoreFailed):
                await store.delete(location)
            raise
    except AddressRefused as failure:
        raise NotCopied(str(failure), reason="address_refused", again=False) from None
    except ProtocolViolation as failure:
        raise NotCopied(str(failure), reason="upstream", again=False) from None
    except UpstreamFailure as failure:
        raise NotCopied(f"{failure.code}: {failure}", reason="upstream", again=True) from None
    except TooLarge as failure:
        raise NotCopied(str(failure), reason="too_large", again=False) from None
    except WrongType as failure:
        # An HTML page instead of the file usually means that the host is not ready.
        raise NotCopied(str(failure), reason="wrong_type", again=True) from None
    except (StoreFailed, FileNotFoundError) as failure:
        raise NotCopied(f"the store did not take it: {failure}", reason="store", again=True) from None


async def _body(reply: UpstreamReply, bytes_max: int) -> AsyncIterator[bytes]:
    """The complete body of a good answer. Raises NotCopied, TooLarge, UpstreamFailure."""
    if reply.status != 200:
        again = reply.status in AGAIN_STATUSES or reply.status >= 500
        raise NotCopied(f"the provider answered {reply.status}", reason="upstream", again=again)
    said = reply.header(b"content-length")
    if said is not None and said.isdigit() and int(said) > bytes_max:
        raise TooLarge(f"it is larger than {bytes_max} bytes")
    async for chunk in reply:
        yield chunk


async def _facts(store: AssetStore, location: str, stored: Stored) -> Facts:
    """Measured facts; an unreadable file is stored all the same, since its provider vouches for its kind."""

    async def read(start: int, length: int) -> bytes:
        length = min(length, stored.size_bytes - start)
        return await store.at(location, start, length) if start >= 0 and length > 0 else b""

    try:
        return await probe(read, stored.size_bytes, stored.kind)
    except ProbeError:
        return Facts()


class AssetCopier:
    """parts.Copier for the asset store; it writes the rows, before the task ends."""

    def __init__(
        self, installation: Installation, client: UpstreamClient, settings: Settings, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._database: Database = installation.database
        self._client = client
        self._settings = settings
        self._clock = clock
        self._store = open_store(settings)

    async def copy(self, task: Task, number: int, made: Made, request: UpstreamRequest, source: str) -> TaskAsset:
        """Copy a file and return it as the task shows it. Raises NotCopied."""
        try:
            if (before := await asyncio.to_thread(self._before, task.row.id, number)) is not None:
                return before.shown(source)
            asset_id = asset_id_of(task.row.id, number)
            location = f"{asset_id[:1].hex()}/{asset_id.hex()}-{os.urandom(4).hex()}"
            # Some gateways know no variants of a content: what they send as its poster is the video once more.
            only = made.kind if made.optional else None
            found = await fetched(self._client, self._store, location, request, self._bytes_max(), only)
            row = self._row(task, number, made, location, asset_id, found)
            kept = await asyncio.to_thread(self._add, row)
        except Unavailable as failure:
            raise NotCopied(f"the database did not answer: {failure}", reason="store", again=True) from None
        if kept.location != location:
            with contextlib.suppress(StoreFailed):
                await self._store.delete(location)
        return kept.shown(source)

    def _bytes_max(self) -> int:
        most, quota = self._settings.asset_bytes_max, self._settings.asset_bytes_per_key_max
        return min(most, quota) if quota else most

    def _row(self, task: Task, number: int, made: Made, location: str, asset_id: bytes, found: Fetched) -> AssetRow:
        stored, facts, now_ns = found.stored, found.facts, self._clock.now_ns()
        keep_s = self._settings.asset_keep_s
        return AssetRow(
            id=asset_id,
            task_id=task.row.id,
            number=number,
            owner_id=task.row.owner_id,
            key_id=task.row.key_id,
            kind=kind_shown(made.kind, stored.kind),
            content_type=stored.kind.content_type,
            size_bytes=stored.size_bytes,
            sha256=stored.sha256,
            width=facts.width,
            height=facts.height,
            duration_ms=facts.duration_ms,
            location=location,
            created_ns=now_ns,
            expires_ns=now_ns + round(keep_s * 1_000_000_000) if keep_s else rows.FOR_EVER_NS,
        )

    def _before(self, task_id: bytes, number: int) -> AssetRow | None:
        with self._database.read() as connection:
            return rows.of_place(connection, task_id, number)

    def _add(self, row: AssetRow) -> AssetRow:
        with self._database.write() as connection:
            return rows.add(connection, row, self._settings.asset_bytes_per_key_max)


def asset_id_of(task_id: bytes, number: int) -> bytes:
    """The id of a task's file, the same for every copy; it does not reveal the task's id."""
    return hashlib.sha256(b"asset\0" + task_id + b"\0%d" % number).digest()[:16]


def kind_shown(declared: AssetKind, found: FileKind) -> AssetKind:
    """The detected kind of the file, else the family's."""
    return declared if found.kind == "file" else found.kind
