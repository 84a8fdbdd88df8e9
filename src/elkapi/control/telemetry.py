"""Receives finished calls from the workers and exports them with `otlp`, one batch at a time.

Everything here is bounded and nothing is dropped: while the collector is slow this process stops reading, so the
workers' queues fill, and they drop and count further calls. Uses threads, since the SDK's exporter blocks.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from elkapi.observe.calls import FRAME_BYTES_MAX, LENGTH, CallFacts, calls_in
from elkapi.settings import Settings

BATCHES_MAX = 4
# At the end the workers are gone; their last calls must still be read, then exported.
READ_S = 0.5
CLOSE_S = 2.0
# The delay after an accept that failed, for example without free file descriptors.
ACCEPT_AGAIN_S = 1.0

log = logging.getLogger("elkapi.control.telemetry")


class Exports(Protocol):
    """The interface of `otlp.Exporter`."""

    def export(self, calls: list[CallFacts]) -> int:
        """Export calls; returns the number of spans lost."""

    def close(self, wait_s: float) -> None:
        """Send the rest, within `wait_s`."""


class Telemetry:
    """A listening socket, a thread per worker connection, and one that exports."""

    def __init__(self, listening: socket.socket, exporter: Exports, lost: Any) -> None:
        self._listening = listening
        self._exporter = exporter
        self._lost = lost
        self._batches: queue.Queue[list[CallFacts] | None] = queue.Queue(BATCHES_MAX)
        self._readers: dict[threading.Thread, socket.socket] = {}
        self._exporting = threading.Thread(target=self._export, name="telemetry-export", daemon=True)
        self._exporting.start()
        threading.Thread(target=self._accept, name="telemetry-accept", daemon=True).start()

    def tell(self, calls: list[CallFacts]) -> None:
        """Export calls of this process too; with a full queue they are dropped and counted. Returns at once."""
        try:
            self._batches.put_nowait(calls)
        except queue.Full:
            self._lost.inc(len(calls))

    def close(self) -> None:
        """Read for READ_S and export what is here, within CLOSE_S."""
        deadline_s = time.monotonic() + READ_S
        for reader in tuple(self._readers):
            reader.join(max(0.0, deadline_s - time.monotonic()))
        for worker in tuple(self._readers.values()):
            # The worker continues without this process and keeps its calls for the next one.
            with contextlib.suppress(OSError):
                worker.shutdown(socket.SHUT_RDWR)
        # Readers finish their current batch and what the kernel has buffered before the end marker.
        deadline_s = time.monotonic() + CLOSE_S
        for reader in tuple(self._readers):
            reader.join(max(0.0, deadline_s - time.monotonic()))
        with contextlib.suppress(queue.Full):
            self._batches.put(None, timeout=max(0.0, deadline_s - time.monotonic()))
        self._exporting.join(CLOSE_S)
        self._exporter.close(CLOSE_S)

    def _accept(self) -> None:
        while self._listening.fileno() >= 0:  # Closed when this process ends.
            try:
                worker, _ = self._listening.accept()
            except OSError as error:
                log.warning("telemetry_accept_failed", extra={"error": str(error)})
                time.sleep(ACCEPT_AGAIN_S)
                continue
            reader = threading.Thread(target=self._read, args=(worker,), name="telemetry-read", daemon=True)
            self._readers[reader] = worker
            reader.start()

    def _read(self, worker: socket.socket) -> None:
        """Read batches of one worker until it closes or sends an invalid frame."""
        try:
            self._batches_of(worker)
        finally:
            self._readers.pop(threading.current_thread(), None)

    def _batches_of(self, worker: socket.socket) -> None:
        with worker, contextlib.suppress(OSError, EOFError), worker.makefile("rb") as stream:
            while True:
                (size,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
                if size > FRAME_BYTES_MAX:
                    log.warning("telemetry_frame_too_large", extra={"bytes": size})
                    return
                try:
                    calls = calls_in(_exactly(stream, size))
                except msgspec.DecodeError as error:
                    # A worker of another version during an upgrade.
                    log.warning("telemetry_frame_unreadable", extra={"error": str(error)})
                    return
                self._batches.put(calls)

    def _export(self) -> None:
        while (calls := self._batches.get()) is not None:
            try:
                lost = self._exporter.export(calls)
            except Exception as error:
                # A failed batch must not end the export of all others.
                log.error("telemetry_export_failed", exc_info=error)
                lost = len(calls)
            if lost:
                self._lost.inc(lost)


def _exactly(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


@contextlib.contextmanager
def telemetry_running(settings: Settings, listening: socket.socket) -> Iterator[Telemetry]:
    """Run telemetry during the block; the SDK is not imported before."""
    from elkapi.control.otlp import Exporter
    from elkapi.observe import metrics

    metrics.prepare(settings.metrics_path)
    telemetry = Telemetry(listening, Exporter(settings), metrics.telemetry_lost())
    try:
        yield telemetry
    finally:
        telemetry.close()
