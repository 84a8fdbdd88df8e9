"""A complete worker in the test's event loop, with the sandbox as its upstream, for the relay suites.

Everything except the process boundaries is real: server, snapshot, ledger thread, upstream client, database.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from sqlalchemy import Connection, select, text

from elkapi.edge.front import Front
from elkapi.edge.render import rejected
from elkapi.edge.server import Server
from elkapi.ledger import CheckReport, ThreadLedger, check, create_account, deposit
from elkapi.money import parse_usd
from elkapi.relay.batches.runner import BatchRunner
from elkapi.relay.plane import DataPlane
from elkapi.roles import BundledModel, WorkerOrder
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import channels, groups, guards, keys, prices
from elkapi.storage.repos.channels import ChannelConfig, ChannelSpec
from elkapi.storage.schema import owners
from elkapi.types import NO_POLICY, Amounts, Guard, Policy, Scope, Settlement
from elkapi.worker import error_body, opened_plane
from tests.templates import copy_migrated_sqlite
from tests.waiting import until

_T = TypeVar("_T")
ACTOR = "test"
SMALL = "text-embedding-3-small"


class Gateway:
    """A running worker and methods to configure it; every change waits until the worker has loaded it."""

    server: Server
    runner: BatchRunner

    def __init__(self, plane: DataPlane, installation: Installation, origin: str) -> None:
        self.plane = plane
        self.installation = installation
        self.origin = origin
        self.http = httpx.AsyncClient(base_url=origin, timeout=20)
        self._numbers = iter(range(1, 1_000_000))

    @property
    def database(self) -> Database:
        return self.installation.database

    async def settled(self) -> None:
        """Wait until the worker has loaded the database's current version; the key cache is updated last.

        It does not wait for the next poll, so that polls can be rare: frequent ones take a good part of the tests' CPU
        time.
        """
        await self.plane.snapshots.refresh()
        with self.database.read() as connection:
            wanted = int(str(connection.execute(text("select value from meta where name = 'config_version'")).scalar()))
        await until(lambda: self.plane.key_cache._version >= wanted)

    async def key(
        self,
        balance_usd: str = "0",
        *,
        group: str = "default",
        models: tuple[str, ...] | None = None,
        scope: Scope = "live",
        expires_at_ns: int | None = None,
        policy: Policy = NO_POLICY,
    ) -> str:
        number = next(self._numbers)
        with self.database.write() as connection:
            owner_id = connection.execute(select(owners.c.id)).scalars().first()
            assert owner_id is not None
            account = create_account(connection, f"key:test-{number}")
            if parse_usd(balance_usd):
                deposit(connection, account, parse_usd(balance_usd), "test funds", ACTOR)
            _, secret = keys.create_key(
                connection,
                name=f"test-{number}",
                owner_id=owner_id,
                group=group,
                scope=scope,
                account_id=account,
                models=models,
                expires_at_ns=expires_at_ns,
                policy=policy,
                now_ns=time.time_ns(),
                actor=ACTOR,
            )
        await self.settled()
        return secret

    async def channel(
        self,
        base_url: str,
        models: tuple[str, ...] = (SMALL,),
        *,
        secrets: tuple[str, ...] = ("sk-upstream-secret",),
        name: str | None = None,
        family: str = "openai",
        priority: int = 0,
        allow_private: bool = True,
        header_set: dict[str, str] | None = None,
        proxy_url: str | None = None,
        **config: Any,
    ) -> int:
        spec = ChannelSpec(
            name=name or f"channel-{next(self._numbers)}",
            family=family,
            base_url=base_url,
            priority=priority,
            allow_private=allow_private,
            config=ChannelConfig(models=models, **config),
            header_set=header_set or {},
            proxy_url=proxy_url,
        )
        now_ns = time.time_ns()
        with self.database.write() as connection:
            added = channels.add_channel(connection, self.installation.sealer, spec, now_ns=now_ns, actor=ACTOR)
            channels.add_keys(connection, self.installation.sealer, added, secrets, now_ns=now_ns, actor=ACTOR)
        await self.settled()
        return added

    async def price(
        self,
        model: str,
        *,
        per_1m_usd: str = "0",
        output_per_1m_usd: str = "0",
        per_call_usd: str = "0",
        per_second_usd: str = "0",
        per_image_usd: str = "0",
    ) -> None:
        amounts = Amounts(
            input_nano_per_1m=parse_usd(per_1m_usd),
            output_nano_per_1m=parse_usd(output_per_1m_usd),
            call_nano=parse_usd(per_call_usd),
            video_second_nano=parse_usd(per_second_usd),
            image_nano=parse_usd(per_image_usd),
        )
        with self.database.write() as connection:
            prices.add_version(
                connection, model=model, amounts=amounts, source="test", now_ns=time.time_ns(), actor=ACTOR
            )
        await self.settled()

    async def group(self, name: str, ratio_micro: int, policy: Policy | None = None) -> None:
        with self.database.write() as connection:
            groups.set_group(
                connection,
                name=name,
                ratio_micro=ratio_micro,
                description=None,
                policy=policy,
                now_ns=time.time_ns(),
                actor=ACTOR,
            )
        await self.settled()

    async def guard(self, guard: Guard) -> None:
        with self.database.write() as connection:
            guards.set_guard(connection, self.installation.sealer, guard, now_ns=time.time_ns(), actor=ACTOR)
        await self.settled()

    def ask(self, key: str | None, body: Any = None, **more: Any) -> Any:
        """POST /v1/embeddings by default; a `body` of bytes is sent unchanged."""
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        content = body if isinstance(body, bytes) else msgspec.json.encode(body or {"model": SMALL, "input": "hello"})
        path = more.pop("path", "/v1/embeddings")
        return self.http.post(path, content=content, headers=headers, **more)

    async def account(self, request_id: str, key: str) -> dict[str, Any]:
        """`GET /v1/requests/{id}` with this key, once the record is written."""

        async def record() -> Any:
            reply = await self.http.get(f"/v1/requests/{request_id}", headers={"authorization": f"Bearer {key}"})
            return reply.json() if reply.status_code == 200 else None

        return dict(await until(record, what=f"a record of {request_id}"))

    def books(self) -> CheckReport:
        """The report of the ledger's check, which must be ok."""
        with self.database.read() as connection:
            report = check(connection)
        assert report.ok, report.lines()
        return report

    def closed_books(self) -> CheckReport:
        """`books`, and no hold may be open."""
        report = self.books()
        assert report.open_holds == 0
        return report

    def books_slowly(self) -> tuple[asyncio.Event, threading.Lock]:
        """Block the ledger from the next settlement on: (event set when that begins, lock to release)."""
        ledger, booking = self.plane.ledger, asyncio.Event()
        assert isinstance(ledger, ThreadLedger)
        settle, disk = ledger.settle, ledger.writer.lock

        async def slowly(settlement: Settlement) -> None:
            disk.acquire()
            asyncio.get_running_loop().call_later(0.05, booking.set)
            await settle(settlement)

        ledger.settle = slowly  # type: ignore[method-assign]  # Of this ledger alone, which ends with its gateway.
        return booking, disk

    def sql(self, statement: str, **values: Any) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            return list(connection.execute(text(statement), values))

        with self.database.read() as connection:
            return read(connection)


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    *,
    database_url: str = "",
    sandbox: str = "",
    bundled: tuple[str, ...] = (),
    chat: tuple[BundledModel, ...] = (),
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """A gateway with its data in `folder`; further keyword arguments are fields of Settings."""
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    chosen = Settings(
        data_dir=str(folder),
        database_url=database_url,
        log_file=str(folder / "gateway.log"),
        # Long waits, so that a slow disk on a busy machine neither misses the response cache nor refuses calls.
        **{"snapshot_poll_s": 0.05, "cache_wait_s": 10.0, "hold_wait_s": 30.0, "settle_wait_s": 30.0, **settings},
    )
    if not database_url and not (folder / "elkapi.sqlite3").exists():
        copy_migrated_sqlite(folder / "elkapi.sqlite3")
    installation = open_installation(chosen)
    order = WorkerOrder(
        settings=chosen,
        bundled=(*(BundledModel(name) for name in bundled), *chat),
        sandbox_models=(SMALL,) if sandbox else (),
    )
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    try:
        async with opened_plane(order) as plane:
            server = Server(Front(plane, lambda: None), rejected, chosen)
            await server.start(listening)
            runner = BatchRunner(plane, error_body)
            runner.start()
            running = Gateway(plane, installation, f"http://127.0.0.1:{listening.getsockname()[1]}")
            running.server, running.runner = server, runner
            try:
                yield running
            finally:
                await running.http.aclose()
                await server.drain(2)
                await runner.drain(2)
    finally:
        installation.database.close()


@contextlib.contextmanager
def served(folder: Path, furnish: Callable[[Gateway], Awaitable[_T]], **settings: Any) -> Iterator[_T]:
    """Run a gateway in its own thread, for blocking clients, until the block ends; yields the result of `furnish`."""
    furnished: list[_T] = []
    ready = threading.Event()
    stopping: list[Callable[[], object]] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.append(partial(loop.call_soon_threadsafe, stop.set))
        async with gateway(folder, **settings) as gate:
            furnished.append(await furnish(gate))
            ready.set()
            await stop.wait()

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="gateway")
    thread.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield furnished[0]
    finally:
        if thread.is_alive():
            stopping[0]()
        thread.join()
        if furnished and failed:
            raise failed[0]
