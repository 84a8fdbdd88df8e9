"""`elkapi channel`: upstreams and their credentials. Secrets go in; only hints of them ever come out."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, Any

import click
import msgspec

from elkapi.cli.numbers import Whole, read_number, read_whole
from elkapi.cli.output import (
    F,
    json_option,
    listed,
    opened,
    pairs,
    print_facts,
    print_json,
    print_rows,
    print_table,
    readable,
    when,
    with_options,
    words,
)
from elkapi.settings import NUMBER_MAX

if TYPE_CHECKING:
    from elkapi.admin.channels import ChannelFields
    from elkapi.storage.repos.channels import ChannelKeyView, ChannelView

COLUMNS = ("id", "name", "family", "base_url", "state", "groups", "models", "priority", "weight", "keys")
KEY_COLUMNS = ("id", "hint", "state", "reason", "disabled_by", "changed_at")
KEY_FILE_BYTES_MAX = 4 * 1024 * 1024

# Field -> its empty value.
EMPTY: dict[str, Any] = {
    "model_map": {},
    "aliases": {},
    "param_set": {},
    "param_default": {},
    "param_remove": (),
    "header_set": {},
    "header_remove": (),
    "forward_headers": (),
    "options": {},
    "status_map": {},
    "proxy_url": None,
    "system_prompt": None,
    "tags": (),
    "limits": {},
}

_FIELD_OPTIONS = (
    click.option("--name", help="default: the host of the base URL"),
    click.option("--family", help="the protocol the upstream speaks, such as openai"),
    click.option("--base-url", metavar="URL", help="such as https://api.openai.com/v1; default: the family's own"),
    click.option("--models", metavar="A,B", help="the models it serves, under the names callers use"),
    click.option("--group", "groups", multiple=True, metavar="G", help="a group it serves; default: default"),
    click.option("--priority", type=Whole(), help="higher is tried first; default 0"),
    click.option("--weight", type=Whole(), help="share of the calls within one priority; default 1"),
    click.option("--allow-private/--no-allow-private", default=None, help="allow a private address"),
    click.option("--http2/--no-http2", default=None, help="the upstream speaks only HTTP/2"),
    click.option("--map", "model_map", multiple=True, metavar="CLIENT=UPSTREAM", help="the upstream's name of a model"),
    click.option(
        "--alias", "aliases", multiple=True, metavar="NAME=MODEL", help="serve a model under another name too"
    ),
    click.option("--set", "param_set", multiple=True, metavar="FIELD=JSON", help="set this field in every body"),
    click.option(
        "--default", "param_default", multiple=True, metavar="FIELD=JSON", help="set this field if it is missing"
    ),
    click.option("--remove", "param_remove", multiple=True, metavar="FIELD", help="remove this field from every body"),
    click.option("--header-set", multiple=True, metavar="'NAME: VALUE'", help="send this header; stored encrypted"),
    click.option("--header-remove", multiple=True, metavar="NAME", help="do not send this header"),
    click.option(
        "--forward-header", "forward_headers", multiple=True, metavar="NAME", help="pass on this header of the caller"
    ),
    click.option(
        "--option",
        "options",
        multiple=True,
        metavar="NAME=VALUE",
        help="an option of the family: region=eu-west-1, ...",
    ),
    click.option("--status-map", multiple=True, metavar="404=503", help="treat an upstream status as another"),
    click.option("--proxy", "proxy_url", metavar="URL", help="reach it through this proxy; stored encrypted"),
    click.option("--system-prompt", metavar="TEXT", help="put this before every conversation"),
    click.option("--tag", "tags", multiple=True, metavar="T"),
    click.option(
        "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="connect_s=3, requests_per_min=600, ..."
    ),
)


def _key_options(command: F) -> F:
    """Options for keys. A file or stdin is safer, since command lines are visible to every user of a machine."""
    command = click.option("--key-file", type=click.File("rb"), help="one key per line; `-` reads standard input")(
        command
    )
    return click.option("--key", "keys", multiple=True, help="a key of the upstream (repeatable; --key-file is safer)")(
        command
    )


@click.group()
def channel() -> None:
    """Channels to upstreams. CHANNEL is a channel's id or its exact name."""


@channel.command()
@with_options(_FIELD_OPTIONS)
@_key_options
@json_option
def add(keys: tuple[str, ...], key_file: Any, as_json: bool, **given: Any) -> None:
    """Add a channel."""
    from elkapi.admin import channels
    from elkapi.admin.notes import without_price

    for name in ("family", "models"):
        if given[name] is None:
            raise click.UsageError(f"--{name.replace('_', '-')} is needed")
    with opened() as admin:
        view = channels.add_channel(admin, _fields(given, ()), _secrets(keys, key_file))
        unpriced = without_price(admin, view)
    _print(view, as_json)
    _warn(view, unpriced)


