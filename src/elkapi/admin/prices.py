"""The price book: a new version per change; older versions stay for the calls and holds that name them."""

from __future__ import annotations

import msgspec

from elkapi.admin.context import Admin, check_model
from elkapi.admin.errors import InvalidInput, Missing
from elkapi.money import parse_usd
from elkapi.storage.repos import prices
from elkapi.storage.repos.prices import PriceRow
from elkapi.types import Amounts, Rates, Tier

AMOUNT_MAX_NANO = 10**6 * 10**9


# What `rates` and a tier may name: token classes per million, `search` each.
RATE_NAMES = {
    name.removesuffix("_nano_per_1m").removesuffix("_nano"): name
    for name in Rates.__struct_fields__
    if name != "call_nano"
}
TIERS_MAX = 8


class TierInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of calls with more than `above_tokens` of input; a class that is not named keeps the base rate."""

    above_tokens: int
    rates: dict[str, str]


class PriceInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decimal US dollars as text. Either token prices per million, or one price per call.

    `rates` prices further classes (`cache_write_5m`, `reasoning`, `audio_input`, ...; `search` is per search).
    """

    model: str
    input_per_1m: str | None = None
    output_per_1m: str | None = None
    cached_per_1m: str | None = None
    per_call: str | None = None
    rates: dict[str, str] = {}
    tiers: tuple[TierInput, ...] = ()
    source: str = "operator"


def set_price(admin: Admin, given: PriceInput) -> PriceRow:
    """Put a new version in force; raises InvalidInput."""
    model = check_model(given.model, "model")
    amounts = _amounts(given)
    with admin.database.write() as connection:
        return prices.add_version(connection, model=model, amounts=amounts, source=given.source, **admin.who())


def list_prices(admin: Admin) -> list[PriceRow]:
    with admin.database.read() as connection:
        return prices.in_force(connection)


def history(admin: Admin, model: str) -> list[PriceRow]:
    """Every version, newest first; raises Missing for a model that never had one."""
    with admin.database.read() as connection:
        rows = prices.history(connection, model)
    if not rows:
        raise Missing(f"{model!r} has no price; put one in force with `elkapi price set --model {model} ...`")
    return rows


def _amounts(given: PriceInput) -> Amounts:
    named = {"input": given.input_per_1m, "output": given.output_per_1m, "cached": given.cached_per_1m}
    texts = {**given.rates, **{name: text for name, text in named.items() if text is not None}}
    if given.per_call is not None:
        if texts or given.tiers:
            raise InvalidInput("a price is per call or per token, not both", field="per_call")
        return Amounts(call_nano=_nano(given.per_call, "per_call"))
    if "input" not in texts:
        raise InvalidInput("give input_per_1m or per_call", field="input_per_1m")
    rates = _rates(texts)
    if len(given.tiers) > TIERS_MAX:
        raise InvalidInput(f"at most {TIERS_MAX} tiers", field="tiers")
    tiers = [Tier(above_tokens=tier.above_tokens, **{**rates, **_rates(tier.rates)}) for tier in given.tiers]
    bounds = [tier.above_tokens for tier in tiers]
    if bounds != sorted(set(bounds)) or any(bound < 1 for bound in bounds):
        raise InvalidInput("tiers begin above 0 tokens, each above the one before", field="tiers")
    return Amounts(**rates, tiers=tuple(tiers))


def _rates(texts: dict[str, str]) -> dict[str, int]:
    unknown = sorted(set(texts) - set(RATE_NAMES))
    if unknown:
        raise InvalidInput(f"no such class: {unknown[0]!r}; there are {', '.join(RATE_NAMES)}", field="rates")
    return {RATE_NAMES[name]: _nano(text, f"{name}_per_1m") for name, text in texts.items()}


def _nano(text: str, field: str) -> int:
    try:
        nano = int(parse_usd(text))
    except ValueError as error:
        raise InvalidInput(str(error), field=field) from None
    if not 0 <= nano <= AMOUNT_MAX_NANO:
        raise InvalidInput("a price is between 0 and a million dollars", field=field)
    return nano
