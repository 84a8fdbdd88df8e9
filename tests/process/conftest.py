"""A running gateway of four workers with its upstream: one for a module on each database, or one for a single test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.cluster import PER_CALL, PER_TOKEN, PER_TOKEN_DEAR, Cluster, Upstream, cluster, upstream

WORKERS = 4
SETTINGS: dict[str, Any] = {
    "workers": WORKERS,
    "heartbeat_s": 0.3,
    "heartbeat_lost_s": 5,
    "drain_s": 20,
    "header_s": 20,
    # A machine that stands still for two seconds refuses no call.
    "hold_wait_s": 20,
    "settle_wait_s": 20,
}


class Stage:
    """A gateway that serves, and the upstream behind its one channel."""

    def __init__(self, gate: Cluster, sandbox: Upstream) -> None:
        self.gate = gate
        self.sandbox = sandbox


@contextmanager
def running_stage(database_url: str = "", **settings: Any) -> Iterator[Stage]:
    """Prices are the upstream's own, so charges and the bill agree line by line."""
    with cluster(database_url, **(SETTINGS | settings)) as gate, upstream(gate.folder) as sandbox:
        gate.sandbox_prices()
        gate.channel("upstream", sandbox.base_url, (PER_TOKEN, PER_TOKEN_DEAR, PER_CALL))
        gate.start()
        asyncio.run(gate.ready())
        try:
            yield Stage(gate, sandbox)
        finally:
            # pytest shows it when the test failed.
            print(gate.log_tail())


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared_stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """For tests that leave it as they found it; on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        with running_stage() as made:
            yield made
        return
    server = request.getfixturevalue("postgres_server")
    name = f"shared_{os.getpid()}_{request.module.__name__.rpartition('.')[2]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    with running_stage(f"{server}/{name}") as made:
        yield made


@pytest.fixture
def stage() -> Iterator[Stage]:
    """For one test alone, on SQLite: its processes may be ended."""
    with running_stage() as made:
        yield made
