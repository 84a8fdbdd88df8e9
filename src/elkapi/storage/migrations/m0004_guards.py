"""Guardrails: a table of their own, which policies name rows of."""

from __future__ import annotations

from sqlalchemy import Column, Connection, LargeBinary, MetaData, String, Table

guards = Table(
    "guards",
    MetaData(),
    Column("name", String, primary_key=True),
    Column("config", String, nullable=False),
    Column("secret_sealed", LargeBinary),
    comment="guardrails; config is JSON of types.Guard without its secret",
)


def pre(connection: Connection, _now_ns: int) -> None:
    """A new table, which old code does not look at."""
    guards.create(connection, checkfirst=True)


def post(_connection: Connection, _now_ns: int) -> None:
    """Nothing of old code's is left over."""
