"""The books' cursor on PostgreSQL: how often a booking waits for its server, and whose error is told when."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from elkapi.clock import SYSTEM_CLOCK
from elkapi.ids import new_id
from elkapi.ledger.books import Books
from elkapi.ledger.ledger import open_books
from elkapi.ledger.orders import Beat, Hold, Order, Settle, UsageRow
from elkapi.ledger.postgres import Cursor, Session
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.testing.ledger import funded_account

pytestmark = pytest.mark.postgres

OWNER = b"o" * 16


class Wire:
    """A line to the server that counts how often what a client sends is behind something it was answered."""

    def __init__(self, host: str, port: int) -> None:
        self.waits = 0
        self._answered = True
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            both = [threading.Thread(target=self._carry, args=(client, server, True))]
            both.append(threading.Thread(target=self._carry, args=(server, client, False)))
            self._threads += both
            for thread in both:
                thread.start()
            self._threads.append(threading.Thread(target=_close_after, args=(both, client, server)))
            self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and self._answered:
                    self.waits += 1
                self._answered = not asks
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def _close_after(threads: list[threading.Thread], *ends: socket.socket) -> None:
    for thread in threads:
        thread.join()
    for end in ends:
        end.close()


@pytest.fixture
def wire(migrated_postgres_url: str) -> Iterator[Wire]:
    address = urlsplit(migrated_postgres_url)
    assert address.hostname is not None
    assert address.port is not None
    wire = Wire(address.hostname, address.port)
    yield wire
    wire.close()


@pytest.fixture
def database(migrated_postgres_url: str, wire: Wire) -> Iterator[Database]:
    address = urlsplit(migrated_postgres_url)
    opened = Database.open(address._replace(netloc=f"{address.username}@127.0.0.1:{wire.port}").geturl())
    yield opened
    opened.close()


@pytest.fixture
def books(database: Database, migrated_postgres_url: str) -> Iterator[Books]:
    opened = open_books(database, Settings(database_url=migrated_postgres_url))
    opened.apply([Beat(OWNER, "worker", SYSTEM_CLOCK.now_ns())])
    yield opened
    opened.close()


def a_hold(*accounts: int) -> Hold:
    return Hold(new_id(), 1, accounts, 100, "model", 1, OWNER)


def its_settlement(hold: Hold) -> Settle:
    row = UsageRow(1, 1, "model", 200, SYSTEM_CLOCK.now_ns(), b"{}")
    return Settle(hold.request_id, True, 60, 0, row)


def waits_of(wire: Wire, books: Books, orders: list[Order]) -> int:
    before = wire.waits
    assert books.apply(orders) == [None] * len(orders)
    return wire.waits - before


def test_a_booking_waits_for_its_server_three_times(wire: Wire, books: Books, database: Database) -> None:
    account = funded_account(database, 10_000)
    hold = a_hold(account)
    books.apply([hold])
    books.apply([its_settlement(hold)])  # everything is known of the account and prepared
    hold = a_hold(account)
    assert waits_of(wire, books, [hold]) == 2
    assert waits_of(wire, books, [its_settlement(hold)]) == 1


def test_many_accounts_are_one_wait(wire: Wire, books: Books, database: Database) -> None:
    accounts = [funded_account(database, 10_000) for _ in range(20)]
    first = [a_hold(account) for account in accounts]
    books.apply(first)
    ended, begun = [its_settlement(hold) for hold in first], [a_hold(account) for account in accounts]
    assert waits_of(wire, books, [*ended, *begun]) == 2


@contextmanager
def cursor_of(database: Database) -> Iterator[Cursor]:
    session = Session(database.raw_writer())
    try:
        cursor = session.cursor()
        cursor.execute("CREATE TEMPORARY TABLE things (id bigint PRIMARY KEY, name text)")
        yield cursor
    finally:
        session.close()


INSERT = "INSERT INTO things (id, name) VALUES (%s, %s)"
SELECT = "SELECT name FROM things WHERE id = %s"


def name_of(cursor: Cursor, number: int) -> object:
    cursor.execute(SELECT, (number,))
    found = cursor.fetchone()
    return None if found is None else found[0]


def test_an_error_is_told_at_the_next_answer_and_nothing_behind_it_stands(database: Database) -> None:
    with cursor_of(database) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(INSERT, (1, "one"))
        cursor.execute(INSERT, (1, "again"))
        cursor.execute(INSERT, (2, "two"))
        with pytest.raises(psycopg.errors.UniqueViolation, match="things_pkey"):
            cursor.execute("COMMIT")
        cursor.execute("ROLLBACK")
        assert name_of(cursor, 1) is None
        assert name_of(cursor, 2) is None


def test_a_commit_that_the_server_makes_a_rollback_is_no_commit(database: Database) -> None:
    """It answers so, and without an error, where an earlier statement failed and its error was already told."""
    with cursor_of(database) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(INSERT, (1, "one"))
        cursor.execute(INSERT, (1, "again"))
        with pytest.raises(psycopg.errors.UniqueViolation):
            cursor.fetchone()
        with pytest.raises(psycopg.OperationalError, match="not committed"):
            cursor.execute("COMMIT")
        assert name_of(cursor, 1) is None


def test_values_come_back_as_they_went(database: Database) -> None:
    given = (-(1 << 63), (1 << 63) - 1, -1, "-1", b"\0\xff", None)
    with cursor_of(database) as cursor:
        casts = "%s::bigint, %s::bigint, %s::smallint, %s::text, %s::bytea, %s::bigint"
        cursor.execute(f"SELECT {casts}", given)
        assert cursor.fetchone() == given


def test_a_savepoint_is_gone_back_to_from_an_error_not_told_yet(database: Database) -> None:
    with cursor_of(database) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(INSERT, (1, "one"))
        cursor.execute("SAVEPOINT alone")
        cursor.execute(INSERT, (1, "again"))
        cursor.execute("ROLLBACK TO SAVEPOINT alone")
        cursor.execute(INSERT, (2, "two"))
        cursor.execute("COMMIT")
        assert name_of(cursor, 1) == "one"
        assert name_of(cursor, 2) == "two"


def test_a_statement_that_could_not_be_prepared_is_prepared_again(database: Database) -> None:
    late = "INSERT INTO late (id) VALUES (%s)"
    with cursor_of(database) as cursor:
        for _ in range(2):
            cursor.execute("BEGIN")
            cursor.execute(late, (1,))
            with pytest.raises(psycopg.errors.UndefinedTable):
                cursor.execute("COMMIT")
            cursor.execute("ROLLBACK")
        cursor.execute("CREATE TEMPORARY TABLE late (id bigint)")
        cursor.execute(late, (1,))
        assert cursor.rowcount == 1


def test_every_answer_is_of_the_statement_it_is_asked_for(database: Database) -> None:
    with cursor_of(database) as cursor:
        assert cursor.execute_all([(INSERT, (n, str(n))) for n in range(5)]) == [1] * 5
        change = "UPDATE things SET name = %s WHERE id <= %s"
        assert cursor.execute_all([(change, ("x", 1)), (SELECT, (9,)), (change, ("y", -1))]) == [2, 0, 0]
        cursor.execute("SELECT id, name FROM things WHERE id > %s ORDER BY id", (0,))
        assert cursor.fetchone() == (1, "x")
        assert cursor.fetchall() == [(2, "2"), (3, "3"), (4, "4")]
        assert cursor.fetchone() is None
        # Each text is prepared once: the server keeps what is prepared for as long as the connection lives.
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone() == (4,)


def test_a_large_batch_goes_out_and_its_answers_come_in(database: Database) -> None:
    text = "t" * 1_000_000
    with cursor_of(database) as cursor:
        assert cursor.execute_all([(INSERT, (n, text)) for n in range(40)]) == [1] * 40
        assert cursor.execute_all([(SELECT, (n,)) for n in range(40)]) == [1] * 40
        assert name_of(cursor, 39) == text


def test_a_connection_cut_off_by_its_server_is_an_outage(database: Database) -> None:
    with cursor_of(database) as cursor:
        cursor.execute("SELECT pg_backend_pid() + %s", (0,))
        found = cursor.fetchone()
        assert found is not None
        with cursor_of(database) as other:
            other.execute("SELECT pg_terminate_backend(%s)", found)
            assert other.fetchone() is not None
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                cursor.execute_all([("BEGIN", ()), (INSERT, (1, "one"))])
