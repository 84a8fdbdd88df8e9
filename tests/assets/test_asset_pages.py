"""Files as their callers fetch them: who may, ranges, conditions; and how they get there, and go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import select

from elkapi.assets.store import AssetStore, StoreFailed, open_store
from elkapi.catalog.task import Made
from elkapi.clock import SET_RIGHT_S, SYSTEM_CLOCK, Clock, ManualClock
from elkapi.control import asset_expiry
from elkapi.control.asset_expiry import AssetExpiry
from elkapi.ids import new_id
from elkapi.relay.asset_pages import Outside, span_of
from elkapi.storage.repos import assets as rows
from elkapi.storage.repos.assets import AssetRow
from elkapi.storage.schema import keys
from elkapi.tasks.results import AssetCopier, NotCopied, asset_id_of
from elkapi.types import TaskAsset
from elkapi.upstream import Origin, UpstreamClient, UpstreamRequest
from tests.assets import media
from tests.gateway import Gateway, gateway
from tests.waiting import until

FILM = media.mp4(5000, 1280, 720, filler=700_000)
VIDEO = Made("video.url")


class Files:
    """A host of files that answers what the test says, by path; `asked` are the heads it was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.origin = ""

    def file(
        self, path: str, body: bytes, *, status: str = "200 OK", length: int | None = None, more: str = ""
    ) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body) if length is None else length}\r\n{more}\r\n"
        self.answers[path] = head.encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            # A test of another process may still ask at what was its port before.
            writer.write(self.answers.get(head.split(" ")[1], b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))
            await writer.drain()
        writer.close()


class _Row:
    def __init__(self, key_id: int, owner_id: int) -> None:
        self.id, self.key_id, self.owner_id = new_id(), key_id, owner_id


class _Task:
    """As much of a task as a copy looks at."""

    def __init__(self, key_id: int, owner_id: int) -> None:
        self.row = _Row(key_id, owner_id)


class World:
    def __init__(self, gate: Gateway, files: Files, client: UpstreamClient, key: str, other: str) -> None:
        self.gate, self.files, self.client, self.key, self.other = gate, files, client, key, other
        self.copier = AssetCopier(gate.installation, client, gate.plane.settings)
        with gate.database.read() as connection:
            self.key_id, self.owner_id = connection.execute(
                select(keys.c.id, keys.c.owner_id).order_by(keys.c.id.desc()).offset(1).limit(1)
            ).one()

    def task(self) -> Any:
        return _Task(self.key_id, self.owner_id)

    def request(self, path: str, *, allow_private: bool = True) -> UpstreamRequest:
        origin = Origin.parse(self.files.origin, allow_private=allow_private)
        return UpstreamRequest(origin, b"GET", path.encode(), [(b"authorization", b"Bearer secret")])

    async def copy(self, path: str = "/film", task: Any = None, *, allow_private: bool = True) -> TaskAsset:
        request = self.request(path, allow_private=allow_private)
        return await self.copier.copy(task or self.task(), 0, VIDEO, request, self.files.origin + path)

    def url(self, asset: TaskAsset) -> str:
        return self.gate.plane.addresses.assets.url(asset, "")

    def bare(self, asset: TaskAsset) -> str:
        return self.url(asset).partition("?")[0]

    async def get(self, url: str, key: str | None = None, method: str = "GET", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["authorization"] = f"Bearer {key}"
        return await self.gate.http.request(method, url, headers=sent)

    def row(self, asset: TaskAsset) -> AssetRow | None:
        with self.gate.database.read() as connection:
            return rows.signed(connection, asset.id, 0)

    def kept(self) -> list[str]:
        folder = Path(self.gate.plane.settings.data_dir, "assets")
        return [path.name for path in folder.rglob("*") if path.is_file()]

    def expiry(self, clock: Clock = SYSTEM_CLOCK) -> AssetExpiry:
        database = self.gate.database

        async def read(work: Any) -> Any:
            with database.read() as connection:
                return work(connection)

        async def write(work: Any) -> Any:
            with database.write() as connection:
                return work(connection)

        return AssetExpiry(open_store(self.gate.plane.settings), read, write, clock)


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, database_url: str, **settings: Any) -> AsyncIterator[World]:
    files = Files()
    server = await asyncio.start_server(files.serve, "127.0.0.1", 0)
    files.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    files.file("/film", FILM)
    client = UpstreamClient()
    async with server, gateway(tmp_path / "data", database_url=database_url, **settings) as gate:
        key, other = await gate.key(), await gate.key()
        try:
            yield World(gate, files, client, key, other)
        finally:
            await client.aclose()


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with opened(tmp_path, database_url) as world:
        yield world


