"""Attempt -> the exact upstream request: address, credential, headers, and the body with the channel's overrides."""

from __future__ import annotations

import msgspec

from elkapi.catalog.jsonedit import with_overrides, with_string
from elkapi.catalog.upstreams import auth_headers, target_path
from elkapi.relay.call import Call
from elkapi.relay.read import Request
from elkapi.settings import Settings
from elkapi.types import Attempt, Channel
from elkapi.upstream import Deadlines, Origin, UpstreamRequest, split_base_url

# Set by the client library or by the gateway itself; a header override may not fake framing.
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
CALL_ID = b"x-client-request-id"


# Routes kept; a changed channel is another object, and takes the place of the old one.
ROUTES_MAX = 4096


class Route(msgspec.Struct, frozen=True):
    """What all calls of one channel, key and operation have alike. `forwarded` are names taken from the caller."""

    channel: Channel
    origin: Origin
    target: bytes
    deadlines: Deadlines
    shared: tuple[tuple[bytes, bytes], ...]
    sends_id: bool
    forwarded: tuple[bytes, ...]


_routes: dict[tuple[int, int, str], Route] = {}


def build(attempt: Attempt, request: Request, call: Call, settings: Settings) -> UpstreamRequest:
    """The bytes to send. With no mapping and no override the caller's body goes out unchanged."""
    channel = attempt.channel
    upstream = request.operation.upstream
    route = _routes.get((channel.id, attempt.key.id, upstream))
    if route is None or route.channel is not channel:
        route = _new_route(attempt, upstream, settings)
    body = request.body
    if attempt.upstream_model != request.model:
        body = with_string(body, request.operation.model.name, attempt.upstream_model)
    if channel.param_set or channel.param_default or channel.param_remove:
        body = with_overrides(body, channel.param_set, channel.param_default, channel.param_remove)
    # The upstream's bill can be compared with our ledger by this id.
    headers = [(CALL_ID, call.text_id)] if route.sends_id else []
    for name in route.forwarded:
        if (value := call.header(name)) is not None:
            headers.append((name, value))
    return UpstreamRequest(route.origin, b"POST", route.target, headers, body, route.deadlines, shared=route.shared)


def _new_route(attempt: Attempt, upstream: str, settings: Settings) -> Route:
    """Ours, then the allow-listed headers of the client, then the channel's: later rules win, credentials stay ours."""
    channel = attempt.channel
    base_url = channel.base_url
    origin = Origin.parse(
        base_url, allow_private=channel.allow_private, proxy_url=channel.proxy_url, http2=channel.http2
    )
    ours = {
        b"content-type": b"application/json",
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        **dict(auth_headers(channel, attempt.key)),
    }
    removed = {name.lower().encode() for name in channel.header_remove}
    replaced = {name.lower().encode(): text.encode() for name, text in channel.header_set.items()}
    asked = dict.fromkeys(name.lower().encode() for name in channel.forward_headers)
    taken = ours.keys() | {CALL_ID} | removed | replaced.keys() | _FRAMING
    kept = {name: value for name, value in ours.items() if name not in removed} | replaced
    route = Route(
        channel=channel,
        origin=origin,
        target=target_path(split_base_url(base_url), upstream).encode(),
        deadlines=_deadlines(channel, settings),
        shared=tuple((name, value) for name, value in kept.items() if name not in _FRAMING),
        sends_id=CALL_ID not in removed and CALL_ID not in replaced,
        forwarded=tuple(name for name in asked if name not in taken),
    )
    if len(_routes) >= ROUTES_MAX:
        _routes.clear()
    _routes[channel.id, attempt.key.id, upstream] = route
    return route


def _deadlines(channel: Channel, settings: Settings) -> Deadlines:
    limits = channel.limits
    return Deadlines(
        connect_s=limits.connect_s or settings.connect_s,
        header_s=limits.header_s or settings.header_s,
        first_byte_s=limits.first_byte_s or settings.first_byte_s,
        idle_s=limits.idle_s or settings.idle_s,
        total_s=limits.total_s or settings.total_s,
    )
