"""AWS Signature Version 4: the headers that sign one request; pure, the clock is handed in.

Source: the provider's references "Create a signed AWS API request" and "Use an Amazon Bedrock API key". Bedrock's
paths are encoded once on the wire and a second time in the canonical request, as for every service but S3.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

import msgspec

ALGORITHM = "AWS4-HMAC-SHA256"
# Only calls to Bedrock with JSON bodies are signed here.
SERVICE, CONTENT_TYPE = "bedrock", "application/json"
# How the API keys of Bedrock begin, those for long and for short use. They are sent as they are.
API_KEYS = ("ABSK", "bedrock-api-key-")
Header = tuple[bytes, bytes]


class Credentials(msgspec.Struct, frozen=True):
    """An access key; `token` is a session's."""

    key_id: str
    secret: str
    token: str = ""

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Parse `ID:SECRET` or `ID:SECRET:TOKEN`. Raises ValueError."""
        parts = text.split(":", 2)
        if len(parts) < 2 or not all(parts):
            raise ValueError("an AWS key is written ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]")
        return cls(*parts)


def checked_key(text: str) -> None:
    """Raise ValueError for anything but an access key or an API key of Bedrock."""
    if not text.startswith(API_KEYS):
        Credentials.parse(text)


def sign(
    credentials: Credentials,
    *,
    method: str,
    authority: str,
    target: str,
    body: bytes,
    region: str,
    now_ns: int,
) -> list[Header]:
    """The headers to add: `x-amz-date`, `x-amz-content-sha256`, the token's, `authorization`.

    `target` is the origin form as it is sent; `authority` the Host header.
    """
    moment = datetime.fromtimestamp(now_ns / 1_000_000_000, UTC)
    stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    signed = {"content-type": CONTENT_TYPE, "host": authority, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signed))
    path, _, query = target.partition("?")
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/~"),
            _canonical_query(query),
            "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed)),
            names,
            digest,
        )
    )
    scope = f"{day}/{region}/{SERVICE}/aws4_request"
    to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, region, SERVICE, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    authorization = f"{ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    sent = {name: text for name, text in signed.items() if name not in ("content-type", "host")}
    return [(name.encode(), text.encode()) for name, text in (sent | {"authorization": authorization}).items()]


def _canonical_query(query: str) -> str:
    pairs = sorted((quote(k, safe="~"), quote(v, safe="~")) for k, v in parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{key}={value}" for key, value in pairs)
