"""Finished calls on their way to a collector: how the control process takes them from the workers."""

from __future__ import annotations

import errno
import queue
import socket
import threading
import time

import pytest

from elkapi.control import telemetry
from elkapi.control.telemetry import Telemetry
from elkapi.observe.calls import CallFacts, calls_in, frame_of


class Exported:
    """Where batches go, in the place of a collector."""

    def __init__(self) -> None:
        self.batches: queue.Queue[list[CallFacts]] = queue.Queue()

    def export(self, calls: list[CallFacts]) -> int:
        self.batches.put(calls)
        return 0

    def close(self, wait_s: float) -> None: ...


class WithoutDescriptors(socket.socket):
    """A listening socket of a process that has no descriptor left, once."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_descriptors_takes_a_workers_calls_once_it_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "ACCEPT_AGAIN_S", 0.01)
    exported = Exported()
    with WithoutDescriptors(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as worker:
        listening.bind("")  # An abstract name of the kernel's choice.
        listening.listen()
        taking = Telemetry(listening, exported, lost=None)
        worker.connect(listening.getsockname())
        worker.sendall(frame_of([]))
        assert exported.batches.get(timeout=10) == []
        worker.close()
        taking.close()


def test_a_batch_that_is_still_being_read_at_the_end_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(data: bytes) -> list[CallFacts]:
        begun.set()
        go_on.wait()
        return calls_in(data)

    monkeypatch.setattr(telemetry, "calls_in", slowly)
    monkeypatch.setattr(telemetry, "READ_S", 0.0)
    monkeypatch.setattr(telemetry, "CLOSE_S", 60.0)
    exported = Exported()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as worker:
        listening.bind("")
        listening.listen()
        taking = Telemetry(listening, exported, lost=None)
        worker.connect(listening.getsockname())
        worker.sendall(frame_of([]))
        begun.wait()
        closing = threading.Thread(target=taking.close)
        closing.start()
        assert worker.recv(1) == b""  # It is being closed.
        time.sleep(0.05)  # For an end that does not wait for this batch to come.
        go_on.set()
        closing.join()
        assert exported.batches.get_nowait() == []
