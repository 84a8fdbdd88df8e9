"""Engines, transactions and the threads they run on; it leaves SQL differences to `dialect` and statements to `repos`.

A `Database` belongs to one process: open it after forking. Every wait is bounded, and a database that cannot
answer is always `errors.Unavailable` (503), never a verdict about the caller (guarantee 78).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
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
# With less on its disk SQLite may fail to begin its -wal and -shm files.
SPARE_BYTES = 1024 * 1024
UNAVAILABLE = "The database cannot be reached at the moment; please try again."


class Database:
    """One database as this process sees it: write transactions, read transactions, looks at what may have changed, and
    the ledger's own connection."""

    def __init__(self, writer: Engine, reader: Engine, looker: Engine, synchronous: str) -> None:
        self._writer = writer
        self._reader = reader
        self._looker = looker
        self._synchronous = synchronous
        self._adopted = self._closed = False

    @classmethod
    def open(cls, url: str, *, synchronous: str = "NORMAL", readers: int = 2) -> Database:
        """Prepare the engines; a SQLite file is created when absent, a PostgreSQL server is first asked on use.

        Raises dialect.DatabaseUrlError for an address we cannot use, OSError when the file cannot be created.
        """
        parsed = sql.parse_url(url)
        if sql.name_of(parsed) == sql.SQLITE:
            sql.create_sqlite_file(Path(str(parsed.database)))
        writer = sql.make_engine(parsed, synchronous=synchronous, pool_size=2, read_only=False)
        reader = sql.make_engine(parsed, synchronous=synchronous, pool_size=readers, read_only=True)
        looker = sql.make_looking_engine(parsed) if sql.name_of(parsed) == sql.POSTGRESQL else reader
        return cls(writer, reader, looker, synchronous)

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._writer.dialect.name

    @property
    def address(self) -> str:
        """The address as people write it: its password masked, and without its query, where libpq takes one too."""
        return self._writer.url.set(drivername=self.dialect, query={}).render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction (BEGIN IMMEDIATE on SQLite): committed at the end, rolled back on any exception."""
        self._adopt()
        with self._outage_is_unavailable(), self._used(self._writer), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read-only transaction that sees a single moment of the database."""
        self._adopt()
        with self._outage_is_unavailable(), self._used(self._reader), self._reader.connect() as connection:
            yield connection

    def look(self, ask: Callable[[Connection], T]) -> T:
        """`ask`'s answer to what is asked all the time and hardly ever has news: a server is sent its statements and
        nothing else, so each of them sees a moment of its own."""
        self._adopt()
        with self._outage_is_unavailable():
            try:
                return self._look(ask)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # It was lost since the last look, which nobody asks before each of them.
                return self._look(ask)

    def _look(self, ask: Callable[[Connection], T]) -> T:
        with self._used(self._looker), self._looker.connect() as connection:
            return ask(connection)

    @contextmanager
    def _used(self, engine: Engine) -> Iterator[None]:
        """A thread that nobody waited for may use a connection when all others are closed: it is closed afterwards."""
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
                # Callers are not told; the driver's own words quote no statement and no value.
                words = str(getattr(error, "orig", error)).strip().partition("\n")[0]
                unavailable.add_note(f"the database cannot be used: {words}{self._state_of_disk()}")
                raise unavailable from error
            raise

    def _state_of_disk(self) -> str:
        """What SQLite's own words leave out: it calls a full disk an I/O error, and names no file it cannot open."""
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
        """A DBAPI connection of the caller's own, in autocommit (see dialect.raw_connection); close it yourself."""
        self._adopt()
        return sql.raw_connection(self._writer, self._synchronous)

    def close(self) -> None:
        self._closed = True
        # The writer last: whoever closes a SQLite file last folds its -wal back in, and a reader may not write.
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
    """Runs read functions off the event loop on a few threads; at most READ_QUEUE_MAX wait, each at most `wait_s`."""

    def __init__(self, database: Database, *, threads: int = 2, wait_s: float = READ_WAIT_S) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="elkapi-read")
        self._wait_s = wait_s
        self._waiting = 0

    async def run(self, fn: Callable[[Connection], T]) -> T:
        """fn's answer over one read transaction; raises Unavailable when the database does not answer in time."""
        return await self._answer(lambda: self._read(fn))

    async def look(self, fn: Callable[[Connection], T]) -> T:
        """fn's answer to what is asked all the time (`Database.look`); raises as `run` does."""
        return await self._answer(lambda: self._database.look(fn))

    async def _answer(self, work: Callable[[], T]) -> T:
        if self._waiting >= READ_QUEUE_MAX:
            raise Unavailable(UNAVAILABLE)
        self._waiting += 1
        try:
            # Not `asyncio.wait_for`: until Python 3.12 it swallows a cancellation that comes with the answer, and the
            # call of a client that has left would go on.
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
        """Stop taking reads and wait at most `wait_s` for those that run; call it before the database is closed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._threads.shutdown), self._wait_s)


class Writer:
    """Runs write functions off the event loop on one thread, one after the other."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, fn: Callable[[Connection], T]) -> T:
        """fn's answer over one write transaction, committed. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, fn)

    def begin(self, fn: Callable[[Connection], object]) -> None:
        """Run a write that nobody waits for; while the database is away it is dropped."""
        self._thread.submit(self._try, fn)

    def _write(self, fn: Callable[[Connection], T]) -> T:
        with self._database.write() as connection:
            return fn(connection)

    def _try(self, fn: Callable[[Connection], object]) -> None:
        with suppress(Unavailable):
            self._write(fn)

    def close(self) -> None:
        """Finish the write that runs and drop those that wait; blocks meanwhile."""
        self._thread.shutdown(cancel_futures=True)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are done: what they wait for may swallow a cancellation (Python 3.11's `asyncio.wait_for`
    does, in libraries of others), so once is not always enough."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
