"""What a worker reads and changes of stored answers: only the caller's own, only in time, and within the limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from elkapi.clock import ManualClock
from elkapi.errors import BadRequest, BodyTooLarge, NotFound
from elkapi.relay.stored_objects import TOUCH_EVERY_NS, Kind, StoredObjects, stored_id_text
from elkapi.settings import Settings
from elkapi.storage.db import Reader
from elkapi.storage.installation import Installation
from elkapi.storage.repos import stored
from elkapi.storage.schema import stored_objects
from elkapi.translate.kept import Kept
from elkapi.types import Grant, StoredObject
from tests.storage.test_ledger_recovery import started
from tests.storage.test_stored_rows import GRANT, OTHER_OWNER, STRANGER, an_object

HOUR_NS = 3600 * 10**9


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def body_of(*item_ids: str, text: str = "hi") -> bytes:
    """The sealed part of a response to a text, with output items of these ids."""
    answer = {"output": [{"type": "message", "id": item_id} for item_id in item_ids]}
    return msgspec.json.encode(Kept(raw(text), raw(answer)))


class Shelf:
    """A worker's objects, by a clock that the test sets, and the ledger that writes them."""

    def __init__(self, objects: StoredObjects, clock: ManualClock, ledger: Any) -> None:
        self.objects, self.clock, self._ledger = objects, clock, ledger

    async def keep(self, *item_ids: str, text: str = "hi", **fields: Any) -> StoredObject:
        fields = {"expires_ns": self.clock.now_ns() + HOUR_NS, **fields}
        made = an_object(body=body_of(*item_ids, text=text), item_ids=item_ids, **fields)
        await self._ledger.keep(made)
        return made

    async def goes_on(self, made: StoredObject, first: int, frames: bytes) -> None:
        """Keep the next piece of its stream."""
        await self._ledger.keep(msgspec.structs.replace(made, frames=(first, frames)), frames_only=True)

    async def page(self, grant: Grant = GRANT, **more: Any) -> tuple[list[bytes], bool]:
        asked = {"limit": 10, "ascending": True, "after": None, "model": None, "metadata": {}, **more}
        found, has_more = await self.objects.page(grant, **asked)
        return [one.row.id for one in found], has_more


def text_of(made: StoredObject) -> str:
    return stored_id_text(made.kind, made.id)


@contextlib.asynccontextmanager
async def shelf_of(settings: Settings, installation: Installation, clock: ManualClock) -> AsyncIterator[Shelf]:
    reader = Reader(installation.database)
    async with started(settings, installation, os.urandom(16)) as ledger:
        objects = StoredObjects(settings, installation.database, reader, installation.sealer, clock)
        yield Shelf(objects, clock, ledger)
        await objects.aclose()
        await reader.aclose()


@pytest.fixture
async def shelf(settings: Settings, installation: Installation) -> AsyncIterator[Shelf]:
    async with shelf_of(settings, installation, ManualClock(time.time_ns())) as shelf:
        yield shelf


async def test_an_object_is_there_for_its_owner_until_its_time_is_over(shelf: Shelf) -> None:
    objects = shelf.objects
    response, chat = await shelf.keep("msg_1"), await shelf.keep(kind="chat")
    later = await shelf.keep("msg_2", previous=response.id, expires_ns=response.expires_ns + HOUR_NS)
    found = await objects.find(GRANT, "response", text_of(response))
    assert (found.row.id, found.kept) == (response.id, Kept(raw("hi"), raw({"output": [_message("msg_1")]})))
    assert await shelf.page() == ([chat.id], False)
    for grant in (STRANGER, OTHER_OWNER):
        for made in (response, chat):
            with pytest.raises(NotFound):
                await objects.find(grant, made.kind, text_of(made))
            with pytest.raises(NotFound):
                await objects.remove(grant, made.kind, text_of(made))
        with pytest.raises(NotFound):
            await objects.set_metadata(grant, text_of(chat), "{}")
        with pytest.raises(BadRequest):
            await objects.conversation(grant, text_of(later))
        assert await objects.items(grant, ["msg_1", f"item_{response.id.hex()}_0"]) == {}
        assert await shelf.page(grant) == ([], False)
    shelf.clock.advance(HOUR_NS / 10**9)
    for made in (response, chat):
        with pytest.raises(NotFound):
            await objects.find(GRANT, made.kind, text_of(made))
    with pytest.raises(BadRequest):
        await objects.conversation(GRANT, text_of(later))
    assert await objects.items(GRANT, ["msg_1", "msg_2"]) == {"msg_2": _message("msg_2")}
    assert await shelf.page() == ([], False)


