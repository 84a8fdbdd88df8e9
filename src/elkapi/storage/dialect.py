"""The differences between SQLite and PostgreSQL; all other SQL but the ledger's is written once for both.

It builds the engines (pragmas, transaction starts, timeouts) and spells upserts, row locks and the migration lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    Engine,
    ExceptionContext,
    Select,
    String,
    Table,
    Update,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from elkapi.settings import SQLITE_SYNCHRONOUS
from elkapi.storage import files

SQLITE_APPLICATION_ID = 0x656C6B61  # "elka": `file` and a mistaken path can tell our file from another program's.
# Half of SQLite's own choice: what a transaction touches goes to the log in whole pages, and the calls of many keys
# touch as many accounts (docs/adr/0010-ledger.md has the figures). A file keeps the size that it was made with.
SQLITE_PAGE_BYTES = 2048
# The size to which the log is truncated when it restarts. A long read, such as that of a backup, lets it grow; this is
# more than it reaches without one (ledger/checkpoint.py).
SQLITE_LOG_BYTES_KEPT = 64 << 20
BUSY_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 30_000
POOL_TIMEOUT_S = 5.0
POSTGRESQL_MIGRATION_LOCK = 0x656C6B61
# A variable of ours among a connection's options: if it is missing, the other options are missing too.
POSTGRESQL_MARK = "elkapi.session"

SQLITE = "sqlite"
POSTGRESQL = "postgresql"

# Bind bytes directly. Otherwise the driver asks each value how it wants to be adapted and takes an exception as the
# answer: 3,000 instructions each, and a paid call binds five.
sqlite3.register_adapter(bytes, bytes.__bytes__)


class DatabaseUrlError(ValueError):
    """An unusable database address; the message never contains a password."""


def parse_url(url: str) -> URL:
    """The SQLAlchemy URL with our driver. Raises DatabaseUrlError for anything but SQLite files and PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUrlError("the database address cannot be read; use sqlite:///FILE or postgresql://...") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise DatabaseUrlError("a SQLite database must be a file, since several processes share it")
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if "@" in (parsed.host or ""):
            # Parsed anyway, part of the password would become part of the host name, and so appear in messages.
            raise DatabaseUrlError("the database address has more than one @; write %40 for one in the password")
        if unknown := sorted(parsed.query.keys() - _postgresql_options()):
            raise DatabaseUrlError(
                f"the database address has parameters that PostgreSQL does not know: {', '.join(unknown)}"
            )
        parsed = parsed.set(drivername="postgresql+psycopg")
        _check_hosts(parsed)
        return parsed
    raise DatabaseUrlError(f"{parsed.drivername!r} is not a supported database; use sqlite:///FILE or postgresql://...")


def _postgresql_options() -> set[str]:
    from psycopg.pq import Conninfo

    return {option.keyword.decode() for option in Conninfo.get_defaults()}


def _check_hosts(url: URL) -> None:
    """Reject early what would fail at every connection: hosts and ports that do not match, a timeout that is not a
    number. Raises DatabaseUrlError."""
    from psycopg import ProgrammingError as BadOption
    from psycopg.conninfo import timeout_from_conninfo

    try:
        _, options = PGDialect_psycopg().create_connect_args(url)  # type: ignore[no-untyped-call]
        timeout_from_conninfo(options)
    except (ArgumentError, BadOption) as error:
        raise DatabaseUrlError(f"the database address cannot be used: {error}") from None


def name_of(url: URL) -> str:
    return SQLITE if url.drivername.startswith("sqlite") else POSTGRESQL


def make_engine(url: URL, *, synchronous: str, pool_size: int, read_only: bool) -> Engine:
    """A pooled engine. On SQLite writers take the write lock when they begin; readers see one consistent snapshot."""
    if name_of(url) == SQLITE:
        return _sqlite_engine(url, synchronous, pool_size, read_only)
    return _postgresql_engine(url, pool_size, read_only)


def _sqlite_engine(url: URL, synchronous: str, pool_size: int, read_only: bool) -> Engine:
    engine = create_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=POOL_TIMEOUT_S)
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        prepare_sqlite(connection, synchronous, read_only=read_only)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def prepare_sqlite(connection: Any, synchronous: str, *, read_only: bool = False) -> None:
    """Set the pragmas of one DBAPI connection. `isolation_level` None keeps the driver from beginning transactions
    itself."""
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA synchronous = {_synchronous(synchronous)}")
        cursor.execute("PRAGMA temp_store = MEMORY")
        cursor.execute(f"PRAGMA journal_size_limit = {SQLITE_LOG_BYTES_KEPT}")
        cursor.execute("PRAGMA trusted_schema = OFF")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
    finally:
        cursor.close()


