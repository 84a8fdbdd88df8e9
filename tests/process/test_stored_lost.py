"""A background response whose worker is killed: failed for whoever polls it, its hold given back, nothing charged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.cluster import set_price
from tests.process.conftest import Stage, running_stage
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MODEL = "gpt-4o"


@pytest.fixture
def pair() -> Iterator[Stage]:
    """A gateway of two workers and a ledger process."""
    with running_stage(workers=2) as made:
        yield made


async def test_a_killed_worker_leaves_its_background_response_failed_and_free(pair: Stage) -> None:
    stage, gate = pair, pair.gate
    gate.channel("text", stage.sandbox.base_url, (MODEL,))
    set_price(gate.admin, MODEL, input_per_1m="1", output_per_1m="1")
    key = gate.key("lost", 10**9)
    headers = {"authorization": f"Bearer {key}"}
    # A connection a call: every worker is asked now and then.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(gate.origin, connector=connector, headers=headers) as http:

        async def create() -> dict[str, Any]:
            body = {"model": MODEL, "input": "[sandbox: delay=60s] slow", "background": True}
            async with http.post("/v1/responses", json=body) as reply:
                return dict(await reply.json())

        made: dict[str, Any] = {}
        while made.get("status") != "queued":
            made = await create()  # the workers may not have seen the channel yet

        async def status() -> str:
            async with http.get(f"/v1/responses/{made['id']}") as reply:
                assert reply.status in (200, 502, 503), await reply.text()
                return str((await reply.json()).get("status"))

        async def is_in_progress() -> bool:
            return await status() == "in_progress"

        await until(is_in_progress)
        assert {await status() for _ in range(8)} == {"in_progress"}
        assert gate.sql("select sum(held_nano) from accounts where kind = 'customer'")[0][0] > 0
        for worker in gate.children("worker"):
            gate.kill(worker)
        await until(gate.is_complete, 60, "the workers are back")

        def is_free() -> bool:
            held, posted = gate.sql("select sum(held_nano), sum(posted_nano) from accounts where kind = 'customer'")[0]
            return (held, posted) == (0, 10**9)

        await until(is_free, 30, "the hold is given back")
        async with http.get(f"/v1/responses/{made['id']}") as reply:
            found = await reply.json()
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert gate.check().ok
