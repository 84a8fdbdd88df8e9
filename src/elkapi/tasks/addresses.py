"""Addresses of ours that leave the gateway: files for callers, and where a provider may tell us that a task moved.

Both are signed, so that who has one can do with it what it is for, and nothing else.
"""

from __future__ import annotations

import hmac

from elkapi.assets.urls import AssetUrls
from elkapi.clock import Clock
from elkapi.settings import Settings
from elkapi.storage.secrets import Sealer

CALLBACKS = "/v1/callbacks/"
SIGNATURE_BYTES = 16


class Addresses:
    """`public_url` is how the world reaches the gateway; without it callers' own words count, and nobody calls us.

    `assets` are the signed addresses of files.
    """

    def __init__(self, settings: Settings, sealer: Sealer, clock: Clock) -> None:
        self.public_url = settings.public_url.rstrip("/")
        self._sealer = sealer
        self.assets = AssetUrls(sealer, clock, settings.asset_url_s)
        self._clock = clock

    def callback(self, task_id: bytes) -> str:
        """Where a provider says that a task moved; "" while nobody outside could reach us."""
        return f"{self.public_url}{CALLBACKS}{self._token(task_id)}" if self.public_url else ""

    def task_of(self, token: str) -> bytes | None:
        """The task that a callback is about; None for a token that is not ours."""
        try:
            task_id = bytes.fromhex(token[:32])
        except ValueError:
            return None
        # As bytes: of texts beyond ASCII the comparison wants to know nothing.
        given = token.encode("utf-8", "surrogatepass")
        return task_id if hmac.compare_digest(self._token(task_id).encode(), given) else None

    def _token(self, task_id: bytes) -> str:
        return task_id.hex() + self._sealer.fingerprint(b"callback\0" + task_id)[:SIGNATURE_BYTES].hex()
