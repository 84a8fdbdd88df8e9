"""The policy options, shared by `elkapi key` and `elkapi group`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from elkapi.cli.numbers import Whole
from elkapi.cli.output import F, chosen, pairs, with_options, words
from elkapi.money import parse_ratio
from elkapi.types import FallbackReason, Policy

_LIMIT = Whole(0)
_OPTIONS = (
    click.option("--alias", "aliases", multiple=True, metavar="NAME=MODEL", help="another name for a model"),
    click.option(
        "--fallback",
        "fallbacks",
        multiple=True,
        metavar="MODEL=A,B",
        help="models to try if MODEL fails; * is any model",
    ),
    click.option("--fallback-on", metavar="REASONS", help="error,context,refusal; default: all"),
    click.option("--requests-per-min", type=_LIMIT, metavar="N", help="limit per key; 0 is no limit"),
    click.option("--tokens-per-min", type=_LIMIT, metavar="N", help="limit per key; 0 is no limit"),
    click.option("--parallel-max", type=_LIMIT, metavar="N", help="parallel calls per key; 0 is no limit"),
    click.option("--guard", "guards", multiple=True, metavar="NAME", help="a guardrail; they run in this order"),
    click.option(
        "--guard-streams",
        type=click.Choice(["buffer", "window"]),
        help="check streams as a whole before they begin, or as they pass; default: buffer",
    ),
    click.option("--cache", type=bool, metavar="on|off", help="use the response cache; off: never"),
    click.option(
        "--cache-age", "cache_age_max_s", type=Whole(1), metavar="S", help="maximum age of a cached answer in seconds"
    ),
    click.option(
        "--cache-shared", type=bool, metavar="on|off", help="share answers among the group's keys of one owner"
    ),
    click.option(
        "--cache-hit-ratio", "cache_hit_ratio_micro", metavar="R", help="share of the price that a hit costs; default 0"
    ),
    click.option(
        "--batch-ratio", "batch_ratio_micro", metavar="R", help="share of the price that a batch line costs; default 1"
    ),
)


def policy_options(command: F) -> F:
    """Add the policy options as keyword arguments; `take_policy` extracts them."""
    return with_options(_OPTIONS)(command)


def clear_option(command: F) -> F:
    """Add `--clear FIELD`, for an existing policy."""
    names = click.Choice(sorted(Policy.__struct_fields__))
    return click.option("--clear", multiple=True, type=names, help="remove a rule; a key then follows its group")(
        command
    )


def take_policy(given: dict[str, Any], clear: tuple[str, ...] = ()) -> dict[str, Any]:
    """Remove the policy's options from `given`; returns the values for `admin.policies.PolicyFields`, empty if none."""
    taken = {name: given.pop(name) for name in Policy.__struct_fields__ if name in given}
    values = {name: value for name, value in taken.items() if value is not None and value != ()}
    if "aliases" in values:
        values["aliases"] = pairs(values["aliases"], "--alias")
    if "fallbacks" in values:
        values["fallbacks"] = {name: words(text) for name, text in pairs(values["fallbacks"], "--fallback").items()}
    if "fallback_on" in values:
        values["fallback_on"] = chosen(values["fallback_on"], FallbackReason, "--fallback-on")
    for name in values.keys() & {"cache_hit_ratio_micro", "batch_ratio_micro"}:
        try:
            values[name] = parse_ratio(values[name])
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    for name in clear:
        if name in values:
            raise click.UsageError(f"{name} is both given and cleared")
        values[name] = None
    return values


def shown_policy(policy: Policy) -> dict[str, Any]:
    """The rules that are set, for a listing."""
    shown: dict[str, Any] = msgspec.to_builtins(policy)
    return shown


def readable_policy(policy: Policy) -> str:
    """`shown_policy` in one line."""
    return ", ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in shown_policy(policy).items())
