"""One worker: wires the data plane's parts together, serves the listening socket, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Callable
from math import inf
from random import Random

from elkapi.access import KeyCache, Limits
from elkapi.assets.store import open_store
from elkapi.cache import Answers
from elkapi.catalog import CATALOG
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.edge.front import Front
from elkapi.edge.proxies import TrustedProxies
from elkapi.edge.render import rejected, render_error
from elkapi.edge.server import Server
from elkapi.errors import GatewayError
from elkapi.ids import new_id
from elkapi.ledger import open_ledger
from elkapi.local.listed import listed_models
from elkapi.local.listening import answers
from elkapi.observe import metrics as observe_metrics
from elkapi.observe.bridge import json_log
from elkapi.observe.log import Log
from elkapi.observe.metrics import FOLD_EVERY_S, Metrics
from elkapi.observe.process import die_with_parent, has_descriptor_left, run_loop, set_title, stop_signal
from elkapi.relay.account_pages import ACCOUNT_PAGES
from elkapi.relay.asset_pages import ASSET_PAGES
from elkapi.relay.background_calls import BackgroundCalls
from elkapi.relay.batches.pages import BATCH_PAGES
from elkapi.relay.batches.runner import BatchRunner
from elkapi.relay.batches.store import BatchStore
from elkapi.relay.call import Call
from elkapi.relay.counting import COUNTING_PAGES
from elkapi.relay.free_kept import FreeKept
from elkapi.relay.judge import StorageKeyJudge
from elkapi.relay.pages import PAGES
from elkapi.relay.plane import DataPlane
from elkapi.relay.quoting import QUOTING_PAGES
from elkapi.relay.stored_objects import StoredObjects
from elkapi.relay.stored_pages import STORED_PAGES
from elkapi.relay.task_pages import TASK_FILE_PAGES
from elkapi.relay.task_store import TaskStore
from elkapi.relay.telemetry import Telemetry
from elkapi.roles import WorkerOrder
from elkapi.routing.affinity import Affinity
from elkapi.routing.health import Health
from elkapi.settings import Settings
from elkapi.snapshot import SnapshotHolder
from elkapi.storage.db import Reader
from elkapi.storage.installation import Installation, open_installation
from elkapi.tasks.addresses import Addresses
from elkapi.tasks.request import Signer
from elkapi.tasks.showing import Showing
from elkapi.tasks.telling import Teller
from elkapi.upstream import ClientLimits, UpstreamClient
from elkapi.upstream.gcp import TokenSource

SWITCH_INTERVAL_S = 0.0005
# Threads for what calls read, besides the one for keys.
READERS = 2
_OWN_PAGES = PAGES | COUNTING_PAGES | QUOTING_PAGES | STORED_PAGES | TASK_FILE_PAGES | ACCOUNT_PAGES


def run(order: WorkerOrder, listening: socket.socket, ready_fd: int | None = None) -> None:
    """Serve until SIGTERM, then drain. Ends with its supervisor."""
    die_with_parent()
    set_title("worker")
    _tune_interpreter()
    observe_metrics.prepare(order.settings.metrics_path)
    run_loop(_serve(order, listening, ready_fd))


def _tune_interpreter() -> None:
    """Freeze what is alive after the imports, so that the collector skips it; and keep helper threads from blocking
    the loop for the default 5 ms."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def _serve(order: WorkerOrder, listening: socket.socket, ready_fd: int | None) -> None:
    stop = stop_signal()
    async with opened_plane(order) as plane:
        models = ModelsWatch(order)
        files = FilesWatch(plane.log, plane.clock)
        front = Front(plane, lambda: models.reason() or unwritten(plane) or files.reason())
        runner = BatchRunner(plane, error_body)
        server = Server(front, rejected, order.settings)
        await models.wait(stop)
        await leave_out_unusable(plane, order)
        await server.start(listening)
        runner.start()
        plane.log.write("worker_ready", version=plane.snapshots.current.version)
        folding = asyncio.create_task(_fold(plane, server, files))
        if ready_fd is not None:
            os.write(ready_fd, b"1")
            os.close(ready_fd)
        await stop.wait()
        cut = await drained(plane, server, runner, order.settings.drain_s)
        plane.log.write("worker_drained", cut_connections=cut)
        folding.cancel()
    # What ended since the last fold, until the plane had closed: a replaced worker would lose up to a second of calls.
    plane.metrics.fold({})


