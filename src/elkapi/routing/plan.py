"""Candidate channels -> ordered attempts: by priority, inside one priority by weighted chance, healthy ones first.

Pure but for the randomness and the health it is handed, so one test table covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

import msgspec

from elkapi.routing.affinity import Place
from elkapi.routing.health import Health
from elkapi.types import Attempt, Channel, ChannelKey, Price

_T = TypeVar("_T")
Tiers = Sequence[Sequence[Channel]]
Serves = Callable[[Channel, str], bool]


class Way(msgspec.Struct, frozen=True):
    """What the calls of one group, model and operation have alike as long as a snapshot lasts.

    `only` is their plan where there is nothing to choose, None where each call chooses anew. `price` None: nobody
    priced the model. `ratio_micro` None: the group is gone. `added_tokens` is the most input that one of its channels
    adds to a text call. `wide`: by its name the model hears, speaks or paints, whatever a call says of it. `features`
    are those that the price of such a text call goes by, `asked` the words of them that its channels put into calls.
    """

    tiers: Tiers
    only: tuple[Attempt, ...] | None
    price: Price | None
    ratio_micro: int | None
    added_tokens: int = 0
    wide: bool = False
    features: frozenset[str] = frozenset()
    asked: tuple[Mapping[str, str], ...] = ()


def plan(
    tiers: Tiers,
    model: str,
    serves: Serves,
    health: Health,
    rng: Random,
    attempts_max: int,
    preferred: Place | None = None,
) -> tuple[Attempt, ...]:
    """At most `attempts_max` attempts, no (channel, key) twice. Empty when no channel serves the model so.

    `serves(channel, upstream_model)` says whether a channel can answer this operation. `preferred` goes first when it
    is ready and nothing that is ready has a higher priority.

    Channels that cool down come last instead of never: a call that has nowhere better to go may as well try them.
    """
    if (only := without_choice(tiers, model, serves)) is not None:
        return only
    ready: list[Attempt] = []
    cooling: list[Attempt] = []
    for tier in tiers:
        for channel in _shuffled([c for c in tier if serves(c, upstream_model(c, model))], lambda c: c.weight, rng):
            channel_ready = health.ready(("channel", channel.id))
            for key in _shuffled([k for k in channel.keys if k.enabled], lambda _: 1, rng):
                fit = channel_ready and health.ready(("key", key.id))
                (ready if fit else cooling).append(_attempt(channel, key, model, fit))
    ordered = _spread(ready)
    if preferred is not None:
        _put_first(ordered, preferred)
    return tuple((ordered + _spread(cooling))[:attempts_max])


def without_choice(tiers: Tiers, model: str, serves: Serves) -> tuple[Attempt, ...] | None:
    """The plan where there is no channel, or one with one key, whatever its health; None where there is a choice."""
    if not tiers:
        return ()
    if len(tiers) != 1 or len(tiers[0]) != 1 or len(tiers[0][0].keys) != 1:
        return None
    channel = tiers[0][0]
    theirs = upstream_model(channel, model)
    if not channel.keys[0].enabled or not serves(channel, theirs):
        return ()
    return (Attempt(channel, channel.keys[0], theirs, "the only channel"),)


def upstream_model(channel: Channel, model: str) -> str:
    """The name a channel's upstream knows a client's model by."""
    named = channel.aliases.get(model, model)
    return channel.model_map.get(named, named)


def _attempt(channel: Channel, key: ChannelKey, model: str, fit: bool) -> Attempt:
    why = f"priority {channel.priority}, weight {channel.weight}" + ("" if fit else ", cooling down")
    return Attempt(channel, key, upstream_model(channel, model), why)


def _put_first(ready: list[Attempt], preferred: Place) -> None:
    for index, attempt in enumerate(ready):
        if attempt.channel.priority != ready[0].channel.priority:
            return
        if (attempt.channel.id, attempt.key.id) == (preferred.channel_id, preferred.key_id):
            ready.insert(0, msgspec.structs.replace(ready.pop(index), why=f"{attempt.why}, answered this session last"))
            return


def _spread(attempts: list[Attempt]) -> list[Attempt]:
    """Another channel before another key of the same one: a failed channel is the likelier cause."""
    if len(attempts) < 3:
        return attempts
    seen: dict[int, int] = {}
    ranked = []
    for order, attempt in enumerate(attempts):
        turn = seen[attempt.channel.id] = seen.get(attempt.channel.id, -1) + 1
        ranked.append((-attempt.channel.priority, turn, order, attempt))
    return [row[3] for row in sorted(ranked, key=lambda row: row[:3])]


def _shuffled(items: list[_T], weight: Callable[[_T], int], rng: Random) -> list[_T]:
    if len(items) < 2:
        return items
    # The exponential form of weighted sampling without replacement; weight 0 means "only when nothing else is left".
    return sorted(items, key=lambda item: rng.expovariate(1) / weight(item) if weight(item) else float("inf"))
