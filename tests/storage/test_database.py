"""Transactions, outages and file modes of storage.db on both databases."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, create_engine, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from elkapi.errors import Unavailable, to_operator
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.db import Database, Reader
from elkapi.storage.migrations import migrate
from tests.conftest import _postgres_database
from tests.storage.conftest import read_only, server_commands

meta = schema.meta
ONE = sql.Look(select(text("1")))
VALUE = sql.Look(select(meta.c.value).where(meta.c.name == bindparam("name"), meta.c.value < "c").limit(2))


def test_a_write_is_kept_whole_or_not_at_all(database: Database) -> None:
    def stop_half_way() -> None:
        with database.write() as connection:
            connection.execute(meta.insert(), {"name": "half", "value": "1"})
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        stop_half_way()
    with database.write() as connection:
        connection.execute(meta.insert(), {"name": "whole", "value": "1"})
    with database.read() as connection:
        names = set(connection.execute(select(meta.c.name)).scalars())
    assert "whole" in names
    assert "half" not in names


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises((Unavailable, DBAPIError)):
        with database.read() as connection:
            connection.execute(meta.insert(), {"name": "no", "value": "1"})


def test_a_read_sees_one_moment(database: Database) -> None:
    count = select(meta.c.name)
    with database.read() as reading:
        before = reading.execute(count).all()
        with database.write() as writing:
            writing.execute(meta.insert(), {"name": "later", "value": "1"})
        assert reading.execute(count).all() == before


def test_writers_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(meta.insert(), {"name": "count", "value": "0"})

    def add() -> None:
        for _ in range(10):
            with database.write() as connection:
                row = sql.for_update(select(meta.c.value).where(meta.c.name == "count"))
                value = int(connection.execute(row).scalar_one())
                connection.execute(meta.update().where(meta.c.name == "count").values(value=str(value + 1)))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(select(meta.c.value).where(meta.c.name == "count")).scalar_one() == "40"


def test_upsert_inserts_overwrites_or_leaves_alone(database: Database) -> None:
    with database.write() as connection:
        assert sql.upsert(connection, meta, {"name": "a", "value": "1"}, key=["name"]) == 1
        assert sql.upsert(connection, meta, {"name": "a", "value": "2"}, key=["name"]) == 0
        assert connection.execute(select(meta.c.value).where(meta.c.name == "a")).scalar_one() == "1"
        assert sql.upsert(connection, meta, {"name": "a", "value": "3"}, key=["name"], update=["value"]) == 1
        assert connection.execute(select(meta.c.value).where(meta.c.name == "a")).scalar_one() == "3"


def test_the_raw_writer_is_in_autocommit_and_sees_foreign_keys(database: Database) -> None:
    raw = database.raw_writer()
    try:
        cursor = raw.cursor()
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO meta (name, value) VALUES ('raw', '1')")
        cursor.execute("ROLLBACK")
        cursor.execute("INSERT INTO meta (name, value) VALUES ('kept', '1')")
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            cursor.execute(
                "INSERT INTO channel_keys (channel_id, sealed, fingerprint, hint, enabled, reason, disabled_by,"
                " changed_ns) VALUES (999, 'x', 'x', '', '1', '', '', 1)"
            )
    finally:
        raw.close()
    with database.read() as connection:
        names = set(connection.execute(select(meta.c.name)).scalars())
    assert "kept" in names
    assert "raw" not in names


async def test_the_reader_runs_off_the_loop(database: Database) -> None:
    reader = Reader(database)
    try:
        name = await reader.run(lambda _connection: threading.current_thread().name)
        assert name.startswith("elkapi-read")
    finally:
        await reader.aclose()


async def test_a_read_that_takes_too_long_is_unavailable(database: Database) -> None:
    reader = Reader(database, threads=1, wait_s=0.2)
    release = threading.Event()
    try:
        with pytest.raises(Unavailable):
            await reader.run(lambda _connection: release.wait())
    finally:
        release.set()
        await reader.aclose()


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancellation_that_comes_with_the_answer_of_a_read_is_heeded(database: Database, turns: int) -> None:
    reader = Reader(database, threads=1)
    asked = asyncio.ensure_future(reader.run(lambda connection: connection.execute(select(1)).scalar()))
    await asyncio.sleep(0)
    reader._threads.submit(lambda: None).result()  # The loop has not heard yet of the answer, which is there by now.
    for _ in range(turns):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await reader.aclose()


async def test_waiting_reads_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elkapi.storage.db.READ_QUEUE_MAX", 1)
    reader = Reader(database, threads=1)
    release = threading.Event()
    try:
        first = asyncio.create_task(reader.run(lambda _connection: release.wait()))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await reader.run(lambda _connection: None)
        release.set()
        assert await first
    finally:
        release.set()
        await reader.aclose()


@pytest.mark.parametrize("use", ["read", "write", "look"])
def test_what_a_thread_still_uses_when_the_database_is_closed_is_closed_after_it(database: Database, use: str) -> None:
    entered, go_on, used = threading.Event(), threading.Event(), list[Any]()

    def slowly(connection: sql.LookConnection) -> None:
        is_driver = isinstance(connection, sqlite3.Connection)
        used.append(connection if is_driver else cast(Connection, connection).connection.driver_connection)
        ONE.rows(connection)
        entered.set()
        go_on.wait()

    def run() -> None:
        if use == "look":
            database.look(slowly)
            return
        with database.read() if use == "read" else database.write() as connection:
            slowly(connection)

    thread = threading.Thread(target=run)
    thread.start()
    entered.wait()
    database.close()
    go_on.set()
    thread.join()
    with pytest.raises(Exception, match="closed"):
        used[0].cursor().execute("SELECT 1")


def test_postgresql_outage_is_unavailable_and_heals(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("a SQLite file has no server to lose")
    with server_commands(database) as (admin, name):
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        for use in (database.read, database.write):
            with pytest.raises(Unavailable), use():
                pass
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        for use in (database.read, database.write):
            with use() as connection:
                assert connection.execute(select(meta.c.name)).first() is not None


def test_a_look_finds_the_same_inside_a_transaction_and_sees_each_commit(database: Database) -> None:
    for value, found in (("a", ["a"]), ("b", ["b"]), ("c", [])):
        with database.write() as connection:
            sql.upsert(connection, meta, {"name": "x", "value": value}, key=["name"], update=["value"])
            assert [row[0] for row in VALUE.rows(connection, name="x")] == found
        with database.read() as connection:
            assert [row[0] for row in VALUE.rows(connection, name="x")] == found
        assert [row[0] for row in database.look(lambda connection: VALUE.rows(connection, name="x"))] == found


def looking(database: Database) -> sqlite3.Connection:
    """SQLite's connection for looks."""
    if database.dialect != "sqlite":
        pytest.skip("a server has a pool for looks")
    connection = database.look(lambda connection: connection)
    assert isinstance(connection, sqlite3.Connection)
    return connection


