"""Admission: each way a key can be wrong, and that a database outage is never the caller's fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from elkapi.access import KeyCache, admit, digest_of
from elkapi.access import cache as access_cache
from elkapi.clock import ManualClock
from elkapi.errors import Unauthenticated, Unavailable
from elkapi.ledger.accounts import create_account
from elkapi.snapshot import Snapshot, SnapshotHolder, build_snapshot
from elkapi.storage import apikey
from elkapi.storage.db import Database, Reader
from elkapi.storage.installation import Installation
from elkapi.storage.repos import groups, keys, owners, versions
from elkapi.storage.repos.channels import ChannelConfig, ChannelSpec, add_channel
from elkapi.storage.schema import channels
from elkapi.types import Grant
from tests.waiting import until

WHO: dict[str, Any] = {"now_ns": 1, "actor": "test"}
NOBODY = "sk-" + "x" * 48


class Door:
    """Everything `admit` needs, and a count of the reads it makes."""

    def __init__(self, installation: Installation) -> None:
        self.database = installation.database
        self.reader = Reader(installation.database)
        self.cache = KeyCache(100)
        self.clock = ManualClock()
        self.reads = 0
        self.snapshot = self.read_snapshot(installation)

    def read_snapshot(self, installation: Installation) -> Snapshot:
        with self.database.read() as connection:
            return build_snapshot(connection, installation.sealer, installation.settings)

    def key(self, **changes: Any) -> tuple[keys.KeyRow, str]:
        with self.database.write() as connection:
            fields: dict[str, Any] = {
                "name": "k",
                "owner_id": owners.operator_id(connection),
                "group": "default",
                "scope": "live",
                "account_id": create_account(connection, f"t{len(keys.list_keys(connection))}"),
                "models": None,
                "expires_at_ns": None,
            }
            return keys.create_key(connection, **(fields | changes), **WHO)

    async def knock(self, presented: str | None) -> Grant:
        return await admit(self.snapshot, self.cache, self.reader, digest_of(presented), self.clock)

    async def refusal(self, presented: str | None) -> str:
        with pytest.raises(Unauthenticated) as refused:
            await self.knock(presented)
        assert refused.value.status == 401
        assert refused.value.code == "invalid_api_key"
        return refused.value.message


@pytest.fixture
async def door(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    door = Door(installation)
    find = keys.find_grant

    def counted(connection: Connection, digest: bytes) -> Grant | None:
        door.reads += 1
        return find(connection, digest)

    monkeypatch.setattr(keys, "find_grant", counted)
    yield door
    await door.reader.aclose()


async def test_a_good_key_is_admitted_and_read_once(door: Door) -> None:
    row, key = door.key(models=["m"])
    grant = await door.knock(f"Bearer {key}")
    assert (grant.key_id, grant.accounts, grant.models) == (row.id, (row.account_id,), frozenset({"m"}))
    assert await door.knock(key.removeprefix("sk-")) is grant
    assert door.reads == 1


async def test_every_way_a_key_can_be_wrong_has_its_own_words(door: Door) -> None:
    off, disabled = door.key()
    _, expired = door.key(expires_at_ns=door.clock.now_ns())
    with door.database.write() as connection:
        keys.set_enabled(connection, off.id, False, **WHO)
    presented = [None, "sk-short", NOBODY, disabled, expired]
    messages = [await door.refusal(key) for key in presented]
    assert len(set(messages)) == len(presented)
    assert await door.refusal("  ") == messages[0]
    for key, message in zip(presented, messages, strict=True):
        assert key is None or key not in message


async def test_a_key_expires_while_it_is_cached(door: Door) -> None:
    _, key = door.key(expires_at_ns=door.clock.now_ns() + 1_000_000_000)
    await door.knock(key)
    door.clock.advance(2)
    assert "expired" in await door.refusal(key)


async def test_malformed_keys_never_reach_the_database(door: Door) -> None:
    for presented in ("sk-' OR 1=1", "Bearer x", "sk-" + "A" * 47, "sk-" + "A" * 5000):
        await door.refusal(presented)
    assert door.reads == 0


async def test_calls_of_one_key_share_one_read(door: Door) -> None:
    _, key = door.key()
    grants = await asyncio.gather(*(door.knock(key) for _ in range(50)))
    assert len({grant.key_id for grant in grants}) == 1
    assert door.reads == 1


async def test_a_caller_that_leaves_does_not_take_the_others_along(door: Door) -> None:
    _, key = door.key()
    first, second = asyncio.create_task(door.knock(key)), asyncio.create_task(door.knock(key))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).enabled
    assert door.cache.pending == {}


async def test_an_unknown_key_is_remembered_for_a_short_time_only(door: Door) -> None:
    await door.refusal(NOBODY)
    await door.refusal(NOBODY)
    assert door.reads == 1
    door.clock.advance(access_cache.NEGATIVE_S + 1)
    await door.refusal(NOBODY)
    assert door.reads == 2


async def test_g78_database_outage_is_503_never_401(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    _, known = door.key()
    _, other = door.key()
    cached = await door.knock(known)

    def lost(_connection: Connection, _digest: bytes) -> None:
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    with monkeypatch.context() as patch:
        patch.setattr(keys, "find_grant", lost)
        for presented in (other, NOBODY):
            with pytest.raises(Unavailable) as refused:
                await door.knock(presented)
            assert refused.value.status == 503
            assert (b"retry-after", b"1") in refused.value.headers
        assert await door.knock(known) is cached
    # It heals without a restart, and the outage left no negative entry behind.
    assert (await door.knock(other)).enabled
    assert await door.refusal(NOBODY)


async def test_g78_a_database_that_hangs_is_503(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    door, release = Door(installation), threading.Event()
    _, key = door.key()
    door.reader = Reader(installation.database, wait_s=0.1)
    monkeypatch.setattr(keys, "find_grant", lambda _connection, _digest: release.wait())
    try:
        with pytest.raises(Unavailable):
            await door.knock(key)
    finally:
        release.set()
        await door.reader.aclose()


async def test_a_group_younger_than_the_snapshot_is_a_503_until_it_is_read(
    door: Door, installation: Installation
) -> None:
    with door.database.write() as connection:
        groups.set_group(connection, name="new", ratio_micro=1, description=None, **WHO)
    _, key = door.key(group="new")
    with pytest.raises(Unavailable):
        await door.knock(key)
    door.snapshot = door.read_snapshot(installation)
    assert (await door.knock(key)).group == "new"


@asynccontextmanager
async def watching(door: Door, installation: Installation) -> AsyncIterator[None]:
    """Changes of keys come to the door's cache."""
    holder = SnapshotHolder(
        installation.database, installation.sealer, installation.settings, on_keys_changed=door.cache.evict
    )
    await holder.start()
    try:
        yield
    finally:
        await holder.stop()


