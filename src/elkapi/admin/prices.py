"""The price book: each change adds a version; older versions stay for the calls and holds that refer to them."""

from __future__ import annotations

import msgspec

from elkapi.admin.context import Admin, check_model
from elkapi.admin.errors import InvalidInput, Missing
from elkapi.catalog import CATALOG
from elkapi.errors import BadRequest
from elkapi.money import parse_usd
from elkapi.pricing import served
from elkapi.pricing.media import spelled
from elkapi.storage.repos import prices
from elkapi.storage.repos.prices import PriceRow
from elkapi.types import Amounts, Rates, Tier, Variant

AMOUNT_MAX_NANO = 10**6 * 10**9


# The classes in `rates` and tiers: tokens per million, `search` and `image` each, seconds of video and audio.
RATE_NAMES = {
    name.removesuffix("_nano_per_1m").removesuffix("_nano"): name
    for name in Rates.__struct_fields__
    if name != "call_nano"
}
# The features a variant may depend on; one with an unknown feature would never apply, and its calls be undercharged.
_OF_TASKS = frozenset(
    name for op in CATALOG.operations if op.meter for name in (*op.meter.features, *op.meter.judged, "resolution")
)
FEATURES = _OF_TASKS | set(served.FEATURES)
TIERS_MAX = 8
VARIANTS_MAX = 64


class TierInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of calls with more than `above_tokens` of input; other classes keep the base rate."""

    above_tokens: int
    rates: dict[str, str]


class VariantInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of calls whose features all have one of the values in `when`; other classes keep the base rate.

    `rates` has the classes of a price, and `call`. `above_tokens`: only calls with more input tokens.
    """

    when: dict[str, tuple[str, ...]]
    rates: dict[str, str]
    above_tokens: int = 0


class PriceInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price in US dollars as decimal strings: either tokens per million, or per call, per second, per image.

    `rates` has the prices of further classes (`cache_write_5m`, `reasoning`, `audio_input`, ...; `search` is per
    search). The first of `variants` that matches a call applies; if none does, the `tiers`.
    """

    model: str
    input_per_1m: str | None = None
    output_per_1m: str | None = None
    cached_per_1m: str | None = None
    per_call: str | None = None
    per_second: str | None = None
    per_image: str | None = None
    per_audio_second: str | None = None
    rates: dict[str, str] = {}
    tiers: tuple[TierInput, ...] = ()
    variants: tuple[VariantInput, ...] = ()
    source: str = "operator"


def set_price(admin: Admin, given: PriceInput) -> PriceRow:
    """Add a new version, which takes effect at once; raises InvalidInput."""
    model = check_model(given.model, "model")
    amounts = _amounts(given)
    with admin.change() as connection:
        return prices.add_version(connection, model=model, amounts=amounts, source=given.source, **admin.who())


def list_prices(admin: Admin) -> list[PriceRow]:
    """The current version of each model's price."""
    with admin.database.read() as connection:
        return prices.in_force(connection)


def history(admin: Admin, model: str) -> list[PriceRow]:
    """Every version, newest first; raises Missing if the model never had one."""
    with admin.database.read() as connection:
        rows = prices.history(connection, model)
    if not rows:
        raise Missing(f"{model!r} has no price; set one with `elkapi price set --model {model} ...`")
    return rows


def show_price(admin: Admin, model: str) -> PriceRow:
    """The current version; raises Missing if there is none."""
    newest = history(admin, model)[0]
    if newest.withdrawn:
        raise Missing(f"{model!r} has no price: version {newest.price.version} withdrew it")
    return newest


def withdraw_price(admin: Admin, model: str) -> PriceRow:
    """Withdraw a model's price with a new version, so that new calls are refused; raises Missing."""
    with admin.change() as connection:
        row = prices.withdraw(connection, model=model, source=admin.actor, **admin.who())
    if row is None:
        raise Missing(f"{model!r} has no price in force")
    return row


def _amounts(given: PriceInput) -> Amounts:
    options = {"input": given.input_per_1m, "output": given.output_per_1m, "cached": given.cached_per_1m}
    named = {name: text for name, text in options.items() if text is not None}
    rates = _media_rates(given)
    media = {name for name, rate in RATE_NAMES.items() if rate in rates}
    if twice := given.rates.keys() & (named.keys() | media):
        raise InvalidInput(f"{min(twice)} is given twice", field="rates")
    texts = {**given.rates, **named}
    if given.per_call is not None:
        if texts or given.tiers:
            raise InvalidInput("a price must be per call or per token, not both", field="per_call")
        rates["call_nano"] = _nano(given.per_call, "per_call")
    if "input" not in texts and not rates:
        raise InvalidInput(
            "give input_per_1m, per_call, per_second, per_image or per_audio_second", field="input_per_1m"
        )
    rates |= _rates(texts)
    return Amounts(**rates, tiers=_tiers(given, rates), variants=_variants(given, rates))


