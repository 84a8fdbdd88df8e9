"""The stored answers of one host, in a separate SQLite file that all its workers share.

It is a cache, not a record: any fault of the file costs only misses, and an unusable file is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from elkapi.cache.store import Bounds, StoreDown
from elkapi.clock import Clock
from elkapi.storage.dialect import create_sqlite_file

T = TypeVar("T")
BUSY_S = 1.0
WAL_BYTES_MAX = 4 * 1024 * 1024
EVICTED_AT_ONCE = 32
# Triggers maintain the totals, so that no limit needs a scan of all rows.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    name BLOB PRIMARY KEY, created_ns INTEGER NOT NULL, bytes INTEGER NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (created_ns);
CREATE TABLE IF NOT EXISTS totals (one INTEGER PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
CREATE TRIGGER IF NOT EXISTS answer_in AFTER INSERT ON answers
    BEGIN UPDATE totals SET entries = entries + 1, bytes = bytes + new.bytes; END;
CREATE TRIGGER IF NOT EXISTS answer_out AFTER DELETE ON answers
    BEGIN UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes; END;
"""
_GET = "SELECT sealed FROM answers WHERE name = ?"
_PUT = "INSERT INTO answers (name, created_ns, bytes, sealed) VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM answers WHERE name = ? OR created_ns < ?"
_TOTALS = "SELECT entries, bytes FROM totals"
_NOTHING = "UPDATE totals SET entries = 0, bytes = 0"
_EVICT = "DELETE FROM answers WHERE name IN (SELECT name FROM answers ORDER BY created_ns LIMIT ?)"


class FileStore:
    """One thread reads and one writes, each with its own connection, so that no lookup waits for a write."""

    def __init__(self, path: Path, bounds: Bounds, clock: Clock, wait_s: float) -> None:
        self._bounds = bounds
        self._clock = clock
        self._wait_s = wait_s
        self._reads = _Hand(path, "elkapi-cache-read")
        self._writes = _Hand(path, "elkapi-cache-write")

    async def get(self, name: bytes) -> bytes | None:
        """The sealed answer, or None. Raises StoreDown."""

        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(_GET, (name,)).fetchone()
            return None if row is None else bytes(row[0])

        try:
            async with asyncio.timeout(self._wait_s):
                return await self._reads.run(read)
        except TimeoutError as error:
            raise StoreDown("the disk is slow") from error

    async def put(self, name: bytes, created_ns: int, sealed: bytes) -> None:
        """Store an answer and remove the oldest ones beyond the limits. Raises StoreDown."""
        bounds = self._bounds
        if len(sealed) > bounds.bytes_max:
            return
        too_old_ns = self._clock.now_ns() - round(bounds.age_s_max * 1_000_000_000)

        def write(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.execute(_FORGET, (name, too_old_ns))
                connection.execute(_PUT, (name, created_ns, len(sealed), sealed))
                while True:
                    entries, size = connection.execute(_TOTALS).fetchone()
                    if entries <= bounds.entries_max and size <= bounds.bytes_max:
                        break
                    # One at a time for room, more if the limit itself was lowered.
                    over = max(1, min(EVICTED_AT_ONCE, entries - bounds.entries_max))
                    if not connection.execute(_EVICT, (over,)).rowcount:
                        # The totals do not match the rows, of which none are left.
                        connection.execute(_NOTHING)
                        break

        await self._writes.run(write)

    async def aclose(self) -> None:
        """Close both connections."""
        await self._writes.aclose()
        await self._reads.aclose()


class _Hand:
    """One thread with its connection, which is opened with the first call and again after an error."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if not _is(self._path, self._file):
                self._close()  # Another process found the file unusable.
            if self._connection is None:
                self._connection, self._file = _open(self._path)
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            if type(error) is sqlite3.DatabaseError:
                _take_away(self._path, self._file)
            self._close()
            raise StoreDown(str(error)) from error

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _open(path: Path) -> tuple[sqlite3.Connection, os.stat_result]:
    """The connection and its file."""
    with _latched(path):
        try:
            connection = _opened(path)
        except sqlite3.OperationalError:
            # Locked or out of space, which does not make the file unusable.
            raise
        except sqlite3.DatabaseError:
            _remove(path)
            connection = _opened(path)
        return connection, path.stat()


def _take_away(path: Path, file: os.stat_result | None) -> None:
    """Remove a damaged file, unless another process has; it is still open here."""
    with contextlib.suppress(OSError), _latched(path):
        if _is(path, file):
            _remove(path)


def _is(path: Path, file: os.stat_result | None) -> bool:
    """Whether this file still has its name. Since it is open here, its identity cannot be reused."""
    try:
        return file is not None and os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _latched(path: Path) -> Iterator[None]:
    """Serialise: SQLite does not wait when it switches a new file to WAL, and only the first of those that find a
    file unusable may remove it."""
    latch = path.with_name(f"{path.name}.lock")
    create_sqlite_file(latch)
    with latch.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    # The file itself is removed last: until then nobody opens it and recreates the others.
    for end in ("-wal", "-shm", ""):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _opened(path: Path) -> sqlite3.Connection:
    create_sqlite_file(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