async def test_a_copy_is_measured_and_served_to_its_owner_and_by_its_address(world: World) -> None:
    asset = await world.copy()
    assert (asset.kind, asset.content_type, asset.size_bytes) == ("video", "video/mp4", len(FILM))
    assert (asset.duration_ms, asset.width, asset.height) == (5000, 1280, 720)
    for url, key in ((world.url(asset), None), (world.bare(asset), world.key), (world.url(asset), world.other)):
        reply = await world.get(url, key)
        assert reply.status_code == 200
        assert reply.content == FILM
    headers = reply.headers
    row = world.row(asset)
    assert row is not None
    assert headers["etag"] == f'"{row.sha256.hex()}"'
    assert headers["content-length"] == str(len(FILM))
    assert "transfer-encoding" not in headers
    assert headers["content-type"] == "video/mp4"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith('inline; filename="video-')
    head = await world.get(world.url(asset), method="HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(FILM)))
    again = await world.get(world.url(asset))
    assert again.content == FILM


async def test_what_is_not_the_callers_is_the_same_404(world: World) -> None:
    asset = await world.copy()
    signed, bare = world.url(asset), world.bare(asset)
    expires = int(signed.partition("expires=")[2].partition("&")[0])
    stale = world.gate.plane.addresses.assets._signature(asset.id, int(time.time()) - 1)
    asked = [
        (bare, world.other),
        (bare.replace(asset.id.hex(), "0" * 32), world.key),
        ("/v1/assets/none/video.mp4", world.key),
        (signed[:-1] + ("0" if signed[-1] != "0" else "1"), None),
        (signed.replace(str(expires), str(expires + 1)), None),
        (f"{bare}?expires={int(time.time()) - 1}&signature={stale}", None),
        (f"{bare}?expires=x&signature=%ff", None),
        (f"{bare}?{'a=1&' * 500}signature=0", None),
    ]
    replies = [await world.get(url, key) for url, key in asked]
    assert {reply.status_code for reply in replies} == {404}
    assert len({reply.json()["error"]["message"].partition(" (request id")[0] for reply in replies}) == 1
    assert (await world.get(bare)).status_code == 401


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("Bytes=1-2", (1, 3)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_is_read_as_rfc_9110_says(text: str, span: tuple[int, int] | None) -> None:
    assert span_of(text, 100) == span


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_is_none(text: str) -> None:
    with pytest.raises(Outside):
        span_of(text, 100)


async def test_ranges_and_conditions(world: World) -> None:
    asset = await world.copy()
    url = world.url(asset)
    part = await world.get(url, range="bytes=300000-600000")
    assert (part.status_code, part.content) == (206, FILM[300000:600001])
    assert part.headers["content-range"] == f"bytes 300000-600000/{len(FILM)}"
    assert part.headers["content-length"] == "300001"
    outside = await world.get(url, range=f"bytes={len(FILM)}-")
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(FILM)}")
    etag, changed = part.headers["etag"], part.headers["last-modified"]
    for known in (etag, changed):
        assert (await world.get(url, range="bytes=0-9", if_range=known)).status_code == 206
    assert (await world.get(url, range="bytes=0-9", if_range='"other"')).status_code == 200
    for known in (etag, f'"x", W/{etag}', "*"):
        reply = await world.get(url, if_none_match=known)
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", etag)
    assert (await world.get(url, if_modified_since=changed)).status_code == 304
    assert (await world.get(url, if_modified_since=changed, if_none_match='"x"')).status_code == 200
    browser = await world.get(url, range="bytes=0-9", origin="https://page.example")
    assert browser.headers["access-control-allow-origin"]
    assert "content-range" in browser.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("keep_s", "kept_s"), [(0, (3600, 3600)), (7200, (3600, 3600)), (600, (0, 600))])