@channel.command()
@click.argument("channel")
@with_options(_FIELD_OPTIONS)
@click.option("--clear", multiple=True, type=click.Choice(sorted(EMPTY)), help="remove an override")
@json_option
def edit(channel: str, clear: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Change the options you give; a repeatable option replaces all old values. For keys, see `elkapi channel key`."""
    from elkapi.admin import channels
    from elkapi.admin.notes import without_price

    fields = _fields(given, clear)
    if not _given(fields):
        raise click.UsageError("nothing to change was given")
    with opened() as admin:
        view = channels.edit_channel(admin, channel, fields)
        # Only if the models changed: a model may be without a price on purpose.
        unpriced = without_price(admin, view) if {"models", "aliases"} & _given(fields) else []
    _print(view, as_json)
    _warn(view, unpriced)


@channel.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the channels and how many of their keys are in service."""
    from elkapi.admin import channels

    with opened() as admin:
        views = channels.list_channels(admin)
    if as_json:
        print_json([_shown(view) for view in views])
        return
    rows = [_shown(view) | {"keys": f"{sum(key.enabled for key in view.keys)}/{len(view.keys)}"} for view in views]
    print_table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows], none="no channels")


@channel.command()
@click.argument("channel")
@json_option
def show(channel: str, as_json: bool) -> None:
    """Show one channel with its overrides and the state of each key."""
    from elkapi.admin import channels

    with opened() as admin:
        _print(channels.show_channel(admin, channel), as_json)


@channel.command()
@click.argument("channel")
@json_option
def enable(channel: str, as_json: bool) -> None:
    """Put a channel back into service."""
    from elkapi.admin import channels

    with opened() as admin:
        _print(channels.set_channel_enabled(admin, channel, True), as_json)


@channel.command()
@click.argument("channel")
@json_option
def disable(channel: str, as_json: bool) -> None:
    """Take a channel out of service, everywhere within a second."""
    from elkapi.admin import channels

    with opened() as admin:
        _print(channels.set_channel_enabled(admin, channel, False), as_json)


@channel.command()
@click.argument("channel")
@json_option
def remove(channel: str, as_json: bool) -> None:
    """Delete a channel and its keys; records of past calls stay."""
    from elkapi.admin import channels

    with opened() as admin:
        channel_id = channels.remove_channel(admin, channel)
    if as_json:
        print_json({"removed": channel_id})
    else:
        click.echo(f"removed channel {channel_id}")


@channel.command()
@click.argument("channel")
@json_option
def test(channel: str, as_json: bool) -> int:
    """Send the upstream a free request with each key. Exits with 1 if no key works."""
    from elkapi.admin.probe import test_channel

    with opened() as admin:
        results = asyncio.run(test_channel(admin, channel))
    if as_json:
        print_json(results)
    else:
        names = ("key_id", "hint", "works", "outcome", "duration_ms", "revived")
        print_table(names, [[getattr(result, name) for name in names] for result in results], none="no keys")
        for detail in dict.fromkeys(result.detail for result in results if result.detail):
            click.echo(readable(detail))
    return 0 if any(result.works for result in results) else 1


@channel.group("key")
def key() -> None:
    """A channel's keys. They can be added, disabled, enabled and removed, never read."""


@key.command("add")
@click.argument("channel")
@_key_options
@json_option
def add_keys(channel: str, keys: tuple[str, ...], key_file: Any, as_json: bool) -> None:
    """Add keys; existing ones stay as they are."""
    from elkapi.admin import channels

    with opened() as admin:
        added = channels.add_channel_keys(admin, channel, _secrets(keys, key_file))
    _print_keys(added, as_json, "no new keys")


@key.command("list")
@click.argument("channel")
@json_option
def list_keys(channel: str, as_json: bool) -> None:
    """List the keys with their state, and why one is disabled."""
    from elkapi.admin import channels

    with opened() as admin:
        _print_keys(channels.list_channel_keys(admin, channel), as_json, "no keys")


@key.command("disable")
@click.argument("key_id", type=Whole(1, NUMBER_MAX))
@click.option("--reason", default="disabled by the operator", show_default=True)
@json_option
def disable_key(key_id: int, reason: str, as_json: bool) -> None:
    """Take one key out of service until you enable it again."""
    from elkapi.admin import channels

    with opened() as admin:
        _print_keys([channels.set_channel_key_enabled(admin, key_id, False, reason)], as_json, "")


@key.command("enable")
@click.argument("key_id", type=Whole(1, NUMBER_MAX))
@json_option
def enable_key(key_id: int, as_json: bool) -> None:
    """Put one key back into service."""
    from elkapi.admin import channels

    with opened() as admin:
        _print_keys([channels.set_channel_key_enabled(admin, key_id, True)], as_json, "")


@key.command("remove")
@click.argument("key_id", type=Whole(1, NUMBER_MAX))
@json_option
def remove_key(key_id: int, as_json: bool) -> None:
    """Delete one key; tasks that it began can no longer be asked about, records of past calls stay."""
    from elkapi.admin import channels

    with opened() as admin:
        channel_id = channels.remove_channel_key(admin, key_id)
    if as_json:
        print_json({"removed": key_id, "channel": channel_id})
    else:
        click.echo(f"removed key {key_id} of channel {channel_id}")


