"""Channels and their credentials. Secrets go in sealed and come out only as `types.Channel` for the snapshot.

What people and listings see is `ChannelView` and `ChannelKeyView`: hints and names, never a secret (GO-2026-4813).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, delete, select, update

from elkapi.storage import apikey, schema
from elkapi.storage import dialect as sql
from elkapi.storage.repos import audit, versions
from elkapi.storage.secrets import Sealer, SealError
from elkapi.types import Channel, ChannelKey, ChannelLimits

_channels = schema.channels
_channel_keys = schema.channel_keys


# The name under which the gateway disables a key, so that a probe may enable it again; any other name is final.
AUTOMATIC = "auto"


class ChannelConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON of `channels.config`: the fields of types.Channel that need no secrecy and no column of their own."""

    models: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("default",)
    http2: bool = False
    model_map: dict[str, str] = {}
    aliases: dict[str, str] = {}
    param_set: dict[str, msgspec.Raw] = {}
    param_default: dict[str, msgspec.Raw] = {}
    param_remove: tuple[str, ...] = ()
    header_remove: tuple[str, ...] = ()
    forward_headers: tuple[str, ...] = ()
    options: dict[str, str] = {}
    status_map: dict[int, int] = {}
    system_prompt: str | None = None
    tags: tuple[str, ...] = ()
    limits: ChannelLimits = ChannelLimits()


class ChannelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A channel without its keys, as it is written. `proxy_url` and `header_set` are sealed when stored."""

    name: str
    family: str
    base_url: str
    enabled: bool = True
    priority: int = 0
    weight: int = 1
    allow_private: bool = False
    config: ChannelConfig
    proxy_url: str | None = None
    header_set: dict[str, str] = {}


class ChannelKeyView(msgspec.Struct, frozen=True):
    """One credential for display."""

    id: int
    channel_id: int
    hint: str
    enabled: bool
    reason: str
    disabled_by: str
    changed_ns: int


class ChannelView(msgspec.Struct, frozen=True):
    """A channel for display: the proxy only as set or not, set headers by name."""

    id: int
    name: str
    family: str
    base_url: str
    enabled: bool
    priority: int
    weight: int
    allow_private: bool
    config: ChannelConfig
    has_proxy: bool
    header_names: tuple[str, ...]
    created_ns: int
    keys: tuple[ChannelKeyView, ...]


class DisabledKey(msgspec.Struct, frozen=True):
    """A key that the gateway itself disabled at `changed_ns`, with its channel."""

    channel: Channel
    key: ChannelKey
    changed_ns: int


class Loaded(msgspec.Struct, frozen=True):
    """A channel for the snapshot, whether it is enabled, and the names of its parts that could not be unsealed."""

    channel: Channel
    enabled: bool
    sealed_shut: tuple[str, ...]


_SPEC_COLUMNS = ("name", "family", "base_url", "enabled", "priority", "weight", "allow_private")
_CONFIG = msgspec.json.Decoder(ChannelConfig)
_HEADERS = msgspec.json.Decoder(dict[str, str])
_KEY_SHOWN = [_channel_keys.c[name] for name in ChannelKeyView.__struct_fields__]


def add_channel(connection: Connection, sealer: Sealer, spec: ChannelSpec, *, now_ns: int, actor: str) -> int:
    """Add a channel and return its id. Raises sqlalchemy's IntegrityError if the name exists."""
    values = _plain_columns(spec) | {"created_ns": now_ns}
    channel_id: int = connection.execute(_channels.insert().returning(_channels.c.id), values).scalar_one()
    _write_sealed(connection, sealer, channel_id, spec)
    _changed(connection, "channel.add", channel_id, now_ns, actor, {"name": spec.name, "base_url": spec.base_url})
    return channel_id