def test_looks_at_a_file_share_a_connection_that_neither_writes_nor_stays_in_a_transaction(database: Database) -> None:
    kept = looking(database)
    assert database.look(lambda connection: (ONE.rows(connection), connection)) == ([(1,)], kept)
    assert not kept.in_transaction
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        kept.execute("INSERT INTO meta (name, value) VALUES ('no', '1')")


def test_g78_a_failed_look_at_a_file_is_unavailable_and_the_next_has_another_connection(database: Database) -> None:
    kept = looking(database)
    kept.close()
    with pytest.raises(Unavailable) as refused:
        database.look(ONE.rows)
    assert "closed database" in to_operator(refused.value)
    assert database.look(ONE.rows) == [(1,)]
    assert looking(database) is not kept


def test_a_look_waits_no_longer_than_others_for_a_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = looking(database)
    monkeypatch.setattr(sql, "POOL_TIMEOUT_S", 0.01)

    def meanwhile(connection: sql.LookConnection) -> sql.LookConnection:
        with pytest.raises(Unavailable):
            database.look(ONE.rows)
        return connection

    assert database.look(meanwhile) is kept


def test_a_file_that_was_looked_at_is_closed_without_a_log(database: Database) -> None:
    looking(database)
    with database.read() as connection:
        ONE.rows(connection)
        file = Path(str(connection.engine.url.database))
    log = file.with_name(file.name + "-wal")
    assert log.exists()
    database.close()
    assert file.exists()
    assert not log.exists()


