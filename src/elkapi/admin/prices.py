"""The price book: a new version per change; older versions stay for the calls and holds that name them."""

from __future__ import annotations

import msgspec

from elkapi.admin.context import Admin, check_model
from elkapi.admin.errors import InvalidInput, Missing
from elkapi.money import parse_usd
from elkapi.storage.repos import prices
from elkapi.storage.repos.prices import Amounts, PriceRow

AMOUNT_MAX_NANO = 10**6 * 10**9


class PriceInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decimal US dollars as text. Either token prices per million, or one price per call."""

    model: str
    input_per_1m: str | None = None
    output_per_1m: str | None = None
    cached_per_1m: str | None = None
    per_call: str | None = None
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
    per_token = (given.input_per_1m, given.output_per_1m, given.cached_per_1m)
    if given.per_call is not None:
        if any(amount is not None for amount in per_token):
            raise InvalidInput("a price is per call or per token, not both", field="per_call")
        return Amounts(call_nano=_nano(given.per_call, "per_call"))
    if given.input_per_1m is None:
        raise InvalidInput("give input_per_1m or per_call", field="input_per_1m")
    return Amounts(
        input_nano_per_1m=_nano(given.input_per_1m, "input_per_1m"),
        output_nano_per_1m=0 if given.output_per_1m is None else _nano(given.output_per_1m, "output_per_1m"),
        cached_nano_per_1m=None if given.cached_per_1m is None else _nano(given.cached_per_1m, "cached_per_1m"),
    )


def _nano(text: str, field: str) -> int:
    try:
        nano = int(parse_usd(text))
    except ValueError as error:
        raise InvalidInput(str(error), field=field) from None
    if not 0 <= nano <= AMOUNT_MAX_NANO:
        raise InvalidInput("a price is between 0 and a million dollars", field=field)
    return nano
