"""Google access tokens for service accounts: a signed assertion is exchanged for a token, which is kept until it ages.

Source: the provider's reference "Using OAuth 2.0 for Server to Server Applications". The exchange goes through the
guarded client like every other outbound request.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode, urlsplit

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from elkapi.clock import Clock
from elkapi.errors import NOT_JSON
from elkapi.upstream.answer import Send, answer_to
from elkapi.upstream.errors import UpstreamFailure
from elkapi.upstream.jwt import signed_token
from elkapi.upstream.origin import Deadlines, Origin, UpstreamRequest

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFE_S = 3600
# A token is renewed this long before it expires, so that a call in progress keeps it.
RENEW_BEFORE_S = 120
TOKENS_KEPT_MAX = 10_000
ANSWER_BYTES_MAX = 64 * 1024
DEADLINES = Deadlines(connect_s=5.0, header_s=10.0, first_byte_s=10.0, idle_s=5.0, total_s=15.0)


class TokenRefused(Exception):
    """The token endpoint issued no token; the message contains no secret."""


class _Account(msgspec.Struct):
    client_email: str
    private_key: str
    private_key_id: str = ""


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int = 3600


_account = msgspec.json.Decoder(_Account)
_token = msgspec.json.Decoder(_Token)


def assertion(account_json: str, audience: str, now_s: int) -> str:
    """The signed JWT for one exchange. Raises ValueError for anything but a service account key."""
    try:
        account = _account.decode(account_json)
        key = load_pem_private_key(account.private_key.encode(), None)
    except (msgspec.DecodeError, ValueError, TypeError):
        raise ValueError("a Google key is the JSON text of a service account's key file") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("a Google service account's key is an RSA key")
    header = {"alg": "RS256", "kid": account.private_key_id}
    claims = {
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": audience,
        "iat": now_s,
        "exp": now_s + ASSERTION_LIFE_S,
    }
    return signed_token(header, claims, lambda text: key.sign(text, padding.PKCS1v15(), hashes.SHA256()))


class TokenSource:
    """Tokens by channel key; concurrent calls that need the same one share one exchange, and its failure."""

    def __init__(self, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._kept: dict[tuple[int, str], tuple[str, float]] = {}
        self._under_way: dict[tuple[int, str], asyncio.Task[str]] = {}

    async def token(self, key_id: int, account_json: str, token_url: str, allow_private: bool) -> str:
        """A token that stays valid for a while. Raises TokenRefused, UpstreamFailure, ValueError (not a service
        account key)."""
        name = (key_id, account_json)
        kept = self._kept.get(name)
        if kept is not None and kept[1] > self._clock.monotonic_s():
            return kept[0]
        renewing = self._under_way.get(name)
        if renewing is None:
            renewing = asyncio.create_task(self._renewed(name, token_url, allow_private))
            self._under_way[name] = renewing
            renewing.add_done_callback(lambda done: self._ended(name, done))
        # Shielded: a cancelled call does not cancel it for the others.
        return await asyncio.shield(renewing)

    def _ended(self, name: tuple[int, str], done: asyncio.Task[str]) -> None:
        del self._under_way[name]
        if not done.cancelled():
            done.exception()  # Retrieved here as well, in case nobody waits for it any more.

    async def _renewed(self, name: tuple[int, str], token_url: str, allow_private: bool) -> str:
        text, life_s = await self._exchange(name[1], token_url, allow_private)
        if len(self._kept) >= TOKENS_KEPT_MAX:
            self._kept.clear()
        self._kept[name] = (text, self._clock.monotonic_s() + max(0, life_s - RENEW_BEFORE_S))
        return text

    async def _exchange(self, account_json: str, token_url: str, allow_private: bool) -> tuple[str, int]:
        now_s = self._clock.now_ns() // 1_000_000_000
        form = {"grant_type": GRANT, "assertion": assertion(account_json, token_url, now_s)}
        request = UpstreamRequest(
            origin=Origin.parse(token_url, allow_private=allow_private),
            method=b"POST",
            target=(urlsplit(token_url).path or "/").encode(),
            headers=[(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")],
            body=urlencode(form).encode(),
            deadlines=DEADLINES,
        )
        try:
            answer = await answer_to(self._send, request, ANSWER_BYTES_MAX)
        except UpstreamFailure as failure:
            # The call itself has not been sent, so another attempt does nothing twice.
            failure.sent = False
            raise
        if answer.status != 200 or not answer.complete:
            raise TokenRefused(f"the token endpoint answered {answer.status}")
        try:
            found = _token.decode(answer.body)
        except NOT_JSON:
            raise TokenRefused("the token endpoint's answer holds no token") from None
        return found.access_token, found.expires_in