def _media_rates(given: PriceInput) -> dict[str, int]:
    texts = {
        "video_second_nano": ("per_second", given.per_second),
        "image_nano": ("per_image", given.per_image),
        "audio_second_nano": ("per_audio_second", given.per_audio_second),
    }
    return {rate: _nano(text, field) for rate, (field, text) in texts.items() if text is not None}


def _tiers(given: PriceInput, rates: dict[str, int]) -> tuple[Tier, ...]:
    if len(given.tiers) > TIERS_MAX:
        raise InvalidInput(f"at most {TIERS_MAX} tiers", field="tiers")
    tiers = [Tier(above_tokens=tier.above_tokens, **{**rates, **_rates(tier.rates)}) for tier in given.tiers]
    bounds = [tier.above_tokens for tier in tiers]
    if bounds != sorted(set(bounds)) or any(bound < 1 for bound in bounds):
        raise InvalidInput("tiers must start above 0 tokens, each above the previous one", field="tiers")
    return tuple(tiers)


def _variants(given: PriceInput, rates: dict[str, int]) -> tuple[Variant, ...]:
    if len(given.variants) > VARIANTS_MAX:
        raise InvalidInput(f"at most {VARIANTS_MAX} variants", field="variants")
    return tuple(_variant(variant, rates, bool(given.tiers)) for variant in given.variants)


def _variant(given: VariantInput, rates: dict[str, int], by_length: bool) -> Variant:
    """One variant of a price; `by_length`: the price also has tiers. Raises InvalidInput."""
    when = _when(given.when)
    if given.above_tokens < 0:
        raise InvalidInput("above_tokens must be at least 1", field="variants")
    if (by_length or given.above_tokens) and (of_tasks := sorted(when.keys() - set(served.FEATURES))):
        raise InvalidInput(
            f"{of_tasks[0]} is a feature of tasks, whose price does not depend on the input length", field="variants"
        )
    return Variant(when=when, above_tokens=given.above_tokens, **{**rates, **_variant_rates(given.rates)})


def _when(when: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The features and values, normalized like those of calls. Raises InvalidInput if one is empty."""
    try:
        words = {(own := name.strip()): tuple(_spelled(own, word) for word in of) for name, of in when.items()}
    except BadRequest as error:
        raise InvalidInput(error.message, field="variants") from None
    if not words or not all(name and of and all(of) for name, of in words.items()):
        raise InvalidInput("a variant must name features and their values, such as mode=pro", field="variants")
    if unknown := sorted(words.keys() - FEATURES):
        known = ", ".join(sorted(FEATURES))
        raise InvalidInput(f"the feature {unknown[0]!r} does not exist; use {known}", field="variants")
    if served.NOT_CHOSEN in words.get("service_tier", ()):
        raise InvalidInput("auto can be requested, but no call is served as it", field="variants")
    return words


def _spelled(name: str, word: str) -> str:
    own = spelled(name, word)
    return served.word_of(own) if name in served.FEATURES else own


def _variant_rates(texts: dict[str, str]) -> dict[str, int]:
    if not texts:
        raise InvalidInput("a variant must have rates, such as video_second=0.5", field="variants")
    call = {"call_nano": _nano(texts["call"], "per_call")} if "call" in texts else {}
    return call | _rates({name: text for name, text in texts.items() if name != "call"})


def _rates(texts: dict[str, str]) -> dict[str, int]:
    unknown = sorted(set(texts) - set(RATE_NAMES))
    if unknown:
        raise InvalidInput(f"the class {unknown[0]!r} does not exist; use {', '.join(RATE_NAMES)}", field="rates")
    return {RATE_NAMES[name]: _nano(text, f"{name}_per_1m") for name, text in texts.items()}


def _nano(text: str, field: str) -> int:
    try:
        nano = int(parse_usd(text))
    except ValueError as error:
        raise InvalidInput(str(error), field=field) from None
    if not 0 <= nano <= AMOUNT_MAX_NANO:
        raise InvalidInput("a price must be between 0 and a million dollars", field=field)
    return nano
