"""The counters other processes poll: `config_version` counts every change, `routing_version` those a snapshot shows."""

from __future__ import annotations

import msgspec
from sqlalchemy import BigInteger, Connection, String, cast, literal, select, update

from elkapi.storage import dialect as sql
from elkapi.storage import schema

_meta = schema.meta
_NAMES = ("config_version", "routing_version")
_READ = sql.Look(select(_meta.c.name, _meta.c.value).where(_meta.c.name.in_([literal(name) for name in _NAMES])))
_BUMP = (
    update(_meta)
    .where(_meta.c.name == "config_version")
    .values(value=cast(cast(_meta.c.value, BigInteger) + 1, String))
    .returning(_meta.c.value)
)


class Versions(msgspec.Struct, frozen=True):
    """Both only ever rise; `routing` is the `config` value at the last change of a channel, price or group."""

    config: int
    routing: int


def read(connection: sql.LookConnection) -> Versions:
    """The current versions, which processes compare with those they have seen."""
    rows = {name: int(value) for name, value in _READ.rows(connection)}
    return Versions(rows["config_version"], rows["routing_version"])


def take_turns(connection: Connection) -> None:
    """Block every other change of the configuration until this transaction ends, so that what it read stays true. On
    SQLite, BEGIN IMMEDIATE already has."""
    connection.execute(sql.for_update(select(_meta.c.value).where(_meta.c.name == "config_version")))


def bump(connection: Connection, *, routing: bool) -> int:
    """Raise and return the config version. The row stays locked until the commit, so versions rise in the order of
    commits."""
    version = int(connection.execute(_BUMP).scalar_one())
    if routing:
        connection.execute(update(_meta).where(_meta.c.name == "routing_version").values(value=str(version)))
    return version


def raise_to(connection: Connection, version: int) -> None:
    """Set both counters, for a restore: processes that saw the old database must see a higher number."""
    connection.execute(update(_meta).where(_meta.c.name.in_(_NAMES)).values(value=str(version)))
