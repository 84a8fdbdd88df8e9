"""The database goes away and comes back: paid calls are told to try again, and no key is doubted."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.driver import assert_bill_is_explained
from tests.cluster import PER_CALL, PER_CALL_WORDS, Answer, Client, client, words
from tests.process.conftest import Stage, running_stage
from tests.process.postgres import Postgres
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BACK_S = 60.0
CALLS = 12
IMPATIENT: dict[str, Any] = {"hold_wait_s": 2, "settle_wait_s": 2}


async def paid(caller: Client, key: str) -> Answer:
    return await caller.embed(key, PER_CALL, words(PER_CALL_WORDS, "outage"))


async def serves(caller: Client, key: str) -> None:
    """Wait until CALLS in a row are answered: one of a machine that stood still may be refused."""

    async def all_are() -> bool:
        return {(await paid(caller, key)).status for _ in range(CALLS)} == {200}

    await until(all_are, BACK_S)


async def refused_with_503(caller: Client, keys: list[str]) -> None:
    answers = await asyncio.gather(*(paid(caller, key) for key in keys * CALLS))
    assert {answer.status for answer in answers} == {503}
    for answer in answers:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.code != "invalid_api_key"


async def says(caller: Client, status: int, words: str) -> None:
    """Wait until `/readyz` is that."""
    deadline_s = time.monotonic() + BACK_S
    while True:
        async with caller.http.get(f"{caller.origin}/readyz") as reply:
            said = reply.status, await reply.text()
        if said == (status, words):
            return
        assert time.monotonic() < deadline_s, said
        await asyncio.sleep(0.2)


async def serving_again(stage: Stage, keys: list[str]) -> None:
    """Every worker answers again, by itself, and the ledger is consistent."""
    deadline_s = time.monotonic() + BACK_S
    async with client(stage.gate.origin, reuse=False) as caller:
        while True:
            answers = await asyncio.gather(*(paid(caller, key) for key in keys * CALLS))
            assert {answer.status for answer in answers} <= {200, 503}
            if all(answer.status == 200 for answer in answers):
                break
            assert time.monotonic() < deadline_s, "it did not recover"
            await asyncio.sleep(0.2)
        await says(caller, 200, "ready\n")
    while stage.gate.check().open_holds:
        assert time.monotonic() < deadline_s, "holds stay open"
        await asyncio.sleep(0.2)
    assert_bill_is_explained(stage.gate, stage.sandbox)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_stage(postgres: Postgres) -> Iterator[Stage]:
    with running_stage(postgres.url, **IMPATIENT) as made:
        yield made


@pytest.fixture
def stage() -> Iterator[Stage]:
    with running_stage(**IMPATIENT) as made:
        yield made


@pytest.mark.postgres
async def test_g78_a_stopped_postgresql_is_503_with_retry_after_and_recovers_by_itself(
    postgres: Postgres, postgres_stage: Stage
) -> None:
    stage = postgres_stage
    known, unseen = stage.gate.key("known", 10**9), stage.gate.key("unseen", 10**9)
    children = stage.gate.children("worker")
    async with client(stage.gate.origin, reuse=False) as caller:
        await serves(caller, known)
        postgres.stop()
        # Also a valid key that no worker has met: it cannot be looked up, which says nothing against it.
        await refused_with_503(caller, [known, unseen])
        await says(caller, 503, "the database cannot be written\n")
    postgres.start()
    await serving_again(stage, [known, unseen])
    assert stage.gate.children("worker") == children


async def test_g78_a_locked_sqlite_file_is_503_with_retry_after_and_recovers_by_itself(stage: Stage) -> None:
    known = stage.gate.key("known", 10**9)
    path = Path(stage.gate.settings.effective_database_url.removeprefix("sqlite:///"))
    async with client(stage.gate.origin, reuse=False) as caller:
        await serves(caller, known)
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            await refused_with_503(caller, [known])
            await says(caller, 503, "the database cannot be written\n")
            other.execute("ROLLBACK")
        finally:
            other.close()
    await serving_again(stage, [known])