def _synchronous(value: str) -> str:
    upper = value.upper()
    if upper not in SQLITE_SYNCHRONOUS:
        raise DatabaseUrlError(f"synchronous {value!r} is not one of {', '.join(SQLITE_SYNCHRONOUS)}")
    return upper


def _postgresql_engine(url: URL, pool_size: int, read_only: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        # A restarted server leaves dead connections in the pool; the ping replaces them before a query uses one.
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        connect_args=postgresql_connect_args(url),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        _check_postgresql(connection)
        if read_only:
            connection.read_only = True

    if not read_only:

        @event.listens_for(engine, "handle_error")
        def _judge(context: ExceptionContext) -> None:
            # The server answers pings but has become a standby: a new connection reaches the one that accepts writes.
            if only_reads(context.original_exception):
                context.is_disconnect = True

    return engine


def make_looking_engine(url: URL) -> Engine:
    """One connection to PostgreSQL for polls that run several times a second, without a transaction around each
    statement or a ping before it."""
    engine = create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        isolation_level="AUTOCOMMIT",
        connect_args=postgresql_connect_args(url),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        _check_postgresql(connection)

    return engine


def postgresql_connect_args(url: URL) -> dict[str, Any]:
    """Limits of every PostgreSQL connection, so that a lost server is noticed in seconds instead of the kernel's
    minutes. Options in the address take precedence."""
    bounds = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "application_name": "elkapi",
        # Overrides the environment, the role, and a server without an encoding of its own.
        "client_encoding": "UTF8",
    }
    asked = url.normalized_query
    ours = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC -c {POSTGRESQL_MARK}=on"
    return {name: value for name, value in bounds.items() if name not in asked} | {
        "options": " ".join((ours, *asked.get("options", ())))
    }