async def test_no_cache_keeps_a_file_for_longer_than_the_gateway_does(
    tmp_path: Path, database_url: str, keep_s: int, kept_s: tuple[int, int]
) -> None:
    async with opened(tmp_path, database_url, asset_keep_s=keep_s) as world:
        told = (await world.get(world.url(await world.copy()))).headers["cache-control"]
    least, most = kept_s
    assert least <= int(told.removeprefix("private, max-age=")) <= most


async def test_a_reader_that_leaves_ends_the_read(world: World) -> None:
    asset = await world.copy()
    async with world.gate.http.stream("GET", world.url(asset)) as reply:
        assert reply.status_code == 200
    assert (await world.get(world.url(asset))).content == FILM


async def test_a_file_that_is_gone_is_404_not_a_broken_answer(world: World) -> None:
    asset = await world.copy()
    row = world.row(asset)
    assert row is not None
    await world.gate.plane.assets.delete(row.location)
    assert (await world.get(world.url(asset))).status_code == 404


async def test_a_copy_may_be_repeated_and_is_made_once(world: World) -> None:
    task = world.task()
    first = await world.copy(task=task)
    assert await world.copy(task=task) == first
    assert len(world.files.asked) == 1
    assert first.id == asset_id_of(task.row.id, 0)
    task = world.task()
    one, two = await asyncio.gather(world.copy(task=task), world.copy(task=task))
    assert one == two
    assert len(world.kept()) == 2


async def test_what_cannot_be_copied_says_why_and_leaves_nothing(world: World) -> None:
    files = world.files
    files.file("/page", b"<html>sorry</html>")
    files.file("/cut", FILM[:400_000], length=len(FILM))
    files.file("/gone", b"", status="410 Gone")
    files.file("/expired", b"", status="403 Forbidden")
    files.file("/busy", b"", status="503 Service Unavailable")
    later = (400, 404, 408, 409, 423, 425, 429, 500)
    for status in (204, 499, *later):
        files.file(f"/{status}", b"", status=f"{status} Status")
    files.file("/inside", b"", status="302 Found", more="location: http://127.0.0.2:9/x\r\n")
    files.file("/metadata", b"", status="302 Found", more="location: http://169.254.169.254/latest\r\n")
    files.file("/nowhere", b"", status="302 Found", more="location: file:///etc/passwd\r\n")
    files.file("/round", b"", status="302 Found", more="location: /round\r\n")
    for path, reason, again in (
        ("/page", "wrong_type", True),
        ("/cut", "upstream", True),
        ("/gone", "upstream", False),
        ("/expired", "upstream", True),
        ("/busy", "upstream", True),
        ("/inside", "address_refused", False),
        ("/metadata", "address_refused", False),
        ("/nowhere", "upstream", False),
        ("/round", "upstream", False),
        *((f"/{status}", "upstream", status in later) for status in (204, 499, *later)),
    ):
        with pytest.raises(NotCopied) as caught:
            await world.copy(path)
        assert (path, caught.value.reason, caught.value.again) == (path, reason, again)
    with pytest.raises(NotCopied) as caught:
        await world.copy(allow_private=False)
    assert caught.value.reason == "address_refused"
    assert world.kept() == []
    assert world.gate.sql("select id from assets") == []


async def test_a_file_whose_length_nobody_said_is_copied_whole(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    world.files.answers["/film"] = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(FILM), FILM)
    asset = await world.copy()
    assert (await world.get(world.url(asset))).content == FILM


@pytest.mark.parametrize(("failure", "raised"), [(StoreFailed, NotCopied), (asyncio.CancelledError,) * 2])
async def test_a_copy_that_cannot_be_measured_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException], raised: type[BaseException]
) -> None:
    async def unreadable(*place: object) -> bytes:
        raise failure

    monkeypatch.setattr(AssetStore, "at", unreadable)
    with pytest.raises(raised):
        await world.copy()
    assert world.kept() == []


async def test_a_file_that_the_store_has_lost_is_told_to_the_operator(world: World) -> None:
    """A backup holds the rows alone: on another machine every file is a 404 as long as nobody copied the folder."""
    asset = await world.copy()
    (file,) = (path for path in Path(world.gate.plane.settings.data_dir, "assets").rglob("*") if path.is_file())
    file.unlink()
    assert (await world.get(world.url(asset))).status_code == 404
    log = Path(world.gate.plane.settings.log_file)
    await until(lambda: '"event":"asset_missing"' in log.read_text())
    (line,) = (line for line in log.read_text().splitlines() if "asset_missing" in line)
    assert f'"asset":"{asset.id.hex()}"' in line
    assert '"level":"warning"' in line


