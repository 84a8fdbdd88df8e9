"""Stores files in a local folder or an S3 bucket, one interface over obstore; `repos.assets` has the rows.

A file becomes visible only when it is complete; an aborted upload leaves nothing. Memory use is a few pieces, whatever
the file's size. Locations are our own and never come from a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from elkapi.assets.kinds import HEAD_BYTES, FileKind, kind_of
from elkapi.settings import Settings
from elkapi.types import AssetKind

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

FOLDER = "assets"
# The smallest part that S3 accepts; an upload holds a few of them in memory.
PART_BYTES = 5 * 1024 * 1024
PARTS_AT_ONCE = 2
PIECE_BYTES = 512 * 1024
READ_BYTES = 256 * 1024
LISTED_AT_ONCE = 500
OPTIONS = frozenset({"endpoint", "region"})
# The name suffix of a local part until its file is complete.
_PART = re.compile(r"#\d+$")


class StoreFailed(Exception):
    """The folder or the bucket could not be written or read; the message is for the operator."""


class NotKept(Exception):
    """The file is not of a known kind or too large; nothing of it is stored."""


class TooLarge(NotKept):
    """The file is larger than the limit."""


class WrongType(NotKept):
    """The file is not of a known kind; an error page, for example."""


class StorageUrlError(ValueError):
    """ELKAPI_STORAGE_URL cannot be used."""


class Stored(msgspec.Struct, frozen=True):
    """Facts measured while a file was written."""

    kind: FileKind
    size_bytes: int
    sha256: bytes


class AssetStore:
    """The store of a process; its methods are called from the event loop and never block it."""

    def __init__(self, make: Callable[[], ObjectStore], folder: Path | None = None) -> None:
        self._make = make
        self._folder = folder

    @functools.cached_property
    def _objects(self) -> ObjectStore:
        """Created on first use, so that a worker that serves no file does not load the library."""
        return self._make()

    async def put(
        self, location: str, chunks: AsyncIterable[bytes], bytes_max: int, only: AssetKind | None = None
    ) -> Stored:
        """Store a file of at most `bytes_max`, and of one kind if `only` names it.

        Raises TooLarge, WrongType, StoreFailed, and what `chunks` raises. After an exception or cancellation, nothing
        is at `location`.
        """
        source = _pieces(chunks, bytes_max)
        first = await anext(source, b"")
        if (kind := kind_of(first[:HEAD_BYTES])) is None:
            raise WrongType("it is no video, image, audio or 3D file that we know")
        if only is not None and kind.kind != only:
            raise WrongType(f"it is no {only}")
        digest, size = hashlib.sha256(), 0
        async with self._uploading(location) as upload:
            piece = first
            while piece:
                digest.update(piece)
                size += len(piece)
                await upload.give(piece)
                piece = await anext(source, b"")
        return Stored(kind, size, digest.digest())

    @contextlib.asynccontextmanager
    async def _uploading(self, location: str) -> AsyncIterator[_Upload]:
        """The file exists if the block ends normally; otherwise its parts are removed before the error propagates."""
        import obstore

        feed = _Feed()
        with _failures():
            objects = self._objects
        running = asyncio.ensure_future(
            obstore.put_async(
                objects,
                location,
                feed,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        upload = _Upload(feed, running, lambda: self.delete(location))
        try:
            yield upload
            await upload.end()
        except BaseException:
            await upload.cut()
            raise

    async def read(self, location: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to `end`, exclusive, in pieces. Raises FileNotFoundError, StoreFailed."""
        import obstore

        with _failures():
            found = await obstore.get_async(self._objects, location, options={"range": (start, end)})
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    async def at(self, location: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`. Raises FileNotFoundError, StoreFailed."""
        import obstore

        with _failures():
            return bytes(await obstore.get_range_async(self._objects, location, start=start, length=length))

    async def delete(self, location: str) -> None:
        """Remove a file; a missing one is no error. Raises StoreFailed."""
        import obstore

        with contextlib.suppress(FileNotFoundError), _failures():
            await obstore.delete_async(self._objects, location)

    async def older_than(self, age_s: float) -> AsyncIterator[list[str]]:
        """Locations of files older than `age_s`, in batches. Raises StoreFailed."""
        import obstore

        before_s = time.time() - age_s
        with _failures():
            async for found in obstore.list(self._objects, chunk_size=LISTED_AT_ONCE):
                yield [meta["path"] for meta in found if meta["last_modified"].timestamp() < before_s]

    async def remove_parts(self, age_s: float) -> int:
        """Remove parts left in the folder by killed uploads; returns their number. A bucket has a lifecycle rule."""
        if self._folder is None:
            return 0
        return await asyncio.to_thread(_remove_parts, self._folder, time.time() - age_s)


class _Feed:
    """The source for obstore: one piece at a time, so that the writer provides backpressure."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(1)

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> bytes:
        given = await self.queue.get()
        if given is None:
            raise StopAsyncIteration
        if isinstance(given, BaseException):
            raise given
        return given


class _Upload:
    """An upload whose source is read by our own task, so that deadlines and cancellation apply there. The obstore call
    is never cancelled, since that would leave its parts: it is fed, ended, or made to fail."""

    def __init__(self, feed: _Feed, running: asyncio.Future[Any], remove: Callable[[], Awaitable[None]]) -> None:
        self._feed = feed
        self._running = running
        self._remove = remove

    async def give(self, piece: bytes | None) -> None:
        putting = asyncio.ensure_future(self._feed.queue.put(piece))
        try:
            await asyncio.wait({putting, self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not putting.done():
                putting.cancel()
        if self._running.done():
            self._result()

    async def end(self) -> None:
        await self.give(None)
        await asyncio.wait({self._running})
        self._result()

    async def cut(self) -> None:
        """Make obstore remove the parts, or the file if it was just completed; waits even if cancelled."""
        cutting = asyncio.ensure_future(self._cut())
        while not cutting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(cutting)

    async def _cut(self) -> None:
        while not self._running.done():
            with contextlib.suppress(asyncio.QueueFull):
                self._feed.queue.put_nowait(_Cut())
            await asyncio.wait({self._running}, timeout=0.05)
        if not self._running.cancelled() and self._running.exception() is None:
            with contextlib.suppress(StoreFailed):
                await self._remove()

    def _result(self) -> None:
        with _failures():
            self._running.result()


class _Cut(Exception):
    """Raised by the feed inside obstore to abort an upload."""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Convert obstore's exceptions to ours; FileNotFoundError stays."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise StoreFailed(f"{type(error).__name__}: {str(error)[:300]}") from error


async def _pieces(chunks: AsyncIterable[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about PIECE_BYTES. Raises TooLarge."""
    parts: list[bytes] = []
    held = total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > bytes_max:
            raise TooLarge(f"it is larger than {bytes_max} bytes")
        parts.append(chunk)
        held += len(chunk)
        if held >= PIECE_BYTES:
            yield b"".join(parts)
            parts, held = [], 0
    if held:
        yield b"".join(parts)


def _remove_parts(folder: Path, before_s: float) -> int:
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in filter(_PART.search, names):
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    removed += 1
    return removed


def open_store(settings: Settings) -> AssetStore:
    """The store of ELKAPI_STORAGE_URL, without accessing it. Raises StorageUrlError."""
    url = settings.storage_url
    if not url:
        return _local(settings.data_path.absolute() / FOLDER)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return _local(Path(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        if unknown := dict(parse_qsl(parts.query)).keys() - OPTIONS:
            raise StorageUrlError(f"ELKAPI_STORAGE_URL takes endpoint and region, not {', '.join(sorted(unknown))}")
        return AssetStore(lambda: _bucket(url))
    raise StorageUrlError("ELKAPI_STORAGE_URL is s3://BUCKET/PREFIX, file:///FOLDER or empty")


def _local(folder: Path) -> AssetStore:
    def make() -> ObjectStore:
        from obstore.store import LocalStore

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store: ObjectStore = LocalStore(folder)
        return store

    return AssetStore(make, folder)


def _bucket(url: str) -> ObjectStore:
    """The bucket of a URL. Credentials, region and endpoint come from the AWS_ variables; the URL's query may override
    region and endpoint.

    The endpoint is the operator's: the address guard does not apply, and plain HTTP is allowed.
    """
    from obstore.store import S3Store

    parts, env = urlsplit(url), os.environ
    given = dict(parse_qsl(parts.query))
    endpoint = given.get("endpoint") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    region = given.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"endpoint": endpoint, "region": region, "prefix": parts.path.strip("/")}
    options = {name: value for name, value in options.items() if value}
    client: ClientConfig = {"allow_http": bool(endpoint and endpoint.startswith("http://"))}
    store: ObjectStore = S3Store(parts.netloc, client_options=client, **options)
    return store
