"""Rows -> `Snapshot`, complete and in one read transaction; the bundled models and the sandbox are added as channels.

It decides which channels can be tried at all; `routing.plan` orders them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from elkapi.guards.rules import rule_of
from elkapi.settings import Settings
from elkapi.snapshot.snapshot import BUNDLED_CHANNEL_ID, BUNDLED_CHAT_CHANNEL_ID, SANDBOX_CHANNEL_ID, Snapshot, Tiers
from elkapi.storage.repos import channels, groups, guards, prices, versions
from elkapi.storage.secrets import Sealer
from elkapi.types import NO_POLICY, SANDBOX_KEY, Channel, ChannelKey, Price, Scope

BUNDLED_PRIORITY = -1_000
SCOPES: tuple[Scope, ...] = ("live", "test")


def build_snapshot(
    connection: Connection,
    sealer: Sealer,
    settings: Settings,
    *,
    bundled: Iterable[str] = (),
    chat: Iterable[str] = (),
    sandbox: Iterable[str] = (),
) -> Snapshot:
    """The snapshot at this connection's time. `bundled`, `chat` and `sandbox` name the models of those channels."""
    version = versions.read(connection).config
    rows = groups.all_groups(connection)
    ratios = {row.name: row.ratio_micro for row in rows}
    all_groups = tuple(sorted(ratios))
    bundled, chat, sandbox = tuple(bundled), tuple(chat), tuple(sandbox)
    own = {row.price.model: row.price for row in prices.in_force(connection)}
    loaded = channels.load_channels(connection, sealer)
    served = [entry.channel for entry in loaded if entry.enabled]
    if bundled:
        served.append(_local_channel(settings, BUNDLED_CHANNEL_ID, "local", "models", bundled, all_groups))
    if chat:
        served.append(_local_channel(settings, BUNDLED_CHAT_CHANNEL_ID, "local-chat", "chat", chat, all_groups))
    if sandbox:
        served.append(_sandbox_channel(settings, sandbox, all_groups))
    # An operator's own price of a bundled model overrides its zero price.
    live_prices = {model: _free(model) for model in (*bundled, *chat)} | own
    test_prices = {model: _free(model) for model in sandbox}
    tiers = _tiers([channel for channel in served if any(key.enabled for key in channel.keys)])
    return Snapshot(
        version=version,
        groups=ratios,
        prices=live_prices,
        test_prices=test_prices,
        channels={channel.id: channel for channel in served},
        resting={entry.channel.id: entry.channel for entry in loaded if not entry.enabled},
        tiers=tiers,
        models=_models(tiers, all_groups, {"live": live_prices, "test": test_prices}),
        rules={guard.name: rule_of(guard) for guard in guards.all_guards(connection, sealer)},
        policies={row.name: row.policy for row in rows if row.policy != NO_POLICY},
        warnings=tuple(
            f"channel {entry.channel.id} ({entry.channel.name}): cannot decrypt {part} with this secret key"
            for entry in loaded
            for part in entry.sealed_shut
        ),
    )


def served_names(channel: Channel) -> tuple[str, ...]:
    """The client names that a channel serves: its models and aliases, each once."""
    return tuple(dict.fromkeys((*channel.models, *channel.aliases)))


def _tiers(served: list[Channel]) -> dict[tuple[Scope, str, str], Tiers]:
    flat: dict[tuple[Scope, str, str], list[Channel]] = {}
    for channel in sorted(served, key=lambda channel: (-channel.priority, channel.id)):
        for group in dict.fromkeys(channel.groups):
            for model in served_names(channel):
                flat.setdefault((channel.scope, group, model), []).append(channel)
    # Many models have the same channels; sharing the tuples too keeps a thousand models small.
    shared: dict[tuple[int, ...], Tiers] = {}
    result: dict[tuple[Scope, str, str], Tiers] = {}
    for key, ordered in flat.items():
        ids = tuple(channel.id for channel in ordered)
        if ids not in shared:
            shared[ids] = _by_priority(ordered)
        result[key] = shared[ids]
    return result


def _by_priority(ordered: list[Channel]) -> Tiers:
    priorities = dict.fromkeys(channel.priority for channel in ordered)
    return tuple(tuple(c for c in ordered if c.priority == priority) for priority in priorities)


def _models(
    tiers: dict[tuple[Scope, str, str], Tiers], all_groups: tuple[str, ...], priced: dict[Scope, dict[str, Price]]
) -> dict[tuple[Scope, str], tuple[str, ...]]:
    listing: dict[tuple[Scope, str], list[str]] = {(scope, group): [] for scope in SCOPES for group in all_groups}
    for scope, group, model in tiers:
        if model in priced[scope] and (scope, group) in listing:
            listing[scope, group].append(model)
    return {key: tuple(sorted(names)) for key, names in listing.items()}


def _free(model: str) -> Price:
    return Price(id=0, model=model, version=0)


def _local_channel(
    settings: Settings, channel_id: int, family: str, role: str, models: tuple[str, ...], all_groups: tuple[str, ...]
) -> Channel:
    """A process of bundled models as a channel of every group, after the operator's."""
    return Channel(
        id=channel_id,
        name="bundled" if role == "models" else f"bundled-{role}",
        family=family,
        base_url=f"unix://{settings.socket_path(role)}",
        keys=(ChannelKey(channel_id, ""),),
        models=models,
        groups=all_groups,
        priority=BUNDLED_PRIORITY,
    )


def _sandbox_channel(settings: Settings, models: tuple[str, ...], all_groups: tuple[str, ...]) -> Channel:
    return Channel(
        id=SANDBOX_CHANNEL_ID,
        name="sandbox",
        family="sandbox",
        base_url=f"unix://{settings.socket_path('sandbox')}",
        keys=(ChannelKey(SANDBOX_CHANNEL_ID, SANDBOX_KEY),),
        models=models,
        groups=all_groups,
        scope="test",
    )
