"""The books' cursor on PostgreSQL: prepared statements through libpq, without the driver's general layer above it.

That layer parses each statement's places and adapts each value anew; for statements of hundreds of values it costs ten
times the statement. The books send bytes, integers, text and NULL only, so the adaptation is a few lines here. The
connection is still the driver's own, with its options and its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq

_BYTEA, _INT8, _INT4, _INT2 = 17, 20, 23, 21
_BINARY = pq.Format.BINARY
_TEXT = pq.Format.TEXT
_DONE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Session:
    """A raw psycopg connection in autocommit, used as `Books` uses sqlite3's."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def cursor(self) -> Cursor:
        return Cursor(self._connection.pgconn)

    def close(self) -> None:
        self._connection.close()


class Cursor:
    """`execute`, `rowcount`, `fetchone`, `fetchall` of the DB-API; places are `%s`. Raises psycopg's errors."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._names: dict[str, bytes] = {}
        self._result: pq.abc.PGresult | None = None
        self._row = 0

    @property
    def rowcount(self) -> int:
        return -1 if self._result is None else self._result.command_tuples or 0

    def execute(self, text: str, values: Sequence[Any] = ()) -> None:
        if not values:
            self._take(self._pgconn.exec_(text.encode()))
            status = self._result.command_status if self._result is not None else None
            if text == "COMMIT" and status != b"COMMIT":
                raise psycopg.OperationalError(f"the transaction was not committed but answered {status!r}")
            return
        name = self._names.get(text) or self._prepare(text, values)
        encoded = [value if type(value) is bytes else _encoded(value) for value in values]
        formats = [_BINARY if type(value) is bytes else _TEXT for value in values]
        # The driver's annotation leaves out None, which is how NULL is passed.
        self._take(self._pgconn.exec_prepared(name, encoded, formats, _BINARY))  # type: ignore[arg-type]

    def fetchone(self) -> tuple[Any, ...] | None:
        result = self._result
        if result is None or self._row >= result.ntuples:
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
        name = b"elkapi_%d" % len(self._names)
        self._take(self._pgconn.prepare(name, numbered.encode(), types))
        self._names[text] = name
        return name

    def _take(self, result: pq.abc.PGresult) -> None:
        self._row = 0
        self._result = result
        if result.status in _DONE:
            return
        message = (result.error_message or self._pgconn.error_message).decode("utf-8", "replace").strip()
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        if state is None:
            raise psycopg.OperationalError(message or "the connection was lost")
        raise _error_class(state.decode())(message)


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