async def drained(plane: DataPlane, server: Server, runner: BatchRunner, drain_s: float) -> int:
    """Let running calls end, for at most `drain_s`; returns how many connections were cut."""
    plane.cut_at_s = plane.clock.monotonic_s() + drain_s
    cut, _ = await asyncio.gather(server.drain(drain_s, plane.cut_off), runner.drain(drain_s))
    # What those calls started, and what continues without its caller, which may have become more until then.
    left_s = max(0.0, plane.cut_at_s - plane.clock.monotonic_s())
    await asyncio.gather(plane.background.drain(left_s), plane.tasks.drain(left_s))
    plane.cut_off()  # A background response has no connection, and is ended as the plane closes.
    return cut


@contextlib.asynccontextmanager
async def opened_plane(order: WorkerOrder) -> AsyncIterator[DataPlane]:
    """Every part of the data plane, opened in the order of need and closed in reverse."""
    settings = order.settings
    installation = open_installation(settings, readers=READERS + 1)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(installation.database.close)
        log = stack.enter_context(json_log("worker", settings))
        cache = KeyCache(settings.key_cache_max)
        owner = bytes.fromhex(order.owner) if order.owner else new_id()
        batches = BatchStore(installation.database, installation.sealer, owner)
        stack.callback(batches.close)
        holder = _snapshots(order, installation, cache, batches)
        await holder.start()
        stack.push_async_callback(holder.stop)
        key_reader = Reader(installation.database, threads=1)
        stack.push_async_callback(key_reader.aclose)
        reader = Reader(installation.database, threads=READERS)
        stack.push_async_callback(reader.aclose)
        ledger = open_ledger(
            settings,
            installation.database,
            owner,
            in_process=order.ledger_in_process,
            sealer=installation.sealer,
            dead_owner=bytes.fromhex(order.dead_owner) if order.dead_owner else None,
        )
        await ledger.start()
        stack.push_async_callback(ledger.aclose)
        client = UpstreamClient(ClientLimits(connections_per_origin_max=settings.upstream_connections_max))
        stack.push_async_callback(client.aclose)
        limits = Limits(settings.data_path)
        stack.callback(limits.close)
        answers = Answers(settings, installation.sealer)
        stack.push_async_callback(answers.aclose)
        stored = StoredObjects(settings, installation.database, reader, installation.sealer, SYSTEM_CLOCK)
        stack.push_async_callback(stored.aclose)
        background = BackgroundCalls(
            stored, owner, settings.background_calls_max, settings.background_calls_per_key_max, log
        )
        judge = StorageKeyJudge(installation.database, log, SYSTEM_CLOCK)
        stack.callback(judge.close)
        telemetry = Telemetry(settings, holder, SYSTEM_CLOCK) if settings.otlp_endpoint else None
        if telemetry is not None:
            stack.callback(telemetry.close)
        stack.push_async_callback(background.aclose)
        tasks = TaskStore(installation.database, reader, installation.sealer)
        stack.callback(tasks.close)
        tokens = TokenSource(client.send, SYSTEM_CLOCK)
        addresses = Addresses(settings, installation.sealer, SYSTEM_CLOCK)
        yield DataPlane(
            settings=settings,
            catalog=CATALOG,
            snapshots=holder,
            key_cache=cache,
            key_reader=key_reader,
            reader=reader,
            ledger=ledger,
            client=client,
            health=Health(settings.cooldown_s, settings.cooldown_max_s),
            affinity=Affinity(),
            limits=limits,
            answers=answers,
            judge=judge,
            metrics=Metrics(),
            log=log,
            clock=SYSTEM_CLOCK,
            rng=Random(),  # noqa: S311 - spreads load, guards nothing.
            pages=_OWN_PAGES | BATCH_PAGES,
            open_pages=ASSET_PAGES,
            assets=open_store(settings),
            tokens=tokens,
            stored=stored,
            background=background,
            free_kept=FreeKept(settings.free_kept_bytes_max, SYSTEM_CLOCK),
            model_facts={model.id: model.facts for model in order.bundled},
            telemetry=telemetry,
            batches=batches,
            tasks=tasks,
            showing=Showing(CATALOG.by_id, CATALOG.family_of, addresses.assets.url),
            signer=Signer(tokens, SYSTEM_CLOCK),
            origin=_origin_of(addresses.public_url, settings),
            addresses=addresses,
            teller=Teller(settings, CATALOG.by_id, CATALOG.family_of, addresses.assets.url),
        )