def test_a_look_is_a_statement_by_itself_and_a_lost_connection_is_replaced(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("a SQLite file has no server to lose")
    asked = sql.Look(select(text("pg_backend_pid(), now() = statement_timestamp()")))

    def look() -> tuple[int, bool]:
        ((server, is_alone),) = database.look(asked.rows)
        return server, is_alone

    server, is_alone = look()
    assert is_alone
    assert look() == (server, True)
    with server_commands(database) as (admin, _):
        admin.execute("SELECT pg_terminate_backend(%s)", (server,))
        after, is_alone = look()
        assert (after != server, is_alone) == (True, True)
        # What a server refuses is asked once.
        with pytest.raises(ProgrammingError):
            database.look(sql.Look(select(text("nothing"))).rows)


@pytest.mark.postgres
def test_g78_a_server_that_goes_away_behind_a_new_connection_is_unavailable(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = Database.open(migrated_postgres_url)

    def lost(*_: object) -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    try:
        monkeypatch.setattr(psycopg.Connection, "execute", lost)
        with pytest.raises(Unavailable) as refused, connected.read():
            pass
        assert "server closed the connection" in to_operator(refused.value)
    finally:
        connected.close()


def test_a_connection_to_a_server_that_only_reads_is_replaced(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("a SQLite file has no server to lose")
    with read_only(database), pytest.raises(Unavailable), database.write() as connection:
        connection.execute(meta.insert(), {"name": "kept", "value": "1"})
    with database.write() as connection:
        connection.execute(meta.insert(), {"name": "kept", "value": "1"})


def test_g78_a_role_that_lacks_a_right_is_an_outage_that_says_which(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("SQLite has no roles")
    with server_commands(database) as (admin, name):
        role = f"poor_{name}"
        admin.execute(f'CREATE ROLE "{role}" LOGIN')
        try:
            with database.read() as connection:
                url = connection.engine.url.set(username=role).render_as_string(hide_password=False)
            poor = Database.open(url)
            try:
                with pytest.raises(Unavailable) as refused, poor.write() as connection:
                    schema.metadata.tables["meta"].create(connection, checkfirst=False)
                assert "permission denied for schema public" in to_operator(refused.value)
                with pytest.raises(Unavailable) as refused, poor.read() as connection:
                    connection.execute(select(meta.c.name))
                assert "permission denied for table meta" in to_operator(refused.value)
            finally:
                poor.close()
            lost = Database.open(f"{url}?options=-csearch_path%3Dnowhere")
            try:
                with pytest.raises(Unavailable) as refused, lost.write() as connection:
                    schema.metadata.tables["meta"].create(connection, checkfirst=False)
                assert "no schema has been selected" in to_operator(refused.value)
            finally:
                lost.close()
        finally:
            admin.execute(f'DROP ROLE "{role}"')


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_postgresql_database_that_cannot_hold_every_text_is_refused(postgres_server: str, encoding: str) -> None:
    more = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with _postgres_database(postgres_server, more) as url:
        database = Database.open(url)
        try:
            with pytest.raises(sql.DatabaseUrlError, match=f"encoding is {encoding}"), database.read():
                pass
        finally:
            database.close()


@pytest.mark.postgres
def test_a_pooler_that_drops_what_is_asked_of_a_connection_is_refused(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "postgresql_connect_args", lambda _url: {})
    behind = Database.open(migrated_postgres_url)
    try:
        for use in (behind.read, behind.write):
            with pytest.raises(sql.DatabaseUrlError, match="a pooler such as PgBouncer"), use():
                pass
    finally:
        behind.close()


def test_sqlite_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "elkapi.sqlite3"
    database = Database.open(f"sqlite:///{path}")
    try:
        with database.write() as connection:
            schema.meta.create(connection)
            assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        database.close()


@pytest.mark.parametrize(
    ("mine", "stays"), [(None, sql.SQLITE_PAGE_BYTES), (4096, 4096)], ids=["fresh", "made with another size"]
)
def test_sqlite_pages_are_small_and_a_file_keeps_its_own(tmp_path: Path, mine: int | None, stays: int) -> None:
    path = tmp_path / "elkapi.sqlite3"
    if mine is not None:
        earlier = sqlite3.connect(path)
        earlier.execute(f"PRAGMA page_size = {mine}")
        earlier.execute(f"PRAGMA application_id = {sql.SQLITE_APPLICATION_ID}")
        earlier.close()
    database = Database.open(f"sqlite:///{path}", synchronous="FULL")
    try:
        migrate(database)
        raw = database.raw_writer()
        assert raw.execute("PRAGMA page_size").fetchone() == (stays,)
        raw.close()
    finally:
        database.close()


def test_sqlite_is_in_wal_mode_and_bears_our_mark(tmp_path: Path) -> None:
    path = tmp_path / "elkapi.sqlite3"
    database = Database.open(f"sqlite:///{path}", synchronous="FULL")
    try:
        raw = database.raw_writer()
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA synchronous").fetchone() == (2,)
        assert raw.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert raw.execute("PRAGMA application_id").fetchone() == (sql.SQLITE_APPLICATION_ID,)
        raw.close()
    finally:
        database.close()


def test_sqlites_log_gives_back_what_a_long_read_made_it_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "SQLITE_LOG_BYTES_KEPT", 1 << 20)
    database = Database.open(f"sqlite:///{tmp_path / 'e.sqlite3'}")
    migrate(database)
    log = tmp_path / "e.sqlite3-wal"

    def write() -> None:
        with database.write() as connection:
            connection.execute(meta.delete().where(meta.c.name == "much"))
            connection.execute(meta.insert(), {"name": "much", "value": "x" * 600_000})

    with database.read() as reading:
        assert reading.execute(select(meta.c.name)).all()
        for _ in range(5):
            write()
    assert log.stat().st_size > 2 << 20
    with sqlite3.connect(tmp_path / "e.sqlite3") as raw:
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
    raw.close()
    write()
    assert log.stat().st_size <= 1 << 20
    database.close()


@pytest.mark.parametrize("statement", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 1234"])
def test_another_programs_sqlite_file_is_refused_untouched(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "theirs.sqlite3"
    theirs = sqlite3.connect(path)
    theirs.execute(statement)
    theirs.commit()
    theirs.close()
    before = path.read_bytes()
    database = Database.open(f"sqlite:///{path}")
    try:
        with pytest.raises(sql.DatabaseUrlError), database.write():
            pass
    finally:
        database.close()
    assert path.read_bytes() == before


def test_g78_a_damaged_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "damaged.sqlite3"
    path.write_bytes(b"this is not a database" * 1000)
    database = Database.open(f"sqlite:///{path}")
    try:
        for use in (database.read, database.write):
            with pytest.raises(Unavailable), use():
                pass
        with pytest.raises(Unavailable):
            database.look(ONE.rows)
    finally:
        database.close()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///file:x?mode=memory",
            "mysql://root:hunter2@h/x",
            "nonsense",
            "",
        ),
        "postgresql://me:hunter2@h/x?schema=public",
    ],
)
def test_addresses_that_cannot_work_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(sql.DatabaseUrlError) as refused:
        Database.open(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.postgres
def test_what_the_address_asks_of_the_server_goes_before_our_own_bounds(postgres_url: str) -> None:
    asked = "application_name=mine&options=-csearch_path%3Dtheirs%20-cstatement_timeout%3D5s"
    database = Database.open(f"{postgres_url}?{asked}")
    raw = database.raw_writer()
    try:
        with database.read() as reading, database.write() as writing:
            executes: tuple[Callable[[str], Any], ...] = (reading.exec_driver_sql, writing.exec_driver_sql, raw.execute)
            for execute in executes:
                found = [
                    execute(f"SHOW {name}").fetchone()[0]
                    for name in ("search_path", "statement_timeout", "timezone", "application_name")
                ]
                assert found == ["theirs", "5s", "UTC", "mine"]
    finally:
        raw.close()
        database.close()


def test_the_address_shown_hides_the_password() -> None:
    database = Database.open("postgresql://me:hunter2@127.0.0.1:1/x")
    try:
        assert "hunter2" not in database.address
    finally:
        database.close()


def test_a_raw_connection_that_cannot_be_prepared_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made = tmp_path / "e.sqlite3", list[sqlite3.Connection]()
    file.write_bytes(b"no database at all" * 100)
    connect = sqlite3.connect

    def kept(*given: Any, **more: Any) -> sqlite3.Connection:
        made.append(connect(*given, **more))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        sql.raw_connection(create_engine(f"sqlite:///{file}"), "NORMAL")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute("SELECT 1")
