"""Who asks, and may they: a presented key becomes a `Grant`; what the grant may reach is routing's and the ledger's."""

from elkapi.access.admit import admit
from elkapi.access.cache import KeyCache
from elkapi.access.counters import Over
from elkapi.access.limits import UNLIMITED, Lease, Limits

__all__ = ["UNLIMITED", "KeyCache", "Lease", "Limits", "Over", "admit"]
