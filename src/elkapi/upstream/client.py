"""The one way out to an upstream: `UpstreamClient.send`; picks the transport, checks the request, hands back the reply.

    send() ── encode_head (refuses what could be two requests) ── Bucket.take_idle / acquire ── dialer + guard
      └── Connection.start ── one write ── parser callbacks ── SocketReply ── the caller reads

A plain origin takes our own HTTP/1.1 connection. An origin with a proxy goes through aiohttp (`through_proxy`), one
that speaks only HTTP/2 through httpcore (`over_http2`); both are imported on first use and sit behind the same guard.
The client follows no redirect; `follow.follow` does, hop by hop through this same `send`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from elkapi.upstream.connection import JOINED_WRITE_BYTES_MAX
from elkapi.upstream.dialer import Resolver, system_resolver
from elkapi.upstream.errors import ClientClosed, ConnectFailed, RequestRefused, SendFailed, TransportMissing
from elkapi.upstream.origin import ClientLimits, Origin, UpstreamRequest
from elkapi.upstream.pool import Bucket, Dialing, TlsContexts
from elkapi.upstream.reply import SocketReply, UpstreamReply
from elkapi.upstream.timers import LoopTimers, Timers
from elkapi.upstream.wire import CHUNKED, encode_head

CLOSE_WAIT_S = 2.0
# Unused origins leave empty buckets behind; beyond this many they are removed.
EMPTY_BUCKETS_MAX = 256


class Transport(Protocol):
    """Another transport, for origins that our own connection does not serve."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply: ...

    async def aclose(self) -> None: ...


class UpstreamClient:
    """The pooled client of one event loop, one per worker. Call every method on that loop's thread.

    `resolver` maps (host, port) to addresses. `tls` makes a client context (default: system certificates). `clock`
    provides the time and timers, so that tests can control it.
    """

    def __init__(
        self,
        limits: ClientLimits | None = None,
        *,
        resolver: Resolver = system_resolver,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        clock: Timers | None = None,
    ) -> None:
        self._limits = limits or ClientLimits()
        self._timers = clock or LoopTimers()
        self._dialing = Dialing(self._limits, self._timers, resolver, TlsContexts(tls))
        self._buckets: dict[Origin, Bucket] = {}
        self._proxied: Transport | None = None
        self._http2: Transport | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request; returns when the reply's head is complete. Raises UpstreamFailure, or what the body iterator
        raised.

        A pooled connection that the peer closed before we wrote is replaced silently; nothing else is ever repeated.
        Cancelling this call closes the connection.
        """
        if self._closed:
            raise ClientClosed("the client is closed", phase="request", sent=False)
        origin = request.origin
        if origin.proxy_url is not None or origin.http2:
            return await self._other_transport(origin).send(request)
        body, framing, is_small = request.body, CHUNKED, False
        if isinstance(body, bytes):
            framing = len(body)
            is_small = framing <= JOINED_WRITE_BYTES_MAX
        elif request.body_bytes is not None:
            framing = request.body_bytes
            if framing < 0:
                raise RequestRefused("body_bytes is negative", phase="request", sent=False)
        bucket = self._buckets.get(origin) or self._new_bucket(origin)
        # Checked before a connection is acquired, so that a refused request costs the upstream nothing.
        head = encode_head(request.method, request.target, bucket.authority, request.headers, framing, request.shared)
        deadlines = request.deadlines
        started_s = self._timers.monotonic_s()
        total_at_s = started_s + deadlines.total_s
        while True:
            held = is_small and bool(bucket.busy or bucket.burst.holders)
            connection = bucket.take_idle(held=held)
            if connection is None:
                connection = await bucket.acquire(started_s + min(deadlines.connect_s, deadlines.total_s))
                if not connection.is_open():
                    raise ConnectFailed("closed by the peer right after connecting", phase="connect", sent=False)
            reply = SocketReply(connection, request.method == b"HEAD")
            if isinstance(body, bytes):
                connection.start(reply, head, body, deadlines, total_at_s, held=held)
            else:
                connection.start_stream(reply, head, body.__aiter__(), framing, deadlines, total_at_s)
            try:
                await reply.head()
            except BaseException as error:
                reply.cancel()
                if not isinstance(error, SendFailed) or error.sent or not error.stale:
                    raise
                bucket.stale_total += 1  # The connection closed before the held request left.
            else:
                return reply

    def _new_bucket(self, origin: Origin) -> Bucket:
        if len(self._buckets) >= EMPTY_BUCKETS_MAX:
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_unused}
        bucket = self._buckets[origin] = Bucket(origin, self._dialing)
        return bucket

    def _other_transport(self, origin: Origin) -> Transport:
        if origin.proxy_url is not None and origin.http2:
            raise TransportMissing("HTTP/2 through a proxy is not supported", phase="request", sent=False)
        if origin.http2:
            if self._http2 is None:
                from elkapi.upstream.over_http2 import Http2Transport

                self._http2 = Http2Transport(self._dialing)
            return self._http2
        if self._proxied is None:
            from elkapi.upstream.through_proxy import ProxyTransport

            self._proxied = ProxyTransport(self._dialing)
        return self._proxied

    def stats(self) -> dict[str, int]:
        """Counts for metrics: current (`open`, `idle`, `dialing`, `waiting`) and since the start (the `_total`s)."""
        buckets = self._buckets.values()
        return {
            "open": sum(len(bucket.open) for bucket in buckets),
            "idle": sum(len(bucket.idle) for bucket in buckets),
            "dialing": sum(bucket.dials for bucket in buckets),
            "waiting": sum(len(bucket.waiters) for bucket in buckets),
            "connects_total": sum(bucket.dials_total for bucket in buckets),
            "stale_total": sum(bucket.stale_total for bucket in buckets),
        }

    async def aclose(self) -> None:
        """Close every connection; exchanges in progress end with Cut. Idempotent."""
        self._closed = True
        for bucket in self._buckets.values():
            bucket.close()
        for transport in (self._proxied, self._http2):
            if transport is not None:
                await transport.aclose()
        # Transports report their end from the loop; give them the iterations they need, bounded.
        give_up_s = asyncio.get_running_loop().time() + CLOSE_WAIT_S
        while any(bucket.open for bucket in self._buckets.values()):
            if asyncio.get_running_loop().time() > give_up_s:
                break
            await asyncio.sleep(0.001)
