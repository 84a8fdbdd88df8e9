"""Credentials that are more than a header with the channel's key: AWS signatures and exchanged Google tokens."""

from __future__ import annotations

from elkapi.catalog.upstreams import UPSTREAM_FAMILIES, option
from elkapi.relay.plane import DataPlane
from elkapi.types import Attempt
from elkapi.upstream import UpstreamRequest
from elkapi.upstream.aws import API_KEYS, Credentials, sign

SIGNED = frozenset({"aws", "gcp"})


def needs_signing(attempt: Attempt) -> bool:
    """Whether `signed` must be called for this attempt."""
    return UPSTREAM_FAMILIES[attempt.channel.family].auth in SIGNED


async def signed(plane: DataPlane, attempt: Attempt, request: UpstreamRequest) -> UpstreamRequest:
    """The request with its credential. Raises ValueError for an invalid key, TokenRefused, UpstreamFailure."""
    channel, key = attempt.channel, attempt.key
    if UPSTREAM_FAMILIES[channel.family].auth == "gcp":
        token = await plane.tokens.token(key.id, key.secret, option(channel, "token-url"), channel.allow_private)
        request.headers.append((b"authorization", b"Bearer " + token.encode()))
        return request
    if key.secret.startswith(API_KEYS):
        request.headers.append((b"authorization", b"Bearer " + key.secret.encode()))
        return request
    body = request.body
    if not isinstance(body, bytes):
        raise TypeError("only a whole body can be signed")
    request.headers += sign(
        Credentials.parse(key.secret),
        method="POST",
        authority=request.origin.authority,
        target=request.target.decode(),
        body=body,
        region=option(channel, "region"),
        now_ns=plane.clock.now_ns(),
    )
    return request
