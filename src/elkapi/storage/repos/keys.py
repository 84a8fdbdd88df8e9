"""Customers' keys: digests, hints and permissions. Money is elsewhere: a key names its ledger account (guarantee 7).

Statements bind the digest as a parameter; nothing that a caller sends becomes part of a statement (CVE-2026-42208).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, bindparam, func, select, update

from elkapi.storage import apikey, schema
from elkapi.storage import dialect as sql
from elkapi.storage.repos import audit, policies, versions
from elkapi.types import NO_POLICY, Grant, Policy, Scope

_keys = schema.keys
_MODELS = msgspec.json.Decoder(tuple[str, ...])
_BY_DIGEST = select(_keys).where(_keys.c.digest == bindparam("digest"))
CHANGES_MAX = 1_000


class KeyRow(msgspec.Struct, frozen=True):
    """A key for display: the hint, never the key or its digest. `models` None allows every model."""

    id: int
    hint: str
    name: str
    owner_id: int
    group: str
    scope: Scope
    enabled: bool
    expires_at_ns: int | None
    models: tuple[str, ...] | None
    account_id: int
    created_ns: int
    revoked_ns: int | None
    version: int
    policy: Policy = NO_POLICY


_SHOWN = [_keys.c["config" if name == "policy" else name] for name in KeyRow.__struct_fields__]


def create_key(
    connection: Connection,
    *,
    name: str,
    owner_id: int,
    group: str,
    scope: Scope,
    account_id: int,
    models: Iterable[str] | None,
    expires_at_ns: int | None,
    policy: Policy = NO_POLICY,
    now_ns: int,
    actor: str,
) -> tuple[KeyRow, str]:
    """Create an enabled key; returns its row and its plaintext, which is stored nowhere."""
    plaintext = apikey.new_key(scope)
    values: dict[str, Any] = {
        "digest": apikey.digest(plaintext),
        "hint": apikey.hint(plaintext),
        "name": name,
        "owner_id": owner_id,
        "group": group,
        "scope": scope,
        "enabled": True,
        "expires_at_ns": expires_at_ns,
        "models": _models_text(models),
        "config": policies.written(policy),
        "account_id": account_id,
        "created_ns": now_ns,
        "version": versions.bump(connection, routing=False),
    }
    key_id = connection.execute(_keys.insert().returning(_keys.c.id), values).scalar_one()
    row = get_key(connection, key_id)
    if row is None:
        raise LookupError(f"key {key_id} disappeared within its own transaction")
    audit.write(
        connection, now_ns=now_ns, actor=actor, action="key.create", subject=f"key:{key_id}", detail=_public(row)
    )
    return row, plaintext


def find_grant(connection: Connection, digest: bytes) -> Grant | None:
    """What the key with this digest may do, or None if it does not exist. A revoked key counts as disabled."""
    row = connection.execute(_BY_DIGEST, {"digest": digest}).mappings().one_or_none()
    return None if row is None else _grant(row)


def get_key(connection: Connection, key_id: int) -> KeyRow | None:
    row = connection.execute(select(*_SHOWN).where(_keys.c.id == key_id)).mappings().one_or_none()
    return None if row is None else _row(row)


def take_turns(connection: Connection, key_id: int) -> None:
    """Serialise the transactions of a key until this one ends, so that two at once cannot both use the same
    remaining quota. On SQLite, BEGIN IMMEDIATE already has."""
    connection.execute(sql.for_update(select(_keys.c.id).where(_keys.c.id == key_id)))


def find_by_name(connection: Connection, name: str) -> list[KeyRow]:
    """The keys with this name, which need not be unique, by id."""
    query = select(*_SHOWN).where(_keys.c.name == name).order_by(_keys.c.id)
    return [_row(row) for row in connection.execute(query).mappings()]


def names_with_guard(connection: Connection, guard: str) -> list[str]:
    """Names of the keys, other than revoked ones, whose own policy names a guardrail."""
    rows = connection.execute(
        select(_keys.c.name, _keys.c.config).where(_keys.c.revoked_ns.is_(None), _keys.c.config.contains('"guards"'))
    )
    return [row.name for row in rows if guard in (policies.read(row.config).guards or ())]


def in_group(connection: Connection, group: str, limit: int) -> tuple[list[tuple[int, str]], int]:
    """((id, name) of the first `limit` keys of a group, how many it has), without revoked ones."""
    these = (_keys.c.group == group, _keys.c.revoked_ns.is_(None))
    first = connection.execute(select(_keys.c.id, _keys.c.name).where(*these).order_by(_keys.c.id).limit(limit))
    total = connection.execute(select(func.count()).select_from(_keys).where(*these)).scalar_one()
    return [(row.id, row.name) for row in first], total


def move_revoked(connection: Connection, group: str, to: str) -> None:
    """Move the revoked keys of a group to another: their rows stay, and each must name an existing group."""
    connection.execute(update(_keys).where(_keys.c.group == group, _keys.c.revoked_ns.is_not(None)).values(group=to))


def list_keys(connection: Connection, *, limit: int = 1_000, after_id: int = 0) -> list[KeyRow]:
    """Up to `limit` keys in the order of id, after `after_id`."""
    query = select(*_SHOWN).where(_keys.c.id > after_id).order_by(_keys.c.id).limit(limit)
    return [_row(row) for row in connection.execute(query).mappings()]


def changed_since(connection: Connection, version: int) -> list[tuple[int, bytes]] | None:
    """(id, digest) of the keys changed after this config version; None if more than CHANGES_MAX were (forget all)."""
    query = select(_keys.c.id, _keys.c.digest).where(_keys.c.version > version).limit(CHANGES_MAX + 1)
    changed = [(row.id, bytes(row.digest)) for row in connection.execute(query)]
    return None if len(changed) > CHANGES_MAX else changed


def set_enabled(connection: Connection, key_id: int, enabled: bool, *, now_ns: int, actor: str) -> KeyRow | None:
    """Enable or disable a key; None if it does not exist or is revoked, which is final."""
    action = "key.enable" if enabled else "key.disable"
    return _change(connection, key_id, {"enabled": enabled}, action=action, now_ns=now_ns, actor=actor)


def revoke(connection: Connection, key_id: int, *, now_ns: int, actor: str) -> KeyRow | None:
    """Disable a key for good; its row and history stay. None if it does not exist or is already revoked."""
    values = {"enabled": False, "revoked_ns": now_ns}
    return _change(connection, key_id, values, action="key.revoke", now_ns=now_ns, actor=actor)


def rotate(connection: Connection, key_id: int, plaintext: str, *, now_ns: int, actor: str) -> KeyRow | None:
    """Give a key another plaintext, which is stored nowhere. None if it does not exist or is revoked."""
    values = {"digest": apikey.digest(plaintext), "hint": apikey.hint(plaintext)}
    return _change(connection, key_id, values, action="key.rotate", now_ns=now_ns, actor=actor)


def edit(
    connection: Connection,
    key_id: int,
    *,
    name: str,
    group: str,
    models: Iterable[str] | None,
    expires_at_ns: int | None,
    policy: Policy,
    now_ns: int,
    actor: str,
) -> KeyRow | None:
    """Replace the editable fields, all five named here: no other column can be changed this way (CVE-2026-47102)."""
    values = {"name": name, "group": group, "models": _models_text(models), "expires_at_ns": expires_at_ns}
    values["config"] = policies.written(policy)
    return _change(connection, key_id, values, action="key.edit", now_ns=now_ns, actor=actor)


def _change(
    connection: Connection, key_id: int, values: Mapping[str, Any], *, action: str, now_ns: int, actor: str
) -> KeyRow | None:
    version = versions.bump(connection, routing=False)
    statement = update(_keys).where(_keys.c.id == key_id, _keys.c.revoked_ns.is_(None))
    if connection.execute(statement.values(**values, version=version)).rowcount == 0:
        return None
    row = get_key(connection, key_id)
    if row is not None:
        subject = f"key:{key_id}"
        audit.write(connection, now_ns=now_ns, actor=actor, action=action, subject=subject, detail=_public(row))
    return row


def _models_text(models: Iterable[str] | None) -> str | None:
    return None if models is None else msgspec.json.encode(sorted(set(models))).decode()


def _row(row: RowMapping) -> KeyRow:
    fields = dict(row)
    models = fields["models"]
    fields["models"] = None if models is None else _MODELS.decode(models)
    fields["policy"] = policies.read(fields.pop("config"))
    return KeyRow(**fields)


def _grant(row: RowMapping) -> Grant:
    return Grant(
        key_id=row["id"],
        key_name=row["name"],
        owner_id=row["owner_id"],
        group=row["group"],
        scope=row["scope"],
        accounts=(row["account_id"],),
        models=None if row["models"] is None else frozenset(_MODELS.decode(row["models"])),
        expires_at_ns=row["expires_at_ns"],
        enabled=row["enabled"] and row["revoked_ns"] is None,
        policy=policies.read(row["config"]),
    )


def _public(row: KeyRow) -> dict[str, Any]:
    shown = {"name": row.name, "group": row.group, "models": row.models, "enabled": row.enabled, "hint": row.hint}
    return shown if row.policy == NO_POLICY else shown | {"policy": msgspec.to_builtins(row.policy)}