async def test_a_file_that_is_not_wanted_is_hung_up_on_at_once(world: World) -> None:
    hung_up = asyncio.Event()

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 10**15)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        hung_up.set()
        writer.close()

    async with await asyncio.start_server(patient, "127.0.0.1", 0) as server:
        world.files.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NotCopied) as caught:
            await world.copy()
        assert caught.value.reason == "too_large"
        await hung_up.wait()


async def test_a_redirect_on_the_same_host_is_followed(world: World) -> None:
    world.files.file("/moved", b"", status="302 Found", more="location: /film\r\n")
    assert (await world.copy("/moved")).size_bytes == len(FILM)


@pytest.mark.parametrize("name", ["asset_bytes_max", "asset_bytes_per_key_max"])
async def test_a_file_may_have_all_the_bytes_that_are_allowed_and_not_one_more(world: World, name: str) -> None:
    for most in (len(FILM), len(FILM) - 1):
        settings = msgspec.structs.replace(world.gate.plane.settings, **{name: most})
        world.copier = AssetCopier(world.gate.installation, world.client, settings)
        if most == len(FILM):
            assert (await world.copy()).size_bytes == most
            continue
        with pytest.raises(NotCopied) as caught:
            await world.copy()
        assert (caught.value.reason, caught.value.again) == ("too_large", False)


async def test_limits_hold_and_a_quota_lets_the_oldest_go(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, asset_bytes_max=len(FILM) - 1) as world:
        with pytest.raises(NotCopied) as caught:
            await world.copy()
        assert (caught.value.reason, caught.value.again) == ("too_large", False)
        assert world.kept() == []
    async with opened(tmp_path / "quota", "", asset_bytes_per_key_max=2 * len(FILM)) as world:
        first, second, third = [await world.copy() for _ in range(3)]
        assert (await world.get(world.url(first))).status_code == 404
        for asset in (second, third):
            assert (await world.get(world.url(asset))).status_code == 200
        await world.expiry().run_once()
        assert len(world.kept()) == 2
        assert world.row(first) is None


async def test_files_go_when_their_time_is_over_and_so_do_orphans(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, asset_keep_s=0.001) as world:
        asset = await world.copy()
        await asyncio.sleep(0.01)
        assert (await world.get(world.url(asset), world.key)).status_code == 404
        expiry = world.expiry()
        await expiry.run_once()
        await expiry.run_once()
        assert (world.kept(), world.row(asset)) == ([], None)
    async with opened(tmp_path / "orphans", "", asset_keep_s=0) as world:
        asset = await world.copy()
        await world.gate.plane.assets.put("aa/orphan", _once(media.png()), 1000)
        assert await world.expiry().remove_orphans() == 0
        assert await world.expiry().remove_orphans(-60) == 1
        assert (await world.get(world.url(asset))).content == FILM


async def test_no_file_goes_by_a_clock_that_was_set_ahead_until_there_was_time_to_set_it_right(tmp_path: Path) -> None:
    async with opened(tmp_path, "") as world:
        await world.copy()
        clock = ManualClock(time.time_ns())
        expiry = world.expiry(clock)
        clock.set_by(365 * 86_400)
        await expiry.run_once()
        assert len(world.kept()) == 1
        clock.advance(SET_RIGHT_S)
        await expiry.run_once()
        assert world.kept() == []


async def test_a_file_that_cannot_be_removed_keeps_no_other(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asset_expiry, "ROWS_MAX", 2)
    async with opened(tmp_path, database_url, asset_keep_s=0.001) as world:
        stuck, *others = [await world.copy() for _ in range(4)]
        await asyncio.sleep(0.01)
        delete, row = AssetStore.delete, world.row(stuck)
        assert row is not None
        unmovable = row.location

        async def removed(store: AssetStore, location: str) -> None:
            if location == unmovable:
                raise StoreFailed("Operation not permitted")
            await delete(store, location)

        monkeypatch.setattr(AssetStore, "delete", removed)
        with pytest.raises(StoreFailed, match="not permitted"):
            await world.expiry().run_once()
        assert world.kept() == [row.location.rpartition("/")[2]]
        assert [world.row(asset) for asset in (stuck, *others)] == [row, None, None, None]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
