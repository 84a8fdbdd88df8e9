"""Runs the task poller in the control process: its own snapshot, ledger and client, opened when available."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from sqlalchemy import Connection

from elkapi.catalog import CATALOG
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Unavailable
from elkapi.ids import new_id
from elkapi.ledger import open_ledger
from elkapi.observe.calls import CallFacts
from elkapi.observe.metrics import FOLD_EVERY_S, CallCounts, TaskMetrics, prepare
from elkapi.roles import WorkerOrder
from elkapi.settings import Settings
from elkapi.snapshot import Snapshot, SnapshotHolder
from elkapi.storage.db import Database, Reader, cancel_all
from elkapi.storage.dialect import LookConnection
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import tasks as rows
from elkapi.storage.secrets import Sealer
from elkapi.tasks.addresses import Addresses
from elkapi.tasks.asking import Way
from elkapi.tasks.parts import Copier, Parts
from elkapi.tasks.poller import Poller
from elkapi.tasks.record import Task, opened
from elkapi.tasks.request import Signer
from elkapi.tasks.spans import span_of
from elkapi.tasks.telling import Teller
from elkapi.types import RequestRecord
from elkapi.upstream import ClientLimits, UpstreamClient
from elkapi.upstream.gcp import TokenSource

T = TypeVar("T")
AGAIN_FIRST_S = 0.5
AGAIN_MAX_S = 10.0
# The most ended tasks sent to the collector at a time.
ENDS_WAITING_MAX = 1000

log = logging.getLogger("elkapi.tasks")
MakeCopier = Callable[[Installation, UpstreamClient, Settings], Copier]
Export = Callable[[list[CallFacts]], None]


class PollerStorage:
    """Implements parts.Storage: the database on threads."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._reader = Reader(database)

    async def read(self, ask: Callable[[Connection], T]) -> T:
        return await self._reader.run(ask)

    async def look(self, ask: Callable[[LookConnection], T]) -> T:
        return await self._reader.look(ask)

    async def write(self, change: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._write, change)

    def _write(self, change: Callable[[Connection], T]) -> T:
        with self._database.write() as connection:
            return change(connection)

    async def opened(self, task_id: bytes) -> Task | None:
        return await self._reader.run(lambda connection: self._opened(connection, task_id))

    def _opened(self, connection: Connection, task_id: bytes) -> Task | None:
        row = rows.read(connection, task_id)
        return None if row is None else opened(self._sealer, row)

    async def aclose(self) -> None:
        await self._reader.aclose()


