"""Fixtures of the suites that run once per database: an opened, migrated installation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=str(tmp_path / "data"), database_url=database_url, snapshot_poll_s=0.02)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    opened = open_installation(settings)
    yield opened
    opened.database.close()


@pytest.fixture
def database(installation: Installation) -> Database:
    return installation.database
