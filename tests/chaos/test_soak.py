"""Calls and streams whose callers may leave: memory and open files level, books in order at every moment."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict

import aiohttp
import pytest

from elkapi.admin import channels
from elkapi.admin.channels import ChannelFields
from elkapi.money import format_usd
from tests.chaos.driver import CALLERS, SETTINGS, assert_books, chaos, seed_of_the_day
from tests.cluster import Cluster, Upstream, cluster, open_files, rss_bytes, set_price, upstream
from tests.text_calls import CLIENTS, ask, has_error, is_whole
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

# `make test` soaks a minute in all, a third each for calls on either database and for streams; `make soak` an hour.
DEFAULT_SOAK_S = 60
SOAKS = 3
SAMPLE_S = 0.5
CHECK_EVERY_SAMPLES = 8
# The first third warms caches, pools and arenas; what the line fitted through the second half rises by is the leak.
# The bound is the same for every length, so a longer soak is a stricter one: over an hour it is 16 MiB in 30 minutes.
RSS_GROWTH_MAX_BYTES = 16 * 1024 * 1024
# Connections come and go between callers, workers and the upstream; one leaked by each call would be thousands.
FILES_GROWTH_MAX = 2 * CALLERS

Samples = dict[tuple[str, int], list[tuple[float, int, int]]]


async def test_g11_g76_a_soak_leaves_memory_level_and_the_books_in_order(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = seed_of_the_day()
    seconds = soak_s()
    with cluster(database_url, **SETTINGS) as gate, upstream(gate.folder) as sandbox:
        async with chaos(gate, sandbox, seed, local_share=0.05) as run:
            samples = await sampled(gate, seconds)
            run.load.raise_failures()
        await until(lambda: gate.check().open_holds == 0, 30, "no hold is open")
        sampled_pids = {pid for _, pid in samples}
        assert sampled_pids == {gate.pid, *gate.children()}, f"a process was replaced:\n{gate.log_tail()}"
        # The shadow counters are the cached balances and held sums beside the entries: a drift is a problem here.
        found = assert_books(gate, sandbox, run.load)
        assert gate.stop() == 0
    with capsys.disabled():
        print(f"\n{gate.admin.database.dialect}: seed {seed}, {seconds:g} s: {run.load.summary()}")
        print(f"bill {format_usd(found.bill_nano)} USD explained; rise over the second half, RSS and open files:")
        print_rises(samples)
    assert not run.load.broken, run.load.summary()
    assert run.load.left > 0
    assert_level(samples)


async def test_g76_a_soak_of_streams_that_are_left_and_broken_leaves_memory_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four client dialects on three upstream dialects, a quarter of the streams left and some cut by the upstream."""
    seed = seed_of_the_day()
    with cluster(**SETTINGS | {"workers": 1}) as gate, upstream(gate.folder) as sandbox:
        key = prepared(gate, sandbox)
        gate.start()
        await gate.ready()
        streams = Streams(gate.origin, key, seed)
        playing = [asyncio.create_task(streams.play()) for _ in range(CALLERS)]
        samples = await sampled(gate, soak_s())
        streams.stopping = True
        await asyncio.gather(*playing)
        await until(lambda: gate.check().open_holds == 0, 30, "no hold is open")
        report = gate.check()
        assert report.ok, "\n".join(report.lines())
        assert {pid for _, pid in samples} == {gate.pid, *gate.children()}, (
            f"a process was replaced:\n{gate.log_tail()}"
        )
        assert gate.stop() == 0
    with capsys.disabled():
        print(f"\nstreams: seed {seed}, {soak_s():g} s: {dict(streams.ends)}; rise over the second half:")
        print_rises(samples)
    assert not streams.wrong, streams.wrong[:3]
    assert min(streams.ends["whole"], streams.ends["left"], streams.ends["broken, and said so"]) > 0, streams.ends
    assert_level(samples)


# Our model -> (family, its name there, the key that the sandbox takes).
STREAMED = {
    "soak-openai": ("openai", "gpt-4o", "sk-upstream"),
    "soak-anthropic": ("anthropic", "claude-sonnet-4-5", "sk-ant-upstream"),
    "soak-gemini": ("gemini", "gemini-2.5-pro", "AIzaUpstream"),
}
LEAVE_SHARE, FAULT_SHARE = 0.25, 0.1
STREAM_FAULTS = ("cut-after=4", "reset-after=4", "error-after=4")


