"""Fixtures of the suites that run once per database: an opened, migrated installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from elkapi.admin.context import Admin
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    patient: Any = {"hold_wait_s": 30.0, "settle_wait_s": 30.0}  # A machine that stands still refuses no call.
    return Settings(data_dir=str(tmp_path / "data"), database_url=database_url, snapshot_poll_s=0.02, **patient)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    opened = open_installation(settings)
    yield opened
    opened.database.close()


@pytest.fixture
def database(installation: Installation) -> Database:
    return installation.database


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    with Admin.open(settings, "test") as opened:
        yield opened


@contextmanager
def server_commands(database: Database) -> Iterator[tuple[Any, str]]:
    """A connection to another database of the same PostgreSQL server, and the name of this one."""
    with database.read() as connection:
        url = connection.engine.url
    other = Database.open(url.set(database="postgres").render_as_string(hide_password=False))
    raw = other.raw_writer()
    try:
        yield raw, str(url.database)
    finally:
        raw.close()
        other.close()


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """All its connections are lost and come back where nothing can be written, as on a server that became a standby."""
    with server_commands(database) as (admin, name):
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
