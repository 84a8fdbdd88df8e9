"""Backup and restore: one portable file, the same from SQLite and from PostgreSQL, restorable on both.

The file is a SQLite database with the gateway's own tables. A SQLite installation is copied with SQLite's backup API
while it runs; a PostgreSQL one is read table by table in a single REPEATABLE READ transaction. A restore upgrades the
copy with the normal migrations, checks that its sealed secrets open, writes all rows in one transaction, and commits
only if the ledger's check passes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, bindparam, func, select

from elkapi.admin.context import Admin
from elkapi.admin.errors import AdminError, InvalidInput, Missing, Refused
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Unavailable
from elkapi.settings import Settings, sqlite_url
from elkapi.storage import dialect as sql
from elkapi.storage import files, schema
from elkapi.storage.db import Database
from elkapi.storage.installation import running_workers
from elkapi.storage.migrations import migrate, migrate_in, schema_version
from elkapi.storage.repos import audit, versions
from elkapi.storage.secrets import (
    KEY_BYTES,
    Sealer,
    SecretKeyError,
    install_secret_key,
    is_bound_to,
    load_secret_key,
    parse_secret_key,
    secret_key_path,
)

ROWS_AT_ONCE = 1_000
KEY_SUFFIX = ".secret-key"

# Passed by the caller of `restore`, so that this module does not depend on the report; raises AdminError if an
# invariant is broken.
LedgerCheck = Callable[[Connection], None]


class BackupReport(msgspec.Struct, frozen=True):
    """What was written or read: rows per table, the schema's version, and the path of the secret key if written."""

    path: str
    schema_version: int
    rows: dict[str, int]
    secret_key_path: str | None = None


def backup(admin: Admin, path: Path, *, with_secret_key: bool = False) -> BackupReport:
    """Write a consistent copy to a new file (mode 0600) while the gateway runs. Raises Refused if it exists, Missing if
    its folder does not.
    """
    key_path = path.with_name(path.name + KEY_SUFFIX)
    for target in (path, key_path) if with_secret_key else (path,):
        if target.exists():
            raise Refused(f"{target} already exists; a backup never overwrites a file")
    if not path.parent.is_dir():
        raise Missing(f"the folder {path.parent} does not exist")
    key = load_secret_key(admin.settings) if with_secret_key else None
    with _private_folder(path.parent) as folder, _key_in(key_path, key):
        copy = folder / "copy"
        if admin.database.dialect == sql.SQLITE:
            _copy_sqlite_file(admin.database, copy)
        else:
            _copy_from_server(admin.database, copy, admin.clock)
        report = _described(copy, path)
        _link_new(copy, path)
    return msgspec.structs.replace(report, secret_key_path=str(key_path)) if with_secret_key else report


def restore(
    settings: Settings,
    path: Path,
    *,
    check: LedgerCheck,
    actor: str,
    force: bool = False,
    secret_key_file: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> BackupReport:
    """Replace the installation's rows by those of a backup, all or nothing.

    Raises Refused if the target is in use or (without `force`) not empty, or if the backup's secrets do not open;
    Missing without the file; InvalidInput if the file is not a backup.
    """
    if not path.is_file():
        raise Missing(f"the file {path} does not exist")
    with _private_folder(None) as folder:
        copy = folder / "copy"
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            where = folder.parent
            raise Refused(f"{where} has no room for a copy of {path}; set TMPDIR to another folder") from None
        source = _opened_backup(copy)
        try:
            migrate(source, clock=clock)
            install_key = _fitting_key(source, settings, path, secret_key_file)
            report = _described(copy, path)
            target = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous)
            try:
                _replace_rows(source, target, settings, check, install_key, actor=actor, force=force, clock=clock)
            finally:
                target.close()
        finally:
            source.close()
    if install_key is not None:
        report = msgspec.structs.replace(report, secret_key_path=str(secret_key_path(settings)))
    return report


def _replace_rows(
    source: Database,
    target: Database,
    settings: Settings,
    check: LedgerCheck,
    key: bytes | None,
    *,
    actor: str,
    force: bool,
    clock: Clock,
) -> None:
    with target.write() as connection:
        sql.lock_for_migration(connection)
        _refuse_unless_free(connection, settings, force=force, clock=clock)
        version = _highest_version(connection)
        # Install the key before the rows, so that a full disk cannot leave them without it, and under their lock, so
        # that a gateway starting meanwhile cannot seal rows with a key that a refusal would remove.
        with _key_in(secret_key_path(settings), key):
            # Drop tables, not rows: append-only tables may refuse to delete rows.
            schema.metadata.drop_all(connection)
            with source.read() as reading:
                _refill(connection, reading, clock)
                version = max(version, _highest_version(reading))
            versions.raise_to(connection, version + 1)
            # Bump every key's version, so that processes drop their cached rows.
            connection.execute(schema.keys.update().values(version=version + 1))
            now_ns = clock.now_ns()
            audit.write(connection, now_ns=now_ns, actor=actor, action="backup.restore", subject="installation")
            check(connection)


def _refuse_unless_free(connection: Connection, settings: Settings, *, force: bool, clock: Clock) -> None:
    if schema_version(connection) == 0:
        return
    alive_since_ns = clock.now_ns() - round(settings.heartbeat_lost_s * 1_000_000_000)
    if running_workers(connection, alive_since_ns):
        wait_s = settings.heartbeat_lost_s
        raise Refused(f"a gateway is running on this database; stop it first (after a crash, wait {wait_s:g} s)")
    # Prices, groups and rules show up by their audit rows.
    tables = (schema.keys, schema.channels, schema.requests, schema.transfers, schema.audit)
    if not force and any(connection.execute(select(func.count()).select_from(table)).scalar() for table in tables):
        raise Refused("this installation is not empty; use --force to replace everything in it")