async def test_a_revoked_key_is_refused_once_the_change_is_seen(door: Door, installation: Installation) -> None:
    row, key = door.key()
    async with watching(door, installation):
        await door.knock(key)
        with door.database.write() as connection:
            keys.revoke(connection, row.id, **WHO)

        async def is_refused() -> bool:
            try:
                await door.knock(key)
            except Unauthenticated:
                return True
            return False

        await until(is_refused)


async def test_a_replaced_secret_is_refused_once_the_change_is_seen_and_the_new_one_is_the_same_key(
    door: Door, installation: Installation
) -> None:
    row, key = door.key()
    async with watching(door, installation):
        before, new = await door.knock(key), apikey.new_key("live")
        with door.database.write() as connection:
            keys.rotate(connection, row.id, new, **WHO)
        assert await door.knock(new) == before
        await until(lambda: door.cache._version > row.version)
        assert "Incorrect API key" in await door.refusal(key)
        assert await door.knock(new) == before


async def test_a_revoked_key_is_refused_while_a_channel_cannot_be_read(
    door: Door, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    row, key = door.key()
    with door.database.write() as connection:
        spec = ChannelSpec(name="c", family="openai", base_url="https://u.example", config=ChannelConfig(models=("m",)))
        add_channel(connection, installation.sealer, spec, **WHO)
    async with watching(door, installation):
        await door.knock(key)
        with door.database.write() as connection:
            connection.execute(channels.update().values(config='{"models": 1}'))
            versions.bump(connection, routing=True)
        await until(lambda: "cannot rebuild the snapshot" in caplog.text)
        with door.database.write() as connection:
            keys.revoke(connection, row.id, **WHO)
        await until(lambda: not len(door.cache))
        assert "disabled" in await door.refusal(key)


async def test_a_key_made_after_it_was_refused_works_once_the_change_is_seen(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apikey, "new_key", lambda _scope: NOBODY)
    await door.refusal(NOBODY)
    row, _ = door.key()
    door.cache.evict(row.version, [(row.id, apikey.digest(NOBODY))])
    assert (await door.knock(NOBODY)).key_id == row.id


async def test_a_slow_read_cannot_bring_an_evicted_key_back(door: Door) -> None:
    row, key = door.key()
    digest = apikey.digest(key)
    grant = await door.knock(key)
    door.cache.evict(row.version + 1, [(row.id, digest)])
    door.cache.put(digest, grant, row.version, 0.0)
    assert door.cache.get(digest) is None


@pytest.mark.parametrize("all_keys", [False, True])
async def test_a_call_that_comes_after_a_change_does_not_wait_for_a_read_from_before_it(
    door: Door, monkeypatch: pytest.MonkeyPatch, all_keys: bool
) -> None:
    row, key = door.key()
    find, was_read, go_on = keys.find_grant, threading.Event(), threading.Event()

    def slow_at_first(connection: Connection, digest: bytes) -> Grant | None:
        grant = find(connection, digest)
        if not was_read.is_set():
            was_read.set()
            go_on.wait()
        return grant

    monkeypatch.setattr(keys, "find_grant", slow_at_first)
    before = asyncio.create_task(door.knock(key))
    await until(was_read.is_set)
    with door.database.write() as connection:
        keys.revoke(connection, row.id, **WHO)
    door.cache.evict(row.version + 1, None if all_keys else [(row.id, apikey.digest(key))])
    after = asyncio.create_task(door.refusal(key))
    await asyncio.sleep(0)
    go_on.set()
    assert await after == "The API key is disabled; ask the operator to enable it."
    assert (await before).key_id == row.id
    # The older read is kept no more than it was waited for.
    assert await door.refusal(key) == "The API key is disabled; ask the operator to enable it."
    assert door.reads == 2
    assert not door.cache.pending


def test_after_a_change_of_all_keys_every_one_is_asked_for_anew() -> None:
    cache = KeyCache(10)
    grant = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
    for version in (5, 2):  # The second is that of a copy that was restored.
        cache.put(b"known", grant, version, 0.0)
        cache.put(b"unknown", None, version, 0.0)
        assert (cache.get(b"known"), cache.is_unknown(b"unknown", 1.0)) == (grant, True)
        cache.evict(2, None)
        assert (cache.get(b"known"), cache.is_unknown(b"unknown", 1.0)) == (None, False)


def test_the_cache_is_bounded_and_keeps_what_is_used(database: Database) -> None:
    with database.write() as connection:
        account_id = create_account(connection, "t")
    grants = [Grant(key_id, "k", 1, "default", "live", (account_id,), None, None, True) for key_id in range(3)]
    cache = KeyCache(2)
    cache.put(b"a", grants[0], 1, 0.0)
    cache.put(b"b", grants[1], 1, 0.0)
    assert cache.get(b"a") is grants[0]
    cache.put(b"c", grants[2], 1, 0.0)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is grants[0]
    assert len(cache) == 2


def test_g05_neither_grant_nor_snapshot_holds_a_copy_of_money() -> None:
    for kind in (Grant, Snapshot):
        assert not [name for name in kind.__struct_fields__ if "nano" in name or "balance" in name or "quota" in name]


def test_unknown_keys_are_bounded_apart_from_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_cache, "NEGATIVE_MAX", 3)
    cache = KeyCache(2)
    grant = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
    cache.put(b"good", grant, 1, 0.0)
    for number in range(10):
        cache.put(bytes([number]), None, 1, 0.0)
    assert cache.get(b"good") is grant
    assert [cache.is_unknown(bytes([number]), 1.0) for number in (6, 7, 9)] == [False, True, True]
