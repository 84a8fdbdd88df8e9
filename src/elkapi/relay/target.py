"""Attempt -> the exact upstream request: address, credential, headers, and the body with the channel's overrides."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from elkapi.catalog.jsonedit import with_overrides, with_string
from elkapi.catalog.upstreams import auth_headers, target_path
from elkapi.ids import request_id_text
from elkapi.relay.call import Call
from elkapi.relay.read import Request
from elkapi.settings import Settings
from elkapi.types import Attempt, Channel
from elkapi.upstream import Deadlines, Origin, UpstreamRequest

# Set by the client library or by the gateway itself; a header override may not fake framing.
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})


@lru_cache(maxsize=4096)
def _address(base_url: str, allow_private: bool, proxy_url: str | None, http2: bool) -> tuple[Origin, str]:
    origin = Origin.parse(base_url, allow_private=allow_private, proxy_url=proxy_url, http2=http2)
    return origin, "" if base_url.startswith("unix:") else urlsplit(base_url).path


def _deadlines(channel: Channel, settings: Settings) -> Deadlines:
    limits = channel.limits
    return Deadlines(
        connect_s=limits.connect_s or settings.connect_s,
        header_s=limits.header_s or settings.header_s,
        first_byte_s=limits.first_byte_s or settings.first_byte_s,
        idle_s=limits.idle_s or settings.idle_s,
        total_s=limits.total_s or settings.total_s,
    )


def build(attempt: Attempt, request: Request, call: Call, settings: Settings) -> UpstreamRequest:
    """The bytes to send. With no mapping and no override the caller's body goes out unchanged."""
    channel = attempt.channel
    origin, base_path = _address(channel.base_url, channel.allow_private, channel.proxy_url, channel.http2)
    body = request.body
    if attempt.upstream_model != request.model:
        body = with_string(body, request.operation.model.name, attempt.upstream_model)
    body = with_overrides(body, channel.param_set, channel.param_default, channel.param_remove)
    return UpstreamRequest(
        origin=origin,
        method=b"POST",
        target=target_path(base_path, request.operation.upstream).encode(),
        headers=_headers(attempt, call),
        body=body,
        deadlines=_deadlines(channel, settings),
    )


def _headers(attempt: Attempt, call: Call) -> list[tuple[bytes, bytes]]:
    """Ours, then the allow-listed ones of the client, then the channel's: later rules win, credentials stay ours."""
    channel = attempt.channel
    headers = [
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        # The upstream's bill can be compared with our ledger by this id.
        (b"x-client-request-id", request_id_text(call.id).encode()),
        *auth_headers(channel, attempt.key),
    ]
    if not (channel.forward_headers or channel.header_set or channel.header_remove):
        return headers
    merged = dict(headers)
    for name in channel.forward_headers:
        lower = name.lower().encode()
        if lower not in merged and (value := call.header(lower)) is not None:
            merged[lower] = value
    for name in channel.header_remove:
        merged.pop(name.lower().encode(), None)
    for name, text in channel.header_set.items():
        merged[name.lower().encode()] = text.encode()
    return [(name, value) for name, value in merged.items() if name not in _FRAMING]
