"""Redirects, for the few requests that may follow one (fetching a result file); relaying never does.

Each hop is an ordinary `UpstreamClient.send`: the guard checks the address that is dialed, not the URL.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import msgspec

from elkapi.upstream.client import UpstreamClient
from elkapi.upstream.errors import ProtocolViolation
from elkapi.upstream.origin import Origin, UpstreamRequest, target_of
from elkapi.upstream.reply import UpstreamReply

REDIRECTS = frozenset({301, 302, 303, 307, 308})
# The headers allowed to a host that the operator did not name. Any other could be a credential: providers invent header
# names for their keys, so a list of names to drop would never be complete.
HARMLESS_HEADERS = frozenset({b"accept", b"accept-encoding", b"accept-language", b"range", b"user-agent"})


async def follow(
    client: UpstreamClient, reply: UpstreamReply, request: UpstreamRequest, hops_max: int = 3
) -> UpstreamReply:
    """The reply after at most `hops_max` redirects of a GET or HEAD; closes the replies in between.

    A hop to another origin keeps only harmless headers and loses `allow_private` and the trust in the proxy. A hop from
    https to http, to an invalid location, or beyond the limit raises ProtocolViolation. Other methods are returned
    unfollowed: this client does not decide to send a body elsewhere.
    """
    hops = 0
    while reply.status in REDIRECTS and request.method in (b"GET", b"HEAD"):
        location = reply.header(b"location")
        if location is None:
            return reply
        await reply.aclose()
        hops += 1
        if hops > hops_max:
            raise _violation(f"more than {hops_max} redirects")
        request = next_hop(request, location)
        reply = await client.send(request)
    return reply


def next_hop(request: UpstreamRequest, location: bytes) -> UpstreamRequest:
    """The request of the next hop. Raises ProtocolViolation if it must not be followed."""
    old = request.origin
    try:
        here = f"{'http' if old.scheme == 'unix' else old.scheme}://{old.authority}{request.target.decode('ascii')}"
        url = urljoin(here, location.decode()).partition("#")[0]
        parts = urlsplit(url)
        new = Origin.parse(f"{parts.scheme}://{parts.netloc}", proxy_url=old.proxy_url)
    except ValueError as error:
        raise _violation(f"the redirect leads nowhere we go: {error}") from error
    target = target_of(parts)
    if (new.scheme, new.host, new.port) == (old.scheme, old.host, old.port):
        return msgspec.structs.replace(request, target=target)
    if old.unix_path is not None:
        raise _violation("a local socket redirects elsewhere")
    if old.is_tls and not new.is_tls:
        raise _violation("the redirect leaves https")
    every = (*request.shared, *request.headers)
    headers = [(name, value) for name, value in every if name.lower() in HARMLESS_HEADERS]
    return msgspec.structs.replace(request, origin=new, target=target, headers=headers, shared=())


def _violation(detail: str) -> ProtocolViolation:
    return ProtocolViolation(detail, phase="header", sent=True)
