"""Groups and their price ratios, in millionths."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from elkapi.money import format_ratio
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import audit, versions

_groups = schema.groups


class GroupRow(msgspec.Struct, frozen=True):
    name: str
    ratio_micro: int
    description: str


def all_groups(connection: Connection) -> list[GroupRow]:
    return [GroupRow(**row) for row in connection.execute(select(_groups).order_by(_groups.c.name)).mappings()]


def get_group(connection: Connection, name: str) -> GroupRow | None:
    row = connection.execute(select(_groups).where(_groups.c.name == name)).mappings().one_or_none()
    return None if row is None else GroupRow(**row)


def set_group(
    connection: Connection, *, name: str, ratio_micro: int, description: str | None, now_ns: int, actor: str
) -> None:
    """Create the group or change its ratio; without a description the one it has stays."""
    values: dict[str, object] = {"name": name, "ratio_micro": ratio_micro, "description": description or ""}
    update = ["ratio_micro"] if description is None else ["ratio_micro", "description"]
    sql.upsert(connection, _groups, values, key=["name"], update=update)
    versions.bump(connection, routing=True)
    detail = {"ratio": format_ratio(ratio_micro), "description": description}
    audit.write(connection, now_ns=now_ns, actor=actor, action="group.set", subject=f"group:{name}", detail=detail)
