"""Runs the control process: its unix socket, uvicorn, the background jobs and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from elkapi.clock import SYSTEM_CLOCK
from elkapi.control.jobs import running_jobs
from elkapi.control.library import Library, docs_folder
from elkapi.control.parts import Parts
from elkapi.control.site import build_site
from elkapi.control.status import StatusBook
from elkapi.control.tasking import Export, run_poller
from elkapi.observe.bridge import json_log
from elkapi.observe.calls import SOCKET
from elkapi.observe.process import die_with_parent, resident_bytes, run_loop, set_title
from elkapi.observe.serving import Server
from elkapi.roles import WorkerOrder
from elkapi.settings import SOCKET_PATH_BYTES_MAX, Settings
from elkapi.storage.db import cancel_all
from elkapi.tasks.results import AssetCopier

ROLE = "control"
BACKLOG_CONNECTIONS = 128
CONNECTIONS_MAX = 256
KEEP_ALIVE_S = 75
SHUTDOWN_S = 5

log = logging.getLogger("elkapi.control")


def run(order: WorkerOrder) -> None:
    """Serve until SIGTERM or SIGINT; ends with its supervisor. Raises OSError if the socket cannot be created."""
    settings = order.settings
    die_with_parent()
    set_title(ROLE)
    settings.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        json_log(ROLE, settings),
        listening_socket(Path(settings.socket_path(ROLE))) as listening,
        _telemetry(settings) as export,
    ):
        run_loop(_serve(order, listening, export))


@contextlib.contextmanager
def _telemetry(settings: Settings) -> Iterator[Export | None]:
    """Export the workers' calls, and those passed to the result, to the collector; None without a collector."""
    if not settings.otlp_endpoint:
        yield None
        return
    from elkapi.control.telemetry import telemetry_running

    with listening_socket(Path(settings.socket_path(SOCKET))) as calls, telemetry_running(settings, calls) as running:
        yield running.tell


async def _serve(order: WorkerOrder, listening: socket.socket, export: Export | None) -> None:
    settings = order.settings
    async with Parts(settings, SYSTEM_CLOCK) as parts:
        status = StatusBook(SYSTEM_CLOCK, parts.local_models, parts.database_answers)
        site = build_site(Library(docs_folder()), status, f"{settings.host}:{settings.port}")
        jobs = parts.jobs()
        async with running_jobs(jobs):
            log.info("control_started", extra={"jobs": [job.name for job in jobs], "rss_bytes": resident_bytes()})
            poller = asyncio.get_running_loop().create_task(run_poller(order, AssetCopier, export))
            try:
                await Server(_config(site)).serve(sockets=[listening])
            finally:
                await cancel_all((poller,))
    log.info("control_stopped")


def _config(site: object) -> uvicorn.Config:
    return uvicorn.Config(
        site,  # type: ignore[arg-type]
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


@contextlib.contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket that only its owner may open.

    It is bound under another name and renamed: a client of `path` reaches either the previous process or this one, and
    a file left by a killed process is replaced. Raises OSError, for example if the path is too long for the kernel.
    """
    # No longer than the shortest socket name, since startup only checks the length of `path`.
    fresh = path.with_name(f"new.{os.getpid()}")
    if max(len(os.fsencode(one)) for one in (path, fresh)) > SOCKET_PATH_BYTES_MAX:
        raise OSError(f"the socket's path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; use a shorter data_dir")
    with socket.socket(socket.AF_UNIX) as listening:
        mask = os.umask(0o177)
        try:
            fresh.unlink(missing_ok=True)
            listening.bind(str(fresh))
        finally:
            os.umask(mask)
        listening.listen(BACKLOG_CONNECTIONS)
        ours = fresh.stat().st_ino
        fresh.rename(path)
        try:
            yield listening
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == ours:  # A successor may already have replaced it.
                    path.unlink()
