"""Guardrails as rows: the definition in plain text, a hook's secret sealed under the row's name."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, select

from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import audit, versions
from elkapi.storage.secrets import Sealer, SealError
from elkapi.types import Guard

_guards = schema.guards
_decoder = msgspec.json.Decoder(Guard)


def all_guards(connection: Connection, sealer: Sealer) -> list[Guard]:
    """Every guardrail by name. A hook's secret that cannot be unsealed is empty, and such a hook is never called."""
    rows = connection.execute(select(_guards).order_by(_guards.c.name))
    return [_guard(sealer, row.config, row.secret_sealed) for row in rows]


def names(connection: Connection) -> set[str]:
    """The names of all guardrails."""
    return set(connection.execute(select(_guards.c.name)).scalars())


def get_guard(connection: Connection, sealer: Sealer, name: str) -> Guard | None:
    """One guardrail; its `secret` is "" if it cannot be unsealed with this installation's key."""
    row = connection.execute(select(_guards).where(_guards.c.name == name)).one_or_none()
    return None if row is None else _guard(sealer, row.config, row.secret_sealed)


def set_guard(connection: Connection, sealer: Sealer, guard: Guard, *, now_ns: int, actor: str) -> None:
    """Create or replace a guardrail."""
    shown = msgspec.structs.replace(guard, secret="")
    secret = sealer.seal(guard.secret.encode(), _context(guard.name)) if guard.secret else None
    values = {"name": guard.name, "config": msgspec.json.encode(shown).decode(), "secret_sealed": secret}
    sql.upsert(connection, _guards, values, key=["name"], update=["config", "secret_sealed"])
    versions.bump(connection, routing=True)
    detail = {**msgspec.to_builtins(shown), "words": len(shown.words)}
    audit.write(
        connection, now_ns=now_ns, actor=actor, action="guard.set", subject=f"guard:{guard.name}", detail=detail
    )


def remove_guard(connection: Connection, name: str, *, now_ns: int, actor: str) -> None:
    """Remove a guardrail, with an audit row; the caller checks that no policy names it."""
    connection.execute(delete(_guards).where(_guards.c.name == name))
    versions.bump(connection, routing=True)
    audit.write(connection, now_ns=now_ns, actor=actor, action="guard.remove", subject=f"guard:{name}", detail={})


def _context(name: str) -> bytes:
    return b"guards.secret\0" + name.encode()


def _guard(sealer: Sealer, config: str, secret: bytes | None) -> Guard:
    guard = _decoder.decode(config)
    if secret is None:
        return guard
    try:
        return msgspec.structs.replace(guard, secret=sealer.open(secret, _context(guard.name)).decode())
    except SealError:
        return guard
