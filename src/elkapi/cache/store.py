"""What a store of kept answers offers, whichever it is."""

from __future__ import annotations

from typing import Protocol

import msgspec


class StoreDown(Exception):
    """The store cannot answer now; a lookup is a miss then, and an answer is not kept."""


class Bounds(msgspec.Struct, frozen=True):
    """The most a store holds."""

    bytes_max: int
    entries_max: int
    age_s_max: float


class Store(Protocol):
    """Sealed answers by their 32-byte names. Nothing in it outlives `Bounds`; the oldest go first."""

    async def get(self, name: bytes) -> bytes | None:
        """The sealed answer, or None. Raises StoreDown."""

    async def put(self, name: bytes, created_ns: int, sealed: bytes) -> None:
        """Keep it, in the place of an older one. Raises StoreDown."""

    async def aclose(self) -> None:
        """Let go of files and connections."""
