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
