"""`channel test`: what each credential of a channel is worth, and which of them come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from elkapi.admin import channels
from elkapi.admin.context import Admin
from elkapi.admin.probe import test_channel as probe_channel
from elkapi.settings import Settings
from elkapi.storage.repos import channels as channel_rows

GOOD, BAD = "good-key-good-key-good", "bad-key-bad-key-bad-key"


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    with Admin.open(settings, "cli:test") as opened:
        yield opened


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """A server that knows one key, and serves nothing but the list of models."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        known = f"authorization: Bearer {GOOD}".encode() in head and head.startswith(b"GET /v1/models ")
        writer.write(
            b"HTTP/1.1 %b\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % (b"200 OK" if known else b"401 No")
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.close()
    await server.wait_closed()


async def test_each_key_is_asked_and_only_the_gateways_own_verdicts_are_undone(admin: Admin, upstream: str) -> None:
    fields = channels.ChannelFields(name="c", family="openai", base_url=upstream, allow_private=True, models=("m",))
    view = channels.add_channel(admin, fields, [GOOD, BAD])
    good, bad = view.keys

    def switch_off(key_id: int, actor: str) -> None:
        with admin.database.write() as connection:
            channel_rows.set_key_enabled(connection, key_id, False, reason="401", now_ns=1, actor=actor)

    switch_off(good.id, "auto")
    switch_off(bad.id, "auto")
    results = {result.key_id: result for result in await probe_channel(admin, "c")}
    assert (results[good.id].works, results[good.id].revived) == (True, True)
    assert (results[bad.id].works, results[bad.id].revived, results[bad.id].outcome) == (False, False, "status 401")
    assert [key.enabled for key in channels.list_channel_keys(admin, "c")] == [True, False]

    switch_off(good.id, "cli:somebody")
    results = {result.key_id: result for result in await probe_channel(admin, "c")}
    assert (results[good.id].works, results[good.id].revived) == (True, False)
    assert not channels.list_channel_keys(admin, "c")[0].enabled
    assert GOOD not in repr(results)


async def test_a_key_is_not_judged_by_a_family_that_has_nothing_free_to_ask(admin: Admin, upstream: str) -> None:
    fields = channels.ChannelFields(name="c", family="pika", base_url=upstream, allow_private=True, models=("m",))
    channels.add_channel(admin, fields, [GOOD])
    (result,) = await probe_channel(admin, "c")
    assert (result.works, result.outcome) == (False, "this family has no free endpoint to probe")
