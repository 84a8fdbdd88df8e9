"""`elkapi price`: the price book."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.numbers import read_whole
from elkapi.cli.output import json_option, opened, print_facts, print_json, print_table, readable, when
from elkapi.money import format_usd

if TYPE_CHECKING:
    from elkapi.storage.repos.prices import PriceRow
    from elkapi.types import Rates

COLUMNS = (
    "model",
    "version",
    "input_per_1m_usd",
    "cached_per_1m_usd",
    "output_per_1m_usd",
    "per_call_usd",
    "per_second_usd",
    "per_image_usd",
    "source",
)
# Names of a variant's rates on the command line, besides those of the classes.
_VARIANT_RATES = {
    "per-second": "video_second",
    "per-image": "image",
    "per-audio-second": "audio_second",
    "per-call": "call",
}


@click.group()
def price() -> None:
    """Prices. A model without one is refused, never free by accident."""


@price.command("set")
@click.option("--model", required=True)
@click.option("--input-per-1m", metavar="USD", help="per million input tokens")
@click.option("--output-per-1m", metavar="USD", help="per million output tokens")
@click.option("--cached-per-1m", metavar="USD", help="per million cached input tokens; default: the input price")
@click.option("--per-call", metavar="USD", help="per call, instead of tokens")
@click.option("--per-second", metavar="USD", help="per second of video")
@click.option("--per-image", metavar="USD", help="per picture")
@click.option("--per-audio-second", metavar="USD", help="per second of audio; default: as video")
@click.option("--rate", metavar="CLASS=USD", multiple=True, help="a further class, such as cache_write_5m=3.75")
@click.option(
    "--tier",
    metavar="TOKENS:CLASS=USD,...",
    multiple=True,
    help="prices of calls with more input than this, such as 200000:input=6,output=22.5",
)
@click.option(
    "--variant",
    metavar="FEATURE=WORD|WORD,...:RATE=USD,...",
    multiple=True,
    help="prices of calls with these features, such as 'resolution=1080p|4k,mode=pro:per-second=0.5' or "
    "'service_tier=priority|fast:input=8,output=40'; the first that matches applies, and the plain price "
    "for what it does not name; the feature above_tokens=TOKENS matches calls with more input than this",
)
@json_option
def set_(
    as_json: bool, rate: tuple[str, ...], tier: tuple[str, ...], variant: tuple[str, ...], **given: str | None
) -> None:
    """Set a model's price as a new version. Calls under way keep the old version.

    For example, a price per call by mode and length, as Kling charges: --per-call 0.14
    --variant 'mode=pro,duration=10:per-call=0.98' --variant 'mode=pro:per-call=0.49'
    --variant 'duration=10:per-call=0.28'
    """
    from elkapi.admin import prices
    from elkapi.admin.context import read_input
    from elkapi.admin.notes import without_channel

    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= {"rates": _classes(rate, "--rate"), "tiers": [_tier(text) for text in tier]}
    values["variants"] = [_variant(text) for text in variant]
    with opened() as admin:
        row = prices.set_price(admin, read_input(prices.PriceInput, values | {"source": admin.actor}))
        before = prices.history(admin, row.price.model)[1:2]
        # The first price of a name, which may be misspelt.
        unserved = [] if before else without_channel(admin, [row.price.model], None)
    if as_json:
        print_json(_shown(row))
    else:
        click.echo(f"{row.price.model}: version {row.price.version} is in force")
    if unserved:
        click.echo(f"note: no channel serves {readable(row.price.model)} yet", err=True)
    # A new version replaces the whole price; warn about rates that it drops.
    if before and (gone := [name for name in _named(before[0]) if name not in _named(row)]):
        which, hint = before[0].price.version, f"see elkapi price history {shlex.quote(row.price.model)}"
        click.echo(f"note: version {which} also had {', '.join(gone)}, which this one lacks; {hint}", err=True)


@price.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the price in force of every model."""
    from elkapi.admin import prices

    with opened() as admin:
        rows = [_shown(row) for row in prices.list_prices(admin)]
    _print_rows(rows, as_json)


@price.command()
@click.argument("model")
@json_option
def history(model: str, as_json: bool) -> None:
    """List every version of MODEL's price, newest first."""
    from elkapi.admin import prices

    with opened() as admin:
        rows = [_shown(row) for row in prices.history(admin, model)]
    _print_rows(rows, as_json)


