"""A sandbox and a gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from elkapi.sandbox.server import Running, running
from tests.gateway import Gateway, gateway


@pytest.fixture
def sandbox() -> Iterator[Running]:
    with running() as served:
        yield served


@pytest.fixture
async def gate(tmp_path: Path, database_url: str) -> AsyncIterator[Gateway]:
    """On SQLite and on PostgreSQL: the same bodies."""
    async with gateway(tmp_path, database_url=database_url) as served:
        yield served


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Gateway]:
    """On SQLite alone, for what the database has no part in (the cache's own files, a text that is looked at, ...) or
    where suites of its own run on both, as those of money."""
    async with gateway(tmp_path) as served:
        yield served
