"""Migrated databases for tests: a SQLite file to copy, and PostgreSQL databases that are emptied after each test.

Copying the file takes a fraction of the time of a migration, and emptying a database a tenth of copying it.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from pathlib import Path

import psycopg

from elkapi.storage.db import Database
from elkapi.storage.dialect import create_sqlite_file
from elkapi.storage.migrations import migrate


def copy_migrated_sqlite(path: Path) -> None:
    """Create a fresh, migrated database at a new path."""
    create_sqlite_file(path)
    path.write_bytes(_migrated())


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="elk-") as folder:
        path = Path(folder) / "elkapi.sqlite3"
        database = Database.open(f"sqlite:///{path}")
        migrate(database)
        # Closing the last connection merges the -wal file into the database.
        database.close()
        return path.read_bytes()


# Detects schema changes by a test. Rows of pg_class change whenever a database is emptied, so they are only counted.
_SCHEMA = b"""SELECT
    (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_proc),
    (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_db_role_setting),
    (SELECT max(xmin::text::bigint) FROM pg_constraint),
    (SELECT max(xmin::text::bigint) FROM pg_attribute WHERE attrelid >= 16384)"""
_OTHERS = b"""SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
_OURS = "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind"


class MigratedDatabases:
    """A pool of PostgreSQL databases, copied from a migrated one if none is free."""

    def __init__(self, template_url: str) -> None:
        self._server, _, self._template = template_url.rpartition("/")
        self._free: list[str] = []
        self._schemas: dict[str, object] = {}
        self._numbers = itertools.count(1)
        with psycopg.connect(template_url, autocommit=True) as connection:
            self._rows = {name: _rows(connection, name) for name in _names(connection, "= 'r'")}
            sequences = _names(connection, "= 'S'")
            self._sequences = b"; ".join(_position(connection, name) for name in sequences)

    def take(self) -> str:
        """The URL of a database that is in its initial state and not in use."""
        if self._free:
            return self._free.pop()
        name = f"migrated_{os.getpid()}_{next(self._numbers)}"
        self._on_server(f'CREATE DATABASE "{name}" TEMPLATE "{self._template}"')
        url = f"{self._server}/{name}"
        with psycopg.connect(url, autocommit=True) as connection:
            self._schemas[url] = connection.execute(_SCHEMA).fetchone()
        return url

    def give_back(self, url: str) -> None:
        """Reset a database for the next test, or drop it if its schema was changed."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_OTHERS).fetchall()
            unchanged = connection.execute(_SCHEMA).fetchone() == self._schemas[url]
            if unchanged:
                self._empty(connection)
        if unchanged:
            self._free.append(url)
        else:
            self._on_server(f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)')

    def _empty(self, connection: psycopg.Connection) -> None:
        """Restore the template's rows and sequence positions, on new pages and without statistics."""
        used = _names(connection, "= 'r' AND pg_relation_size(oid) > 0")
        deletes = "; ".join(f'DELETE FROM "{name}"' for name in used)
        # In the replica role no triggers fire, so foreign keys do not require an order.
        connection.execute(f"BEGIN; SET LOCAL session_replication_role = replica; {deletes}; COMMIT".encode())
        connection.execute(f"VACUUM {', '.join(used)}".encode())
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            for name, rows in self._rows.items():
                if rows:
                    with cursor.copy(f'COPY "{name}" FROM STDIN'.encode()) as copy:
                        copy.write(rows)
            cursor.execute(self._sequences)
            cursor.execute(
                f"UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid IN (SELECT oid {_OURS} = 'r')".encode()
            )

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


def _names(connection: psycopg.Connection, kind: str) -> list[str]:
    return [name for (name,) in connection.execute(f"SELECT relname {_OURS} {kind}".encode())]


def _rows(connection: psycopg.Connection, table: str) -> bytes:
    with connection.cursor().copy(f'COPY "{table}" TO STDOUT'.encode()) as copy:
        return b"".join(bytes(part) for part in copy)


def _position(connection: psycopg.Connection, sequence: str) -> bytes:
    found = connection.execute(f'SELECT last_value, is_called FROM "{sequence}"'.encode()).fetchone()
    assert found is not None
    return f"SELECT setval('{sequence}', {found[0]}, {found[1]})".encode()
