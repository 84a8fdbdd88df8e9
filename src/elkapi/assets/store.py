"""Where files are kept: a folder of this host or an S3 bucket, one interface over obstore; rows are `repos.assets`'.

A file is visible when it is whole, or never: what is written meanwhile is a part that nobody can name, and a cut leaves
nothing. Memory is a few pieces, however large the file. Locations are ours and never come from a caller.
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

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

FOLDER = "assets"
# S3 takes no smaller part; of a few of them consists what an upload holds in memory.
PART_BYTES = 5 * 1024 * 1024
PARTS_AT_ONCE = 2
PIECE_BYTES = 512 * 1024
READ_BYTES = 256 * 1024
LISTED_AT_ONCE = 500
OPTIONS = frozenset({"endpoint", "region"})
# How a local part is named until its file is whole.
_PART = re.compile(r"#\d+$")


class StoreFailed(Exception):
    """The folder or the bucket could not be written or read; the message is for the operator."""


class NotKept(Exception):
    """The file is none that is kept, or longer than allowed; nothing of it is left."""


class TooLarge(NotKept):
    """Longer than the limit."""


class WrongType(NotKept):
    """No kind of file that we know; an error page, for instance."""


class StorageUrlError(ValueError):
    """ELKAPI_STORAGE_URL cannot be used."""


class Stored(msgspec.Struct, frozen=True):
    """What was measured while a file was written."""

    kind: FileKind
    size_bytes: int
    sha256: bytes


class AssetStore:
    """One of a process; every method may be called from its event loop, which it never blocks."""

    def __init__(self, make: Callable[[], ObjectStore], folder: Path | None = None) -> None:
        self._make = make
        self._folder = folder

    @functools.cached_property
    def _objects(self) -> ObjectStore:
        """Made when it is needed, since a worker that serves no file need not load its library."""
        return self._make()

    async def put(self, location: str, chunks: AsyncIterable[bytes], bytes_max: int) -> Stored:
        """Keep a file of at most `bytes_max`; what `chunks` raises is raised here, and so is a cancellation.

        Raises TooLarge, WrongType, StoreFailed. Whatever is raised, nothing stands at `location` afterwards.
        """
        source = _pieces(chunks, bytes_max)
        first = await anext(source, b"")
        if (kind := kind_of(first[:HEAD_BYTES])) is None:
            raise WrongType("it is no video, image, audio or 3D file that we know")
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
        """The file is there when the block ended well; else what there is of it is removed before the error goes on."""
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
        """The bytes from `start` up to `end`, in pieces. Raises FileNotFoundError, StoreFailed."""
        import obstore

        with _failures():
            found = await obstore.get_async(self._objects, location, options={"range": (start, end)})
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    async def at(self, location: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start` on. Raises FileNotFoundError, StoreFailed."""
        import obstore

        with _failures():
            return bytes(await obstore.get_range_async(self._objects, location, start=start, length=length))

    async def delete(self, location: str) -> None:
        """Remove a file; one that is not there is removed. Raises StoreFailed."""
        import obstore

        with contextlib.suppress(FileNotFoundError), _failures():
            await obstore.delete_async(self._objects, location)

    async def older_than(self, age_s: float) -> AsyncIterator[list[str]]:
        """Locations of files that were written longer ago, some at a time. Raises StoreFailed."""
        import obstore

        before_s = time.time() - age_s
        with _failures():
            async for found in obstore.list(self._objects, chunk_size=LISTED_AT_ONCE):
                yield [meta["path"] for meta in found if meta["last_modified"].timestamp() < before_s]

    async def remove_parts(self, age_s: float) -> int:
        """Remove what killed uploads left in the folder; how many there were. A bucket has a rule for that."""
        if self._folder is None:
            return 0
        return await asyncio.to_thread(_remove_parts, self._folder, time.time() - age_s)


class _Feed:
    """What obstore draws from: one piece at a time, so the writer's pace is the source's."""

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
    """The source is read by our own task, so that its deadlines and our cancellation act where they should; obstore is
    only ever told to go on, to end, or to give up, since a cancelled upload of its would leave its parts."""

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
        """Make obstore remove the parts, or the file that it was just done with; waits also while we are cancelled."""
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
    """What the feed raises in obstore to end an upload that nobody wants any more."""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What obstore raises as one of ours; a file that is not there stays FileNotFoundError."""
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
    """The store of ELKAPI_STORAGE_URL, nothing of it asked yet. Raises StorageUrlError."""
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
    """Credentials, region and endpoint are those of the usual AWS_ variables; two may stand behind a `?`.

    The operator named this endpoint: no address guard stands before it, and without TLS it is reached if it says so.
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
