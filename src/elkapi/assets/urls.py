"""Signed URLs of files: whoever has one may download that file without a key until it expires."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs, quote

from elkapi.assets.kinds import BY_CONTENT_TYPE
from elkapi.clock import Clock
from elkapi.storage.secrets import Sealer
from elkapi.types import TaskAsset

PATH = "/v1/assets/"
# URLs change this often, not with every poll, so that caches and comparisons work.
STEP_S = 3600
SIGNATURE_BYTES = 24


class AssetUrls:
    """URLs that are valid for at least `keep_s`, signed with a key derived from the installation's."""

    def __init__(self, sealer: Sealer, clock: Clock, keep_s: float) -> None:
        self._sealer = sealer
        self._clock = clock
        self._keep_s = round(keep_s)

    def url(self, asset: TaskAsset, origin: str) -> str:
        """The signed URL of a file, below `origin`."""
        step_s = min(STEP_S, max(self._keep_s, 1))
        expires_s = (self._now_s() + self._keep_s) // step_s * step_s + step_s
        path = f"{PATH}{asset.id.hex()}/{quote(file_name(asset.kind, asset.content_type, asset.id))}"
        return f"{origin}{path}?expires={expires_s}&signature={self._signature(asset.id, expires_s)}"

    def is_signed(self, asset_id: bytes, query: str) -> bool:
        """Whether the query carries a signature for this file that has not expired."""
        fields = parse_qs(query) if len(query) < 4096 else {}
        expires, signature = fields.get("expires", [""])[-1], fields.get("signature", [""])[-1]
        if not (expires.isascii() and expires.isdecimal() and len(expires) <= 12 and signature.isascii()):
            return False
        good = hmac.compare_digest(self._signature(asset_id, int(expires)), signature)
        return good and int(expires) > self._now_s()

    def _signature(self, asset_id: bytes, expires_s: int) -> str:
        return self._sealer.fingerprint(b"asset\0" + asset_id + b"\0%d" % expires_s)[:SIGNATURE_BYTES].hex()

    def _now_s(self) -> int:
        return self._clock.now_ns() // 1_000_000_000


def carries_signature(query: str) -> bool:
    """Whether the query contains a signature, valid or not."""
    return "signature=" in query


def file_name(kind: str, content_type: str, asset_id: bytes) -> str:
    """A file name that is safe in any header and on any file system."""
    found = BY_CONTENT_TYPE.get(content_type)
    return f"{kind}-{asset_id.hex()[-8:]}.{found.suffix if found else 'bin'}"
