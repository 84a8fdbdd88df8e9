"""Hops 4 and 5: where a call may go and the most it may cost, from the snapshot alone."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from functools import partial
from typing import Protocol

import msgspec

from elkapi.catalog import Operation
from elkapi.catalog.bounds import NOTHING_ADDED, SEARCHES_MAX, most_added
from elkapi.catalog.upstreams import serves
from elkapi.errors import ModelForbidden, NoChannel, NoPrice
from elkapi.pricing.price import is_of_media, quote
from elkapi.pricing.served import asked_by, asked_for, asked_in, features_of, together
from elkapi.relay.plane import Bearings
from elkapi.relay.read import Request
from elkapi.routing.plan import Way, plan, upstream_model, without_choice
from elkapi.snapshot import Snapshot, served_names
from elkapi.types import Attempt, Grant, Price, Quote

SUGGESTIONS_MAX = 5
COMPARED_MAX = 64
# Words in the names of models whose tokens may be audio and images though nothing in a call requests them.
WIDE_WORDS = ("audio", "image")
# The same for models that search unasked: Perplexity's, OpenAI's search previews, and any that OpenRouter is asked for
# with its word for a search.
SEARCH_WORDS = ("sonar", "search", ":online")
# The same for models that reason and read without limit, neither of which is in the totals of their usage.
RESEARCH_WORD, RESEARCH_TOKENS_MAX = "sonar-deep-research", 200_000
# More than `attempts_max`, since a channel at its own limit is skipped.
PLANNED_MAX = 64
# How many ways are cached with one snapshot; further ones are computed for each call.
WAYS_MAX = 8192


class Headed(Protocol):
    """The part of a call that is used here besides its request."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""


def way_of(snapshot: Snapshot, grant: Grant, request: Request) -> Way:
    """What calls like this one share, computed once per snapshot."""
    key = (grant.scope, grant.group, request.operation.id, request.model)
    return snapshot.ways.get(key) or _way(snapshot, grant, request, key)


def _way(snapshot: Snapshot, grant: Grant, request: Request, key: tuple[str, str, str, str]) -> Way:
    model, operation = request.model, request.operation
    tiers = snapshot.tiers_for(grant.scope, grant.group, model)
    price = _price_for(snapshot, grant, request)
    only = without_choice(tiers, model, partial(serves, operation))
    channels = [one for tier in tiers for one in tier]
    added = NOTHING_ADDED if operation.dialect is None else most_added(channels)
    names = {model, *(upstream_model(one, model) for one in channels)}
    wide = added.wide or _says(names, WIDE_WORDS)
    of_text = None if operation.dialect is None else price
    features = frozenset() if of_text is None else features_of(of_text)
    asked = tuple(asked_by(one, features) for one in channels) if features else ()
    if of_text is not None and of_text.search_nano and _says(names, SEARCH_WORDS):
        added = msgspec.structs.replace(added, searches=max(added.searches, SEARCHES_MAX))
    researches = of_text is not None and _says(names, (RESEARCH_WORD,))
    if researches:
        added = msgspec.structs.replace(added, tokens=added.tokens + RESEARCH_TOKENS_MAX)
    way = Way(tiers, only, price, snapshot.groups.get(grant.group), added, wide, researches, features, asked)
    # Names that nothing serves are not cached: callers can make up any number.
    if tiers and len(snapshot.ways) < WAYS_MAX:
        snapshot.ways[key] = way
    return way


def _price_for(snapshot: Snapshot, grant: Grant, request: Request) -> Price | None:
    """The model's price for such a call; None where nobody set one, also where it is a price for films alone."""
    operation, price = request.operation, snapshot.price_for(grant.scope, request.model)
    if price is None and (operation.unit == "free" or operation.free_unless_priced):
        return Price(id=0, model=request.model, version=0)
    if price is not None and operation.unit == "token" and operation.task is None and is_of_media(price):
        return None
    return price


def _says(names: set[str], words: tuple[str, ...]) -> bool:
    """Whether one of the words stands in one of a model's names."""
    return any(word in name for name in names for word in words)


def route(plane: Bearings, snapshot: Snapshot, grant: Grant, request: Request, way: Way) -> tuple[Attempt, ...]:
    """Ordered attempts. Raises ModelForbidden, or NoChannel with close names the caller could use."""
    if grant.models is not None:
        check_allowed(grant, request)
    attempts = way.only
    if attempts is None:
        preferred = plane.affinity.place(request.session) if request.session else None
        able = partial(serves, request.operation)
        attempts = plan(way.tiers, request.model, able, plane.health, plane.rng, PLANNED_MAX, preferred)
    if not attempts:
        raise no_channel(snapshot, grant, request)
    return attempts


