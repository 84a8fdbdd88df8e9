"""Opens what the control process works with: the database (when it can be had), the way out, the model process."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import msgspec
from sqlalchemy import select

from elkapi.clock import Clock
from elkapi.control.jobs import Job
from elkapi.control.status import LocalModel, LocalModels
from elkapi.settings import Settings
from elkapi.storage import schema
from elkapi.storage.db import Reader
from elkapi.storage.installation import Installation, open_installation
from elkapi.upstream import Deadlines, Origin, UpstreamClient, UpstreamFailure, UpstreamRequest

MODELS_ANSWER_BYTES_MAX = 256 * 1024
MODELS_DEADLINES = Deadlines(connect_s=1.0, header_s=2.0, first_byte_s=2.0, idle_s=2.0, total_s=3.0)

log = logging.getLogger("elkapi.control")


class _Listing(msgspec.Struct):
    data: list[LocalModel]


_listing = msgspec.json.Decoder(_Listing)


class Parts:
    """The control process's own database threads and upstream client; used as an async context manager.

    The database is opened on first use and again after a failure: pages are served while it is away.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._client = UpstreamClient()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="elkapi-open")
        self._opening = asyncio.Lock()
        self._installation: Installation | None = None
        self._reader: Reader | None = None

    async def __aenter__(self) -> Parts:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        if self._reader is not None:
            self._reader.close()
        if self._installation is not None:
            self._installation.database.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def installation(self) -> Installation:
        """The opened database with its secrets. Raises what `open_installation` raises."""
        async with self._opening:
            if self._installation is None:
                loop = asyncio.get_running_loop()
                self._installation = await loop.run_in_executor(self._threads, open_installation, self._settings)
                self._reader = Reader(self._installation.database, threads=1)
        return self._installation

    def jobs(self) -> tuple[Job, ...]:
        return ()

    async def database_answers(self) -> bool:
        """Whether a read works now."""
        try:
            await self.installation()
            assert self._reader is not None
            await self._reader.run(lambda connection: connection.execute(select(schema.meta.c.value).limit(1)).first())
        except Exception as error:
            log.warning("database_unavailable", extra={"error": str(error)})
            return False
        return True

    async def local_models(self) -> LocalModels:
        """What the model process lists; not ready when it does not answer."""
        request = UpstreamRequest(
            origin=Origin.parse(f"unix://{self._settings.socket_path('models')}"),
            method=b"GET",
            target=b"/v1/models",
            headers=[(b"accept", b"application/json")],
            deadlines=MODELS_DEADLINES,
        )
        try:
            reply = await self._client.send(request)
            try:
                body, complete = await reply.read(MODELS_ANSWER_BYTES_MAX)
            finally:
                await reply.aclose()
            if reply.status != 200 or not complete:
                return LocalModels()
            return LocalModels(ready=True, models=tuple(_listing.decode(body).data))
        except (UpstreamFailure, msgspec.DecodeError):
            return LocalModels()
