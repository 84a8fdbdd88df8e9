"""CPU microseconds of one hold + settle pair at concurrency 1, 32 and 256, on a real file or a real PostgreSQL.

Every call does what a worker's call does around the ledger: some CPU of its own and a wait for an upstream, so that
batches are as small as they are in a gateway. The same calls without a ledger are run in between and subtracted.

    python bench/ledger.py [--database-url URL] [--calls N] [--rounds N] [--json FILE] [--remote]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from elkapi.app import GC_ALLOCATIONS
from elkapi.ids import new_id
from elkapi.ledger import open_ledger
from elkapi.ledger.accounts import create_account
from elkapi.ledger.admin import deposit
from elkapi.ledger.ledger import Ledger
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.types import HoldOrder, RequestRecord, Settlement, Usage
from elkapi.worker import SWITCH_INTERVAL_S

CONCURRENCY = (1, 32, 256)
UPSTREAM_S = 0.001
OWN_WORK_LOOPS = 900  # about 60 us: a relayed call's own CPU in Python
USAGE = Usage(input_tokens=5120)


def own_work() -> int:
    total = 0
    for i in range(OWN_WORK_LOOPS):
        total += i ^ 3
    return total


def record_of(request_id: bytes) -> RequestRecord:
    return RequestRecord(
        id=request_id,
        key_id=1,
        owner_id=1,
        operation="openai.embeddings",
        model="text-embedding-3-small",
        group="default",
        created_ns=time.time_ns(),
        duration_ms=1.25,
        status=200,
        outcome="ok",
        usage=USAGE,
        price_id=1,
        price_version=1,
        ratio_micro=1_000_000,
        hold_nano=102_400,
        charge_nano=102_400,
        channel_id=1,
        channel_name="bench",
        upstream_request_id="req-0123456789abcdef",
    )


class Calls:
    """One kind of calls, and the times they waited."""

    def __init__(self, ledger: Ledger | None, account: int) -> None:
        self.ledger = ledger
        self.account = account
        self.hold_s: list[float] = []
        self.settle_s: list[float] = []

    async def one(self) -> None:
        own_work()
        request_id = new_id()
        if self.ledger is None:
            await asyncio.sleep(UPSTREAM_S)
            return
        order = HoldOrder(request_id, 1, (self.account,), 102_400, "text-embedding-3-small", 1)
        start_s = time.perf_counter()
        await self.ledger.hold(order)
        self.hold_s.append(time.perf_counter() - start_s)
        await asyncio.sleep(UPSTREAM_S)
        record = record_of(request_id)
        start_s = time.perf_counter()
        await self.ledger.settle(Settlement(record, order))
        self.settle_s.append(time.perf_counter() - start_s)


def cpu_s(other_pid: int | None) -> float:
    """CPU seconds of this process and, with a remote ledger, of the writing process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    total = used.ru_utime + used.ru_stime
    if other_pid is not None:
        threads = Path(f"/proc/{other_pid}/task").iterdir()
        total += sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    return total


async def run(
    call: Callable[[], Awaitable[None]], calls: int, concurrency: int, pid: int | None
) -> tuple[float, float]:
    """(CPU microseconds per call, calls per second)."""
    left = calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    start_cpu_s, start_s = cpu_s(pid), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return (cpu_s(pid) - start_cpu_s) / calls * 1e6, calls / (time.perf_counter() - start_s)


def ms(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] * 1000


async def measure(database: Database, settings: Settings, arguments: argparse.Namespace) -> list[dict[str, float]]:
    with database.write() as connection:
        account = create_account(connection, f"bench:{os.urandom(4).hex()}")
        deposit(connection, account, 10**15, "bench", "bench")
    ledger = open_ledger(settings, database, os.urandom(16), in_process=not arguments.remote)
    await ledger.start()
    # The cost of making the usage record itself is the relay's, with or without a ledger.
    # As a worker tunes its interpreter (elkapi.app and elkapi.worker).
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    record_us = []
    for _ in range(5):
        start_s = time.process_time()
        for _ in range(1000):
            record_of(b"0" * 16)
        record_us.append((time.process_time() - start_s) * 1000)
    results = []
    pid = arguments.writer_pid
    for concurrency in arguments.concurrency:
        calls = arguments.calls if concurrency > 1 else arguments.calls // 10
        without, with_ledger, rates = [], [], []
        paid = Calls(ledger, account)
        await run(paid.one, calls // 4, concurrency, pid)
        paid.hold_s.clear()
        paid.settle_s.clear()
        for _ in range(arguments.rounds):
            without.append((await run(Calls(None, account).one, calls, concurrency, pid))[0])
            cost, rate = await run(paid.one, calls, concurrency, pid)
            with_ledger.append(cost)
            rates.append(rate)
        pairs = [
            paid_us - free_us - statistics.median(record_us)
            for paid_us, free_us in zip(with_ledger, without, strict=True)
        ]
        results.append(
            {
                "concurrency": concurrency,
                "pair_cpu_us": round(statistics.median(pairs), 1),
                "pair_cpu_us_min": round(min(pairs), 1),
                "pair_cpu_us_max": round(max(pairs), 1),
                "call_without_cpu_us": round(statistics.median(without), 1),
                "calls_per_s": round(statistics.median(rates)),
                "hold_p50_ms": round(ms(paid.hold_s, 0.5), 3),
                "hold_p99_ms": round(ms(paid.hold_s, 0.99), 3),
                "settle_p50_ms": round(ms(paid.settle_s, 0.5), 3),
                "settle_p99_ms": round(ms(paid.settle_s, 0.99), 3),
            }
        )
        print(results[-1], flush=True)
    if writer := getattr(ledger, "writer", None):
        print(f"orders per transaction: {writer.stats.orders / max(1, writer.stats.transactions):.1f}")
    await ledger.aclose()
    return results


@contextlib.contextmanager
def ledger_process(settings: Settings, wanted: bool) -> Iterator[int | None]:
    if not wanted:
        yield None
        return
    environment = os.environ | {"ELKAPI_DATA_DIR": settings.data_dir}
    process = subprocess.Popen([sys.executable, "-m", "elkapi.ledger"], env=environment)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--synchronous", default="NORMAL")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="*", default=CONCURRENCY)
    parser.add_argument("--remote", action="store_true", help="write through a ledger process, as several workers do")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elkapi-bench-") as data_dir:
        settings = Settings(
            data_dir=data_dir, database_url=arguments.database_url, sqlite_synchronous=arguments.synchronous
        )
        database = Database.open(settings.effective_database_url, synchronous=arguments.synchronous)
        migrate(database)
        print(
            f"{database.dialect}, synchronous={arguments.synchronous}, threads={threading.active_count()}", flush=True
        )
        with ledger_process(settings, arguments.remote) as pid:
            arguments.writer_pid = pid
            results = uvloop.run(measure(database, settings, arguments))
        database.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
