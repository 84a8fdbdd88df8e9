"""Groups and their price ratios, in millionths."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, RowMapping, delete, select

from elkapi.money import format_ratio
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import audit, policies, versions
from elkapi.types import NO_POLICY, Policy

_groups = schema.groups


class GroupRow(msgspec.Struct, frozen=True):
    name: str
    ratio_micro: int
    description: str
    policy: Policy = NO_POLICY


def all_groups(connection: Connection) -> list[GroupRow]:
    """Every group, by name."""
    return [_row(row) for row in connection.execute(select(_groups).order_by(_groups.c.name)).mappings()]


def get_group(connection: Connection, name: str) -> GroupRow | None:
    row = connection.execute(select(_groups).where(_groups.c.name == name)).mappings().one_or_none()
    return None if row is None else _row(row)


def set_group(
    connection: Connection,
    *,
    name: str,
    ratio_micro: int,
    description: str | None,
    policy: Policy | None = None,
    now_ns: int,
    actor: str,
) -> None:
    """Create the group or change its ratio; a description or policy that is not given is kept."""
    values: dict[str, object] = {"name": name, "ratio_micro": ratio_micro, "description": description or ""}
    values["config"] = policies.written(policy or NO_POLICY)
    given = {"ratio_micro": True, "description": description is not None, "config": policy is not None}
    sql.upsert(connection, _groups, values, key=["name"], update=[name for name, is_given in given.items() if is_given])
    versions.bump(connection, routing=True)
    detail: dict[str, object] = {"ratio": format_ratio(ratio_micro), "description": description}
    if policy is not None:
        detail["policy"] = msgspec.to_builtins(policy)
    audit.write(connection, now_ns=now_ns, actor=actor, action="group.set", subject=f"group:{name}", detail=detail)


def remove_group(connection: Connection, name: str, *, now_ns: int, actor: str) -> None:
    """Remove a group, with an audit row; the caller checks that no key or channel names it."""
    connection.execute(delete(_groups).where(_groups.c.name == name))
    versions.bump(connection, routing=True)
    audit.write(connection, now_ns=now_ns, actor=actor, action="group.remove", subject=f"group:{name}", detail={})


def _row(row: RowMapping) -> GroupRow:
    return GroupRow(row["name"], row["ratio_micro"], row["description"], policies.read(row["config"]))
