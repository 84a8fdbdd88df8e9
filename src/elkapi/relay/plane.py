"""The data plane's parts, wired once by `worker`: everything that `serve` and its hops may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from random import Random
from typing import Protocol

import msgspec

from elkapi.access import KeyCache, Limits
from elkapi.assets.store import AssetStore
from elkapi.cache import Answers
from elkapi.catalog import Catalog, Match
from elkapi.clock import Clock
from elkapi.ledger import Ledger
from elkapi.observe.log import Log
from elkapi.observe.metrics import Metrics
from elkapi.relay.background_calls import BackgroundCalls
from elkapi.relay.batches.store import BatchStore
from elkapi.relay.call import Call
from elkapi.relay.free_kept import FreeKept
from elkapi.relay.stored_objects import StoredObjects
from elkapi.relay.task_store import TaskStore
from elkapi.relay.telemetry import Telemetry
from elkapi.routing.affinity import Affinity
from elkapi.routing.health import Health
from elkapi.settings import Settings
from elkapi.snapshot import Snapshot, SnapshotHolder
from elkapi.storage.db import Reader
from elkapi.tasks.addresses import Addresses
from elkapi.tasks.request import Signer
from elkapi.tasks.showing import Showing
from elkapi.tasks.telling import Teller
from elkapi.types import Grant
from elkapi.upstream import UpstreamClient
from elkapi.upstream.gcp import TokenSource

Page = Callable[["DataPlane", Snapshot, Grant, Match, Call], Awaitable[None]]
OpenPage = Callable[["DataPlane", Snapshot, Match, Call], Awaitable[None]]


class KeyJudge(Protocol):
    """Disables a bad channel key, off the loop."""

    def disable(self, channel_key_id: int, reason: str) -> None:
        """Disable a key; returns at once, and the change reaches every process through the snapshot."""


class Bearings(Protocol):
    """What hop 4 uses besides the snapshot; a dry run has its own."""

    health: Health
    affinity: Affinity
    rng: Random


class Places(Bearings, Protocol):
    """What placing a submit uses besides: each provider's operation for it."""

    catalog: Catalog


class DataPlane(msgspec.Struct):
    """Shared by all calls of one worker; no part belongs to a single call."""

    settings: Settings
    catalog: Catalog
    snapshots: SnapshotHolder
    key_cache: KeyCache
    # For keys alone, so that one customer's long lists do not delay the first call of another.
    key_reader: Reader
    reader: Reader
    ledger: Ledger
    client: UpstreamClient
    health: Health
    affinity: Affinity
    limits: Limits
    answers: Answers
    judge: KeyJudge
    metrics: Metrics
    log: Log
    clock: Clock
    rng: Random
    pages: Mapping[str, Page]
    open_pages: Mapping[str, OpenPage]
    assets: AssetStore
    tokens: TokenSource
    stored: StoredObjects
    background: BackgroundCalls
    free_kept: FreeKept
    model_facts: dict[str, dict[str, object]]
    batches: BatchStore
    tasks: TaskStore
    showing: Showing
    signer: Signer
    origin: Callable[[Call], str]
    addresses: Addresses
    teller: Teller
    telemetry: Telemetry | None = None
    # When a drain in progress will be over, on the monotonic clock.
    cut_at_s: float = inf

    def cut_off(self) -> None:
        """End the drain now."""
        self.cut_at_s = -inf

    @property
    def cutting(self) -> bool:
        """Whether the drain is over: from now on calls end because we cut them off, whatever their connection says."""
        return self.clock.monotonic_s() >= self.cut_at_s
