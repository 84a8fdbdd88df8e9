"""kill -9 of every process, at random and at named crash points, under load; then the books and the upstream's bill."""

from __future__ import annotations

import os

import pytest

from tests.chaos.driver import SETTINGS, assert_books, chaos, printed, seed_of_the_day
from tests.cluster import cluster, upstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

# `make test` runs a few rounds, `make chaos` fifty of each kind.
DEFAULT_ROUNDS = {("sqlite", 4): 3, ("sqlite", 1): 1, ("postgresql", 4): 2}


async def test_g08_every_bill_line_is_explained_after_kill_9_at_any_moment(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run_chaos(database_url, 4, capsys)


async def test_g08_every_bill_line_is_explained_with_one_worker_that_writes_its_own_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await run_chaos("sqlite", 1, capsys)


async def run_chaos(database_url: str, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounds under load, then the books; prints the run in figures."""
    seed = seed_of_the_day()
    default = DEFAULT_ROUNDS[database_url.partition(":")[0], workers]
    rounds = int(os.environ.get("ELKAPI_CHAOS_ROUNDS") or default)
    history: list[str] = []
    with cluster(database_url, **(SETTINGS | {"workers": workers})) as gate, upstream(gate.folder) as sandbox:
        try:
            async with chaos(gate, sandbox, seed) as run:
                history = run.history
                for _ in range(rounds):
                    await run.round()
            await run.settled()
            assert gate.stop() == 0
            found = assert_books(gate, sandbox, run.load)
        except BaseException:
            # With the report: what is printed past pytest is lost in a process of several.
            print(f"ELKAPI_CHAOS_SEED={seed}, failed after {history}\n{gate.log_tail()}")
            raise
        with capsys.disabled():
            print(f"\n{gate.admin.database.dialect}, {workers} workers: {printed(found, run, seed)}")
        assert run.load.successes > 0
        assert found.charged_nano > 0
