"""Channels: validated when written, listed without their secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from elkapi.admin import addresses, overrides
from elkapi.admin.context import Admin, check_model, check_name
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.catalog.upstreams import UPSTREAM_FAMILIES, VERSION, UpstreamFamily
from elkapi.storage.repos import channels, groups
from elkapi.storage.repos.channels import ChannelConfig, ChannelKeyView, ChannelSpec, ChannelView
from elkapi.storage.seeds import DEFAULT_GROUP
from elkapi.types import ChannelLimits
from elkapi.upstream import aws, gcp, jwt

KEYS_MAX = 10_000
OPTION_CHARACTERS_MAX = 500
WEIGHT_MAX = 1_000_000
PRIORITY_MAX = 1_000_000
LIMIT_MAX = 1_000_000_000


class LimitFields(ChannelLimits, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """types.ChannelLimits as input: an unknown limit is refused, not ignored (guarantee 16)."""


class ChannelFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The writable fields of a channel. A new one requires family, base_url and models; an edit changes those given."""

    name: str | UnsetType = UNSET
    family: str | UnsetType = UNSET
    base_url: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    allow_private: bool | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    groups: tuple[str, ...] | UnsetType = UNSET
    http2: bool | UnsetType = UNSET
    model_map: dict[str, str] | UnsetType = UNSET
    aliases: dict[str, str] | UnsetType = UNSET
    param_set: dict[str, msgspec.Raw] | UnsetType = UNSET
    param_default: dict[str, msgspec.Raw] | UnsetType = UNSET
    param_remove: tuple[str, ...] | UnsetType = UNSET
    header_set: dict[str, str] | UnsetType = UNSET
    header_remove: tuple[str, ...] | UnsetType = UNSET
    forward_headers: tuple[str, ...] | UnsetType = UNSET
    options: dict[str, str] | UnsetType = UNSET
    status_map: dict[int, int] | UnsetType = UNSET
    proxy_url: str | UnsetType | None = UNSET
    system_prompt: str | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    limits: LimitFields | UnsetType = UNSET


_SPEC_FIELDS = frozenset(ChannelSpec.__struct_fields__) - {"config"}
_EMPTY = ChannelSpec(name="", family="", base_url="", config=ChannelConfig())


def add_channel(admin: Admin, fields: ChannelFields, secrets: Iterable[str]) -> ChannelView:
    """Add a channel with its credentials, without duplicates. Raises InvalidInput, Refused for a name in use."""
    if fields.family is UNSET:
        raise InvalidInput("it is needed", field="family")
    keys = _checked_secrets(secrets)
    if not keys:
        raise InvalidInput("at least one is required; for an upstream without keys, give any word", field="keys")
    spec = _checked(_merged(_EMPTY, fields))
    _check_forms(spec.family, keys)
    with admin.change() as connection:
        _check_groups(connection, spec.config.groups)
        if not spec.name:
            spec = msgspec.structs.replace(spec, name=_free_name(connection, spec))
        elif channels.find_id(connection, spec.name) is not None:
            raise Refused(f"a channel named {spec.name!r} already exists")
        channel_id = channels.add_channel(connection, admin.sealer, spec, **admin.who())
        channels.add_keys(connection, admin.sealer, channel_id, keys, **admin.who())
        return _read_back(connection, admin, channel_id, spec)


def edit_channel(admin: Admin, which: str, fields: ChannelFields) -> ChannelView:
    """Replace the given fields. Raises InvalidInput, Missing, Refused for a name in use."""
    with admin.database.read() as connection:
        channel_id = _find(connection, which)
        before = channels.read_spec(connection, admin.sealer, channel_id)
    if before is None:
        raise Missing(f"the channel {which!r} does not exist")
    spec = _checked(_merged(before, fields))
    if not spec.name:
        raise InvalidInput("it is empty", field="name")
    try:
        with admin.change() as connection:
            _check_groups(connection, spec.config.groups)
            if channels.read_spec(connection, admin.sealer, channel_id) != before:
                raise Refused("somebody else changed the channel at the same time; look at it and try again")
            channels.replace_channel(connection, admin.sealer, channel_id, spec, **admin.who())
            return _read_back(connection, admin, channel_id, spec)
    except IntegrityError:
        raise Refused(f"a channel named {spec.name!r} already exists") from None


def list_channels(admin: Admin) -> list[ChannelView]:
    """Every channel by id, without secrets."""
    with admin.database.read() as connection:
        return channels.view_channels(connection, admin.sealer)


def show_channel(admin: Admin, which: str) -> ChannelView:
    """A channel by its id or exact name, without secrets. Raises Missing."""
    with admin.database.read() as connection:
        return _view(connection, admin, _find(connection, which))


def set_channel_enabled(admin: Admin, which: str, enabled: bool) -> ChannelView:
    """Enable or disable a channel. Raises Missing."""
    with admin.change() as connection:
        channel_id = _find(connection, which)
        channels.set_enabled(connection, channel_id, enabled, **admin.who())
        return _view(connection, admin, channel_id)