def replace_channel(
    connection: Connection, sealer: Sealer, channel_id: int, spec: ChannelSpec, *, now_ns: int, actor: str
) -> bool:
    """Overwrite every field of the channel; False if it does not exist."""
    statement = update(_channels).where(_channels.c.id == channel_id).values(**_plain_columns(spec))
    if connection.execute(statement).rowcount == 0:
        return False
    _write_sealed(connection, sealer, channel_id, spec)
    _changed(connection, "channel.edit", channel_id, now_ns, actor, {"name": spec.name, "base_url": spec.base_url})
    return True


def set_enabled(connection: Connection, channel_id: int, enabled: bool, *, now_ns: int, actor: str) -> bool:
    """Enable or disable a channel, with an audit row; False if the id does not exist."""
    statement = update(_channels).where(_channels.c.id == channel_id).values(enabled=enabled)
    if connection.execute(statement).rowcount == 0:
        return False
    _changed(connection, "channel.enable" if enabled else "channel.disable", channel_id, now_ns, actor)
    return True


def remove_channel(connection: Connection, channel_id: int, *, now_ns: int, actor: str) -> bool:
    """Delete the channel and its credentials; records of past calls keep its name."""
    connection.execute(delete(_channel_keys).where(_channel_keys.c.channel_id == channel_id))
    if connection.execute(delete(_channels).where(_channels.c.id == channel_id)).rowcount == 0:
        return False
    _changed(connection, "channel.remove", channel_id, now_ns, actor)
    return True


def read_spec(connection: Connection, sealer: Sealer, channel_id: int) -> ChannelSpec | None:
    """The spec as stored, for a partial edit. Raises SealError with another secret key."""
    row = connection.execute(select(_channels).where(_channels.c.id == channel_id)).mappings().one_or_none()
    if row is None:
        return None
    return ChannelSpec(
        **{name: row[name] for name in _SPEC_COLUMNS},
        config=_CONFIG.decode(row["config"]),
        proxy_url=_open_proxy(sealer, row),
        header_set=_open_headers(sealer, row),
    )


def view_channels(connection: Connection, sealer: Sealer) -> list[ChannelView]:
    """Every channel by id, without secrets."""
    keys: dict[int, list[ChannelKeyView]] = {}
    for key in connection.execute(select(*_KEY_SHOWN).order_by(_channel_keys.c.id)).mappings():
        keys.setdefault(key["channel_id"], []).append(ChannelKeyView(**key))
    rows = connection.execute(select(_channels).order_by(_channels.c.id)).mappings()
    return [_view(sealer, row, keys.get(row["id"], [])) for row in rows]


def view_channel(connection: Connection, sealer: Sealer, channel_id: int) -> ChannelView | None:
    """One channel, without secrets."""
    row = connection.execute(select(_channels).where(_channels.c.id == channel_id)).mappings().one_or_none()
    return None if row is None else _view(sealer, row, view_keys(connection, channel_id))


def find_id(connection: Connection, name: str) -> int | None:
    """The id of the channel with exactly this name."""
    return connection.execute(select(_channels.c.id).where(_channels.c.name == name)).scalar()


def exists(connection: Connection, channel_id: int) -> bool:
    return connection.execute(select(_channels.c.id).where(_channels.c.id == channel_id)).first() is not None


def view_keys(connection: Connection, channel_id: int) -> list[ChannelKeyView]:
    """A channel's credentials by id, without the secrets."""
    query = select(*_KEY_SHOWN).where(_channel_keys.c.channel_id == channel_id).order_by(_channel_keys.c.id)
    return [ChannelKeyView(**row) for row in connection.execute(query).mappings()]