def _check_postgresql(connection: Any) -> None:
    """Raises DatabaseUrlError for a database that cannot store all text, and behind a pooler, which mixes up the
    settings and prepared statements of sessions."""
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise DatabaseUrlError(
            f"the database's encoding is {encoding}, which cannot store all text; create one with "
            "CREATE DATABASE elkapi ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        )
    try:
        mark = connection.execute("SELECT current_setting(%s, true)", (POSTGRESQL_MARK,)).fetchone()[0]
        connection.rollback()
    except Exception as error:
        # The server went away meanwhile: an outage, which SQLAlchemy wraps only for its own statements.
        raise OperationalError(None, None, error) from error
    if not mark:
        raise DatabaseUrlError(
            "the settings of a connection do not reach PostgreSQL, because a pooler such as PgBouncer is in between; "
            "use PostgreSQL's own address, since the gateway pools its connections itself"
        )


def raw_connection(engine: Engine, synchronous: str, *, read_only: bool = False) -> Any:
    """A DBAPI connection outside any pool, in autocommit: the caller sends BEGIN and COMMIT itself and closes it.

    Placeholders are the driver's: `?` on SQLite, `%s` on PostgreSQL. It may be used from another thread.
    """
    if engine.dialect.name == SQLITE:
        connection = sqlite3.connect(
            str(engine.url.database), isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            prepare_sqlite(connection, synchronous, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return connection
    import psycopg

    args, options = engine.dialect.create_connect_args(engine.url)
    return psycopg.connect(*args, **{**options, **postgresql_connect_args(engine.url)}, autocommit=True)


class Look:
    """A query that runs several times a second: compiled once, since SQLAlchemy's way to the driver costs several times
    what such a query does. The driver gets its values as they are."""

    def __init__(self, query: Select[Any]) -> None:
        dialects: tuple[Dialect, ...] = (sqlite.dialect(paramstyle="named"), PGDialect_psycopg())  # type: ignore[no-untyped-call]
        # PostgreSQL may only use a partial index if it sees the literals of its condition, which `query` has to spell.
        made = [query.compile(dialect=one) for one in dialects]
        self._texts = {one.dialect.name: str(one) for one in made}
        self._values = dict(made[0].params)

    def rows(self, connection: LookConnection, **values: Any) -> Sequence[Any]:
        """All rows, with these values of the query's parameters."""
        given = self._values | values
        if isinstance(connection, sqlite3.Connection):
            return connection.execute(self._texts[SQLITE], given).fetchall()
        return connection.exec_driver_sql(self._texts[connection.dialect.name], given).all()


# What a `Look` runs on: a transaction's connection, or on SQLite also the driver's (`db.Database.look`).
LookConnection = Connection | sqlite3.Connection


def create_sqlite_file(path: Path) -> None:
    """Create the data directory (0700) and the file (0600) if absent; SQLite gives -wal and -shm the same mode."""
    files.create_private_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        files.give_to_owner(made, path.parent)
        os.close(made)


def adopt_sqlite_file(connection: Any) -> None:
    """Mark a new file as ours and switch it to WAL. Raises DatabaseUrlError for another program's database."""
    if _scalar(connection, "PRAGMA application_id") != SQLITE_APPLICATION_ID:
        connection.execute(f"PRAGMA page_size = {SQLITE_PAGE_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            _claim_sqlite_file(connection)
        finally:
            connection.execute("COMMIT")
    deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while _scalar(connection, "PRAGMA journal_mode") != "wal":
        # SQLite does not apply its busy timeout to this switch, and another process may be making it at the same time.
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline_s:
                raise DatabaseUrlError(f"the database file cannot be switched to WAL: {error}") from None
            time.sleep(0.02)


def _claim_sqlite_file(connection: Any) -> None:
    application_id = _scalar(connection, "PRAGMA application_id")
    if application_id not in (0, SQLITE_APPLICATION_ID):
        raise DatabaseUrlError("the database file belongs to another program (its application id differs)")
    if application_id == 0:
        if _scalar(connection, "SELECT count(*) FROM sqlite_master"):
            raise DatabaseUrlError("the database file already contains tables of another program")
        connection.execute(f"PRAGMA application_id = {SQLITE_APPLICATION_ID}")


def _scalar(connection: Any, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]


def is_outage(error: BaseException) -> bool:
    """Whether the database could not answer at all, as opposed to refusing a statement."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, sqlite3.Error):
        # Raw driver errors come from preparing a connection: the file is missing, locked or not a database.
        return isinstance(error, sqlite3.DatabaseError)
    if isinstance(error, InternalError):
        return only_reads(error.orig)
    if isinstance(error, ProgrammingError):
        return lacks_right(error.orig)
    if isinstance(error, OperationalError) and is_too_much(error.orig):
        return False
    refused = (IntegrityError, DataError, NotSupportedError)
    return isinstance(error, DBAPIError) and not isinstance(error, refused)


def only_reads(error: BaseException | None) -> bool:
    """Whether a PostgreSQL server refused a write because it is read-only, by the driver's error. A standby is,
    until it is promoted; so waiting helps, and so does reconnecting to where the primary was before."""
    return getattr(error, "sqlstate", None) == "25006"


def lacks_right(error: BaseException | None) -> bool:
    """Whether PostgreSQL refused because the role lacks a right or its search path has no schema, by the driver's
    error; granting or creating it helps."""
    return getattr(error, "sqlstate", None) in ("42501", "3F000")


def is_too_much(error: BaseException | None) -> bool:
    """Whether a value is too large for PostgreSQL, for example for an index, by the driver's error. The driver
    counts that among outages, but waiting never helps."""
    return getattr(error, "sqlstate", None) == "54000"


def is_taken(error: BaseException) -> bool:
    """Whether a row was refused because its id exists, by either driver's error."""
    return getattr(error, "sqlstate", None) == "23505" or getattr(error, "sqlite_errorname", "") in (
        "SQLITE_CONSTRAINT_PRIMARYKEY",
        "SQLITE_CONSTRAINT_UNIQUE",
    )


def askable(names: Iterable[str]) -> list[str]:
    """Those of a caller's names that a column can contain: PostgreSQL stores no text with a NUL character, and
    refuses to compare with one."""
    return [name for name in names if "\0" not in name]


def positional(dialect: str) -> Any:
    """The dialect that compiles to text with positional placeholders, `?` or `%s`, for cursors without SQLAlchemy."""
    return sqlite.dialect() if dialect == SQLITE else PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]


def insert_into(table: Table, dialect: str) -> Any:
    """An insert that supports ON CONFLICT; both constructs have the same methods."""
    return sqlite.insert(table) if dialect == SQLITE else postgresql.insert(table)


def upsert(
    connection: Connection,
    table: Table,
    values: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    update: Sequence[str] = (),
) -> int:
    """Insert rows; if `key` exists, overwrite the `update` columns or leave the row alone. Returns the rows touched."""
    insert = insert_into(table, connection.dialect.name)
    statement = (
        insert.on_conflict_do_update(index_elements=list(key), set_={name: insert.excluded[name] for name in update})
        if update
        else insert.on_conflict_do_nothing(index_elements=list(key))
    )
    rows = [dict(values)] if isinstance(values, Mapping) else [dict(row) for row in values]
    statement = statement.execution_options(preserve_rowcount=True)
    return sum(connection.execute(statement, row).rowcount for row in rows)


def execute_for_each(
    connection: Connection, change: Update | Delete, key: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]
) -> None:
    """Execute an update or a delete for each of these rows, named by the values of their key's columns.

    Not `tuple_(*key).in_(rows)`: for more than one row SQLite would go through the whole table.
    """
    names = [f"key_{column.name}" for column in key]
    one = change.where(*(column == bindparam(name) for name, column in zip(names, key, strict=True)))
    if values := [dict(zip(names, row, strict=True)) for row in rows]:
        connection.execute(one, values)


def json_member(connection: Connection, column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The text of a top-level member of a column that holds a JSON object; `name` must not contain quotes or
    backslashes."""
    if connection.dialect.name == SQLITE:
        return func.json_extract(column, f'$."{name}"', type_=String)
    member: ColumnElement[Any] = cast(column, JSON)[name].as_string()
    return member


def for_update(statement: Select[Any], *, skip_locked: bool = False, of: Table | None = None) -> Select[Any]:
    """Lock the selected rows, or those `of` one table of a join. SQLite ignores it: its write transaction already
    excludes every other writer."""
    return statement.with_for_update(skip_locked=skip_locked, of=of)


def lock_for_migration(connection: Connection) -> None:
    """Block every other migrating process until this transaction ends (on SQLite, BEGIN IMMEDIATE already has).

    As `take_time`, first of all: the process that has the lock may take minutes in a large database.
    """
    take_time(connection)
    if connection.dialect.name == POSTGRESQL:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": POSTGRESQL_MIGRATION_LOCK})


def take_time(connection: Connection) -> None:
    """Lift the statement timeout of this transaction: it reads everything, and nobody waits for it."""
    if connection.dialect.name == POSTGRESQL:
        connection.execute(text("SET LOCAL statement_timeout = 0"))


def plan_by_rows(connection: Connection, tables: Iterable[Table]) -> None:
    """Count what was just written in bulk, by which PostgreSQL plans; until it looks by itself, lists would go through
    whole tables. SQLite plans by the indexes alone."""
    if connection.dialect.name == POSTGRESQL:
        for table in tables:
            connection.exec_driver_sql(f"ANALYZE {connection.dialect.identifier_preparer.format_table(table)}")


def last_ids(connection: Connection, tables: Sequence[Table]) -> dict[str, int]:
    """The highest id that each of these tables ever gave a row, by table name, where the database remembers it."""
    if connection.dialect.name == SQLITE:
        return {row.name: row.seq for row in connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}
    numbered = _sequences(connection, tables)
    last = [func.pg_sequence_last_value(cast(sequence, postgresql.REGCLASS)) for sequence in numbered.values()]
    found = connection.execute(select(*last)).one()
    return {table.name: given or 0 for table, given in zip(numbered, found, strict=True)}


def go_on_behind(connection: Connection, tables: Sequence[Table], last: Mapping[str, int]) -> None:
    """After inserting rows with explicit ids: make new ids higher than these, and than those in `last`."""
    if connection.dialect.name == SQLITE:
        for table in tables:
            if table.dialect_options["sqlite"]["autoincrement"]:
                connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
                row = (table.name, last.get(table.name, 0))
                connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", row)
        return
    for table, sequence in _sequences(connection, tables).items():
        highest = select(func.greatest(func.max(table.autoincrement_column), last.get(table.name, 0))).scalar_subquery()
        connection.execute(select(func.setval(sequence, func.greatest(highest, 1), highest > 0)))


def _sequences(connection: Connection, tables: Sequence[Table]) -> dict[Table, Any]:
    """PostgreSQL's sequences of those tables that have one."""
    quote = connection.dialect.identifier_preparer.quote
    return {
        table: func.pg_get_serial_sequence(quote(table.name), table.autoincrement_column.name)
        for table in tables
        if table.autoincrement_column is not None
    }
