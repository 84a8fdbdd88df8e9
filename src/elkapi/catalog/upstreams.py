"""Channel families: how each kind of upstream is addressed and authenticated. A new one is a row."""

from __future__ import annotations

from typing import Literal

import msgspec

from elkapi.types import Channel, ChannelKey


class UpstreamFamily(msgspec.Struct, frozen=True):
    """`auth` names how the channel's key travels; `probe` is a free request that tells whether a key works."""

    name: str
    auth: Literal["bearer", "none"]
    probe: str = "/v1/models"
    operator_may_add: bool = True


UPSTREAM_FAMILIES: dict[str, UpstreamFamily] = {
    family.name: family
    for family in (
        UpstreamFamily("openai", auth="bearer"),
        UpstreamFamily("local", auth="none", operator_may_add=False),
        UpstreamFamily("sandbox", auth="bearer", operator_may_add=False),
    )
}


def auth_headers(channel: Channel, key: ChannelKey) -> list[tuple[bytes, bytes]]:
    """The headers that carry a channel's credential."""
    if UPSTREAM_FAMILIES[channel.family].auth == "bearer":
        return [(b"authorization", b"Bearer " + key.secret.encode())]
    return []


def target_path(base_path: str, upstream: str) -> str:
    """Join a base URL's path and an operation's path; a base that already ends in /v1 is not doubled."""
    base = base_path.rstrip("/")
    if base.endswith("/v1") and upstream.startswith("/v1/"):
        return base + upstream[3:]
    return base + upstream