def remove_channel(admin: Admin, which: str) -> int:
    """Delete a channel and its credentials; returns its id."""
    with admin.change() as connection:
        channel_id = _find(connection, which)
        channels.remove_channel(connection, channel_id, **admin.who())
    return channel_id


def add_channel_keys(admin: Admin, which: str, secrets: Iterable[str]) -> list[ChannelKeyView]:
    """Add credentials in bulk; returns the new ones. A channel never has the same one twice."""
    keys = _checked_secrets(secrets)
    if not keys:
        raise InvalidInput("none was given", field="keys")
    with admin.change() as connection:
        channel_id = _find(connection, which)
        _check_forms(_view(connection, admin, channel_id).family, keys)
        added = channels.add_keys(connection, admin.sealer, channel_id, keys, **admin.who())
        if len(channels.view_keys(connection, channel_id)) > KEYS_MAX:
            raise InvalidInput(f"a channel has at most {KEYS_MAX}", field="keys")
        return added


def list_channel_keys(admin: Admin, which: str) -> list[ChannelKeyView]:
    """A channel's credentials by id, without the secrets. Raises Missing."""
    return list(show_channel(admin, which).keys)


def set_channel_key_enabled(admin: Admin, key_id: int, enabled: bool, reason: str = "") -> ChannelKeyView:
    """Enable or disable a credential by its id; raises Missing."""
    with admin.change() as connection:
        view = channels.set_key_enabled(connection, key_id, enabled, reason=reason, **admin.who())
    if view is None:
        raise _no_key(key_id)
    return view


def remove_channel_key(admin: Admin, key_id: int) -> int:
    """Delete a credential by its id; returns the id of its channel. Raises Missing."""
    with admin.change() as connection:
        channel_id = channels.remove_key(connection, key_id, **admin.who())
    if channel_id is None:
        raise _no_key(key_id)
    return channel_id


def _no_key(key_id: int) -> Missing:
    return Missing(f"the channel key {key_id} does not exist; see `elkapi channel key list CHANNEL`")


def _merged(before: ChannelSpec, fields: ChannelFields) -> ChannelSpec:
    given = {name: value for name in fields.__struct_fields__ if (value := getattr(fields, name)) is not UNSET}
    for_config: dict[str, Any] = {name: value for name, value in given.items() if name not in _SPEC_FIELDS}
    if "limits" in for_config:
        for_config["limits"] = ChannelLimits(**msgspec.structs.asdict(for_config["limits"]))
    for_spec: dict[str, Any] = {name: value for name, value in given.items() if name in _SPEC_FIELDS}
    return msgspec.structs.replace(before, **for_spec, config=msgspec.structs.replace(before.config, **for_config))


def _checked(spec: ChannelSpec) -> ChannelSpec:
    config = spec.config
    if (family := UPSTREAM_FAMILIES.get(spec.family)) is None or not family.operator_may_add:
        known = ", ".join(name for name, row in UPSTREAM_FAMILIES.items() if row.operator_may_add)
        raise InvalidInput(f"{spec.family[:40]!r} must be one of: {known}", field="family")
    base_url = spec.base_url or family.base_url
    if base_url is None:
        raise InvalidInput(f"it is required: the family {family.name} has no default", field="base_url")
    _check_is_base(family, base_url)
    _check_options(family, config.options, spec.allow_private)
    if not 0 <= spec.weight <= WEIGHT_MAX:
        raise InvalidInput(f"it must be between 0 and {WEIGHT_MAX}", field="weight")
    if abs(spec.priority) > PRIORITY_MAX:
        raise InvalidInput(f"it must be between -{PRIORITY_MAX} and {PRIORITY_MAX}", field="priority")
    if spec.proxy_url and config.http2:
        raise InvalidInput("HTTP/2 through a proxy is not supported", field="http2")
    return msgspec.structs.replace(
        spec,
        name=check_name(spec.name) if spec.name else "",
        base_url=addresses.check_base_url(base_url, allow_private=spec.allow_private),
        # An empty one removes it, like an empty base URL or system prompt.
        proxy_url=addresses.check_proxy(spec.proxy_url, allow_private=spec.allow_private) if spec.proxy_url else None,
        header_set=overrides.check_headers_set(spec.header_set),
        config=_checked_config(config),
    )


def _check_is_base(family: UpstreamFamily, base_url: str) -> None:
    """Refuse the URL of a single endpoint, as shown in providers' docs: the endpoint's path would be appended twice."""
    for endpoint in family.wires.values():
        _, _, path = endpoint.path.removeprefix("/").partition("/")
        if path and re.search(rf"{VERSION}/{re.escape(path)}/?$", base_url):
            raise InvalidInput(f"omit /{path}: the gateway appends it to the base URL", field="base_url")