def _fields(given: dict[str, Any], clear: tuple[str, ...]) -> ChannelFields:
    """The options as ChannelFields; options that are not given are absent."""
    from elkapi.admin.channels import ChannelFields
    from elkapi.admin.context import read_input

    values = {name: value for name, value in given.items() if value is not None and value != ()}
    if "models" in values:
        values["models"] = words(values["models"])
    for name, option in (("model_map", "--map"), ("aliases", "--alias"), ("options", "--option")):
        if name in values:
            values[name] = pairs(values[name], option)
    for name, option in (("param_set", "--set"), ("param_default", "--default")):
        if name in values:
            values[name] = {k: msgspec.Raw(v.encode()) for k, v in pairs(values[name], option).items()}
    if "header_set" in values:
        values["header_set"] = pairs(values["header_set"], "--header-set", ":")
    if "status_map" in values:
        values["status_map"] = {
            read_whole(k, "--status-map"): read_whole(v, "--status-map")
            for k, v in pairs(values["status_map"], "--status-map").items()
        }
    if "limits" in values:
        values["limits"] = _limits(pairs(values["limits"], "--limit"))
    for name in clear:
        if name in values:
            raise click.UsageError(f"{name} is both given and cleared")
        values[name] = EMPTY[name]
    return read_input(ChannelFields, values)


def _given(fields: ChannelFields) -> set[str]:
    return {name for name in fields.__struct_fields__ if getattr(fields, name) is not msgspec.UNSET}


def _limits(given: dict[str, str]) -> dict[str, float]:
    from elkapi.types import ChannelLimits

    if unknown := sorted(set(given) - set(ChannelLimits.__struct_fields__)):
        raise click.UsageError(
            f"{unknown[0]!r} is not a limit; use one of {', '.join(ChannelLimits.__struct_fields__)}"
        )
    return {k: (read_number if k.endswith("_s") else read_whole)(v, "--limit") for k, v in given.items()}


def _secrets(keys: tuple[str, ...], key_file: Any) -> list[str]:
    lines = list(keys)
    if key_file is not None:
        pasted = key_file.read(KEY_FILE_BYTES_MAX + 1)
        if len(pasted) > KEY_FILE_BYTES_MAX:
            raise click.UsageError("the key file is larger than 4 MiB")
        text = pasted.decode("utf-8", "replace")
        # A service account's key is a JSON file of several lines.
        lines += [text] if text.lstrip().startswith("{") else text.splitlines()
    return [line.strip() for line in lines if line.strip()]


def _print(view: ChannelView, as_json: bool) -> None:
    shown = _shown(view)
    if as_json:
        print_json(shown)
        return
    del shown["keys"]
    print_facts({name: value for name, value in shown.items() if value not in ({}, (), [], None)})
    click.echo()
    _print_keys(list(view.keys), False, "no keys")


def _warn(view: ChannelView, unpriced: list[str]) -> None:
    """Warn of models without a price, and if another family would guard against further models that the provider at
    this URL accepts."""
    from elkapi.catalog.upstreams import guarding_family

    if unpriced:
        click.echo(
            f"note: no price is set for {listed(unpriced)}, so calls are refused: elkapi price set --model "
            f"{shlex.quote(unpriced[0])} ...",
            err=True,
        )
    if (name := guarding_family(view.family, view.base_url)) is not None:
        click.echo(
            f"{view.base_url} is the address of the family {name}. As {view.family}, calls that name further models "
            f"are not refused there, and what those cost is your loss: elkapi channel edit {view.id} --family {name}",
            err=True,
        )


def _print_keys(views: list[ChannelKeyView], as_json: bool, none: str) -> None:
    rows = [_shown_key(view) for view in views]
    print_rows(rows, KEY_COLUMNS, as_json, none=none)


def _shown(view: ChannelView) -> dict[str, Any]:
    config = msgspec.structs.asdict(view.config)
    limits = msgspec.to_builtins(config.pop("limits"))
    return {
        "id": view.id,
        "name": view.name,
        "family": view.family,
        "base_url": view.base_url,
        "state": "enabled" if view.enabled else "disabled",
        "priority": view.priority,
        "weight": view.weight,
        "allow_private": view.allow_private,
        **config,
        "limits": limits,
        "header_set": view.header_names,
        "proxy": "set" if view.has_proxy else None,
        "created_at": when(view.created_ns),
        "keys": [_shown_key(key) for key in view.keys],
    }


def _shown_key(view: ChannelKeyView) -> dict[str, Any]:
    return {
        "id": view.id,
        "hint": view.hint,
        "state": "enabled" if view.enabled else "disabled",
        "reason": view.reason,
        "disabled_by": view.disabled_by,
        "changed_at": when(view.changed_ns),
    }