@price.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show the price of MODEL in force."""
    from elkapi.admin import prices

    with opened() as admin:
        shown = _shown(prices.show_price(admin, model))
    if as_json:
        print_json(shown)
    else:
        print_facts(shown)


@price.command()
@click.argument("model")
@json_option
def withdraw(model: str, as_json: bool) -> None:
    """Leave MODEL without a price: new calls are refused; its versions stay, and calls under way keep theirs."""
    from elkapi.admin import prices

    with opened() as admin:
        row = prices.withdraw_price(admin, model)
    if as_json:
        print_json(_shown(row))
    else:
        click.echo(f"{row.price.model}: version {row.price.version} withdraws the price; new calls are refused")


def _named(row: PriceRow) -> list[str]:
    """The names of what a record prices, including `tiers` and `variants` if it has any."""
    if row.withdrawn:
        return []
    shown = _shown(row)
    call = ["call"] if row.price.call_nano else []
    return [*shown["rates"], *call, *(name for name in ("tiers", "variants") if shown[name])]


def _classes(texts: Iterable[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, usd in pairs:
        if not (name and equals and usd):
            raise click.BadParameter("write CLASS=USD", param_hint=option)
    return _once([(name.strip(), usd.strip()) for name, _, usd in pairs], option)


def _once(pairs: list[tuple[str, str]], option: str) -> dict[str, str]:
    """The pairs as a dict; raises BadParameter for a duplicate name, since the wrong price might win."""
    named = dict(pairs)
    if len(named) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.BadParameter(f"{twice} is given twice", param_hint=option)
    return named


def _tier(text: str) -> dict[str, Any]:
    above, _, rates = text.partition(":")
    if not (above and rates):
        raise click.BadParameter("write TOKENS:CLASS=USD,...", param_hint="--tier")
    return {"above_tokens": read_whole(above, "--tier"), "rates": _classes(rates.split(","), "--tier")}


def _variant(text: str) -> dict[str, Any]:
    features, colon, rates = text.partition(":")
    if not (features and colon and rates):
        raise click.BadParameter("write FEATURE=WORD,...:RATE=USD,...", param_hint="--variant")
    words = _classes(features.split(","), "--variant")
    above = read_whole(words.pop("above_tokens", "0"), "--variant")
    named = _classes(rates.split(","), "--variant")
    return {
        "above_tokens": above,
        "when": {name: of.split("|") for name, of in words.items()},
        "rates": _once([(_VARIANT_RATES.get(name, name), usd) for name, usd in named.items()], "--variant"),
    }


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, [line for row in rows for line in _lines(row)], none="no prices")


def _lines(row: dict[str, Any]) -> list[list[Any]]:
    """A record's line of the table, and one per variant."""
    if row.get("withdrawn"):
        return [[row["model"], row["version"], "withdrawn", *[""] * (len(COLUMNS) - 4), row["source"]]]
    lines = [[row[name] for name in COLUMNS]]
    for variant in row["variants"]:
        rates = variant["rates"]
        named = ", ".join(f"{name}={'|'.join(words)}" for name, words in variant["when"].items())
        if "above_tokens" in variant:
            named += f", above_tokens={variant['above_tokens']}"
        shown = {
            "model": f"  {named}",
            "input_per_1m_usd": rates.get("input"),
            "output_per_1m_usd": rates.get("output"),
        }
        shown |= {"per_call_usd": rates.get("call"), "per_second_usd": rates.get("video_second")}
        shown |= {"per_image_usd": rates.get("image")}
        lines.append([shown.get(name) or "" for name in COLUMNS])
    return lines


def _shown(row: PriceRow) -> dict[str, Any]:
    price = row.price
    head = {"id": price.id, "model": price.model, "version": price.version}
    made = {"source": row.source, "created_at": when(row.created_ns)}
    if row.withdrawn:
        return {**head, "withdrawn": True, **made}
    return {
        **head,
        "input_per_1m_usd": format_usd(price.input_nano_per_1m),
        "cached_per_1m_usd": None if price.cached_nano_per_1m is None else format_usd(price.cached_nano_per_1m),
        "output_per_1m_usd": format_usd(price.output_nano_per_1m),
        "per_call_usd": format_usd(price.call_nano),
        "per_second_usd": format_usd(price.video_second_nano),
        "per_image_usd": format_usd(price.image_nano),
        "rates": _shown_rates(price),
        "tiers": [{"above_tokens": tier.above_tokens, "rates": _shown_rates(tier, price)} for tier in price.tiers],
        "variants": [
            {
                "when": {name: list(words) for name, words in one.when.items()},
                **({"above_tokens": one.above_tokens} if one.above_tokens else {}),
                "rates": _variant_rates(one, price),
            }
            for one in price.variants
        ],
        **made,
    }


def _shown_rates(rates: Rates, record: Rates | None = None) -> dict[str, str]:
    """Every rate that is set, in dollars; `record` has the base rates of a tier or variant."""
    from elkapi.admin.prices import RATE_NAMES

    found = {name: _set(rates, field, record) for name, field in RATE_NAMES.items()}
    return {name: format_usd(nano) for name, nano in found.items() if nano is not None}


def _variant_rates(rates: Rates, record: Rates) -> dict[str, str]:
    call = _set(rates, "call_nano", record)
    return _shown_rates(rates, record) | ({} if call is None else {"call": format_usd(call)})


def _set(rates: Rates, field: str, record: Rates | None) -> int | None:
    """A rate, or None if it is not set; 0 may be set explicitly."""
    from elkapi.types import Rates

    nano: int | None = getattr(rates, field)
    instead = record is not None and getattr(record, field)
    return nano if instead or nano != getattr(Rates(), field) else None