def prepared(gate: Cluster, sandbox: Upstream) -> str:
    """A key that may stream from every family."""
    for model, (family, theirs, secret) in STREAMED.items():
        fields = ChannelFields(
            name=model,
            family=family,
            base_url=sandbox.base_url,
            models=(model,),
            model_map={model: theirs},
            allow_private=True,
        )
        channels.add_channel(gate.admin, fields, [secret])
        set_price(gate.admin, model, input_per_1m="1", output_per_1m="2")
    return gate.key("soak", 10**12)


class Streams:
    """Callers of streams; `ends` counts what became of them, `wrong` has those that neither ended nor said why."""

    def __init__(self, origin: str, key: str, seed: int) -> None:
        self._origin = origin
        self._key = key
        self._random = random.Random(seed)
        self.stopping = False
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def play(self) -> None:
        """One caller, one stream after the other."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            while not self.stopping:
                await self._one(http)

    async def _one(self, http: aiohttp.ClientSession) -> None:
        draw = self._random
        client = draw.choice(CLIENTS)
        said = " ".join(["word"] * draw.randint(20, 400))
        fault = f",{draw.choice(STREAM_FAULTS)}" if draw.random() < FAULT_SHARE else ""
        prompt = f"[[say: {said}]] [sandbox:pace=5ms{fault}]"
        asked = ask(client, draw.choice(list(STREAMED)), prompt, stream=True, max_tokens=1000)
        headers = {"authorization": f"Bearer {self._key}", **asked.headers}
        leaves_after = draw.randint(1, 12) if draw.random() < LEAVE_SHARE else None
        async with http.post(self._origin + asked.path, json=asked.body, headers=headers) as reply:
            got = b""
            async for piece in reply.content.iter_any():
                got += piece
                if leaves_after is not None and got.count(b"\n\n") >= leaves_after:
                    reply.close()
                    self.ends["left"] += 1
                    return
        text = got.decode()
        if reply.status != 200 or has_error(client, text):
            self.ends["broken, and said so" if reply.status == 200 else f"status {reply.status}"] += 1
        elif is_whole(client, text):
            self.ends["whole"] += 1
        else:
            self.wrong.append(f"{client}: {text[-300:]}")


def soak_s() -> float:
    """How long one of the soaks runs."""
    return float(os.environ.get("ELKAPI_SOAK_SECONDS") or DEFAULT_SOAK_S) / SOAKS


def print_rises(samples: Samples) -> None:
    for (role, pid), rows in sorted(samples.items()):
        rss, files = rises(rows)
        print(f"  {role:8} {pid}: {rows[-1][1] / 2**20:6.1f} MiB {rss / 2**20:+6.2f} MiB, {files:+5.1f} files")


def assert_level(samples: Samples) -> None:
    for (role, pid), rows in samples.items():
        rss, files = rises(rows)
        assert rss < RSS_GROWTH_MAX_BYTES, f"{role} {pid} grew by {rss / 2**20:.1f} MiB over the second half"
        assert files < FILES_GROWTH_MAX, f"{role} {pid} holds {files:.0f} more files than half a soak before"


async def sampled(gate: Cluster, seconds: float) -> Samples:
    """(seconds, resident bytes, open files) of every process after the warm-up; the books are checked meanwhile."""
    samples: Samples = defaultdict(list)
    started_s = time.monotonic()
    count = 0
    while (at_s := time.monotonic() - started_s) < seconds:
        if at_s >= seconds / 3:
            for pid, role in gate.children().items():
                samples[role, pid].append((at_s, rss_bytes(pid), open_files(pid)))
            samples["supervisor", gate.pid].append((at_s, rss_bytes(gate.pid), open_files(gate.pid)))
        count += 1
        if count % CHECK_EVERY_SAMPLES == 0:
            report = await asyncio.to_thread(gate.check)
            assert report.ok, "\n".join(report.lines())
        await asyncio.sleep(SAMPLE_S)
    return samples


def rises(rows: list[tuple[float, int, int]]) -> tuple[float, float]:
    """What straight lines through the later samples rise by: bytes and files. The sampled part is the last two thirds,
    so its last three quarters are the second half of the soak."""
    rows = rows[len(rows) // 4 :]
    span_s = rows[-1][0] - rows[0][0]
    times = [row[0] for row in rows]
    return slope(times, [row[1] for row in rows]) * span_s, slope(times, [row[2] for row in rows]) * span_s


def slope(xs: list[float], ys: list[int]) -> float:
    """Least squares."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def test_a_slope_is_seen() -> None:
    assert slope([0.0, 1.0, 2.0], [5, 8, 11]) == pytest.approx(3)
