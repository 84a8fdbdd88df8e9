"""A file is there whole or not at all, in a folder as in a bucket; ranges are what was asked; memory stays small."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from elkapi.assets.kinds import MP4
from elkapi.assets.store import AssetStore, StorageUrlError, StoreFailed, TooLarge, WrongType, open_store
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
    await store.delete("a/b")
    await store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        await whole(store, "a/b")


async def test_what_is_too_long_or_no_file_leaves_nothing(store: AssetStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await store.put("a/b", chunked(LARGE), len(LARGE) - 1)
    with pytest.raises(WrongType):
        await store.put("a/b", chunked(b"<html>not found</html>"), MIB)
    with pytest.raises(WrongType):
        await store.put("a/b", chunked(b""), MIB)
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
    task.cancel()
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
    (tmp_path / "assets/a/c#1").write_bytes(b"half")
    assert await store.remove_parts(3600) == 0
    assert await store.remove_parts(-60) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "assets").write_bytes(b"no folder")
    with pytest.raises(StoreFailed, match="assets"):
        await open_store(Settings(data_dir=str(tmp_path))).put("a/b", chunked(media.png()), MIB)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "s3://bucket?secret=1", "file://host/x", "/plain"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StorageUrlError):
        open_store(Settings(storage_url=url))
