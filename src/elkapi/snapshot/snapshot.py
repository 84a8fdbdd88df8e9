"""`Snapshot`: everything that a request looks up in memory; `build` creates it and `watch` swaps it."""

from __future__ import annotations

import msgspec

from elkapi.guards.rules import Rule
from elkapi.routing.plan import Way
from elkapi.translate.profiles import Kind
from elkapi.types import NO_POLICY, Channel, Grant, Policy, Price, Scope, policy_of

BUNDLED_CHANNEL_ID = -1
SANDBOX_CHANNEL_ID = -2
BUNDLED_CHAT_CHANNEL_ID = -3

Tiers = tuple[tuple[Channel, ...], ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One consistent moment of the configuration; a request holds one reference from its start to its end.

    `groups`: name -> ratio in millionths; `policies` of those groups that have one; `rules`: guardrails by name.
    `prices`: client model name -> the record in force for live keys.
    `tiers`: (scope, group, model) -> channels by descending priority, only such that can be tried.
    `models`: (scope, group) -> sorted names that are served and priced.
    `ways`: (scope, group, operation, model) -> what was worked out of all this for such calls, by
    `relay.route`. `kinds`: (scope, group, model) -> what it is for, by `relay.pages`. `resting`: channels that an
    operator switched off.
    """

    version: int
    groups: dict[str, int]
    prices: dict[str, Price]
    test_prices: dict[str, Price]
    channels: dict[int, Channel]
    tiers: dict[tuple[Scope, str, str], Tiers]
    models: dict[tuple[Scope, str], tuple[str, ...]]
    policies: dict[str, Policy] = {}
    rules: dict[str, Rule] = {}
    warnings: tuple[str, ...] = ()
    ways: dict[tuple[str, str, str, str], Way] = {}
    kinds: dict[tuple[Scope, str, str], Kind] = {}
    resting: dict[int, Channel] = {}

    def channel(self, channel_id: int) -> Channel | None:
        """A channel by its id, even if disabled: its tasks continue."""
        return self.channels.get(channel_id) or self.resting.get(channel_id)

    def tiers_for(self, scope: Scope, group: str, model: str) -> Tiers:
        """The channels to try, best tier first; empty when nothing serves this model for this group."""
        return self.tiers.get((scope, group, model), ())

    def price_for(self, scope: Scope, model: str) -> Price | None:
        """The price in force. The sandbox is free; a live model without a record has none and is refused."""
        return (self.prices if scope == "live" else self.test_prices).get(model)

    def models_for(self, scope: Scope, group: str) -> tuple[str, ...]:
        """The sorted names of the models that are served and priced for a group."""
        return self.models.get((scope, group), ())

    def policy_for(self, grant: Grant) -> Policy:
        """The policy of this key's calls."""
        return policy_of(self.policies.get(grant.group, NO_POLICY), grant.policy)