def add_keys(
    connection: Connection, sealer: Sealer, channel_id: int, secrets: Iterable[str], *, now_ns: int, actor: str
) -> list[ChannelKeyView]:
    """Seal and add credentials, except those that the channel already has. Returns the views of those added."""
    known = {key.id for key in view_keys(connection, channel_id)}
    for secret in dict.fromkeys(secrets):
        fingerprint = sealer.fingerprint(secret.encode())
        values = {
            "channel_id": channel_id,
            "sealed": sealer.seal(secret.encode(), _key_context(channel_id, fingerprint)),
            "fingerprint": fingerprint,
            "hint": apikey.secret_hint(secret),
            "enabled": True,
            "reason": "",
            "disabled_by": "",
            "changed_ns": now_ns,
        }
        sql.upsert(connection, _channel_keys, values, key=["channel_id", "fingerprint"])
    added = [key for key in view_keys(connection, channel_id) if key.id not in known]
    detail = {"added": [{"id": key.id, "hint": key.hint} for key in added]}
    _changed(connection, "channel.key.add", channel_id, now_ns, actor, detail)
    return added


def set_key_enabled(
    connection: Connection, key_id: int, enabled: bool, *, reason: str = "", now_ns: int, actor: str
) -> ChannelKeyView | None:
    """Enable or disable one credential, with a reason for the operator. None if the credential does not exist.

    If it is already in that state nothing changes and no snapshot is rebuilt: many workers may report one bad key. A
    person who disables what the gateway had disabled takes the key over, so that no probe enables it again.
    """
    versions.take_turns(connection)
    row = connection.execute(select(*_KEY_SHOWN).where(_channel_keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        return None
    taken_over = not enabled and row["disabled_by"] == AUTOMATIC and actor != AUTOMATIC
    if row["enabled"] == enabled and not taken_over:
        return ChannelKeyView(**row)
    values = {
        "enabled": enabled,
        "reason": "" if enabled else reason,
        "disabled_by": "" if enabled else actor,
        "changed_ns": now_ns,
    }
    connection.execute(update(_channel_keys).where(_channel_keys.c.id == key_id).values(**values))
    action = "channel.key.enable" if enabled else "channel.key.disable"
    _changed(connection, action, row["channel_id"], now_ns, actor, {"key": key_id, "reason": reason})
    return ChannelKeyView(**(dict(row) | values))


def remove_key(connection: Connection, key_id: int, *, now_ns: int, actor: str) -> int | None:
    """Delete one credential; the id of its channel, or None when there is no such credential."""
    c = _channel_keys.c
    row = connection.execute(delete(_channel_keys).where(c.id == key_id).returning(c.channel_id, c.hint)).one_or_none()
    if row is None:
        return None
    _changed(connection, "channel.key.remove", row.channel_id, now_ns, actor, {"key": key_id, "hint": row.hint})
    return int(row.channel_id)


def disabled_keys(connection: Connection, sealer: Sealer) -> list[DisabledKey]:
    """Keys of enabled channels that the gateway, not an operator, disabled. Secrets are unsealed only if there is
    such a key, which is rare."""
    c = _channel_keys.c
    query = select(c.id, c.changed_ns).where(c.enabled.is_(False), c.disabled_by == AUTOMATIC)
    off: dict[int, int] = {row.id: row.changed_ns for row in connection.execute(query)}
    if not off:
        return []
    return [
        DisabledKey(entry.channel, key, off[key.id])
        for entry in load_channels(connection, sealer)
        if entry.enabled
        for key in entry.channel.keys
        if key.id in off
    ]


def enable_key(connection: Connection, found: DisabledKey, reason: str, *, now_ns: int, actor: str) -> bool:
    """Enable such a key; False, with nothing changed, if anybody changed it since it was read."""
    versions.take_turns(connection)
    c = _channel_keys.c
    still = select(c.id).where(c.id == found.key.id, c.enabled.is_(False), c.changed_ns == found.changed_ns)
    if connection.execute(still).first() is None:
        return False
    set_key_enabled(connection, found.key.id, True, reason=reason, now_ns=now_ns, actor=actor)
    return True


def load_channels(connection: Connection, sealer: Sealer) -> list[Loaded]:
    """Every channel with its secrets unsealed, for the snapshot. Parts that cannot be unsealed are left out and
    named."""
    keys: dict[int, list[RowMapping]] = {}
    for key in connection.execute(select(_channel_keys).order_by(_channel_keys.c.id)).mappings():
        keys.setdefault(key["channel_id"], []).append(key)
    rows = connection.execute(select(_channels).order_by(_channels.c.id)).mappings()
    return [_load(sealer, row, keys.get(row["id"], [])) for row in rows]


def _load(sealer: Sealer, row: RowMapping, key_rows: list[RowMapping]) -> Loaded:
    config = _CONFIG.decode(row["config"])
    shut: list[str] = []
    opened: list[ChannelKey] = []
    for key in key_rows:
        try:
            secret = sealer.open(key["sealed"], _key_context(row["id"], key["fingerprint"])).decode()
            opened.append(ChannelKey(key["id"], secret, key["enabled"]))
        except SealError:
            shut.append(f"key {key['id']}")
    proxy_url: str | None = None
    header_set: dict[str, str] = {}
    try:
        proxy_url, header_set = _open_proxy(sealer, row), _open_headers(sealer, row)
    except SealError:
        # Without its proxy or headers the channel would send what it must not, so it gets no keys.
        shut.append("proxy or headers")
        opened = []
    channel = Channel(
        **{name: row[name] for name in ("id", *_SPEC_COLUMNS) if name != "enabled"},
        **msgspec.structs.asdict(config),
        keys=tuple(opened),
        proxy_url=proxy_url,
        header_set=header_set,
    )
    return Loaded(channel, row["enabled"], tuple(shut))


def _view(sealer: Sealer, row: RowMapping, keys: list[ChannelKeyView]) -> ChannelView:
    try:
        header_names = tuple(_open_headers(sealer, row))
    except SealError:
        header_names = ("(encrypted with another secret key)",)
    return ChannelView(
        **{name: row[name] for name in ("id", *_SPEC_COLUMNS, "created_ns")},
        config=_CONFIG.decode(row["config"]),
        has_proxy=row["proxy_sealed"] is not None,
        header_names=header_names,
        keys=tuple(keys),
    )


def _plain_columns(spec: ChannelSpec) -> dict[str, Any]:
    columns = {name: getattr(spec, name) for name in _SPEC_COLUMNS}
    return columns | {"config": msgspec.json.encode(spec.config).decode()}


def _write_sealed(connection: Connection, sealer: Sealer, channel_id: int, spec: ChannelSpec) -> None:
    proxy = None if spec.proxy_url is None else sealer.seal(spec.proxy_url.encode(), _context("proxy", channel_id))
    headers = None
    if spec.header_set:
        headers = sealer.seal(msgspec.json.encode(spec.header_set), _context("headers", channel_id))
    statement = update(_channels).where(_channels.c.id == channel_id)
    connection.execute(statement.values(proxy_sealed=proxy, headers_sealed=headers))


def _open_proxy(sealer: Sealer, row: RowMapping) -> str | None:
    sealed = row["proxy_sealed"]
    return None if sealed is None else sealer.open(sealed, _context("proxy", row["id"])).decode()


def _open_headers(sealer: Sealer, row: RowMapping) -> dict[str, str]:
    sealed = row["headers_sealed"]
    return {} if sealed is None else _HEADERS.decode(sealer.open(sealed, _context("headers", row["id"])))


def _context(column: str, channel_id: int) -> bytes:
    return f"channels.{column}_sealed|{channel_id}".encode()


def _key_context(channel_id: int, fingerprint: bytes) -> bytes:
    return f"channel_keys.sealed|{channel_id}|".encode() + fingerprint


def _changed(
    connection: Connection,
    action: str,
    channel_id: int,
    now_ns: int,
    actor: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    versions.bump(connection, routing=True)
    subject = f"channel:{channel_id}"
    audit.write(connection, now_ns=now_ns, actor=actor, action=action, subject=subject, detail=detail)
