"""The supervisor's own decisions: when a child is started again, and what it shares with its children."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from elkapi import supervisor
from elkapi.local.listening import answers
from elkapi.roles import WorkerOrder
from elkapi.settings import Settings
from elkapi.supervisor import RESTART_MAX_S, Child, Supervisor
from elkapi.worker import ModelsWatch
from tests.pipes import full_pipe


class Ended:
    """A child's process as the supervisor finds it: gone."""

    pid = 0
    returncode = 78

    def poll(self) -> int:
        return 78


ENDED: Any = Ended()


@pytest.fixture
def supervising(tmp_path: Path) -> Any:
    made = Supervisor(Settings(data_dir=str(tmp_path), port=0), ("models",), (), (), (), lambda: None)
    yield made
    made._socket.close()
    for child in (*made._helpers, *made._workers):
        if child.ready_fd is not None:
            os.close(child.ready_fd)
    os.close(made._wake_read)
    os.close(made._wake_write)


def test_a_child_that_fails_for_hours_does_not_end_the_supervisor(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    child = supervising._helpers[0]
    child.failures = 5000
    child.process = ENDED
    supervising._workers.clear()
    supervising._look_after()
    assert child.restart_at_s == 1000.0 + RESTART_MAX_S
    assert child.failures == 5001


def test_a_machine_out_of_processes_does_not_end_the_supervisor_nor_lose_descriptors(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    worker = supervising._workers[0]
    before = len(list(Path("/proc/self/fd").iterdir()))
    supervising._start(worker)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert worker.process is None
    assert worker.restart_at_s > 1000.0


def test_a_terminal_that_cannot_be_written_does_not_end_the_supervisor(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = supervising._helpers[0]
    child.process = ENDED
    supervising._workers.clear()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        # Nothing is buffered, so nothing is left that would be tried again when the file is closed.
        with io.TextIOWrapper(io.FileIO(full, "w", closefd=False), write_through=True) as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            supervising._look_after()
            monkeypatch.undo()
    finally:
        os.close(full)
    assert child.process is None
    assert child.failures == 1


def test_a_pipe_whose_reader_stopped_does_not_stop_the_supervisor(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = supervising._helpers[0]
    child.process = ENDED
    supervising._workers.clear()
    reading, writing = full_pipe()
    looking = threading.Thread(target=supervising._look_after, daemon=True)
    with io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        looking.start()
        looking.join(10)
        stopped = looking.is_alive()
        monkeypatch.undo()
        os.close(reading)
        looking.join()
    assert not stopped
    assert child.failures == 1


def test_children_are_out_of_reach_of_the_terminals_ctrl_c(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **given: started.update(given))
    supervising._start(supervising._helpers[0])
    assert started["process_group"] == 0
    assert started["pass_fds"] == ()


class Obedient:
    """A worker's process: ready at once or never, and ended by the first signal."""

    pid = 0
    returncode: int | None = None

    def __init__(self, ready_fd: int, *, ready: bool = True) -> None:
        self.ready_fd = os.dup(ready_fd)
        if ready:
            os.write(ready_fd, b"1")

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, signum: int) -> None:
        self.returncode = 0
        os.close(self.ready_fd)

    def wait(self, seconds: float) -> None: ...


def test_a_replaced_worker_is_in_no_figure_of_what_is_open_and_its_counts_stay(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = supervising._settings.metrics_path
    figures.mkdir()
    for number in (0, 1):
        for kind in ("counter", "gauge_livesum", "gauge_livemax"):
            (figures / f"{kind}_{number}.db").touch()
    # Whoever lives holds the lock of its number.
    (figures / "process-0.lock").touch()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, pass_fds, **__: Obedient(pass_fds[1]))
    supervising._helpers.clear()
    supervising._start(supervising._workers[0])
    supervising._look_after()
    with (figures / "process-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        supervising._replace(0)
    supervisor._end(supervising._workers[0], signal.SIGTERM)
    assert {path.name for path in figures.glob("*.db")} == {
        "counter_0.db",
        "counter_1.db",
        "gauge_livemax_1.db",
        "gauge_livesum_1.db",
    }


def test_a_reload_keeps_the_worker_whose_successor_does_not_become_ready(
    supervising: Supervisor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made: list[Obedient] = []

    def started(*_: object, pass_fds: tuple[int, int], **__: object) -> Obedient:
        made.append(Obedient(pass_fds[1], ready=not made))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(supervisor, "READY_WAIT_S", 0.01)
    supervising._helpers.clear()
    (old,) = supervising._workers
    supervising._start(old)
    supervising._look_after()
    supervising._roll()
    assert supervising._workers == [old]
    first, second = made
    assert (first.returncode, second.returncode) == (None, 0)
    supervisor._end(old, signal.SIGTERM)
    said = capfd.readouterr().err
    assert "keeping the old one" in said
    assert said.endswith("elkapi: 0 of 1 workers were replaced\n")


def test_a_role_that_listens_and_does_not_accept_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        # The first ones fit the queue; the rest would wait for ever in a blocking connect.
        assert [answers(path) for _ in range(4)][-1] is False


async def test_a_worker_that_is_told_to_stop_does_not_wait_for_the_models(tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    watch = ModelsWatch(WorkerOrder(settings=Settings(data_dir=str(tmp_path)), wait_for_models=True))
    await watch.wait(stop)
    assert watch.reason() is not None


@pytest.fixture
def on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A supervisor whose only role is started on demand, and the commands it would have started."""
    made = Supervisor(Settings(data_dir=str(tmp_path), port=0), (), ("chat",), (), (), lambda: None)
    made._workers.clear()
    started: list[Any] = []

    def start(arguments: Any, **given: Any) -> Any:
        started.append((arguments, given))
        return Running()

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    yield made, started
    made._socket.close()
    for child in made._callable:
        assert child.listener is not None
        child.listener.close()
    os.close(made._wake_read)
    os.close(made._wake_write)


class Running:
    pid = 0
    returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode


def test_a_role_on_demand_is_started_by_the_first_caller_and_is_not_waited_for(on_demand: Any, tmp_path: Path) -> None:
    supervising, started = on_demand
    supervising._look_after()
    assert started == []
    assert supervising._announced
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._look_after()
        supervising._look_after()
    ((arguments, given),) = started
    (child,) = supervising._callable
    assert arguments[-2:] == ["chat", str(child.listener.fileno())]
    assert given["pass_fds"] == (child.listener.fileno(),)


def test_a_role_on_demand_that_ends_by_itself_waits_for_the_next_caller(on_demand: Any, tmp_path: Path) -> None:
    supervising, started = on_demand
    (child,) = supervising._callable
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._look_after()
        child.listener.accept()[0].close()
    child.process.returncode = 0
    supervising._look_after()
    assert child.process is None
    assert (child.failures, len(started)) == (0, 1)
    supervising._look_after()
    assert len(started) == 1
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._look_after()
    assert len(started) == 2


def test_who_waits_for_a_role_on_demand_that_dies_is_turned_away_at_once(on_demand: Any, tmp_path: Path) -> None:
    supervising, started = on_demand
    (child,) = supervising._callable
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._look_after()
        child.process.returncode = -11
        supervising._look_after()
        assert caller.recv(1) == b""
    assert (child.failures, len(started)) == (1, 1)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._look_after()
        # It rests after a failure, and nobody spins meanwhile.
        assert len(started) == 1
        assert child.restart_at_s > 1000.0


@pytest.mark.parametrize(
    ("role", "process", "ready", "rests", "quiet"),
    [
        ("worker", True, True, False, True),
        ("worker", True, False, False, False),
        ("worker", False, True, True, False),
        ("models", True, True, False, True),
        ("models", True, False, False, False),
        ("models", False, True, True, False),
        ("chat", False, False, False, True),
        ("chat", True, False, False, True),
        ("chat", False, True, True, False),
    ],
)
def test_a_supervisor_looks_rarely_unless_a_child_is_about_to_be_ready_or_started(
    on_demand: Any, role: str, process: bool, ready: bool, rests: bool, quiet: bool
) -> None:
    supervising, _ = on_demand
    calm = Child("control")
    calm.process, calm.ready = cast(Any, Running()), True
    child = supervising._callable[0] if role == "chat" else Child(role)
    child.process, child.ready = Running() if process else None, ready
    child.restart_at_s = time.monotonic() + rests
    supervising._helpers += [calm] if role != "models" else [calm, child]
    supervising._workers += [child] if role == "worker" else []
    assert supervising._is_quiet() == quiet


def test_a_long_pause_of_the_supervisor_ends_with_a_signal_or_a_caller(on_demand: Any, tmp_path: Path) -> None:
    supervising, _ = on_demand
    os.write(supervising._wake_write, b"\0")  # As Python does for each signal.
    supervising._wait(3600.0)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        supervising._wait(3600.0)


def test_a_machine_out_of_descriptors_does_not_end_the_supervisor(
    on_demand: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supervising, started = on_demand
    worker, helper = Child("worker"), Child("models")
    process: Any = Running()
    helper.process = process
    dead = Child("control")
    dead.process = ENDED
    supervising._workers.append(worker)
    supervising._helpers += [helper, dead]
    supervising._settings.metrics_path.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "chat.sock"))
        # What is open stays open, and nothing more can be.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            supervising._look_after()
            supervising._wait(0.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(started) == 1
    assert not helper.ready
    assert (worker.process, dead.process) == (None, None)
    assert min(worker.restart_at_s, dead.restart_at_s) > 1000.0
    assert "worker cannot be started: " in capfd.readouterr().err
