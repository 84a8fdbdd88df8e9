"""The immutable snapshot of channels, groups and prices that the request path reads instead of the database."""

from elkapi.snapshot.build import build_snapshot, served_names
from elkapi.snapshot.snapshot import BUNDLED_CHANNEL_ID, SANDBOX_CHANNEL_ID, Snapshot, Tiers
from elkapi.snapshot.watch import SnapshotHolder

__all__ = [
    "BUNDLED_CHANNEL_ID",
    "SANDBOX_CHANNEL_ID",
    "Snapshot",
    "SnapshotHolder",
    "Tiers",
    "build_snapshot",
    "served_names",
]
