"""Databases that tests use in turn: each test finds one as good as fresh."""

from __future__ import annotations

import psycopg
import pytest

from tests.templates import MigratedDatabases

pytestmark = pytest.mark.postgres


def content(url: str) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table with their places on its pages, and the position of every sequence."""
    with psycopg.connect(url) as connection:
        relations = connection.execute(
            "SELECT relname, relkind FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')"
        ).fetchall()
        columns = {"r": "ctid, t.*", "S": "last_value, is_called"}
        return {
            name: connection.execute(f'SELECT {columns[kind]} FROM "{name}" t'.encode()).fetchall()
            for name, kind in relations
        }


def test_a_database_is_given_back_as_it_was(postgres_databases: MigratedDatabases) -> None:
    url = postgres_databases.take()
    fresh = content(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE accounts SET posted_nano = 5")
        connection.execute("DELETE FROM prices WHERE id > 3")
        connection.execute("INSERT INTO audit VALUES (1, 1, 'a', 'b', 'c', 'd')")
        connection.execute("SELECT nextval('keys_id_seq'), nextval('prices_id_seq')")
    left_open = psycopg.connect(url)
    left_open.execute("SELECT * FROM groups FOR UPDATE")
    postgres_databases.give_back(url)
    assert postgres_databases.take() == url
    assert content(url) == fresh
    postgres_databases.give_back(url)
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    left_open.close()


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE further (id int)",
        "DROP TABLE audit",
        "ALTER TABLE keys ALTER COLUMN id SET STATISTICS 5",
        "ALTER TABLE groups ADD CHECK (ratio_micro >= 0)",
        "CREATE SCHEMA further",
    ],
)
def test_a_database_of_another_schema_is_given_to_nobody(postgres_databases: MigratedDatabases, change: str) -> None:
    url = postgres_databases.take()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(change.encode())
    postgres_databases.give_back(url)
    assert postgres_databases.take() != url
