"""Steady mixed load with callers that leave: memory and file descriptors level, books in order at every moment."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict

import pytest

from elkapi.money import format_usd
from tests.chaos.driver import CALLERS, SETTINGS, assert_books, chaos, seed_of_the_day
from tests.cluster import Cluster, cluster, eventually, open_files, rss_bytes, upstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

# `make test` soaks a minute in all, half of it on each database; `make soak` an hour.
DEFAULT_SOAK_S = 60
DATABASES = 2
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
    seconds = float(os.environ.get("ELKAPI_SOAK_SECONDS") or DEFAULT_SOAK_S) / DATABASES
    with cluster(database_url, **SETTINGS) as gate, upstream(gate.folder) as sandbox:
        async with chaos(gate, sandbox, seed, local_share=0.05) as run:
            samples = await sampled(gate, seconds)
            run.load.raise_failures()
        await eventually("no hold is open", lambda: gate.check().open_holds == 0, 30)
        sampled_pids = {pid for _, pid in samples}
        assert sampled_pids == {gate.pid, *gate.children()}, f"a process was replaced:\n{gate.log_tail()}"
        # The shadow counters are the cached balances and held sums beside the entries: a drift is a problem here.
        found = assert_books(gate, sandbox, run.load)
        assert gate.stop() == 0
    with capsys.disabled():
        print(f"\n{gate.admin.database.dialect}: seed {seed}, {seconds:g} s: {run.load.summary()}")
        print(f"bill {format_usd(found.bill_nano)} USD explained; rise over the second half, RSS and open files:")
        for (role, pid), rows in sorted(samples.items()):
            rss, files = rises(rows)
            print(f"  {role:8} {pid}: {rows[-1][1] / 2**20:6.1f} MiB {rss / 2**20:+6.2f} MiB, {files:+5.1f} files")
    assert not run.load.broken, run.load.summary()
    assert run.load.left > 0
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
