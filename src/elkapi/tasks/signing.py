"""Standard Webhooks: keys' secrets and the headers that prove who sent an event; pure except for the randomness of a
new secret.

The rows of secrets are in `storage.repos.webhook_secrets`.
"""

from __future__ import annotations

import base64
import hmac
import secrets as random
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(random.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, event_id: str, at_s: int, body: bytes) -> str:
    """`v1,` and an HMAC-SHA256 of the id, the time and the body, joined by dots."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, f"{event_id}.{at_s}.".encode() + body, "sha256")).decode()


def headers(secrets: Sequence[str], event_id: str, at_s: int, body: bytes) -> list[tuple[bytes, bytes]]:
    """The three headers of an event, signed with each current secret."""
    signatures = " ".join(signature(secret, event_id, at_s, body) for secret in secrets)
    return [
        (b"webhook-id", event_id.encode()),
        (b"webhook-timestamp", str(at_s).encode()),
        (b"webhook-signature", signatures.encode()),
    ]
