"""The books' cursor on PostgreSQL: prepared statements through libpq, without the driver's general layer above it.

That layer parses each statement's placeholders and adapts every value; for statements with hundreds of values it costs
ten times the statement itself. The books send only bytes, integers, text and NULL, so the adaptation here is a few
lines. The connection is still the driver's own, with its options and errors.

Statements are pipelined, and their results awaited only when one is needed or at the end of the transaction: a call's
booking waits for the server three times instead of ten, which dominates its time if the server is another machine, and
shortens the wait of other gateways for the rows it locks.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq

_BYTEA, _INT8, _INT4, _INT2 = 17, 20, 23, 21
_BINARY = pq.Format.BINARY
_TEXT = pq.Format.TEXT
_DONE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_BEGINNINGS = ("BEGIN", "SAVEPOINT")


class Session:
    """A raw psycopg connection in autocommit, with the interface that `Books` uses of sqlite3's."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def cursor(self) -> Cursor:
        return Cursor(self._connection.pgconn)

    def close(self) -> None:
        self._connection.close()


class Cursor:
    """`execute`, `rowcount`, `fetchone` and `fetchall` of the DB-API, with `%s` as placeholder. Raises psycopg's
    errors.

    A statement's error is raised at the next wait for a result; the statements sent after it were not executed.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        pgconn.nonblocking = 1
        pgconn.enter_pipeline_mode()
        self._pgconn = pgconn
        self._poll = select.poll()
        self._names: dict[str, bytes] = {}
        self._prepared = 0
        # What is sent but not awaited: None for a statement, the SQL text for a prepare.
        self._sent: list[str | None] = []
        self._results: list[pq.abc.PGresult] = []
        self._row = 0

    @property
    def rowcount(self) -> int:
        self._wait()
        return _count(self._results[-1])

    def execute(self, text: str, values: Sequence[Any] = ()) -> None:
        if values:
            name = self._names.get(text) or self._prepare(text, values)
            encoded = [value if type(value) is bytes else _encoded(value) for value in values]
            formats = [_BINARY if type(value) is bytes else _TEXT for value in values]
            self._pgconn.send_query_prepared(name, encoded, formats, _BINARY)
            self._sent.append(None)
            return
        if text.startswith("ROLLBACK"):
            # A ROLLBACK pipelined after a failed statement would not be executed.
            with contextlib.suppress(psycopg.Error):
                self._wait()
        self._pgconn.send_query_params(text.encode(), None, result_format=_BINARY)
        self._sent.append(None)
        if not text.startswith(_BEGINNINGS):
            self._wait()
        if text == "COMMIT" and (status := self._results[-1].command_status) != b"COMMIT":
            raise psycopg.OperationalError(f"the transaction was not committed but answered {status!r}")

    def execute_all(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[int]:
        """Execute the statements with one wait; returns the number of rows that each found or changed."""
        for text, values in statements:
            self.execute(text, values)
        self._wait()
        return [_count(result) for result in self._results[-len(statements) :]]

    def fetchone(self) -> tuple[Any, ...] | None:
        self._wait()
        result = self._results[-1]
        if self._row >= result.ntuples:
            return None
        self._row += 1
        return tuple(_decoded(result, self._row - 1, column) for column in range(result.nfields))

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows = []
        while (row := self.fetchone()) is not None:
            rows.append(row)
        return rows

    def _prepare(self, text: str, values: Sequence[Any]) -> bytes:
        parts = text.split("%s")
        numbered = "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]
        types = [_BYTEA if type(value) is bytes else 0 for value in values]
        self._prepared += 1
        name = self._names[text] = b"elkapi_%d" % self._prepared
        self._pgconn.send_prepare(name, numbered.encode(), types)
        self._sent.append(text)
        return name

    def _wait(self) -> None:
        """Wait for the results of everything sent. Raises the first error."""
        if not self._sent:
            return
        sent, self._sent, self._results, self._row = self._sent, [], [], 0
        failure: psycopg.Error | None = None
        try:
            self._pgconn.pipeline_sync()
            self._flush()
            for text in sent:
                result = self._next_result()
                if result is None:
                    raise psycopg.OperationalError("the connection was lost")
                self._next_result()  # each result ends with None, the pipeline with the sync mark
                if text is None:
                    self._results.append(result)
                if result.status not in _DONE:
                    failure = failure or self._error(result)
                    self._names.pop(text or "", None)
            self._next_result()
        except psycopg.Error as error:
            failure = failure or error
        if failure is not None:
            raise failure

    def _flush(self) -> None:
        pgconn = self._pgconn
        while pgconn.flush():
            # Results are read meanwhile: a server that cannot send its results stops reading.
            self._poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
            self._poll.poll()
            pgconn.consume_input()

    def _next_result(self) -> pq.abc.PGresult | None:
        pgconn = self._pgconn
        while pgconn.is_busy():
            # libpq's own wait would block the interpreter, and with it the event loop.
            self._poll.register(pgconn.socket, select.POLLIN)
            self._poll.poll()
            pgconn.consume_input()
        return pgconn.get_result()

    def _error(self, result: pq.abc.PGresult) -> psycopg.Error:
        message = (result.error_message or self._pgconn.error_message).decode("utf-8", "replace").strip()
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        if state is None:
            return psycopg.OperationalError(message or "the connection was lost")
        return _error_class(state.decode())(message)


def _count(result: pq.abc.PGresult) -> int:
    return result.command_tuples or 0


def _error_class(state: str) -> type[psycopg.Error]:
    try:
        return psycopg.errors.lookup(state)
    except KeyError:
        return psycopg.DatabaseError


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    return b"%d" % value if isinstance(value, int) else str(value).encode()


def _decoded(result: pq.abc.PGresult, row: int, column: int) -> Any:
    value = result.get_value(row, column)
    if value is None:
        return None
    kind = result.ftype(column)
    if kind == _BYTEA:
        return bytes(value)
    if kind in (_INT8, _INT4, _INT2):
        return int.from_bytes(value, "big", signed=True)
    return bytes(value).decode()
