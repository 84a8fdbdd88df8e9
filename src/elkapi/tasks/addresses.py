"""The gateway's own addresses that it gives out: of files, for callers, and of callbacks, for providers that report
progress.

Both are signed, so that an address allows exactly what it is for.
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
    """`public_url` is how the gateway is reached from outside; without it the caller's own origin is used, and
    providers get no callback address. `assets` makes the signed addresses of files."""

    def __init__(self, settings: Settings, sealer: Sealer, clock: Clock) -> None:
        self.public_url = settings.public_url.rstrip("/")
        self._sealer = sealer
        self.assets = AssetUrls(sealer, clock, settings.asset_url_s)
        self._clock = clock

    def callback(self, task_id: bytes) -> str:
        """The address at which a provider reports progress; "" if the gateway cannot be reached from outside."""
        return f"{self.public_url}{CALLBACKS}{self._token(task_id)}" if self.public_url else ""

    def task_of(self, token: str) -> bytes | None:
        """The task of a callback; None for an invalid token."""
        try:
            task_id = bytes.fromhex(token[:32])
        except ValueError:
            return None
        # As bytes: `compare_digest` rejects strings with non-ASCII characters.
        given = token.encode("utf-8", "surrogatepass")
        return task_id if hmac.compare_digest(self._token(task_id).encode(), given) else None

    def _token(self, task_id: bytes) -> str:
        return task_id.hex() + self._sealer.fingerprint(b"callback\0" + task_id)[:SIGNATURE_BYTES].hex()