class Ends:
    """Counts the tasks that this process ended, in its metrics and for the collector, if any."""

    def __init__(self, settings: Settings, metrics: CallCounts, export: Export | None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._export = export
        self._waiting: list[CallFacts] = []

    def add(self, task: Task, record: RequestRecord, snapshot: Snapshot) -> None:
        """Count one ended task. Does no I/O."""
        self._metrics.add(record)
        if self._export is None:
            return
        ratio, content = self._settings.otlp_sample_ratio, self._settings.otlp_content
        self._waiting.append(span_of(task, record, snapshot.channels, sample_ratio=ratio, with_errors=content))
        if len(self._waiting) >= ENDS_WAITING_MAX:
            self.flush()

    def flush(self) -> None:
        """Pass pending spans to the exporter; never blocks."""
        if self._export is not None and self._waiting:
            told, self._waiting = self._waiting, []
            self._export(told)


@contextlib.asynccontextmanager
async def opened_poller(
    order: WorkerOrder,
    installation: Installation,
    make_copier: MakeCopier,
    clock: Clock = SYSTEM_CLOCK,
    ends: Ends | None = None,
) -> AsyncIterator[Poller]:
    """A poller with its dependencies, not yet running; closed in reverse order. Raises Unavailable."""

    def ended(task: Task, record: RequestRecord) -> None:
        if ends is not None:
            ends.add(task, record, holder.current)

    settings = order.settings
    async with contextlib.AsyncExitStack() as stack:
        holder = SnapshotHolder(
            installation.database, installation.sealer, settings, sandbox=order.sandbox_models, clock=clock
        )
        await holder.start()
        stack.push_async_callback(holder.stop)
        storage = PollerStorage(installation.database, installation.sealer)
        stack.push_async_callback(storage.aclose)
        owner = new_id()
        ledger = open_ledger(
            settings,
            installation.database,
            owner,
            in_process=order.ledger_in_process,
            sealer=installation.sealer,
        )
        await ledger.start()
        stack.push_async_callback(ledger.aclose)
        client = UpstreamClient(ClientLimits(connections_per_origin_max=settings.upstream_connections_max))
        stack.push_async_callback(client.aclose)
        addresses = Addresses(settings, installation.sealer, clock)
        yield Poller(
            Parts(
                settings=settings,
                operations=CATALOG.by_id,
                snapshot=lambda: holder.current,
                refresh=holder.refresh,
                storage=storage,
                ledger=ledger,
                way=Way(
                    settings, Signer(TokenSource(client.send, clock), clock), client.send, CATALOG.family_of, clock
                ),
                tell=Teller(settings, CATALOG.by_id, CATALOG.family_of, addresses.assets.url).told,
                ended=ended,
                copier=make_copier(installation, client, settings),
                clock=clock,
                owner=owner,
            )
        )


@contextlib.asynccontextmanager
async def polling(poller: Poller) -> AsyncIterator[asyncio.Task[None]]:
    """Run the poller until the block ends."""
    running = asyncio.get_running_loop().create_task(poller.run())
    try:
        yield running
    finally:
        poller.stop()
        await cancel_all((running,))


async def _count(poller: Poller, metrics: TaskMetrics, ends: Ends) -> None:
    """Update the metrics about once a second and at the end."""
    told: Counter[str] = Counter()

    def tell() -> None:
        now = Counter(poller.counts)
        metrics.fold(now - told, len(poller), poller.lag_s)
        told.update(now - told)
        ends.flush()

    try:
        while True:
            tell()
            await asyncio.sleep(FOLD_EVERY_S)
    finally:
        tell()


async def _opened_metrics(settings: Settings) -> TaskMetrics:
    """The poller's metrics, once the disk has room for them: a poller that gave up would not be restarted."""
    while True:
        try:
            prepare(settings.metrics_path)
            return TaskMetrics()
        except OSError as error:
            log.warning("poller_waits", extra={"error": str(error)})
        await asyncio.sleep(AGAIN_MAX_S)


async def run_poller(order: WorkerOrder, make_copier: MakeCopier, export: Export | None = None) -> None:
    """Poll until cancelled; retries while the database is unavailable or the disk is full.

    `export` receives the spans of ended tasks.
    """
    again_s = AGAIN_FIRST_S
    metrics = await _opened_metrics(order.settings)
    ends = Ends(order.settings, metrics, export)
    while True:
        installation = None
        try:
            installation = await asyncio.to_thread(open_installation, order.settings)
            opening = opened_poller(order, installation, make_copier, ends=ends)
            async with opening as poller, polling(poller) as running:
                again_s = AGAIN_FIRST_S
                counting = asyncio.get_running_loop().create_task(_count(poller, metrics, ends))
                try:
                    await asyncio.shield(running)
                finally:
                    await cancel_all((counting,))
        except Unavailable as error:
            log.warning("poller_waits", extra={"error": str(error)})
        except Exception:
            log.exception("poller_failed")
        finally:
            # Tasks that ended while the poller stopped; no task is open here now.
            metrics.fold({}, 0, 0.0)
            ends.flush()
            if installation is not None:
                installation.database.close()
        await asyncio.sleep(again_s)
        again_s = min(again_s * 2, AGAIN_MAX_S)
