"""Access tokens that a channel's key signs itself (HS256), for Kling; cached until they age.

Source: the provider's reference "Authentication". The key is `ACCESS_KEY|SECRET_KEY`. Google's tokens are in `gcp`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping

import msgspec

LIFE_S = 1800
# Clocks differ: a token is valid from a little before it is made, and renewed well before it expires.
BACKDATED_S = 5
RENEW_BEFORE_S = 300
TOKENS_KEPT_MAX = 10_000

_kept: dict[str, tuple[int, str]] = {}


def access_token(secret: str, now_ns: int) -> str:
    """The token of a key. Raises ValueError for anything but `ACCESS_KEY|SECRET_KEY`."""
    now_s = now_ns // 1_000_000_000
    kept = _kept.get(secret)
    if kept is not None and now_s < kept[0] - RENEW_BEFORE_S and kept[0] - LIFE_S <= now_s + BACKDATED_S:
        return kept[1]
    access, signing = pair(secret)
    claims = {"iss": access, "exp": now_s + LIFE_S, "nbf": now_s - BACKDATED_S}
    token = signed_token({"alg": "HS256"}, claims, lambda text: hmac.digest(signing.encode(), text, "sha256"))
    if len(_kept) >= TOKENS_KEPT_MAX:
        _kept.clear()
    _kept[secret] = (now_s + LIFE_S, token)
    return token


def pair(secret: str) -> tuple[str, str]:
    """Access key and secret key. Raises ValueError for anything but `ACCESS_KEY|SECRET_KEY`."""
    access, _, signing = secret.partition("|")
    if not access or not signing:
        raise ValueError("this provider's key is ACCESS_KEY|SECRET_KEY")
    return access, signing


def signed_token(header: Mapping[str, object], claims: Mapping[str, object], sign: Callable[[bytes], bytes]) -> str:
    """A JSON Web Token in compact form: header, claims and the signature that `sign` makes of both, joined by dots."""
    signed = ".".join(_base64(msgspec.json.encode(part)) for part in ({**header, "typ": "JWT"}, claims))
    return f"{signed}.{_base64(sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