def _message(item_id: str) -> dict[str, Any]:
    return {"type": "message", "id": item_id}


async def test_what_is_not_there_is_named_by_its_kind_and_not_at_any_length(shelf: Shelf) -> None:
    long = "x" * 5000
    names: dict[Kind, str] = {"response": "Response", "chat": "Chat completion"}
    for kind, name in names.items():
        for asking in (shelf.objects.find(GRANT, kind, long), shelf.objects.remove(GRANT, kind, long)):
            with pytest.raises(NotFound) as refused:
                await asking
            assert (refused.value.message, refused.value.param) == (f"{name} with id '{long[:100]}' not found.", "id")
    with pytest.raises(BadRequest) as unknown:
        await shelf.objects.conversation(GRANT, long)
    assert unknown.value.message == f"Previous response with id '{long[:100]}' not found."


async def test_an_item_is_found_by_its_name_or_by_its_place_in_a_response(shelf: Shelf) -> None:
    first, second = await shelf.keep("msg_1", "msg_2", text="one"), await shelf.keep("msg_3", text="two")
    places = [f"item_{made.id.hex()}_0" for made in (first, second)]
    wrong = [f"item_{first.id.hex()}_0_0", f"item_{first.id.hex()[:-1]}_0", f"{first.id.hex()}_0", "msg_4"]
    found = await shelf.objects.items(GRANT, [*places, "msg_2", "msg_3", *wrong])
    assert found.keys() == {*places, "msg_2", "msg_3"}
    assert [found[place]["content"][0]["text"] for place in places] == ["one", "two"]
    assert (await shelf.objects.items(GRANT, places)).keys() == {*places}
    assert await shelf.objects.items(GRANT, wrong) == {}


async def test_a_conversation_that_goes_on_is_kept_anew_at_most_once_a_day(
    settings: Settings, installation: Installation
) -> None:
    settings = msgspec.structs.replace(settings, stored_keep_s=30 * 86_400.0)
    clock = ManualClock(time.time_ns())
    anew_ns = clock.now_ns() + 30 * 86_400 * 10**9
    async with shelf_of(settings, installation, clock) as shelf:
        early = await shelf.keep(expires_ns=anew_ns - TOUCH_EVERY_NS - 1)
        late = await shelf.keep(expires_ns=anew_ns - TOUCH_EVERY_NS, previous=early.id)
        await shelf.objects.conversation(GRANT, text_of(late))
        # One after the other: what nobody waits for was first.
        assert not await shelf.objects.cancel(GRANT, late.id)
    with installation.database.read() as connection:
        kept = dict(connection.execute(select(stored_objects.c.id, stored_objects.c.expires_ns)).all())
    assert kept == {early.id: anew_ns, late.id: late.expires_ns}


