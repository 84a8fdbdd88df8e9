"""A file is there whole or not at all, in a folder as in a bucket; ranges are what was asked; memory stays small."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest

from elkapi.assets.kinds import MP4, WEBP
from elkapi.assets.store import (
    PIECE_BYTES,
    AssetStore,
    StorageUrlError,
    StoreFailed,
    TooLarge,
    WrongType,
    open_store,
)
from elkapi.settings import Settings
from tests.assets import media

MIB = 1024 * 1024
LARGE = media.mp4(filler=13 * MIB)


async def chunked(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def whole(store: AssetStore, location: str, start: int = 0, end: int = len(LARGE)) -> bytes:
    return b"".join([piece async for piece in store.read(location, start, end)])


async def locations(store: AssetStore) -> list[str]:
    return [name async for names in store.older_than(-60) for name in names]


@pytest.mark.parametrize("data", [media.mp4(), LARGE], ids=["small", "several-parts"])
async def test_a_file_comes_back_as_it_was(store: AssetStore, data: bytes) -> None:
    stored = await store.put("a/b", chunked(data), len(data))
    assert (stored.kind, stored.size_bytes, stored.sha256) == (MP4, len(data), hashlib.sha256(data).digest())
    assert await whole(store, "a/b", 0, len(data)) == data
    assert await whole(store, "a/b", 5, 105) == data[5:105]
    assert await store.at("a/b", 10, 4) == data[10:14]
    assert await locations(store) == ["a/b"]
    # What is being copied right now has no row yet, and is not old enough to be an orphan.
    assert [name async for names in store.older_than(60) for name in names] == []
    await store.delete("a/b")
    await store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        await whole(store, "a/b")


async def test_a_kind_is_known_by_its_first_bytes_however_few_come_at_once(store: AssetStore) -> None:
    data = media.webp()
    assert (await store.put("a/b", chunked(data, 1), len(data))).kind == WEBP
    assert await whole(store, "a/b", 0, len(data)) == data


async def test_a_file_is_given_in_pieces_and_to_its_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    async def put(objects: Any, location: str, feed: AsyncIterator[bytes], **options: Any) -> None:
        given.extend([len(piece) async for piece in feed])

    monkeypatch.setattr(obstore, "put_async", put)
    data = LARGE[: 2 * PIECE_BYTES + 1]
    await open_store(Settings(data_dir=str(tmp_path))).put("a/b", chunked(data), len(data))
    assert given == [PIECE_BYTES, PIECE_BYTES, 1]


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("failure", [OSError, obstore.exceptions.GenericError])
async def test_a_write_that_fails_says_so_at_once_and_at_its_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int, failure: type[Exception]
) -> None:
    taken: list[int] = []

    async def full(objects: Any, location: str, feed: AsyncIterator[bytes], **options: Any) -> None:
        async for _ in feed:
            if pieces > 1:
                break
        else:
            # It is told the end, and only later that its file could not be completed.
            for _ in range(10):
                await asyncio.sleep(0)
        raise failure("No space left on device")

    async def source() -> AsyncIterator[bytes]:
        for number in range(10 if pieces > 1 else 1):
            taken.append(number)
            yield LARGE[:PIECE_BYTES]

    monkeypatch.setattr(obstore, "put_async", full)
    with pytest.raises(StoreFailed, match="No space left"):
        await open_store(Settings(data_dir=str(tmp_path))).put("a/b", source(), 10 * PIECE_BYTES)
    # No more is fetched for a store that has refused it.
    assert len(taken) <= pieces


async def test_what_is_too_long_or_no_file_leaves_nothing(store: AssetStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await store.put("a/b", chunked(LARGE), len(LARGE) - 1)
    with pytest.raises(WrongType):
        await store.put("a/b", chunked(b"<html>not found</html>"), MIB)
    with pytest.raises(WrongType):
        await store.put("a/b", chunked(b""), MIB)
    with pytest.raises(WrongType, match="it is no image"):
        await store.put("a/b", chunked(LARGE), len(LARGE), "image")
    assert await locations(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_cut_leaves_nothing(store: AssetStore, tmp_path: Path) -> None:
    async def cut() -> AsyncIterator[bytes]:
        async for chunk in chunked(LARGE[: 9 * MIB]):
            yield chunk
        raise ConnectionError("cut")

    with pytest.raises(ConnectionError):
        await store.put("a/b", cut(), len(LARGE))
    assert await locations(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_cancelled_copy_leaves_nothing(store: AssetStore, tmp_path: Path) -> None:
    waits = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        async for chunk in chunked(LARGE[: 9 * MIB]):
            yield chunk
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a/b", hangs(), len(LARGE)))
    await waits.wait()
    # Whoever cancels again does not cut the clearing up short.
    for _ in range(20):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await locations(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_copy_that_is_cancelled_at_its_very_end_leaves_nothing(store: AssetStore, tmp_path: Path) -> None:
    for turns in range(40):
        read = asyncio.Event()

        async def to_the_end(read: asyncio.Event = read) -> AsyncIterator[bytes]:
            yield media.png()
            read.set()

        task = asyncio.create_task(store.put("a/b", to_the_end(), MIB))
        await read.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            assert await locations(store) == []
        else:
            await store.delete("a/b")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_no_part_stays_in_the_bucket(bucket_url: str, s3_endpoint: str, tmp_path: Path) -> None:
    store = open_store(Settings(data_dir=str(tmp_path), storage_url=bucket_url))
    await test_a_cut_leaves_nothing(store, tmp_path)
    await test_a_cancelled_copy_leaves_nothing(store, tmp_path)
    uploads = httpx.get(f"{s3_endpoint}/bucket?uploads").text
    assert "<ListMultipartUploadsResult" in uploads
    assert "<UploadId>" not in uploads


async def test_parts_of_a_killed_upload_are_removed_when_they_are_old(tmp_path: Path) -> None:
    store = open_store(Settings(data_dir=str(tmp_path)))
    await store.put("a/b", chunked(media.png()), MIB)
    for name in ("c#1", "d#2.png"):
        (tmp_path / "assets/a" / name).write_bytes(b"half")
    assert await store.remove_parts(3600) == 0
    assert await store.remove_parts(-60) == 1
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"b", "d#2.png"}


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "assets").write_bytes(b"no folder")
    with pytest.raises(StoreFailed, match="assets"):
        await open_store(Settings(data_dir=str(tmp_path))).put("a/b", chunked(media.png()), MIB)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "s3://bucket?secret=1", "file://host/x", "/plain"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StorageUrlError):
        open_store(Settings(storage_url=url))


async def test_a_folder_of_ones_own_is_used_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "files"
    store = open_store(Settings(data_dir=str(tmp_path / "data"), storage_url=folder.as_uri()))
    await store.put("a/b", chunked(media.png()), MIB)
    assert (folder / "a/b").read_bytes() == media.png()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("query", "env", "config"),
    [
        ("", {}, {}),
        ("", {"AWS_ENDPOINT_URL": "https://b", "AWS_DEFAULT_REGION": "b"}, {"endpoint": "https://b", "region": "b"}),
        (
            "",
            {"AWS_ENDPOINT_URL": "x", "AWS_ENDPOINT_URL_S3": "http://c", "AWS_DEFAULT_REGION": "x", "AWS_REGION": "c"},
            {"endpoint": "http://c", "region": "c"},
        ),
        (
            "?endpoint=http://d&region=d",
            {"AWS_ENDPOINT_URL_S3": "https://x", "AWS_REGION": "x"},
            {"endpoint": "http://d", "region": "d"},
        ),
    ],
    ids=["nothing", "general", "special", "address"],
)
def test_a_bucket_is_where_its_address_says_or_else_the_environment(
    monkeypatch: pytest.MonkeyPatch, query: str, env: dict[str, str], config: dict[str, str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bucket: Any = open_store(Settings(storage_url=f"s3://bucket/some/prefix/{query}"))._objects
    shown = {name: bucket.config.get(name) for name in ("endpoint", "region") if name in bucket.config}
    assert (bucket.config["bucket"], bucket.prefix, shown) == ("bucket", "some/prefix", config)
    # Only an endpoint that is plain by its own address is asked in the clear.
    assert bucket.client_options["allow_http"] == str(config.get("endpoint", "").startswith("http://")).lower()
