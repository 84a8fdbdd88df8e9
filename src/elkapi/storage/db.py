"""Engines, transactions and the threads they run on; SQL differences are in `dialect`, statements in `repos`.

A `Database` belongs to one process: open it after forking. Every wait is bounded, and a database that cannot answer
always raises `errors.Unavailable` (503), never a verdict about the caller (guarantee 78).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from elkapi.errors import Unavailable
from elkapi.storage import dialect as sql

T = TypeVar("T")

READ_WAIT_S = 5.0
READ_QUEUE_MAX = 2_000
CANCEL_AGAIN_S = 0.2
# With less free space SQLite may fail to create its -wal and -shm files.
SPARE_BYTES = 1024 * 1024
UNAVAILABLE = "The database cannot be reached at the moment; please try again."


class Database:
    """One process's access to the database: write transactions, read transactions, cheap polls, and the ledger's raw
    connection."""

    def __init__(self, writer: Engine, reader: Engine, looker: Engine | None, synchronous: str) -> None:
        self._writer = writer
        self._reader = reader
        self._looker = looker
        self._synchronous = synchronous
        # SQLite's connection for polls, which whoever uses it holds the lock for.
        self._looking: sqlite3.Connection | None = None
        self._look_lock = threading.Lock()
        self._adopted = self._closed = False

    @classmethod
    def open(cls, url: str, *, synchronous: str = "NORMAL", readers: int = 2) -> Database:
        """Prepare the engines. A SQLite file is created if absent; a PostgreSQL server is first contacted on use.

        Raises dialect.DatabaseUrlError for an unusable address, OSError if the file cannot be created.
        """
        parsed = sql.parse_url(url)
        if sql.name_of(parsed) == sql.SQLITE:
            sql.create_sqlite_file(Path(str(parsed.database)))
        writer = sql.make_engine(parsed, synchronous=synchronous, pool_size=2, read_only=False)
        reader = sql.make_engine(parsed, synchronous=synchronous, pool_size=readers, read_only=True)
        looker = sql.make_looking_engine(parsed) if sql.name_of(parsed) == sql.POSTGRESQL else None
        return cls(writer, reader, looker, synchronous)

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._writer.dialect.name

    @property
    def address(self) -> str:
        """The address for display: its password masked, and without its query, where libpq also accepts one."""
        return self._writer.url.set(drivername=self.dialect, query={}).render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction (BEGIN IMMEDIATE on SQLite), committed at the end and rolled back on any exception."""
        self._adopt()
        with self._outage_is_unavailable(), self._used(self._writer), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read-only transaction with a consistent snapshot."""
        self._adopt()
        with self._outage_is_unavailable(), self._used(self._reader), self._reader.connect() as connection:
            yield connection

    def look(self, ask: Callable[[sql.LookConnection], T]) -> T:
        """Run a frequent poll that rarely has news, made of `sql.Look`s: the database gets only the statements of
        `ask`, without a transaction, so each of them sees its own snapshot."""
        self._adopt()
        with self._outage_is_unavailable():
            if self._looker is None:
                return self._look_at_file(ask)
            try:
                return self._look_at_server(self._looker, ask)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The connection was lost since the last poll; polls are not preceded by a ping.
                return self._look_at_server(self._looker, ask)

    def _look_at_server(self, looker: Engine, ask: Callable[[sql.LookConnection], T]) -> T:
        with self._used(looker), looker.connect() as connection:
            return ask(connection)

    def _look_at_file(self, ask: Callable[[sql.LookConnection], T]) -> T:
        if not self._look_lock.acquire(timeout=sql.POOL_TIMEOUT_S):
            raise Unavailable(UNAVAILABLE)
        try:
            if self._looking is None:
                self._looking = sql.raw_connection(self._writer, self._synchronous, read_only=True)
            return ask(self._looking)
        except BaseException:
            self._stop_looking()
            raise
        finally:
            self._look_lock.release()
            if self._closed:
                self._close_looking()

    def _close_looking(self) -> None:
        """Close the connection for polls, unless a thread uses it, which then closes it afterwards."""
        if self._look_lock.acquire(blocking=False):
            try:
                self._stop_looking()
            finally:
                self._look_lock.release()

    def _stop_looking(self) -> None:
        """The caller holds the lock."""
        if self._looking is not None:
            self._looking.close()
            self._looking = None

    @contextmanager
    def _used(self, engine: Engine) -> Iterator[None]:
        """An abandoned thread may still use a connection after all others are closed: it is closed afterwards."""
        pool = engine.pool
        try:
            yield
        finally:
            if self._closed:
                pool.dispose()

    @contextmanager
    def _outage_is_unavailable(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            if sql.is_outage(error):
                unavailable = Unavailable(UNAVAILABLE)
                # For the operator only; the driver's message quotes no statement and no value.
                words = str(getattr(error, "orig", error)).strip().partition("\n")[0]
                unavailable.add_note(f"the database cannot be used: {words}{self._state_of_disk()}")
                raise unavailable from error
            raise

    def _state_of_disk(self) -> str:
        """What SQLite's message leaves out: it reports a full disk as an I/O error, and does not name a file that it
        cannot open."""
        if self.dialect != sql.SQLITE:
            return ""
        file = Path(str(self._writer.url.database))
        try:
            disk = os.statvfs(file.parent)
        except OSError:
            return ""
        if (left := disk.f_bavail * disk.f_frsize) < SPARE_BYTES:
            return f"; the disk of {file} has {left} bytes left"
        if disk.f_flag & os.ST_RDONLY:
            return f"; the disk of {file} is mounted read-only"
        shut = next((place for place in (file.parent, file) if not os.access(place, os.R_OK | os.W_OK)), None)
        return "" if shut is None else f"; this user may not write to {shut}"

    def raw_writer(self) -> Any:
        """A DBAPI connection for the caller alone, in autocommit (see dialect.raw_connection); the caller closes it."""
        self._adopt()
        return sql.raw_connection(self._writer, self._synchronous)

    def close(self) -> None:
        self._closed = True
        # The writer last: the last connection of a SQLite file folds its -wal back in, which a reader may not do.
        self._close_looking()
        if self._looker is not None:
            self._looker.dispose()
        self._reader.dispose()
        self._writer.dispose()

    def _adopt(self) -> None:
        if self._adopted or self.dialect != sql.SQLITE:
            return
        with self._outage_is_unavailable():
            raw = self._writer.raw_connection()
            try:
                sql.adopt_sqlite_file(raw.driver_connection)
            finally:
                raw.close()
        self._adopted = True


class Reader:
    """Runs read functions off the event loop on a few threads. At most READ_QUEUE_MAX wait, each for at most
    `wait_s`."""

    def __init__(self, database: Database, *, threads: int = 2, wait_s: float = READ_WAIT_S) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="elkapi-read")
        self._wait_s = wait_s
        self._waiting = 0

    async def run(self, fn: Callable[[Connection], T]) -> T:
        """The result of fn in one read transaction. Raises Unavailable if the database does not answer in time."""
        return await self._answer(lambda: self._read(fn))

    async def look(self, fn: Callable[[sql.LookConnection], T]) -> T:
        """The result of fn for a frequent poll (`Database.look`). Raises as `run` does."""
        return await self._answer(lambda: self._database.look(fn))

    async def _answer(self, work: Callable[[], T]) -> T:
        if self._waiting >= READ_QUEUE_MAX:
            raise Unavailable(UNAVAILABLE)
        self._waiting += 1
        try:
            # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that coincides with the result, and
            # the call of a client that has left would continue.
            async with asyncio.timeout(self._wait_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise Unavailable(UNAVAILABLE) from None
        finally:
            self._waiting -= 1

    def _read(self, fn: Callable[[Connection], T]) -> T:
        with self._database.read() as connection:
            return fn(connection)

    async def aclose(self) -> None:
        """Stop taking reads and wait at most `wait_s` for those that run; call it before closing the database."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._threads.shutdown), self._wait_s)


class Writer:
    """Runs write functions off the event loop on one thread, one at a time."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, fn: Callable[[Connection], T]) -> T:
        """The result of fn in one committed write transaction. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, fn)

    def begin(self, fn: Callable[[Connection], object]) -> None:
        """Start a write that nobody waits for; it is dropped while the database is unavailable."""
        self._thread.submit(self._try, fn)

    def _write(self, fn: Callable[[Connection], T]) -> T:
        with self._database.write() as connection:
            return fn(connection)

    def _try(self, fn: Callable[[Connection], object]) -> None:
        with suppress(Unavailable):
            self._write(fn)

    def close(self) -> None:
        """Finish the current write and drop those that wait; blocking."""
        self._thread.shutdown(cancel_futures=True)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are done. Once is not always enough: what they await may swallow a cancellation, as
    Python 3.11's `asyncio.wait_for` does inside libraries."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
