"""Integer nano-US-dollars: the one place that multiplies, rounds, parses and prints money.

1 USD = 1_000_000_000 nano. Prices per million units and group ratios in millionths keep every factor an integer;
the product is divided once and rounded half away from zero (docs/money.md).
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import NewType

Nano = NewType("Nano", int)

NANO_PER_USD = 1_000_000_000
# The credit of providers that count in credits (Luma, Runway).
NANO_PER_CENT = NANO_PER_USD // 100
RATIO_ONE_MICRO = 1_000_000
# For a line of a batch; a larger value is surely meant as percent.
BATCH_RATIO_MAX_MICRO = 10 * RATIO_ONE_MICRO
PER_MILLION = 1_000_000
QUOTA_UNITS_PER_USD = 500_000
# An amount that would need rounding is invalid.
_EXACT = Context(prec=64, traps=[InvalidOperation, Inexact])
# Python accepts more as a number: `1e3`, `1_000`, digits of every script, surrounding spaces.
_PLAIN = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


def divide_half_away(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded half away from zero; denominator > 0."""
    if numerator < 0:
        return -divide_half_away(-numerator, denominator)
    return (2 * numerator + denominator) // (2 * denominator)


def parse_usd(text: str) -> Nano:
    """`"0.02"` -> 20_000_000 nano. Raises ValueError for anything but a plain decimal of at most 9 places."""
    return Nano(_scaled(text, NANO_PER_USD, "an amount in US dollars"))


def parse_ratio(text: str) -> int:
    """`"0.8"` -> 800_000 millionths. Raises ValueError for negative or over-precise ratios."""
    ratio = _scaled(text, RATIO_ONE_MICRO, "a ratio")
    if ratio < 0:
        raise ValueError(f"{text!r} is negative; a ratio is zero or more")
    return ratio


def _scaled(text: str, scale: int, what: str) -> int:
    if _PLAIN.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not {what}: write it as digits, such as 12.50")
    try:
        value = _EXACT.multiply(Decimal(text), scale)
    except ArithmeticError:
        raise ValueError(f"{text!r} is not {what}") from None
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} is not {what}: at most {len(str(scale)) - 1} decimal places")
    if abs(value) > 2**62:
        raise ValueError(f"{text!r} is too large for {what}")
    return int(value)


def format_usd(nano: int) -> str:
    """Exact decimal dollars with at least two places: 20_000_000 -> `"0.02"`, 130 -> `"0.00000013"`."""
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), NANO_PER_USD)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{places}"


def format_ratio(micro: int) -> str:
    """800_000 -> `"0.8"`, 1_000_000 -> `"1"`."""
    whole, rest = divmod(micro, RATIO_ONE_MICRO)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
