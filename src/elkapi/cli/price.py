"""`elkapi price`: the price book."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.output import json_option, opened, print_facts, print_json, print_table, when
from elkapi.money import format_usd

if TYPE_CHECKING:
    from elkapi.storage.repos.prices import PriceRow
    from elkapi.types import Rates

COLUMNS = ("model", "version", "input_per_1m_usd", "cached_per_1m_usd", "output_per_1m_usd", "per_call_usd", "source")


@click.group()
def price() -> None:
    """Prices: a model without one is refused, never free by accident."""


@price.command("set")
@click.option("--model", required=True)
@click.option("--input-per-1m", metavar="USD", help="per million input tokens")
@click.option("--output-per-1m", metavar="USD", help="per million output tokens")
@click.option("--cached-per-1m", metavar="USD", help="per million cached input tokens; default: the input price")
@click.option("--per-call", metavar="USD", help="one price per call instead")
@click.option("--rate", metavar="CLASS=USD", multiple=True, help="of a further class, such as cache_write_5m=3.75")
@click.option(
    "--tier",
    metavar="TOKENS:CLASS=USD,...",
    multiple=True,
    help="rates of calls with more input than this, such as 200000:input=6,output=22.5",
)
@json_option
def set_(as_json: bool, rate: tuple[str, ...], tier: tuple[str, ...], **given: str | None) -> None:
    """Put a new version of a model's price in force; calls under way keep the version they were quoted."""
    from elkapi.admin import prices
    from elkapi.admin.context import read_input

    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= {"rates": _classes(rate, "--rate"), "tiers": [_tier(text) for text in tier]}
    with opened() as admin:
        row = prices.set_price(admin, read_input(prices.PriceInput, values | {"source": admin.actor}))
    if as_json:
        print_json(_shown(row))
    else:
        click.echo(f"{row.price.model}: version {row.price.version} is in force")


@price.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The price in force of every model."""
    from elkapi.admin import prices

    with opened() as admin:
        rows = [_shown(row) for row in prices.list_prices(admin)]
    _print_rows(rows, as_json)


@price.command()
@click.argument("model")
@json_option
def history(model: str, as_json: bool) -> None:
    """Every version of MODEL's price, newest first."""
    from elkapi.admin import prices

    with opened() as admin:
        rows = [_shown(row) for row in prices.history(admin, model)]
    _print_rows(rows, as_json)


@price.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """The price of MODEL in force."""
    from elkapi.admin import prices

    with opened() as admin:
        shown = _shown(prices.history(admin, model)[0])
    if as_json:
        print_json(shown)
    else:
        print_facts(shown)


def _classes(texts: Iterable[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, usd in pairs:
        if not (name and equals and usd):
            raise click.BadParameter("write CLASS=USD", param_hint=option)
    return {name.strip(): usd.strip() for name, _, usd in pairs}


def _tier(text: str) -> dict[str, Any]:
    above, _, rates = text.partition(":")
    if not (above.isdecimal() and rates):
        raise click.BadParameter("write TOKENS:CLASS=USD,...", param_hint="--tier")
    return {"above_tokens": int(above), "rates": _classes(rates.split(","), "--tier")}


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows], none="no price")


def _shown(row: PriceRow) -> dict[str, Any]:
    price = row.price
    return {
        "id": price.id,
        "model": price.model,
        "version": price.version,
        "input_per_1m_usd": format_usd(price.input_nano_per_1m),
        "cached_per_1m_usd": None if price.cached_nano_per_1m is None else format_usd(price.cached_nano_per_1m),
        "output_per_1m_usd": format_usd(price.output_nano_per_1m),
        "per_call_usd": format_usd(price.call_nano),
        "rates": _shown_rates(price),
        "tiers": [{"above_tokens": tier.above_tokens, "rates": _shown_rates(tier)} for tier in price.tiers],
        "source": row.source,
        "created_at": when(row.created_ns),
    }


def _shown_rates(rates: Rates) -> dict[str, str]:
    """Every rate that is set, in dollars."""
    from elkapi.admin.prices import RATE_NAMES

    return {name: format_usd(nano) for name, field in RATE_NAMES.items() if (nano := getattr(rates, field))}
