"""The ledger process behind its socket: killed at any moment, no order of its workers is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from elkapi.errors import InsufficientQuota, Unavailable
from elkapi.ledger import (
    IdempotencyReplay,
    RemoteLedger,
    balance,
    check,
    client,
    mark_dead,
    open_ledger,
    reconcile,
    recover,
)
from elkapi.ledger.server import SocketTakenError, only_one
from elkapi.ledger.wire import Answers, encode
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.testing import crash
from elkapi.testing.ledger import a_settlement, an_order, funded_account, quick_settings, unpaid
from elkapi.types import IdempotencyClaim, StoredReply
from tests.waiting import until

# Only where one is killed: a busy machine must not make the ledger believe that a worker died.
A_WORKER_DIES = pytest.mark.parametrize("settings", [{"heartbeat_lost_s": 0.6}], indirect=True, ids=[""])


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    more = {"heartbeat_lost_s": 60.0, **getattr(request, "param", {})}
    return quick_settings(str(tmp_path / "data"), settle_wait_s=60.0, hold_wait_s=60.0, **more)


@pytest.fixture
def sqlite(settings: Settings) -> Iterator[Installation]:
    installation = open_installation(settings)
    yield installation
    installation.database.close()


class Process:
    """The ledger process of a data directory, restarted like the supervisor would."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, crash_at: str = "") -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ELKAPI_")}
        environment |= {
            "ELKAPI_DATA_DIR": self.settings.data_dir,
            "ELKAPI_HEARTBEAT_S": str(self.settings.heartbeat_s),
            "ELKAPI_HEARTBEAT_LOST_S": str(self.settings.heartbeat_lost_s),
            crash.VARIABLE: crash_at,
        }
        self.process = subprocess.Popen([sys.executable, "-m", "elkapi.ledger"], env=environment)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(20)


@pytest.fixture
def process(settings: Settings, sqlite: Installation) -> Iterator[Process]:
    running = Process(settings)
    running.start()
    yield running
    running.stop(signal.SIGKILL)


@contextlib.asynccontextmanager
async def worker(installation: Installation, owner: bytes | None = None) -> AsyncIterator[RemoteLedger]:
    ledger = open_ledger(
        installation.settings,
        installation.database,
        owner or os.urandom(16),
        in_process=False,
        sealer=installation.sealer,
    )
    assert isinstance(ledger, RemoteLedger)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


def held_nano(installation: Installation, account: int) -> int:
    with installation.database.read() as connection:
        return balance(connection, account).held_nano


def assert_in_order(database: Database) -> None:
    with database.read() as connection:
        report = check(connection)
    assert report.problems == []
    assert report.open_holds == 0


async def test_two_workers_share_one_balance_through_the_process(process: Process, sqlite: Installation) -> None:
    account = funded_account(sqlite.database, 100 * 50)
    async with worker(sqlite) as one, worker(sqlite) as two:

        async def call(ledger: RemoteLedger) -> bool:
            order = an_order(account, nano=50)
            try:
                await ledger.hold(order)
            except InsufficientQuota:
                return False
            await ledger.settle(a_settlement(order, 50))
            return True

        done = await asyncio.gather(*(call(ledger) for ledger in (one, two) for _ in range(1000)))
    assert sum(done) == 100
    assert process.stop() == 0
    with sqlite.database.read() as connection:
        assert balance(connection, account).posted_nano == 0
    assert_in_order(sqlite.database)


@pytest.mark.usefixtures("process")
async def test_idempotent_replies_travel_sealed_through_the_process(sqlite: Installation) -> None:
    account = funded_account(sqlite.database, 1000)
    async with worker(sqlite) as one, worker(sqlite) as two:
        claims = [IdempotencyClaim(1, "op", f"key {n}", b"f" * 32) for n in range(12)]
        replies = [StoredReply(os.urandom(16), 200, (), os.urandom(1_000_000)) for _ in claims]

        async def first(claim: IdempotencyClaim, reply: StoredReply) -> None:
            order = an_order(account, nano=1, claim=claim)
            await one.hold(order)
            await one.settle(a_settlement(order, 1, reply=reply))

        await asyncio.gather(*map(first, claims, replies))
        for claim, reply in zip(claims, replies, strict=True):
            with pytest.raises(IdempotencyReplay) as replay:
                await two.hold(an_order(account, nano=1, claim=claim))
            assert replay.value.reply == reply