def check_allowed(grant: Grant, request: Request) -> None:
    """Raises ModelForbidden for a model the key may not use."""
    if not is_allowed(grant, request.model):
        raise ModelForbidden(f"This API key may not use the model {request.model!r}.", param="model")


def is_allowed(grant: Grant, model: str) -> bool:
    """Whether the key may use a model."""
    return grant.models is None or model in grant.models


def no_channel(snapshot: Snapshot, grant: Grant, request: Request) -> NoChannel:
    """The error for a model that nothing serves for this call."""
    return NoChannel(_no_channel(snapshot, grant, request))


def _no_channel(snapshot: Snapshot, grant: Grant, request: Request) -> str:
    """The message: what is missing, similar names, and the corrected call on a fresh installation."""
    named = [m for m in snapshot.models_for(grant.scope, grant.group) if not grant.models or m in grant.models]
    if request.model not in named and _is_without_keys(snapshot, grant, request.model):
        return f"The model {request.model!r} has no working upstream right now; ask the operator."
    # Suggest only models that support this call; if none does, the available names still help.
    near = _near(request.model, named)
    able = [m for m in near if can_serve(snapshot, grant, request.operation, m)]
    listed = able or near
    text = f"No channel serves the model {request.model!r} in group {grant.group!r}."
    if not listed and grant.models:
        return text + " Nothing that this API key may use is served there; ask the operator."
    if not listed:
        return text + " This group has no models; ask the operator to add a channel with `elkapi channel add`."
    if not able and request.model in named:
        others = ", and no other model supports it" if near == named else ""
        return f"{text[:-1]} at {request.operation.path}; the model supports other calls{others}."
    close = difflib.get_close_matches(request.model, listed, n=SUGGESTIONS_MAX, cutoff=0.4) or listed[:SUGGESTIONS_MAX]
    text += f" Available: {', '.join(close)}."
    if able and grant.scope == "live" and all(channel.id < 0 for channel in snapshot.channels.values()):
        text += (
            " This installation has no upstream yet, so only its bundled models are available. Send instead: "
            f"""POST {request.operation.path.replace("{model}", close[0])} with {{"model": "{close[0]}", ...}}."""
        )
    return text


def _near(model: str, named: list[str]) -> list[str]:
    """The names to search for a misspelled one: of many, only those near it alphabetically, since comparing
    thousands would delay every other call."""
    first = min(max(bisect_left(named, model) - COMPARED_MAX // 2, 0), max(len(named) - COMPARED_MAX, 0))
    return named[first : first + COMPARED_MAX]


def _is_without_keys(snapshot: Snapshot, grant: Grant, model: str) -> bool:
    """Whether channels without an enabled key serve it."""
    return any(
        channel.scope == grant.scope and grant.group in channel.groups and model in served_names(channel)
        for channel in snapshot.channels.values()
        if not any(key.enabled for key in channel.keys)
    )


def can_serve(snapshot: Snapshot, grant: Grant, operation: Operation, model: str) -> bool:
    """Whether any of the key's channels supports this operation for a model."""
    tiers = snapshot.tiers_for(grant.scope, grant.group, model)
    return any(serves(operation, one, upstream_model(one, model)) for tier in tiers for one in tier)


def any_model(snapshot: Snapshot, grant: Grant, operation: Operation) -> str:
    """A model that the key may use and whose channel serves a call without a model. Raises NoChannel.

    The operation's default comes first: what is made now is used with that model later.
    """
    models, default = snapshot.models_for(grant.scope, grant.group), operation.model.default
    for model in sorted(models, key=lambda model: model != default):
        if is_allowed(grant, model) and can_serve(snapshot, grant, operation, model):
            return model
    raise NoChannel(f"No model in group {grant.group!r} supports {operation.path}.")


def estimate(grant: Grant, request: Request, way: Way, call: Headed) -> Quote:
    """The upper bound in money, whichever of its price's features the call or a channel asks for.

    Raises NoPrice: a model without a price is refused, never free by accident.
    """
    if way.price is None:
        name = request.model
        raise NoPrice(
            f"The model {name!r} has no price for this call; ask the operator to set one with `elkapi price set`."
        )
    if way.ratio_micro is None:
        raise NoPrice(f"The group {grant.group!r} of this API key no longer exists; ask the operator.")
    facts, line = request.facts, request.line
    further_micro = () if line is None else (line.ratio_micro,)
    wide = facts.wide or way.wide
    if not way.features:
        return quote(way.price, grant.group, way.ratio_micro, facts.upper, wide, further_micro)
    asked = together((asked_for(request.body, way.features), asked_in(call.header, way.features), *way.asked))
    return quote(way.price, grant.group, way.ratio_micro, facts.upper, wide, further_micro, asked)
