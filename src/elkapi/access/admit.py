"""A caller's key -> Grant, from memory or, on a miss, by digest from the database, off the loop.

Only the database's answer "no such key" makes a 401. An unreachable database is a 503 (guarantee 78): a caller with a
valid key must never be told that the key is bad.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from elkapi.access.cache import KeyCache
from elkapi.clock import Clock
from elkapi.errors import Unauthenticated, Unavailable
from elkapi.snapshot.snapshot import Snapshot
from elkapi.storage import apikey
from elkapi.storage.db import Reader
from elkapi.storage.repos import keys, versions
from elkapi.types import Grant

MISSING = "You didn't provide an API key. Send it as `Authorization: Bearer sk-...`."
MALFORMED = "The API key is malformed: it must be `sk-` followed by 48 letters and digits."
UNKNOWN = "Incorrect API key provided."
DISABLED = "The API key is disabled; ask the operator to enable it."
EXPIRED = "The API key has expired; ask the operator for a new one."


def digest_of(presented: str | None) -> bytes:
    """The digest of a key as the caller sent it. Raises Unauthenticated for one that cannot be a key."""
    if presented is None or not presented.strip():
        raise Unauthenticated(MISSING)
    key = apikey.normalize(presented)
    if key is None:
        raise Unauthenticated(MALFORMED)
    return apikey.digest(key)


async def admit(snapshot: Snapshot, cache: KeyCache, reader: Reader, digest: bytes, clock: Clock) -> Grant:
    """The grant of an enabled, unexpired key. Raises Unauthenticated with the reason, Unavailable without an answer."""
    grant = cache.get(digest)
    if grant is None:
        if cache.is_unknown(digest, clock.monotonic_s()):
            raise Unauthenticated(UNKNOWN)
        grant = await _fetch_once(cache, reader, digest, clock)
        if grant is None:
            raise Unauthenticated(UNKNOWN)
    if not grant.enabled:
        raise Unauthenticated(DISABLED)
    if grant.expires_at_ns is not None and grant.expires_at_ns <= clock.now_ns():
        raise Unauthenticated(EXPIRED)
    if grant.group not in snapshot.groups:
        # The key is newer than the snapshot; the next poll brings its group.
        raise Unavailable("The gateway is loading its configuration; please try again.")
    return grant


async def _fetch_once(cache: KeyCache, reader: Reader, digest: bytes, clock: Clock) -> Grant | None:
    """One read however many calls of the same key wait for it; a caller that leaves does not cancel it for the
    others."""
    task = cache.pending.get(digest)
    if task is None:
        task = asyncio.get_running_loop().create_task(_fetch(cache, reader, digest, clock))
        cache.pending[digest] = task
        task.add_done_callback(lambda done: _forget(cache, digest, done))
    return await asyncio.shield(task)


def _forget(cache: KeyCache, digest: bytes, done: asyncio.Task[Grant | None]) -> None:
    if cache.pending.get(digest) is done:
        del cache.pending[digest]
    if not done.cancelled():
        done.exception()  # Retrieved here as well, so that it is not reported as never retrieved.


async def _fetch(cache: KeyCache, reader: Reader, digest: bytes, clock: Clock) -> Grant | None:
    def read(connection: Connection) -> tuple[Grant | None, int]:
        return keys.find_grant(connection, digest), versions.read(connection).config

    grant, version = await reader.run(read)
    cache.put(digest, grant, version, clock.monotonic_s())
    return grant