CRASHES = [name for name in crash.NAMES if name.startswith("ledger.") and "recover" not in name]


@pytest.mark.parametrize("crash_at", ["", *(pytest.param(f"{name}:3", marks=pytest.mark.slow) for name in CRASHES)])
async def test_a_killed_ledger_process_loses_nothing_and_doubles_nothing(
    process: Process, sqlite: Installation, crash_at: str
) -> None:
    calls, price = 2000, 7
    account = funded_account(sqlite.database, calls * price)
    async with worker(sqlite) as one, worker(sqlite) as two:
        await one.hold(warm := an_order(account, nano=1))
        await one.settle(unpaid(warm))
        if crash_at:
            process.stop(signal.SIGKILL)
            process.start(crash_at)
        crowd = asyncio.Semaphore(400)

        async def call(ledger: RemoteLedger) -> None:
            async with crowd:
                order = an_order(account, nano=price)
                await ledger.hold(order)
                await ledger.settle(a_settlement(order, price))

        async def restart_it() -> None:
            assert process.process is not None
            if crash_at:
                assert await asyncio.to_thread(process.process.wait, 20) == -signal.SIGKILL
                process.start()
                return
            for _ in range(3):
                await asyncio.sleep(0.25)
                await asyncio.to_thread(process.stop, signal.SIGKILL)
                process.start()

        await asyncio.gather(restart_it(), *(call(ledger) for ledger in (one, two) for _ in range(calls // 2)))
    assert process.stop() == 0
    with sqlite.database.read() as connection:
        assert balance(connection, account).posted_nano == 0
    assert_in_order(sqlite.database)


async def test_a_hold_given_up_while_the_process_was_down_is_given_back(sqlite: Installation, process: Process) -> None:
    account = funded_account(sqlite.database, 1000)
    async with worker(sqlite) as ledger:
        await ledger.hold(warm := an_order(account, nano=1))
        await ledger.settle(unpaid(warm))
        process.stop(signal.SIGKILL)
        process.start("ledger.server.before_reply")
        waiting = [asyncio.create_task(ledger.hold(an_order(account, nano=10))) for _ in range(10)]
        assert process.process is not None
        assert await asyncio.to_thread(process.process.wait, 20) == -signal.SIGKILL
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        process.start()
        await ledger.hold(last := an_order(account, nano=1000))
        await ledger.settle(a_settlement(last, 1000))
    assert_in_order(sqlite.database)


@pytest.mark.parametrize("worker_dies", [False, True])
async def test_nobody_pays_for_calls_told_as_failed_when_the_process_died_before_it_answered(
    settings: Settings, sqlite: Installation, process: Process, worker_dies: bool
) -> None:
    account = funded_account(sqlite.database, 1000)
    orders = [an_order(account, nano=10) for _ in range(5)]
    async with worker(sqlite) as ledger:
        await asyncio.gather(*map(ledger.hold, orders))
        process.stop(signal.SIGKILL)
        settling = [asyncio.create_task(ledger.settle(a_settlement(order, 7))) for order in orders]
        await asyncio.sleep(0)
        process.start("ledger.server.before_reply")
        assert process.process is not None
        assert await asyncio.to_thread(process.process.wait, 20) == -signal.SIGKILL
        with sqlite.database.read() as connection:
            assert check(connection).charged_nano == 35  # committed, and nobody heard of it
        ledger._settle_waits = deque((0.0, waiter, order) for _, waiter, order in ledger._settle_waits)
        ledger._settings = msgspec.structs.replace(settings, settle_wait_s=0.1)  # nor does it wait long at its end
        told = await asyncio.gather(*settling, return_exceptions=True)
        assert [type(answer) for answer in told] == [Unavailable] * 5
        if not worker_dies:
            process.start()
            await ledger.hold(last := an_order(account, nano=1000))
            await ledger.settle(unpaid(last))
    if worker_dies:
        process.start()
        async with worker(sqlite) as successor:
            await successor.hold(last := an_order(account, nano=900))
            await successor.settle(unpaid(last))
    assert_in_order(sqlite.database)
    with sqlite.database.read() as connection:
        assert balance(connection, account).available_nano == 1000
        assert check(connection).loss_nano == 35
        assert reconcile(connection, [(order.request_id, 7) for order in orders]).ok


async def test_an_unreachable_process_is_unavailable_within_the_deadline(tmp_path: Path) -> None:
    settings = quick_settings(str(tmp_path / "data"), hold_wait_s=0.2, settle_wait_s=0.2)
    installation = open_installation(settings)
    account = funded_account(installation.database, 1000)
    async with worker(installation) as ledger:
        order = an_order(account, nano=10)
        with pytest.raises(Unavailable):
            await ledger.hold(order)
        with pytest.raises(Unavailable):
            await ledger.settle(a_settlement(order, 10))
    installation.database.close()


@pytest.mark.parametrize("says", [b"", b"\xff" * 8, encode(Answers([], {}))], ids=["nothing", "nonsense", "an answer"])
async def test_a_process_that_hangs_up_is_asked_ever_more_rarely_and_told_of_once_where_it_answers_nothing(
    settings: Settings,
    sqlite: Installation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    says: bytes,
) -> None:
    failures: list[int] = []

    def at_once(_first_s: float, times: int, _max_s: float) -> float:
        failures.append(times)
        return 0.0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        writer.write_eof()
        # Whoever writes to a socket that is closed loses what he has not read yet: it closes after him.
        while await reader.read(1 << 16):
            pass
        writer.close()

    monkeypatch.setattr(client, "doubled_s", at_once)
    server = await asyncio.start_unix_server(hang_up, settings.socket_path("ledger"))
    async with server, worker(sqlite) as ledger:
        await until(lambda: len(failures) >= 20, 20, "it is asked again and again")
        ledger._settings = msgspec.structs.replace(settings, settle_wait_s=0.1)  # nor does it wait long at its end
    answers = says.startswith(b"\0")
    assert failures == ([1] * len(failures) if answers else list(range(1, len(failures) + 1)))
    assert caplog.text.count("cannot reach the ledger process") == (not answers)


@pytest.mark.usefixtures("process")
async def test_garbage_on_the_socket_closes_that_connection_only(sqlite: Installation) -> None:
    account = funded_account(sqlite.database, 1000)
    async with worker(sqlite) as ledger:
        await ledger.hold(order := an_order(account, nano=1))
        for garbage in (b"\xff" * 64, b"\x00\x00\x00\x03abc", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_unix_connection(sqlite.settings.socket_path("ledger"))
            writer.write(garbage)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await ledger.settle(a_settlement(order, 1))


@A_WORKER_DIES
@pytest.mark.usefixtures("process")
async def test_the_process_recovers_workers_that_were_killed(sqlite: Installation, settings: Settings) -> None:
    account = funded_account(sqlite.database, 100_000)
    script = textwrap.dedent(
        """
        import asyncio, os, sys
        from elkapi.ledger import open_ledger
        from elkapi.settings import Settings
        from elkapi.storage.installation import open_installation
        from elkapi.testing.ledger import an_order, quick_settings

        async def main():
            installation = open_installation(quick_settings(sys.argv[1]))
            ledger = open_ledger(installation.settings, installation.database, os.urandom(16), in_process=False,
                                 sealer=installation.sealer)
            await ledger.start()
            await asyncio.gather(*(ledger.hold(an_order(int(sys.argv[2]), nano=10)) for _ in range(500)))
            os.kill(os.getpid(), 9)

        asyncio.run(main())
        """
    )
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, settings.data_dir, str(account)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert held_nano(sqlite, account) == 5000
    async with worker(sqlite):  # whose heartbeat tells a worker that died from a database that cannot be written
        await until(lambda: held_nano(sqlite, account) == 0)
    with sqlite.database.read() as connection:
        report = check(connection)
    assert report.problems == []
    assert (report.unknown_outcomes, report.unknown_outcomes_nano) == (500, 5000)


@A_WORKER_DIES
async def test_a_recovery_killed_before_its_commit_is_simply_made_again(
    settings: Settings, sqlite: Installation
) -> None:
    account, owner = funded_account(sqlite.database, 1000), os.urandom(16)
    process = Process(settings)
    process.start("ledger.recover.before_commit")
    async with worker(sqlite, owner) as ledger:
        await ledger.hold(an_order(account, nano=10))
    with sqlite.database.write() as connection:
        mark_dead(connection, owner, 1)
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == -signal.SIGKILL
    with sqlite.database.write() as connection:
        assert balance(connection, account).held_nano == 10
        assert recover(connection, 1, settings).holds == 1
    assert_in_order(sqlite.database)


def test_only_one_ledger_process_serves_a_data_directory(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.sock")
    with only_one(path), pytest.raises(SocketTakenError), only_one(path, wait_s=0.05):
        pass
    with only_one(path):
        pass
