"""Authentication and limits: a caller's key becomes a `Grant`; routing and the ledger decide what it may reach."""

from elkapi.access.admit import admit, digest_of
from elkapi.access.cache import KeyCache
from elkapi.access.counters import Over
from elkapi.access.limits import UNLIMITED, Lease, Limits

__all__ = ["UNLIMITED", "KeyCache", "Lease", "Limits", "Over", "admit", "digest_of"]