def _check_options(family: UpstreamFamily, given: dict[str, str], allow_private: bool) -> None:
    for name, text in given.items():
        if name not in family.options:
            known = ", ".join(family.options) or "none"
            raise InvalidInput(
                f"{name[:40]!r} is not an option of the family {family.name}; its options are: {known}", field="options"
            )
        if not text or not text.isprintable() or len(text) > OPTION_CHARACTERS_MAX:
            raise InvalidInput(
                f"{name} must be printable text of 1 to {OPTION_CHARACTERS_MAX} characters", field="options"
            )
        if text not in (words := family.choices.get(name, (text,))):
            raise InvalidInput(f"{name} must be {' or '.join(words)}", field="options")
        if name.endswith("-url"):
            addresses.check_base_url(text, allow_private=allow_private, field="options")
    for name, default in family.options.items():
        if default is None and name not in given:
            raise InvalidInput(f"the family {family.name} requires {name}", field="options")


def _checked_config(config: ChannelConfig) -> ChannelConfig:
    models = tuple(dict.fromkeys(check_model(model) for model in config.models))
    if not models and not config.aliases:
        raise InvalidInput("at least one is required", field="models")
    for nick, model in config.aliases.items():
        if check_model(nick, "aliases") in models:
            raise InvalidInput(f"{nick!r} is already one of the channel's models", field="aliases")
        check_model(model, "aliases")
    for client, upstream in config.model_map.items():
        if client not in models and client not in config.aliases.values():
            raise InvalidInput(f"{client!r} is not one of the channel's models", field="model_map")
        check_model(upstream, "model_map")
    for name, value in msgspec.structs.asdict(config.limits).items():
        if value is not None and not 0 < value <= LIMIT_MAX:  # Also refuses NaN.
            raise InvalidInput(f"{name} is {value}; it must be above 0 and at most {LIMIT_MAX}", field="limits")
    return msgspec.structs.replace(
        config,
        models=models,
        groups=tuple(dict.fromkeys(config.groups)) or (DEFAULT_GROUP,),
        param_remove=overrides.check_parameters(config.param_set, config.param_default, config.param_remove),
        header_remove=overrides.check_headers_removed(config.header_remove),
        forward_headers=overrides.check_headers_forwarded(config.forward_headers),
        status_map=overrides.check_statuses(config.status_map),
        tags=tuple(dict.fromkeys(check_name(tag, "tags") for tag in config.tags)),
        system_prompt=config.system_prompt or None,
    )


def _checked_secrets(secrets: Iterable[str]) -> list[str]:
    given = list(secrets)
    keys = list(dict.fromkeys(_checked_secret(given, place) for place in range(len(given))))
    if len(keys) > KEYS_MAX:
        raise InvalidInput(f"a channel has at most {KEYS_MAX}", field="keys")
    return keys


def _checked_secret(given: list[str], place: int) -> str:
    """Among several, the error says which one it is about: a pasted file may have hundreds."""
    try:
        return overrides.check_secret(given[place])
    except InvalidInput as error:
        if len(given) == 1:
            raise
        raise InvalidInput(
            f"number {place + 1} of {len(given)}: {error.message.removeprefix('keys: ')}", field="keys"
        ) from None


def _check_forms(name: str, secrets: Iterable[str]) -> None:
    """Refuse keys that could not sign the family's calls. The message never contains the key."""
    family = UPSTREAM_FAMILIES[name]
    try:
        for secret in secrets:
            match family.auth:
                case "jwt":
                    jwt.pair(secret)
                case "aws":
                    aws.checked_key(secret)
                case "gcp":
                    gcp.assertion(secret, "", 0)
    except ValueError:
        raise InvalidInput(f"a key of the family {name} is {family.key_help}", field="keys") from None


def _check_groups(connection: Connection, names: tuple[str, ...]) -> None:
    for name in names:
        if groups.get_group(connection, name) is None:
            hint = f"the group {name!r} does not exist; create it with `elkapi group set {shlex.quote(name)} --ratio 1`"
            raise InvalidInput(hint, field="groups")


def _free_name(connection: Connection, spec: ChannelSpec) -> str:
    host = urlsplit(spec.base_url).hostname or spec.family
    name, number = host, 1
    while channels.find_id(connection, name) is not None:
        number += 1
        name = f"{host}-{number}"
    return name


def _find(connection: Connection, which: str) -> int:
    channel_id = channels.find_id(connection, which)
    if which.isascii() and which.isdecimal() and len(which) <= 18 and channels.exists(connection, int(which)):
        if channel_id not in (None, int(which)):
            hint = f"use {channel_id}, or rename that channel with `elkapi channel edit {channel_id} --name NAME`"
            raise Refused(f"{which} is both the id of a channel and the name of channel {channel_id}; {hint}")
        return int(which)
    if channel_id is None:
        raise Missing(f"the channel {which!r} does not exist; see `elkapi channel list`")
    return channel_id


def _view(connection: Connection, admin: Admin, channel_id: int) -> ChannelView:
    view = channels.view_channel(connection, admin.sealer, channel_id)
    if view is None:
        raise Missing(f"the channel {channel_id} does not exist")
    return view


def _read_back(connection: Connection, admin: Admin, channel_id: int, spec: ChannelSpec) -> ChannelView:
    """Guarantee 16: compare the stored channel with the requested one before the transaction commits."""
    if channels.read_spec(connection, admin.sealer, channel_id) != spec:
        raise Refused("the channel cannot be stored as given; nothing was changed")
    return _view(connection, admin, channel_id)
