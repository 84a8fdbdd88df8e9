"""Rows of files: whose they are, how much of them a key may have, and which are forgotten."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection

from elkapi.storage.db import Database
from elkapi.storage.repos import assets
from elkapi.storage.repos.assets import AssetRow
from elkapi.types import Grant

MINE = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
NOW_NS = 1_000


def file(number: int, **changes: Any) -> AssetRow:
    made = AssetRow(
        id=bytes([number]) * 16,
        task_id=b"t" * 16,
        number=number,
        owner_id=1,
        key_id=1,
        kind="video",
        content_type="video/mp4",
        size_bytes=10,
        sha256=b"s" * 32,
        width=None,
        height=None,
        duration_ms=None,
        location=f"file-{number}",
        created_ns=NOW_NS + number,
        expires_ns=assets.FOR_EVER_NS,
    )
    return msgspec.structs.replace(made, **changes)


def kept(connection: Connection) -> list[str]:
    """The locations of those whose time is not over."""
    over = {location for _, location in assets.expired(connection, NOW_NS + 100, 100)}
    return sorted(assets.known_locations(connection, [f"file-{number}" for number in range(20)]) - over)


def test_a_quota_lets_the_keys_own_oldest_go_and_no_more_than_it_must(database: Database) -> None:
    with database.write() as connection:
        assets.add(connection, file(1, key_id=2, size_bytes=1_000))
        assets.add(connection, file(2, expires_ns=NOW_NS))
        for number in (3, 4, 5):
            assets.add(connection, file(number), 30)
        # All of it is used, by what is there still, and nobody else's counts.
        assert assets.used_bytes(connection, 1, NOW_NS + 9) == 30
        assert kept(connection) == ["file-1", "file-3", "file-4", "file-5"]
        assets.add(connection, file(6, size_bytes=11), 30)
        assert kept(connection) == ["file-1", "file-5", "file-6"]
        # One that is as large as the quota is alone, and stays.
        assets.add(connection, file(7, size_bytes=30), 30)
        assert kept(connection) == ["file-1", "file-7"]
        # What another process wrote for the same place stands.
        again = assets.add(connection, file(7, size_bytes=5, location="another"), 30)
        assert (again.location, again.size_bytes) == ("file-7", 30)


def test_room_is_made_a_few_files_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "OLDEST_AT_ONCE", 2)
    with database.write() as connection:
        for number in range(1, 8):
            assets.add(connection, file(number), 70)
        assets.add(connection, file(8, size_bytes=45), 70)
        assert kept(connection) == ["file-6", "file-7", "file-8"]
        # More than there is to give.
        assets.add(connection, file(9, size_bytes=100), 70)
        assert kept(connection) == ["file-9"]


def test_a_file_is_found_by_its_owner_and_until_its_time_is_over(database: Database) -> None:
    with database.write() as connection:
        one = assets.add(connection, file(1, expires_ns=NOW_NS + 50))
        for grant, now_ns, is_there in (
            (MINE, NOW_NS + 49, True),
            (MINE, NOW_NS + 50, False),
            (msgspec.structs.replace(MINE, key_id=2), NOW_NS, False),
            (msgspec.structs.replace(MINE, owner_id=2), NOW_NS, False),
        ):
            assert assets.find(connection, grant, one.id, now_ns) == (one if is_there else None)
        assets.add(connection, file(2, expires_ns=NOW_NS + 40))
        assert assets.expired(connection, NOW_NS + 39, 9) == []
        over = [(file(2).id, "file-2"), (one.id, "file-1")]
        assert assets.expired(connection, NOW_NS + 50, 9) == over
        assert assets.expired(connection, NOW_NS + 50, 1, after=1) == over[1:]
        assert assets.forget(connection, [one.id]) == 1
        assert assets.expired(connection, NOW_NS + 50, 9) == over[:1]
