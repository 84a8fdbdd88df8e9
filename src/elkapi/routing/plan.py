"""Candidate channels -> ordered attempts: by priority, inside one priority by weighted chance, healthy ones first.

Pure but for the randomness and the health it is handed, so one test table covers it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, zip_longest
from math import inf
from random import Random
from typing import TypeVar

import msgspec

from elkapi.catalog.bounds import NOTHING_ADDED, Added
from elkapi.routing.affinity import Place
from elkapi.routing.health import Health
from elkapi.types import Attempt, Channel, ChannelKey, Price

_T = TypeVar("_T")
Tiers = Sequence[Sequence[Channel]]
Serves = Callable[[Channel, str], bool]
_Pair = tuple[Channel, ChannelKey]

# So many are put into a whole order; of more the first are drawn, in so many draws.
SHUFFLED_MAX = 64
DRAWS_MAX = 128


class Way(msgspec.Struct, frozen=True):
    """What the calls of one group, model and operation have alike as long as a snapshot lasts.

    `only` is their plan where there is nothing to choose, None where each call chooses anew. `price` None: nobody
    priced the model. `ratio_micro` None: the group is gone. `added` is the most that its channels put into a text call,
    or that the model reads or searches by its name. `wide`: by its name or its channels the model hears, speaks or
    paints, whatever a call says of it; `researches`: it reads and thinks beside what its totals say. `features` are
    those that the price of such a text call goes by, `asked` the words of them that its channels put into calls.
    """

    tiers: Tiers
    only: tuple[Attempt, ...] | None
    price: Price | None
    ratio_micro: int | None
    added: Added = NOTHING_ADDED
    wide: bool = False
    researches: bool = False
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
    ready: list[_Pair] = []
    cooling: list[_Pair] = []
    for tier in tiers:
        fit, resting = _rows(tier, model, serves, health, rng, attempts_max)
        ready += _by_turns(fit)
        cooling += _by_turns(resting)
        if len(ready) >= attempts_max:
            break
    first = _preferred(tiers, model, serves, health, ready, preferred)
    if first is not None:
        ready = [first, *(pair for pair in ready if pair[1] is not first[1])]
    attempts = [_attempt(channel, key, model, True) for channel, key in ready[:attempts_max]]
    if first is not None:
        attempts[0] = msgspec.structs.replace(attempts[0], why=f"{attempts[0].why}, last used by this session")
    attempts += [_attempt(channel, key, model, False) for channel, key in cooling[: attempts_max - len(attempts)]]
    return tuple(attempts)


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


def _rows(
    tier: Sequence[Channel], model: str, serves: Serves, health: Health, rng: Random, most: int
) -> tuple[list[list[_Pair]], list[list[_Pair]]]:
    """Of each channel of a tier, by weighted chance, its keys that are ready, and those that cool down; no further
    channel is looked at once so many are ready, and no further key."""
    fit: list[list[_Pair]] = []
    resting: list[list[_Pair]] = []
    for channel in _drawn(tier, _weights, rng):
        if not serves(channel, upstream_model(channel, model)):
            continue
        channel_ready = health.ready(("channel", channel.id))
        theirs: list[_Pair] = []
        passed: list[_Pair] = []
        for key in _drawn(channel.keys, _alike, rng):
            if key.enabled:
                (theirs if channel_ready and health.ready(("key", key.id)) else passed).append((channel, key))
                if len(theirs) == most:
                    break
        resting.append(passed)
        if theirs:
            fit.append(theirs)
            if len(fit) == most:
                break
    return fit, resting


def _by_turns(rows: list[list[_Pair]]) -> Iterator[_Pair]:
    """Another channel before another key of the same one: a failed channel is the likelier cause."""
    return (pair for turn in zip_longest(*rows) for pair in turn if pair is not None)


def _preferred(
    tiers: Tiers, model: str, serves: Serves, health: Health, ready: list[_Pair], place: Place | None
) -> _Pair | None:
    """The channel and key that answered a session last, where they are ready and as good as the best that is."""
    if place is None or not ready or not health.ready(("channel", place.channel_id)):
        return None
    priority = ready[0][0].priority
    for channel in (one for tier in tiers for one in tier if one.id == place.channel_id and one.priority == priority):
        for key in channel.keys:
            if key.id == place.key_id and key.enabled and health.ready(("key", key.id)):
                return (channel, key) if serves(channel, upstream_model(channel, model)) else None
    return None


def _weights(channels: Sequence[Channel]) -> list[int]:
    return [channel.weight for channel in channels]


def _alike(keys: Sequence[ChannelKey]) -> list[int]:
    return [1] * len(keys)


def _drawn(items: Sequence[_T], weights_of: Callable[[Sequence[_T]], list[int]], rng: Random) -> Iterable[_T]:
    """All of them by weighted chance, none twice; weight 0 means "only when nothing else is left"."""
    if len(items) > SHUFFLED_MAX:
        return _drawn_singly(items, weights_of, rng)
    return items if len(items) < 2 else _shuffled(items, weights_of(items), rng)


def _drawn_singly(items: Sequence[_T], weights_of: Callable[[Sequence[_T]], list[int]], rng: Random) -> Iterator[_T]:
    """Of many only the first are ever asked for, so they are drawn as they are, while most draws bring a new one."""
    sums = list(accumulate(weights_of(items)))
    taken = set[int]()
    for _ in range(DRAWS_MAX if sums[-1] else 0):
        at = bisect_right(sums, rng.random() * sums[-1])
        if at not in taken:
            taken.add(at)
            yield items[at]
    rest = [item for at, item in enumerate(items) if at not in taken]
    yield from _shuffled(rest, weights_of(rest), rng)


def _shuffled(items: Sequence[_T], weights: Sequence[int], rng: Random) -> list[_T]:
    # The exponential form of weighted sampling without replacement.
    marks = [rng.expovariate(1) / weight if weight else inf for weight in weights]
    return [items[at] for at in sorted(range(len(items)), key=marks.__getitem__)]
