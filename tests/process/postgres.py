"""A PostgreSQL server of one test's own, which may be stopped and started again on the same port and data."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType

import psycopg

from tests.conftest import _missing, _postgres_answers, _postgres_bin, _stop, _unprivileged, _wait_until
from tests.live import free_port


class Postgres:
    """`url` names its database; a context manager that ends with the server stopped and its data removed."""

    def __enter__(self) -> Postgres:
        binaries = _postgres_bin()
        if binaries is None:
            _missing("postgres", "Debian: apt-get install postgresql")
        self._binaries, self._user, self._port = binaries, _unprivileged(), free_port()
        self._home = Path(subprocess.check_output(["mktemp", "-d", "/tmp/elkapi-pg.XXXXXX"], text=True).strip())
        if self._user is not None:
            shutil.chown(self._home, self._user)
        initdb: list[str | Path] = [
            binaries / "initdb",
            "--pgdata",
            self._home / "data",
            "--auth",
            "trust",
            "--username",
            "elkapi",
        ]
        subprocess.run([*initdb, "--no-sync"], user=self._user, cwd=self._home, check=True, capture_output=True)
        self._base = f"postgresql://elkapi@127.0.0.1:{self._port}"
        self.url = f"{self._base}/outage"
        self.start()
        with psycopg.connect(f"{self._base}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE outage")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        flags = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self._port}", "-c", "max_connections=200"]
        flags += ["-c", f"unix_socket_directories={self._home}", "-c", "fsync=off"]
        log = self._home / "server.log"
        with log.open("ab") as sink:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._home / "data", *flags],
                user=self._user,
                cwd=self._home,
                stdout=sink,
                stderr=sink,
            )
        _wait_until(lambda: _postgres_answers(self._base), self._server, log)

    def stop(self) -> None:
        """PostgreSQL's fast shutdown: its clients' connections are ended."""
        if self._server.poll() is None:
            _stop(self._server, signal.SIGINT)
