"""Rows of stored answers: written with the settlement, sealed, finished once, failed with their worker, and expired."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from elkapi.clock import SYSTEM_CLOCK
from elkapi.errors import BadRequest, BodyTooLarge
from elkapi.ids import new_id
from elkapi.ledger import check, mark_dead, recover
from elkapi.relay.stored_objects import Found, StoredObjects
from elkapi.settings import Settings
from elkapi.storage.db import Database, Reader
from elkapi.storage.installation import Installation
from elkapi.storage.repos import stored
from elkapi.storage.schema import stored_events, stored_items, stored_objects
from elkapi.testing.ledger import a_settlement, an_order, funded_account
from elkapi.types import Grant, StoredObject
from tests.storage.test_ledger_recovery import started

GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
STRANGER = msgspec.structs.replace(GRANT, key_id=2)
# No key changes its owner yet, but each statement that carries the key carries the owner as well.
OTHER_OWNER = msgspec.structs.replace(GRANT, owner_id=2)


def an_object(object_id: bytes | None = None, **fields: Any) -> StoredObject:
    id_ = object_id or new_id()
    made = StoredObject(id_, "response", 1, 1, "m", "completed", time.time_ns(), time.time_ns() + 10**12, b"secret")
    return msgspec.structs.replace(made, **fields)


def status_of(database: Database, object_id: bytes) -> str | None:
    with database.read() as connection:
        found = stored.read(connection, GRANT, "response", object_id, time.time_ns())
    return None if found is None else found.status


async def test_an_answer_is_there_when_its_settlement_is(settings: Settings, installation: Installation) -> None:
    database = installation.database
    order = an_order(funded_account(database, 1000), nano=100)
    free = an_order(funded_account(database, 0), nano=0)
    async with started(settings, installation, os.urandom(16)) as ledger:
        await ledger.hold(order)
        kept = an_object(order.request_id, item_ids=("msg_1", "rs_1"))
        settlement = msgspec.structs.replace(a_settlement(order, 60), stored=kept)
        await ledger.settle(settlement)
        await ledger.settle(settlement)
        # A call that costs nothing holds nothing, and is kept all the same.
        await ledger.settle(
            msgspec.structs.replace(a_settlement(free, 0), hold=None, stored=an_object(free.request_id))
        )
    with database.read() as connection:
        row = stored.read(connection, GRANT, "response", order.request_id, time.time_ns())
        assert row is not None
        assert b"secret" not in row.sealed
        assert installation.sealer.open(row.sealed, stored.body_context(row.id)) == b"secret"
        assert stored.read(connection, STRANGER, "response", order.request_id, time.time_ns()) is None
        assert stored.read(connection, GRANT, "chat", order.request_id, time.time_ns()) is None
        (found,) = stored.items_of(connection, GRANT, ["rs_1"], (), 10**6, time.time_ns())
        assert found.id == order.request_id
        assert stored.items_of(connection, STRANGER, ["rs_1"], [order.request_id], 1, time.time_ns()) == []
        with pytest.raises(BodyTooLarge):
            stored.items_of(connection, GRANT, ["rs_1"], (), len(row.sealed) - 1, time.time_ns())
        assert check(connection).ok
    assert status_of(database, free.request_id) == "completed"


async def test_a_background_row_ends_once_and_never_after_it_was_cancelled(
    settings: Settings, installation: Installation
) -> None:
    database, owner = installation.database, os.urandom(16)
    begun = [an_object(status="in_progress", worker=owner, frames=None) for _ in range(3)]
    ended, cancelled, deleted = begun
    async with started(settings, installation, owner) as ledger:
        for one in begun:
            await ledger.keep(one)
        await ledger.keep(msgspec.structs.replace(ended, frames=(0, b"a\n\n")), frames_only=True)
        with database.write() as connection:
            assert stored.cancel(connection, GRANT, cancelled.id)
            assert not stored.cancel(connection, STRANGER, ended.id)
            assert stored.remove(connection, GRANT, "response", deleted.id)
        await ledger.keep(msgspec.structs.replace(deleted, frames=(0, b"a\n\n")), frames_only=True)
        with database.read() as connection:
            assert stored.still_wanted(connection, [one.id for one in begun]) == {ended.id}
            assert stored.still_wanted(connection, [cancelled.id]) == set()
        for one in begun:
            last = msgspec.structs.replace(one, status="completed", finishes=True, frames=(1, b"b\n\n"), body=b"done")
            last = msgspec.structs.replace(last, item_ids=(f"msg_{one.id.hex()}",))
            await ledger.keep(last)
            await ledger.keep(msgspec.structs.replace(last, status="failed"))
    assert [status_of(database, one.id) for one in begun] == ["completed", "cancelled", None]
    with database.read() as connection:
        pieces = stored.frames(connection, ended.id, 1)
        assert [(n, installation.sealer.open(sealed, stored.frames_context(ended.id, n))) for n, sealed in pieces] == [
            (1, b"b\n\n")
        ]
        assert [number for number, _ in stored.frames(connection, ended.id, 0)] == [0, 1]
        # A cancelled one tells its stream to its end; nobody would ever forget the frames of a deleted one.
        assert [number for number, _ in stored.frames(connection, cancelled.id, 0)] == [1]
        assert stored.frames(connection, deleted.id, 0) == []
        # Nor its items, and one that was cancelled made none.
        assert connection.execute(select(stored_items.c.object_id)).scalars().all() == [ended.id]


async def test_items_are_those_of_the_responses_that_are_meant_and_of_no_other(
    settings: Settings, installation: Installation
) -> None:
    database = installation.database
    meant, large = (an_object(body=body, item_ids=(item,)) for body, item in ((b"m", "rs_meant"), (b"x" * 999, "rs_l")))
    chat = an_object(kind="chat", item_ids=("rs_chat",))
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (meant, large, chat):
            await ledger.keep(one)
    with database.read() as connection:

        def found(items: list[str], ids: tuple[bytes, ...] = (), bytes_max: int = 10**6, grant: Grant = GRANT) -> Any:
            rows = stored.items_of(connection, grant, items, ids, bytes_max, time.time_ns())
            return {row.id for row in rows}

        assert found(["rs_meant"]) == found(["rs_none"], (meant.id,)) == found([], (meant.id, chat.id)) == {meant.id}
        assert found(["rs_chat"]) == found([]) == found(["rs_meant"], (meant.id,), grant=STRANGER) == set()
        # Only their own bytes count, and all that are allowed are enough.
        row = stored.read(connection, GRANT, "response", meant.id, time.time_ns())
        assert row is not None
        size = len(row.sealed)
        assert found(["rs_meant"], bytes_max=size) == {meant.id}
        with pytest.raises(BodyTooLarge):
            found(["rs_meant", "rs_l"], bytes_max=size)
        most = [f"rs_{number}" for number in range(stored.ITEMS_MAX)]
        assert found(most) == set()
        with pytest.raises(BodyTooLarge, match="refer to at most"):
            found([*most, "rs_one_more"])
    # What is whole cannot be cancelled, and stays what it is.
    with database.write() as connection:
        assert not stored.cancel(connection, GRANT, meant.id)
        assert stored.still_wanted(connection, [meant.id]) == set()
    assert status_of(database, meant.id) == "completed"


async def test_what_a_dead_worker_was_making_has_failed(settings: Settings, installation: Installation) -> None:
    database, owner, other = installation.database, os.urandom(16), os.urandom(16)
    mine, theirs = (an_object(status="in_progress", worker=worker) for worker in (owner, other))
    async with started(settings, installation, owner) as ledger:
        await ledger.keep(mine)
        await ledger.keep(theirs)
        with database.write() as connection:
            mark_dead(connection, owner, 1)
            assert recover(connection, 1, settings).answers_failed == 1
    assert (status_of(database, mine.id), status_of(database, theirs.id)) == ("failed", "in_progress")


async def test_a_conversation_is_one_owners_and_keeps_its_earlier_turns(
    settings: Settings, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = installation.database
    soon, later = time.time_ns() + 10**10, time.time_ns() + 10**15
    turns = [an_object(expires_ns=soon)]
    for _ in range(4):
        turns.append(an_object(previous=turns[-1].id, expires_ns=soon))
    branch = an_object(previous=turns[1].id, expires_ns=soon)
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (*turns, branch):
            await ledger.keep(one)
    reader = Reader(database)
    objects = StoredObjects(settings, database, reader, installation.sealer, SYSTEM_CLOCK)
    unread: Any = None
    monkeypatch.setattr(objects, "_opened", lambda row: Found(row, unread))
    found = await objects.conversation(GRANT, f"resp_{turns[-1].id.hex()}")
    assert [turn.row.id for turn in found] == [one.id for one in turns]
    with pytest.raises(BadRequest, match="not found"):
        await objects.conversation(STRANGER, f"resp_{turns[-1].id.hex()}")
    await objects.aclose()
    await reader.aclose()
    with database.read() as connection:
        kept = dict(connection.execute(select(stored_objects.c.id, stored_objects.c.expires_ns)).all())
        assert all(kept[one.id] > later for one in turns)
        assert kept[branch.id] == soon
        size = sum(len(row) for row in connection.execute(select(stored_objects.c.sealed)).scalars()) * 5 // 6
        assert len(stored.conversation(connection, GRANT, turns[-1].id, size, 0) or ()) == 5
        with pytest.raises(BodyTooLarge):
            stored.conversation(connection, GRANT, turns[-1].id, size - 1, 0)
        # The branch's own time is over, whatever became of the turns before it.
        assert stored.conversation(connection, GRANT, branch.id, 10**6, soon) is None
    with database.write() as connection:
        assert stored.remove(connection, GRANT, "response", turns[1].id)
        assert stored.conversation(connection, GRANT, turns[-1].id, 10**6, 0) is None
        assert stored.conversation(connection, GRANT, branch.id, 10**6, 0) is None


async def test_no_conversation_goes_through_a_turn_that_is_anothers_or_over_or_beyond_the_limit(
    settings: Settings, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    firsts = [an_object(key_id=2), an_object(owner_id=2), an_object(expires_ns=now_ns), an_object()]
    lasts = [an_object(previous=first.id) for first in firsts]
    longer = an_object(previous=lasts[-1].id)
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (*firsts, *lasts, longer):
            await ledger.keep(one)
    with installation.database.read() as connection:
        found = [stored.conversation(connection, GRANT, one.id, 10**6, now_ns) for one in lasts]
        assert [one and len(one) for one in found] == [None, None, None, 2]
        monkeypatch.setattr(stored, "TURNS_MAX", 2)
        assert len(stored.conversation(connection, GRANT, lasts[-1].id, 10**6, now_ns) or ()) == 2
        with pytest.raises(BodyTooLarge, match="at most 2 earlier turns"):
            stored.conversation(connection, GRANT, longer.id, 10**6, now_ns)


async def test_what_its_owner_deletes_is_gone_whole_and_nothing_else(
    settings: Settings, installation: Installation
) -> None:
    gone, left = (an_object(item_ids=(item,), frames=(0, b"x")) for item in ("msg_gone", "msg_left"))
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (gone, left):
            await ledger.keep(one)
    with installation.database.write() as connection:
        for grant in (STRANGER, OTHER_OWNER):
            assert stored.read(connection, grant, "response", gone.id, time.time_ns()) is None
            assert not stored.set_metadata(connection, grant, "response", gone.id, "{}")
            assert not stored.remove(connection, grant, "response", gone.id)
        assert not stored.remove(connection, GRANT, "chat", gone.id)
        assert stored.remove(connection, GRANT, "response", gone.id)
        assert list(connection.execute(select(stored_objects.c.id)).scalars()) == [left.id]
        assert list(connection.execute(select(stored_items.c.item_id)).scalars()) == ["msg_left"]
        assert list(connection.execute(select(stored_events.c.object_id)).scalars()) == [left.id]


async def test_lists_filter_by_labels_and_never_see_a_strangers(settings: Settings, installation: Installation) -> None:
    labels = [{"a": "1", "odd key.$": "x'%"}, {"a": "2"}, None]
    made = [
        an_object(kind="chat", metadata=None if one is None else msgspec.json.encode(one).decode()) for one in labels
    ]
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (*made, an_object()):
            await ledger.keep(one)
    ids = [one.id for one in made]

    def page(grant: Grant = GRANT, *, has_more: bool = False, **more: Any) -> list[bytes]:
        with installation.database.read() as connection:
            limits = {"limit": 10, "bytes_max": 10**6, **more}
            found, there_are_more = stored.page(connection, grant, "chat", time.time_ns(), **limits)
        assert there_are_more == has_more
        return [row.id for row in found]

    assert page() == ids
    assert page(limit=2, ascending=False, has_more=True) == ids[:0:-1]
    assert page(after=ids[0], limit=1, has_more=True) == [ids[1]]
    assert page(after=ids[1], ascending=False) == ids[:1]
    # Large ones are fewer to a page, but never none.
    with installation.database.read() as connection:
        size = len(connection.execute(select(stored_objects.c.sealed)).scalars().first() or b"")
    assert page(bytes_max=2 * size, has_more=True) == ids[:2]
    assert page(bytes_max=1, ascending=False, has_more=True) == ids[2:]
    assert page(bytes_max=1, after=ids[1]) == ids[2:]
    assert page(metadata={"a": "1"}) == page(metadata={"odd key.$": "x'%"}) == ids[:1]
    assert page(metadata={"a": "1", "b": "2"}) == page(metadata={"a.b": "1"}) == page(model="n") == []
    assert page(STRANGER) == []
    with installation.database.write() as connection:
        assert not stored.set_metadata(connection, STRANGER, "chat", ids[2], '{"a":"1"}')
        assert stored.set_metadata(connection, GRANT, "chat", ids[2], '{"a":"1"}')
    assert page(metadata={"a": "1"}) == [ids[0], ids[2]]


async def test_what_was_kept_long_enough_is_forgotten_whole(settings: Settings, installation: Installation) -> None:
    old = an_object(expires_ns=5, item_ids=("msg_old",), frames=(0, b"x" * 1_000))
    older = an_object(expires_ns=4, frames=(0, b"x" * 1_000))
    young = an_object(item_ids=("msg_young",))
    async with started(settings, installation, os.urandom(16)) as ledger:
        for one in (old, older, young):
            await ledger.keep(one)
    assert status_of(installation.database, old.id) is None
    with installation.database.write() as connection:
        # Their streams count, too, so they are not forgotten together.
        assert [stored.purge(connection, time.time_ns(), 10, 2_000) for _ in range(2)] == [1, 1]
        assert stored.purge(connection, time.time_ns(), 10, 10**6) == 0
        assert list(connection.execute(select(stored_objects.c.id)).scalars()) == [young.id]
        assert list(connection.execute(select(stored_items.c.item_id)).scalars()) == ["msg_young"]
        assert connection.execute(select(stored_events)).all() == []
