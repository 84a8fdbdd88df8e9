"""A bounded cache of grants by key digest; filled on a miss, evicted by version. It lives on one event loop.

An answer from the database has the config version of its time. One that was read before a change that the cache already
knows serves the calls that wait for it but is not kept, so a slow read never undoes an eviction.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from elkapi.types import Grant

NEGATIVE_S = 5.0
NEGATIVE_MAX = 10_000


class KeyCache:
    """At most `keys_max` grants and NEGATIVE_MAX unknown digests; the latter only for NEGATIVE_S."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = max(keys_max, 1)
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        # By key id: no key has two grants here, so that a change finds it by its id, whatever its secret was.
        self._digests: dict[int, bytes] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._version = 0
        self.pending: dict[bytes, asyncio.Task[Grant | None]] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def get(self, digest: bytes) -> Grant | None:
        """The grant of a key's digest, which becomes the last to be dropped; None if it is not cached."""
        grant = self._grants.get(digest)
        if grant is not None:
            self._grants.move_to_end(digest)
        return grant

    def is_unknown(self, digest: bytes, now_s: float) -> bool:
        """Whether the database said so less than NEGATIVE_S ago."""
        until_s = self._unknown.get(digest)
        return until_s is not None and until_s > now_s

    def put(self, digest: bytes, grant: Grant | None, version: int, now_s: float) -> None:
        """Store an answer that was true at this config version; None is "unknown key"."""
        if version < self._version:
            return
        if grant is None:
            self._unknown[digest] = now_s + NEGATIVE_S
            self._unknown.move_to_end(digest)
            if len(self._unknown) > NEGATIVE_MAX:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(digest, None)
        if (former := self._digests.get(grant.key_id, digest)) != digest:
            del self._grants[former]
        self._grants[digest] = grant
        self._grants.move_to_end(digest)
        self._digests[grant.key_id] = digest
        if len(self._grants) > self._keys_max:
            _, dropped = self._grants.popitem(last=False)
            del self._digests[dropped.key_id]

    def evict(self, version: int, changed: list[tuple[int, bytes]] | None) -> None:
        """Drop the keys, (id, digest) each, that changed up to this version, with a former secret too; None drops all.
        It is SnapshotHolder's on_keys_changed."""
        if changed is None:
            self._grants.clear()
            self._digests.clear()
            self._unknown.clear()
            self.pending.clear()
        else:
            for key_id, digest in changed:
                if (known := self._digests.pop(key_id, None)) is not None:
                    del self._grants[known]
                self._unknown.pop(digest, None)
                self.pending.pop(digest, None)
        # May also decrease: after a restore the counter may restart below what was seen.
        self._version = version
