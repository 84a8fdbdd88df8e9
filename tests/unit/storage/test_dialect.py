"""What an error of either database means, and the bounds of every connection to PostgreSQL; no server is asked."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from elkapi.storage.dialect import POSTGRESQL_MARK, is_outage, is_taken, postgresql_connect_args


class Refused(Exception):
    """As a driver tells of an error."""

    def __init__(self, sqlstate: str | None = None, sqlite_errorname: str = "") -> None:
        super().__init__()
        self.sqlstate = sqlstate
        self.sqlite_errorname = sqlite_errorname


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (PoolTimeout(), True),
        (sqlite3.DatabaseError("file is not a database"), True),
        (sqlite3.InterfaceError("misuse"), False),
        (OperationalError(None, None, Refused("57P01")), True),
        (OperationalError(None, None, sqlite3.OperationalError("locked")), True),
        (InterfaceError(None, None, Refused()), True),
        # A standby, until it is promoted.
        (InternalError(None, None, Refused("25006")), True),
        (InternalError(None, None, Refused("25P02")), False),
        # A right or a schema that somebody may still give.
        (ProgrammingError(None, None, Refused("42501")), True),
        (ProgrammingError(None, None, Refused("3F000")), True),
        (ProgrammingError(None, None, Refused("42P01")), False),
        # What is refused now is refused again.
        (OperationalError(None, None, Refused("54000")), False),
        (IntegrityError(None, None, Refused("23505")), False),
        (DataError(None, None, Refused("22021")), False),
        (NotSupportedError(None, None, Refused("0A000")), False),
        (ValueError("no"), False),
    ],
)
def test_an_outage_is_what_may_be_over_later(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


@pytest.mark.parametrize(
    ("error", "taken"),
    [
        (Refused("23505"), True),
        (Refused("23503"), False),
        (Refused(sqlite_errorname="SQLITE_CONSTRAINT_PRIMARYKEY"), True),
        (Refused(sqlite_errorname="SQLITE_CONSTRAINT_UNIQUE"), True),
        (Refused(sqlite_errorname="SQLITE_CONSTRAINT_FOREIGNKEY"), False),
        (ValueError("no"), False),
    ],
)
def test_a_name_that_is_taken_is_told_from_what_else_is_refused(error: Exception, taken: bool) -> None:
    assert is_taken(error) is taken


def test_a_lost_server_is_noticed_in_seconds_whatever_the_environment_says() -> None:
    args = postgresql_connect_args(make_url("postgresql+psycopg://elkapi@db.example/elkapi"))
    silent_s = args["keepalives_idle"] + args["keepalives_interval"] * args["keepalives_count"]
    assert (args["connect_timeout"], silent_s, args["tcp_user_timeout"]) == (3, 25, 10_000)
    assert args["client_encoding"] == "UTF8"
    for bound in ("statement_timeout=30000", "timezone=UTC", f"{POSTGRESQL_MARK}=on"):
        assert f"-c {bound}" in args["options"]
    asked = "connect_timeout=9&keepalives_idle=60&options=-cstatement_timeout%3D5s"
    args = postgresql_connect_args(make_url(f"postgresql+psycopg://elkapi@db.example/elkapi?{asked}"))
    assert not {"connect_timeout", "keepalives_idle"} & args.keys()
    # Of two the server takes the last.
    assert args["options"].index("=30000") < args["options"].index("=5s")