def _snapshots(order: WorkerOrder, installation: Installation, cache: KeyCache, batches: BatchStore) -> SnapshotHolder:
    def changed(version: int, keys: list[tuple[int, bytes]] | None) -> None:
        cache.evict(version, keys)
        # A new batch raises the version, which every worker polls anyway.
        batches.look()

    return SnapshotHolder(
        installation.database,
        installation.sealer,
        order.settings,
        bundled=[model.id for model in order.bundled if model.role == "models"],
        chat=[model.id for model in order.bundled if model.role == "chat"],
        sandbox=order.sandbox_models,
        on_keys_changed=changed,
    )


def _origin_of(public_url: str, settings: Settings) -> Callable[[Call], str]:
    """The origin of our addresses: the operator's setting, otherwise how the caller addressed the gateway."""
    return (lambda call: public_url) if public_url else TrustedProxies(settings.trusted_proxies).origin


def error_body(error: GatewayError, call_id: bytes) -> bytes:
    """An error as a line's result has it: as the call itself would have been answered."""
    return render_error(error, call_id, "anthropic")[2]


def unwritten(plane: DataPlane) -> str | None:
    """Why `/readyz` fails while no paid call can be held, since this worker looks dead in the table. None while it
    can."""
    lost = plane.ledger.unwritten_s > plane.settings.heartbeat_lost_s
    return "the database cannot be written" if lost else None


async def _fold(plane: DataPlane, server: Server, files: FilesWatch) -> None:
    while True:
        await asyncio.sleep(FOLD_EVERY_S)
        files.look(len(server.connections))
        plane.metrics.fold(
            {
                "connections": len(server.connections),
                "snapshot_age_seconds": plane.snapshots.age_s,
                "log_lines_dropped": plane.log.dropped,
                "records_dropped": plane.ledger.records_dropped,
                "telemetry_dropped": plane.telemetry.dropped if plane.telemetry is not None else 0,
            }
        )


async def leave_out_unusable(plane: DataPlane, order: WorkerOrder) -> None:
    """Neither list nor serve a local embedding model whose files its process rejected, as that process logs.

    If it does not answer, all stay: it will be restarted.
    """
    installed = {model.id for model in order.bundled if model.role == "models"}
    if not (order.wait_for_models and installed):
        return
    listed = await listed_models(plane.client.send, order.settings.socket_path("models"))
    if listed is None:
        return
    if unusable := installed - {model.id for model in listed}:
        await plane.snapshots.leave_out(unusable)
        plane.log.write("models_left_out", "warning", models=sorted(unusable))


class FilesWatch:
    """Whether the worker has descriptors left for new connections; without one, it refuses them."""

    TOLD_EVERY_S = 60.0

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._out = False
        self._tell_at_s = -inf

    def reason(self) -> str | None:
        """Why `/readyz` says no, or None."""
        return "no file descriptors left for new connections" if self._out else None

    def look(self, connections: int) -> None:
        """Check the descriptors; the log is written at most once in TOLD_EVERY_S."""
        self._out = not has_descriptor_left()
        now_s = self._clock.monotonic_s()
        if self._out and now_s >= self._tell_at_s:
            self._tell_at_s = now_s + self.TOLD_EVERY_S
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._log.write("descriptors_exhausted", "error", limit=limit, connections=connections)


class ModelsWatch:
    """Whether the model process accepts connections yet; a worker that waits for it is not ready before."""

    POLL_S = 0.05
    POLLS_MAX = 600

    def __init__(self, order: WorkerOrder) -> None:
        self._path = order.settings.socket_path("models")
        self._up = not order.wait_for_models

    def reason(self) -> str | None:
        """Why `/readyz` says no, or None."""
        return None if self._up else "the model process is starting"

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when it is up, when told to stop, or after half a minute: upstream channels work without it."""
        for _ in range(self.POLLS_MAX):
            if stop.is_set():
                return
            if self._up or answers(self._path):
                self._up = True
                return
            await asyncio.sleep(self.POLL_S)
        self._up = True
