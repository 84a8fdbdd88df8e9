"""How many open tasks one poller keeps up with: polls a second, its share of one core, how late it is, memory a task.

    python bench/tasks.py [--tasks 10000] [--every 5] [--secs 30] [--out FILE]

A provider of its own process answers that each task still runs. The poller is the one of the control process, on SQLite
in a folder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools
import uvloop
from sqlalchemy import select

from elkapi.control.tasking import opened_poller, polling
from elkapi.ids import new_id
from elkapi.roles import WorkerOrder
from elkapi.settings import Settings
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import channels
from elkapi.storage.repos.channels import ChannelConfig, ChannelSpec
from elkapi.storage.repos.tasks import asked_context
from elkapi.storage.schema import channel_keys, owners, tasks
from elkapi.tasks import record
from elkapi.types import Price, Usage

MODEL = "kling-v1-6"
BODY = json.dumps({"code": 0, "message": "SUCCEED", "data": {"task_id": "1", "task_status": "processing"}}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
ROWS_AT_ONCE = 1000


class Provider(asyncio.Protocol):
    """Answers every request with the same bytes."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)


def provide(port: Any) -> None:
    """Be the provider until killed."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    uvloop.run(serve())


def furnish(installation: Installation, origin: str, count: int) -> None:
    """A channel, and `count` tasks that it took."""
    now_ns = time.time_ns()
    spec = ChannelSpec(
        name="bench", family="kling", base_url=origin, allow_private=True, config=ChannelConfig(models=(MODEL,))
    )
    with installation.database.write() as connection:
        channel = channels.add_channel(connection, installation.sealer, spec, now_ns=now_ns, actor="bench")
        channels.add_keys(connection, installation.sealer, channel, ("AK|SK",), now_ns=now_ns, actor="bench")
        key_id = connection.execute(select(channel_keys.c.id)).scalar_one()
        owner_id = connection.execute(select(owners.c.id)).scalars().first()
    price = Price(id=1, model=MODEL, version=1, call_nano=1)
    asked = record.encode(
        record.Asked(
            body={"prompt": "a dog"},
            group="default",
            price=price,
            ratio_micro=1_000_000,
            held_nano=0,
            accounts=(),
            upper=Usage(calls=1),
        )
    )
    for start in range(0, count, ROWS_AT_ONCE):
        rows = [
            {
                "id": (task_id := new_id()),
                "owner_id": owner_id,
                "key_id": 1,
                "operation": "kling.text-to-video",
                "wire": "kling",
                "form": "native",
                "model": MODEL,
                "state": "running",
                "version": 1,
                "progress": 0,
                "native_id": f"9{number:017d}",
                "channel_id": channel,
                "channel_key_id": key_id,
                "poked": False,
                "recallable": True,
                "created_ns": now_ns,
                "updated_ns": now_ns,
                "asked_sealed": installation.sealer.seal(asked, asked_context(task_id)),
            }
            for number in range(start, min(start + ROWS_AT_ONCE, count))
        ]
        with installation.database.write() as connection:
            connection.execute(tasks.insert(), rows)


async def measure(folder: Path, origin: str, count: int, every_s: float, secs: float) -> dict[str, Any]:
    """One run; times in seconds, memory in bytes."""
    settings = Settings(data_dir=str(folder), log_file=str(folder / "log"), task_poll_every_s=every_s)
    installation = open_installation(settings)
    furnish(installation, origin, count)
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731 - no file is copied here.
    late: list[float] = []
    async with opened_poller(WorkerOrder(settings=settings), installation, nothing) as poller:
        before_bytes = resident_bytes()
        async with polling(poller):
            while len(poller) < count:
                await asyncio.sleep(0.1)
            await asyncio.sleep(2 * every_s)
            polls, cpu_s, began_s = poller.counts["polls"], time.process_time(), time.monotonic()
            while time.monotonic() < began_s + secs:
                await asyncio.sleep(0.05)
                late.append(poller.lag_s)
            elapsed_s = time.monotonic() - began_s
            polls, cpu_s = poller.counts["polls"] - polls, time.process_time() - cpu_s
            after_bytes = resident_bytes()
            failures = poller.counts["failures"]
    installation.database.close()
    late.sort()
    return {
        "tasks": count,
        "every_s": every_s,
        "wanted_polls_per_s": round(count / every_s),
        "polls_per_s": round(polls / elapsed_s),
        "failures": failures,
        "cpu_share_of_one_core": round(cpu_s / elapsed_s, 3),
        "cpu_us_per_poll": round(cpu_s / polls * 1e6),
        "late_s_median": round(late[len(late) // 2], 3),
        "late_s_worst": round(late[-1], 3),
        "bytes_per_task": round((after_bytes - before_bytes) / count),
    }


def resident_bytes() -> int:
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--secs", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    port = multiprocessing.Value("i", 0)
    provider = multiprocessing.Process(target=provide, args=(port,), daemon=True)
    provider.start()
    while not port.value:
        time.sleep(0.01)
    # The poller has one core, whatever else there is.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        with tempfile.TemporaryDirectory(prefix="elkapi-bench-") as folder:
            found = uvloop.run(
                measure(Path(folder), f"http://127.0.0.1:{port.value}", chosen.tasks, chosen.every, chosen.secs)
            )
    finally:
        provider.kill()
    text = json.dumps(found, indent=2)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