async def test_a_worker_that_ends_waits_for_the_change_that_nobody_waits_for(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def touch(*given: object) -> None:
        begun.set()
        may_end.wait()

    monkeypatch.setattr(stored, "touch", touch)
    made = await shelf.keep(expires_ns=shelf.clock.now_ns() + 1)
    await shelf.objects.conversation(GRANT, text_of(made))
    await asyncio.to_thread(begun.wait)
    closing = asyncio.create_task(shelf.objects.aclose())
    for _ in range(10):
        await asyncio.sleep(0)
    has_waited = not closing.done()
    may_end.set()
    await closing
    assert has_waited


@pytest.mark.parametrize("status", ["in_progress", "failed", "cancelled"])
async def test_nothing_goes_on_from_what_has_no_answer(
    settings: Settings, installation: Installation, status: str
) -> None:
    async with shelf_of(settings, installation, ManualClock(time.time_ns())) as shelf:
        first = await shelf.keep()
        cut = await shelf.keep(status="incomplete", previous=first.id)
        ended = await shelf.keep(status=status, previous=cut.id, worker=os.urandom(16))
        assert len(await shelf.objects.conversation(GRANT, text_of(cut))) == 2
        with pytest.raises(BadRequest, match=f"its status is '{status}'") as refused:
            await shelf.objects.conversation(GRANT, text_of(ended))
    assert (refused.value.code, refused.value.param) == ("previous_response_not_completed", "previous_response_id")
    with installation.database.read() as connection:
        kept = connection.execute(select(stored_objects.c.expires_ns).where(stored_objects.c.id == ended.id)).scalar()
    assert kept == ended.expires_ns


async def test_no_more_is_read_at_once_than_a_body_may_have(settings: Settings, installation: Installation) -> None:
    limited = msgspec.structs.replace(settings, body_bytes_max=5000)
    async with shelf_of(limited, installation, ManualClock(time.time_ns())) as shelf:
        first = await shelf.keep("msg_1", text="x" * 3000)
        second = await shelf.keep("msg_2", text="x" * 3000, previous=first.id)
        chats = [(await shelf.keep(kind="chat", text="x" * 3000)).id for _ in range(2)]
        assert (await shelf.objects.items(GRANT, ["msg_1"])).keys() == {"msg_1"}
        with pytest.raises(BodyTooLarge):
            await shelf.objects.items(GRANT, ["msg_1", "msg_2"])
        assert len(await shelf.objects.conversation(GRANT, text_of(first))) == 1
        with pytest.raises(BodyTooLarge):
            await shelf.objects.conversation(GRANT, text_of(second))
        assert await shelf.page() == (chats[:1], True)
        assert await shelf.page(ascending=False) == (chats[1:], True)
        assert await shelf.page(after=chats[0]) == (chats[1:], False)


async def test_only_its_owner_cancels_a_response_and_only_while_it_runs(shelf: Shelf) -> None:
    made = await shelf.keep(status="in_progress", worker=os.urandom(16), frames=(0, b"a"))
    for grant in (STRANGER, OTHER_OWNER):
        assert not await shelf.objects.cancel(grant, made.id)
    assert await shelf.objects.still_wanted([made.id, bytes(16)]) == {made.id}
    assert await shelf.objects.cancel(GRANT, made.id)
    assert not await shelf.objects.cancel(GRANT, made.id)
    assert await shelf.objects.still_wanted([made.id]) == set()
    assert (await shelf.objects.find(GRANT, "response", text_of(made))).row.status == "cancelled"
    assert await shelf.objects.frames(made.id, 5) == [(0, b"a")]
    assert await shelf.objects.frames(bytes(16), 0) == []


async def test_a_stream_is_read_from_the_piece_that_has_the_frame(shelf: Shelf) -> None:
    made = await shelf.keep(status="in_progress", worker=os.urandom(16), frames=(0, b"ab"))
    await shelf.goes_on(made, 2, b"cd")
    await shelf.goes_on(made, 4, b"e")
    pieces = [(0, b"ab"), (2, b"cd"), (4, b"e")]
    assert [await shelf.objects.frames(made.id, first) for first in (1, 2, 3, 4)] == [
        pieces,
        pieces[1:],
        pieces[1:],
        pieces[2:],
    ]
