"""Requests to a task's provider: a declared method and path -> exact bytes for one channel and key, signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from elkapi.catalog.operation import Operation
from elkapi.catalog.upstreams import UPSTREAM_FAMILIES, auth_headers, endpoint_for, family_headers, option
from elkapi.clock import Clock
from elkapi.settings import Settings
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import UpstreamRequest
from elkapi.upstream.channel import deadlines_of, place, ruled
from elkapi.upstream.gcp import TokenSource
from elkapi.upstream.jwt import access_token

# {id} is one segment; {+id} keeps its slashes (names of Google's operations).
_PLACE = re.compile(r"\{(\+?)([a-z_-]+)\}")
# Above the size of any provider's answer about a task.
ANSWER_BYTES_MAX = 4 * 1024 * 1024
# The status of providers for a task that does not exist.
ABSENT = 404


class Signer:
    """Signs by the name in a family's `auth`; `tokens` exchanges Google's keys."""

    def __init__(self, tokens: TokenSource, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    async def headers(self, channel: Channel, key: ChannelKey, wire_auth: str | None) -> list[tuple[bytes, bytes]]:
        """The headers of a credential. Raises ValueError for a malformed key, TokenRefused, UpstreamFailure."""
        auth = wire_auth or UPSTREAM_FAMILIES[channel.family].auth
        if auth == "jwt":
            return [(b"authorization", b"Bearer " + access_token(key.secret, self._clock.now_ns()).encode())]
        if auth == "gcp":
            token = await self._tokens.token(key.id, key.secret, option(channel, "token-url"), channel.allow_private)
            return [(b"authorization", b"Bearer " + token.encode())]
        return auth_headers(channel, key, auth)  # type: ignore[arg-type]


async def credential(
    signer: Signer, operation: Operation, channel: Channel, key: ChannelKey
) -> list[tuple[bytes, bytes]]:
    """A channel's credential for a provider's address. Raises ValueError, TokenRefused, UpstreamFailure."""
    found = None if operation.wire is None else endpoint_for(channel.family, operation.wire, False, "")
    return await signer.headers(channel, key, None if found is None else found[1].auth)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A declared path with its placeholders filled in, percent-encoded. Raises KeyError for an unknown placeholder."""

    def place(hit: re.Match[str]) -> str:
        name = hit.group(2)
        # The path of a submit is ours, and inserted as declared.
        return values[name] if name == "submit" else quote(values[name], safe="/:" if hit.group(1) else "")

    return _PLACE.sub(place, template)


async def request_for(
    signer: Signer,
    settings: Settings,
    operation: Operation,
    channel: Channel,
    key: ChannelKey,
    what: str,
    values: Mapping[str, str],
    *,
    model: str = "",
    body: bytes = b"",
    content_type: bytes = b"application/json",
    more: Mapping[bytes, bytes] | None = None,
) -> UpstreamRequest:
    """The request for `what`, a method and a path below the channel's base, such as `GET {submit}/{id}`.

    Raises ValueError (the channel's family does not speak the operation's wire, or its key is malformed), TokenRefused.
    """
    found = None if operation.wire is None else endpoint_for(channel.family, operation.wire, False, model)
    if found is None:
        raise ValueError(f"the channel {channel.name} does not speak {operation.wire}")
    endpoint = found[1]
    method, _, path = what.partition(" ")
    values = {**{name: option(channel, name) for name in UPSTREAM_FAMILIES[channel.family].options}, **values}
    credential = await signer.headers(channel, key, endpoint.auth)
    ours = {
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        **({b"content-type": content_type} if body else {}),
        **family_headers(channel),
        **(more or {}),
        **dict(credential),
    }
    origin, target = place(channel, endpoint.path + filled(path, values))
    headers = list(ruled(channel, ours).items())
    return UpstreamRequest(origin, method.encode(), target, headers, body, deadlines_of(channel, settings))