def _highest_version(connection: Connection) -> int:
    return versions.read(connection).config if schema_version(connection) else 0


def _fitting_key(source: Database, settings: Settings, path: Path, given: Path | None) -> bytes | None:
    """Check that the backup's secrets open; returns the key to install for that, or None."""
    with source.read() as connection:
        if (own := _own_key(settings)) is not None and is_bound_to(connection, Sealer(own)) is not False:
            return None
        beside = path.with_name(path.name + KEY_SUFFIX)
        file = given or (beside if beside.exists() else None)
        if file is None:
            if own is None and is_bound_to(connection, Sealer(bytes(KEY_BYTES))) is None:
                return None
            raise Refused("the secrets in this backup need their own secret key; give it with --secret-key-file FILE")
        try:
            key = parse_secret_key(file.read_text("ascii"), str(file))
        except (OSError, UnicodeDecodeError, SecretKeyError) as error:
            raise InvalidInput(str(error), field="secret_key_file") from None
        if is_bound_to(connection, Sealer(key)) is False:
            raise Refused(f"{file} is not the secret key of this backup")
        if own is not None:
            where = "ELKAPI_SECRET_KEY" if settings.secret_key else str(secret_key_path(settings))
            raise Refused(
                f"this installation has another secret key; move {where} away first, since it is never replaced"
            )
        return key


def _own_key(settings: Settings) -> bytes | None:
    if settings.secret_key or files.is_there(secret_key_path(settings)):
        return load_secret_key(settings)
    return None


def _copy_sqlite_file(database: Database, copy: Path) -> None:
    raw = database.raw_writer()
    try:
        target = sqlite3.connect(_created(copy))
        try:
            # All pages in one step: a write between steps would restart the copy, endlessly under load. In WAL mode the
            # long read does not block writers.
            raw.backup(target)
        except sqlite3.Error as error:
            raise Refused(f"cannot write the copy: {error}; it was removed") from None
        finally:
            target.close()
    finally:
        raw.close()


def _copy_from_server(database: Database, copy: Path, clock: Clock) -> None:
    _created(copy)
    target = Database.open(sqlite_url(copy))
    try:
        with database.read() as reading, target.write() as connection:
            if not schema_version(reading):
                raise Missing("this database is empty; there is nothing to back up")
            _refill(connection, reading, clock)
    finally:
        target.close()


def _refill(connection: Connection, reading: Connection, clock: Clock) -> None:
    """Create the tables in an empty database and replace their seed rows by every row of the source."""
    migrate_in(connection, clock=clock)
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(table.delete())
    for table in schema.metadata.sorted_tables:
        # SQL text and plain tuples: SQLAlchemy's row handling would take three times as long as the I/O.
        values: dict[str, Any] = {column.name: bindparam(column.name) for column in table.columns}
        text = str(table.insert().values(values).compile(dialect=sql.positional(connection.dialect.name)))
        for rows in _batches(reading, table):
            connection.exec_driver_sql(text, rows)
    sql.go_on_behind(connection, schema.metadata.sorted_tables, sql.last_ids(reading, schema.metadata.sorted_tables))
    sql.plan_by_rows(connection, schema.metadata.sorted_tables)


def _batches(connection: Connection, table: Table) -> Iterator[list[tuple[object, ...]]]:
    """Rows of a table in the order of its columns, at most ROWS_AT_ONCE in memory."""
    result = connection.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE).execute(select(table))
    for part in result.partitions():
        yield [tuple(row) for row in part]


def _opened_backup(copy: Path) -> Database:
    with copy.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            raise InvalidInput("it is not a backup of elkapi", field="file")
    source = Database.open(sqlite_url(copy))
    try:
        with source.read() as connection:
            if connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() != "ok":
                raise InvalidInput("it is damaged", field="file")
            if schema_version(connection) == 0:
                raise InvalidInput("it is not a backup of elkapi", field="file")
    except (sql.DatabaseUrlError, Unavailable) as error:
        source.close()
        what = "is not a backup of elkapi" if isinstance(error, sql.DatabaseUrlError) else "is damaged"
        raise InvalidInput(f"it {what}", field="file") from None
    except AdminError:
        source.close()
        raise
    return source


def _described(copy: Path, path: Path) -> BackupReport:
    database = Database.open(sqlite_url(copy))
    try:
        with database.read() as connection:
            counts = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in schema.metadata.sorted_tables
            }
            return BackupReport(str(path), schema_version(connection), counts)
    finally:
        database.close()


def _created(path: Path) -> Path:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return path


def _link_new(copy: Path, path: Path) -> None:
    """Sync the finished copy and give it its name, never overwriting another file."""
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    try:
        files.name_new_file(copy, path)
    except FileExistsError:
        raise Refused(f"{path} already exists; a backup never overwrites a file") from None


@contextmanager
def _key_in(path: Path, key: bytes | None) -> Iterator[None]:
    """Install `key`, if any, in its file during the block; it stays if the block succeeds. Raises Refused if another
    process just created the file: it may contain another key, or be removed by that process.
    """
    if key is None:
        yield
        return
    files.create_private_directory(path.parent)
    if not install_secret_key(path, key):
        raise Refused(f"another process created {path} at the same time; try again")
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _private_folder(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".elkapi-", dir=parent))
    try:
        yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
