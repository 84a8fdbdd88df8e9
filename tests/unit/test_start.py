"""A start that does not come to its end: it stops when it is told to, and the first key is shown all the same."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from elkapi import app
from elkapi.app import StartError, prepare
from elkapi.errors import Unavailable
from elkapi.roles import BundledModel, Preparation, Role, WorkerOrder
from elkapi.settings import Settings
from elkapi.storage import dialect as sql
from elkapi.supervisor import ORDER_VARIABLE, Supervisor


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def new_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.setattr(app, "_prepared", lambda _settings: Preparation((), (), "sk-first"))
    return Settings(data_dir=str(tmp_path / "data"), port=0)


def test_the_first_key_is_shown_where_the_port_is_taken(
    new_installation: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Settings(data_dir=new_installation.data_dir, port=other.getsockname()[1])
        with pytest.raises(StartError, match="cannot listen on"):
            app.serve(taken)
    assert "sk-first" in capfd.readouterr().out


def test_the_first_key_is_shown_where_the_start_is_stopped(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(supervisor: Supervisor) -> int:
        supervisor._stop_all()
        return 0

    monkeypatch.setattr("elkapi.supervisor.Supervisor.run", run)
    assert app.serve(new_installation) == 0
    assert "sk-first" in capfd.readouterr().out


def unavailable() -> Exception:
    error = Unavailable("The database cannot be reached at the moment; please try again.")
    error.add_note("the database cannot be used: connection refused")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (unavailable(), "the database cannot be used: connection refused"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/d/new.1"), "[Errno 30] Read-only file system: '/d/new.1'"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
    ],
)
def test_a_role_whose_database_or_disk_is_not_to_be_had_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def run(*_: object) -> None:
        raise error

    order = WorkerOrder(settings=Settings(data_dir=str(tmp_path)))
    monkeypatch.setattr(app, "run_role", run)
    monkeypatch.setattr(app, "prepare", run)
    for role in ("control", "prepare"):
        monkeypatch.setenv(ORDER_VARIABLE, msgspec.json.encode(order).decode())
        assert app.main([role]) == 1
        assert capfd.readouterr().err == f"elkapi: {role} cannot start: {said}\n"


def test_the_first_key_is_shown_once_where_all_is_ready(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(supervisor: Supervisor) -> int:
        supervisor._announce()
        supervisor._stop_all()
        return 0

    monkeypatch.setattr("elkapi.supervisor.Supervisor.run", run)
    assert app.serve(new_installation) == 0
    said = capfd.readouterr().out
    assert said.count("sk-first") == 1
    assert "elkapi is ready on" in said


def test_the_first_key_is_shown_by_a_role_that_is_started_alone(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "run_role", lambda *_: None)
    assert app.serve(new_installation, "control") == 0
    assert "sk-first" in capfd.readouterr().out


@pytest.mark.parametrize("role", ["models", "chat", "control", "sandbox"])
def test_a_role_is_not_started_beside_one_that_does_not_listen_yet_or_any_more(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    """It would have its socket's name taken away by the other one's end, and serve nobody."""
    ran = []

    def run(*_: object) -> None:
        ran.append(role)
        if len(ran) == 1:
            with pytest.raises(StartError, match=f"{role} is already running"):
                app.serve(new_installation, role)

    monkeypatch.setattr(app, "run_role", run)
    assert app.serve(new_installation, role) == 0
    assert app.serve(new_installation, role) == 0
    assert len(ran) == 2


@pytest.mark.parametrize("role", ["models", "chat", "control", "sandbox"])
def test_a_whole_gateway_and_a_role_alone_are_not_started_beside_each_other(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    """Each would take the other's socket over, also where both start at once and nobody listens yet."""
    models = (BundledModel("m"), BundledModel("c", role="chat"))
    monkeypatch.setattr(app, "_prepared", lambda _settings: Preparation(models, ()))
    monkeypatch.setattr(app, "run_role", lambda *_: None)

    def beside(supervisor: Supervisor) -> int:
        try:
            with pytest.raises(StartError, match=f"{role} is already running"):
                app.serve(new_installation, role)
        finally:
            supervisor._stop_all()
        return 0

    monkeypatch.setattr("elkapi.supervisor.Supervisor.run", beside)
    assert app.serve(new_installation) == 0

    def alone(*_: object) -> None:
        with pytest.raises(StartError, match=f"{role} is already running"):
            app.serve(new_installation)

    monkeypatch.setattr(app, "run_role", alone)
    assert app.serve(new_installation, role) == 0


def test_what_a_worker_that_is_started_alone_fails_by_is_not_taken_for_its_port(
    new_installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(role: str, order: WorkerOrder, listening: socket.socket) -> None:
        listening.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(app, "run_role", without_room)
    with pytest.raises(OSError, match="No space left on device"):
        app.serve(new_installation, "worker")


def test_a_database_that_cannot_be_written_at_the_start_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_MS", 1)
    settings = Settings(data_dir=str(tmp_path))
    assert prepare(settings).problem is None
    other = sqlite3.connect(tmp_path / "elkapi.sqlite3", isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        assert prepare(settings).problem == "the database cannot be used: database is locked"
