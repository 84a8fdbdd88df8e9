"""Workers die in the middle of message batches: every line ends, none is asked or charged twice, the books agree."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from elkapi.ids import parse_request_id
from elkapi.relay.batches.line import call_id
from elkapi.relay.batches.shape import parse_batch_id
from elkapi.sandbox.providers.openai_models import rate_of
from tests.chaos.driver import assert_bill_is_explained
from tests.cluster import Cluster, Upstream, cluster, set_price, upstream, usd
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODEL = "gpt-4o"
LINES = 16
SETTINGS: dict[str, Any] = {
    "workers": 2,
    "heartbeat_s": 0.3,
    "heartbeat_lost_s": 5,
    "batch_parallel_max": 3,
    "batch_key_parallel_max": 3,
}
WITHIN_S = 60.0
# Leased and nothing asked; held and not sent; charged and not yet written down; done and not yet written down.
POINTS = ("batches.lease.after", "relay.hold.after", "relay.settle.after", "batches.end.before")


class Caller:
    """One key's batches."""

    def __init__(self, gate: Cluster, http: httpx.AsyncClient) -> None:
        self.gate = gate
        self.http = http

    async def ask(self, method: str, path: str = "", **more: Any) -> httpx.Response:
        """A call that is made again while a worker that dies takes its connection along."""
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            try:
                return await self.http.request(method, f"/v1/messages/batches{path}", **more)
            except httpx.TransportError:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.05)

    async def make(self, word: str, delay: str) -> str:
        lines = [
            {
                "custom_id": str(n),
                "params": {
                    "model": MODEL,
                    "max_tokens": 30,
                    "messages": [{"role": "user", "content": f"[[say: {word} {n}]] [sandbox: delay={delay}]"}],
                },
            }
            for n in range(LINES)
        ]
        # The key makes a repeat of this very call harmless.
        reply = await self.ask("POST", json={"requests": lines}, headers={"idempotency-key": word})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    async def ended(self, batch_id: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            reply = await self.ask("GET", f"/{batch_id}")
            if reply.status_code == 200 and reply.json()["processing_status"] == "ended":
                return dict(reply.json())
            assert time.monotonic() < deadline_s, reply.text
            await asyncio.sleep(0.05)

    async def results(self, batch_id: str) -> dict[str, Any]:
        reply = await self.ask("GET", f"/{batch_id}/results")
        found = [json.loads(line) for line in reply.text.splitlines()]
        assert len(found) == LINES
        return {line["custom_id"]: line["result"] for line in found}


@pytest.fixture
async def stage() -> AsyncIterator[tuple[Cluster, Upstream]]:
    with cluster(**SETTINGS) as gate, upstream(gate.folder) as sandbox:
        rate = rate_of(MODEL)
        prices = {"input_per_1m": usd(rate.input * 10**6), "output_per_1m": usd(rate.output * 10**6)}
        set_price(gate.admin, MODEL, **prices, cached_per_1m=usd(rate.cached * 10**6))
        gate.channel("upstream", sandbox.base_url, (MODEL,))
        gate.start()
        await gate.ready()
        try:
            yield gate, sandbox
        finally:
            print(gate.log_tail())


async def test_g30_g31_lines_of_killed_workers_end_once_and_are_charged_once(
    stage: tuple[Cluster, Upstream], capsys: pytest.CaptureFixture[str]
) -> None:
    gate, sandbox = stage
    headers = {"x-api-key": gate.key("batches", 10**9)}
    seen: dict[str, Counter[str]] = {}
    async with httpx.AsyncClient(base_url=gate.origin, headers=headers, timeout=20) as http:
        caller = Caller(gate, http)
        for point in ("kill -9", *POINTS):
            if point in POINTS:
                await arm(gate, point)
            workers = set(gate.children("worker"))
            batch_id = await caller.make(point, "100ms" if point in POINTS else "1s")
            if point not in POINTS:
                await until(lambda: under_way(gate) >= 4, WITHIN_S, "lines are under way")
                for worker in workers:
                    gate.kill(worker)
            batch = await caller.ended(batch_id)
            assert workers - set(gate.children("worker")), f"nobody died at {point}"
            seen[point] = await judged(caller, sandbox, batch)
            await until(gate.is_complete, WITHIN_S, f"whole again after {point}")
    with capsys.disabled():
        print("\n" + ", ".join(f"{point}: {dict(counts)}" for point, counts in seen.items()))
    # What was charged before the worker died was delivered (`judged`); the other lines that it had under way are not
    # known, and were not asked again.
    others = SETTINGS["batch_parallel_max"] - 1
    assert seen["relay.settle.after"]["succeeded"] >= LINES - others
    assert seen["batches.end.before"]["succeeded"] >= LINES - others
    assert seen["batches.lease.after"] == {"succeeded": LINES}
    assert seen["relay.hold.after"]["errored"] >= 1
    assert seen["kill -9"]["errored"] >= 1
    await until(lambda: gate.check().open_holds == 0, WITHIN_S, "no hold is open")
    assert gate.sql("select count(*) from alerts")[0][0] == 0
    assert_bill_is_explained(gate, sandbox)


def under_way(gate: Cluster) -> int:
    """Lines that were handed to the upstream, or nearly so, and have no answer."""
    ((count,),) = gate.sql("select count(*) from idempotency where state = 'open'")
    return int(count)


async def arm(gate: Cluster, point: str) -> None:
    """A worker that will kill itself there; its count lets a few lines pass before."""
    gate.crash_order.write_text(f"{point}:{1 if point.startswith('batches') else 3}", "ascii")
    gate.kill(min(gate.children("worker")))
    await until(lambda: not gate.crash_order.exists(), WITHIN_S, "the order to crash was taken")
    await until(gate.is_complete, WITHIN_S, "both workers serve")


async def judged(caller: Caller, sandbox: Upstream, batch: dict[str, Any]) -> Counter[str]:
    """How the lines of a batch ended, once each of them is seen to be in order."""
    results = await caller.results(batch["id"])
    counts = Counter(result["type"] for result in results.values())
    assert counts == {name: count for name, count in batch["request_counts"].items() if count}
    charged = charges(caller.gate, batch["id"])
    for name, result in results.items():
        if result["type"] == "succeeded":
            assert result["message"]["content"][0]["text"].endswith(f" {name}")
            assert charged[int(name)] == 1
        else:
            assert "outcome" in result["error"]["error"]["message"]
            assert charged[int(name)] == 0
    batch_id = parse_batch_id(batch["id"])
    assert batch_id is not None
    own = {call_id(batch_id, number, 0)[6:] for number in range(LINES)}
    asked: Counter[bytes] = Counter()
    for line in sandbox.bill():
        request_id = parse_request_id(line["client_request_id"])
        assert request_id is not None
        if request_id[6:] in own:
            asked[request_id[6:]] += 1
    assert max(asked.values()) == 1
    assert len(asked) >= counts["succeeded"]
    return counts


def charges(gate: Cluster, batch_id: str) -> Counter[int]:
    """How many charges each line of a batch has."""
    found: Counter[int] = Counter()
    for (record,) in gate.sql("select record from requests where charge_nano > 0"):
        line = json.loads(bytes(record))["line"]
        if line["batch"] == batch_id:
            found[line["number"]] += 1
    return found
