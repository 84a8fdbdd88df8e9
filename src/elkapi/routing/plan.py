"""Candidate channels -> ordered attempts: by priority, within one priority by weighted chance, healthy ones first.

Pure except for the injected randomness and health.
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

# Up to this many are ordered completely; of more, only the first are drawn, one draw each.
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
    """At most `attempts_max` attempts, none with the same (channel, key); empty if no channel serves the model.

    `serves(channel, upstream_model)` tells whether a channel supports this operation. `preferred` goes first if it is
    ready and nothing ready has a higher priority. Channels that cool down come last instead of never: a call with no
    better choice may as well try them.
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
    """The plan for no channel, or for one channel with one key, whatever its health; None if there is a choice."""
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
    """The upstream's name, on a channel, of a client's model."""
    named = channel.aliases.get(model, model)
    return channel.model_map.get(named, named)


def _attempt(channel: Channel, key: ChannelKey, model: str, fit: bool) -> Attempt:
    why = f"priority {channel.priority}, weight {channel.weight}" + ("" if fit else ", cooling down")
    return Attempt(channel, key, upstream_model(channel, model), why)


def _rows(
    tier: Sequence[Channel], model: str, serves: Serves, health: Health, rng: Random, most: int
) -> tuple[list[list[_Pair]], list[list[_Pair]]]:
    """Per channel of a tier, by weighted chance: its ready keys, and those that cool down. Stops once so many are
    ready."""
    fit: list[list[_Pair]] = []
    resting: list[list[_Pair]] = []
    for channel in _drawn(tier, _weights, rng):
        theirs = upstream_model(channel, model)
        if not serves(channel, theirs):
            continue
        channel_ready = health.ready("channel", channel.id, theirs)
        awake: list[_Pair] = []
        passed: list[_Pair] = []
        for key in _drawn(channel.keys, _alike, rng):
            if key.enabled:
                key_ready = channel_ready and health.ready("key", key.id, theirs)
                (awake if key_ready else passed).append((channel, key))
                if len(awake) == most:
                    break
        resting.append(passed)
        if awake:
            fit.append(awake)
            if len(fit) == most:
                break
    return fit, resting


def _by_turns(rows: list[list[_Pair]]) -> Iterator[_Pair]:
    """Alternate channels before further keys of one: a failed channel is the more likely cause."""
    return (pair for turn in zip_longest(*rows) for pair in turn if pair is not None)


def _preferred(
    tiers: Tiers, model: str, serves: Serves, health: Health, ready: list[_Pair], place: Place | None
) -> _Pair | None:
    """The channel and key that last answered a session, if they are ready and as good as the best that is."""
    if place is None or not ready:
        return None
    priority = ready[0][0].priority
    for channel in (one for tier in tiers for one in tier if one.id == place.channel_id and one.priority == priority):
        theirs = upstream_model(channel, model)
        if not health.ready("channel", channel.id, theirs):
            return None
        for key in channel.keys:
            if key.id == place.key_id and key.enabled and health.ready("key", key.id, theirs):
                return (channel, key) if serves(channel, theirs) else None
    return None


def _weights(channels: Sequence[Channel]) -> list[int]:
    return [channel.weight for channel in channels]


def _alike(keys: Sequence[ChannelKey]) -> list[int]:
    return [1] * len(keys)


def _drawn(items: Sequence[_T], weights_of: Callable[[Sequence[_T]], list[int]], rng: Random) -> Iterable[_T]:
    """All of them by weighted chance, without replacement; weight 0 means "only if nothing else is left"."""
    if len(items) > SHUFFLED_MAX:
        return _drawn_singly(items, weights_of, rng)
    return items if len(items) < 2 else _shuffled(items, weights_of(items), rng)


def _drawn_singly(items: Sequence[_T], weights_of: Callable[[Sequence[_T]], list[int]], rng: Random) -> Iterator[_T]:
    """Of many, only the first are ever needed, so they are drawn one by one; most draws yield a new one."""
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
