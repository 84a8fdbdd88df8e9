"""Calls to upstreams that speak only HTTP/2, through httpcore (the engine of httpx), behind the client's own interface.

Requires the optional extra `http2`. Name resolution and the guard are ours: httpcore gets a network backend that dials
only checked addresses. `header_s` covers sending the request as well; idle time while sending is httpcore's write
timeout.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from importlib.util import find_spec
from math import inf
from typing import Any

from elkapi.upstream.dialer import permitted_addresses
from elkapi.upstream.errors import (
    ConnectFailed,
    ConnectTimeout,
    Cut,
    HeaderTimeout,
    IdleTimeout,
    PoolTimeout,
    ProtocolViolation,
    SendFailed,
    TlsFailed,
    TotalTimeout,
    TransportMissing,
    UpstreamFailure,
)
from elkapi.upstream.origin import UpstreamRequest
from elkapi.upstream.phased import PulledReply, begun
from elkapi.upstream.pool import Dialing
from elkapi.upstream.reply import UpstreamReply
from elkapi.upstream.timers import Expired
from elkapi.upstream.wire import BODILESS_METHODS, callers_headers, check_method, check_target

# httpcore imports h2 only at its first connection, too late for a clear message.
if find_spec("httpcore") is None or find_spec("h2") is None:
    raise TransportMissing(
        "this channel asks for HTTP/2, which is not installed: pip install 'elkapi[http2]'", phase="request", sent=False
    )

import httpcore
from h2.errors import ErrorCodes
from h2.events import StreamReset

_HEADERS_FRAME = b"\x01"
# httpcore's names of the steps of a request.
_DIALING, _SENDING = "connection.connect_tcp.started", "http2.send_request_headers.started"
# httpcore's message for a connection that ended without an answer, which it reports as a protocol violation.
_ENDED_UNANSWERED = "Server disconnected"
# The poll flag of a connection that its peer has closed, where the platform has one; it is set even if the loop has
# already read the end.
_ENDED = getattr(select, "POLLRDHUP", 0)
# A connection whose peer left a request unanswered and stayed silent for this long gets no further requests.
SILENT_S = 5.0
# While others wait on a connection, a slow peer cannot be told from a dead one; the kernel can, by its
# acknowledgements, but takes a quarter of an hour by default.
UNACKNOWLEDGED_MS_MAX = 60_000
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


class _PeerLeft(httpcore.WriteError):
    """The peer had closed an idle connection, or fallen silent on it, before a request was written."""


class _Wary(httpcore.AsyncNetworkStream):
    """Starts no request on a connection that its peer has closed, or that everybody gave up waiting on; httpcore
    checks only the age."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, monotonic_s: Callable[[], float]) -> None:
        self._inner = inner
        self._monotonic_s = monotonic_s
        self._reads = 0
        self._was_read = False
        # Since when the peer has been silent although a request is open.
        self._silent_since_s = inf

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above.
        self._reads += 1
        try:
            data = await self._inner.read(max_bytes, timeout)
            self._silent_since_s = inf
            return data
        finally:
            self._reads -= 1
            self._was_read = True

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above.
        if buffer[3:4] == _HEADERS_FRAME:
            now_s = self._monotonic_s()
            # While another request reads from this connection, that read notices its end, or keeps waiting.
            if not self._reads:
                if self._was_read and self._is_ended():
                    raise _PeerLeft("the peer had closed the connection")
                if now_s > self._silent_since_s + SILENT_S:
                    raise _PeerLeft("the peer had fallen silent")
            self._silent_since_s = min(self._silent_since_s, now_s)
        await self._inner.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above.
    ) -> httpcore.AsyncNetworkStream:
        return _Wary(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._monotonic_s)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def _is_ended(self) -> bool:
        ended, sock = select.poll(), self._inner.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:  # The loop has noticed a reset and closed it.
            return True
        ended.register(sock, _ENDED)
        return bool(ended.poll(0))


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, dialing: Dialing, *, allow_private: bool) -> None:
        self._dialing = dialing
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's.
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await permitted_addresses(self._dialing.resolve, host, port, allow_private=self._allow_private)
        share_s = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, share_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(addresses[-1], port, share_s, local_address, socket_options)

    async def _connect(self, *what: Any) -> httpcore.AsyncNetworkStream:
        return _Wary(await self._inner.connect_tcp(*what), self._dialing.timers.monotonic_s)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Http2Transport:
    """One httpcore pool for each trust setting; httpcore keys its connections by origin."""

    def __init__(self, dialing: Dialing) -> None:
        self._dialing = dialing
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """See `UpstreamClient.send`."""
        check_method(request.method)
        check_target(request.target)
        headers = callers_headers([*request.shared, *request.headers])
        timers, deadlines = self._dialing.timers, request.deadlines
        started_s = timers.monotonic_s()
        total_at_s = started_s + deadlines.total_s
        head_at_s = started_s + deadlines.connect_s + deadlines.header_s
        while True:
            seen: set[str] = set()
            try:
                reply = await begun(
                    timers,
                    min(head_at_s, total_at_s),
                    lambda: self._request(request, headers, seen),  # noqa: B023 - awaited in this round.
                    httpcore.Response.aclose,
                )
                break
            except _PeerLeft:
                continue  # Nothing was sent; that connection is not used again.
            except Expired:
                kind = TotalTimeout if timers.monotonic_s() >= total_at_s else HeaderTimeout
                raise kind("no reply head in time", phase="header", sent=_SENDING in seen) from None
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
                failure = _translated(error, "header")
                failure.stale = isinstance(failure, Cut | SendFailed) and failure.sent and _DIALING not in seen
                raise failure from error
        return PulledReply(
            reply.status,
            [(name.lower(), value) for name, value in reply.headers],
            reply.aiter_stream(),
            reply.aclose,
            _translated,
            timers,
            deadlines,
            total_at_s,
        )

    async def _request(
        self, request: UpstreamRequest, headers: list[tuple[bytes, bytes]], seen: set[str]
    ) -> httpcore.Response:
        origin, deadlines = request.origin, request.deadlines
        size = len(request.body) if isinstance(request.body, bytes) else request.body_bytes
        if size or (size is not None and request.method not in BODILESS_METHODS):
            headers = [*headers, (b"content-length", b"%d" % size)]

        async def note(event: str, _info: object) -> None:
            seen.add(event)

        message = httpcore.Request(
            request.method,
            httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=request.target),
            headers=[(b"host", origin.authority.encode("ascii")), *headers],
            # As bytes, which httpcore can resend if a peer that ends its connection (GOAWAY) reports that it did not
            # process the request.
            content=request.body if isinstance(request.body, bytes) else _Once(request.body),
            extensions={
                "timeout": {
                    "connect": deadlines.connect_s,
                    "pool": deadlines.connect_s,
                    "write": deadlines.idle_s,
                    "read": None,
                },
                "trace": note,
            },
        )
        return await self._pool(allow_private=origin.allow_private).handle_async_request(message)

    def _pool(self, *, allow_private: bool) -> httpcore.AsyncConnectionPool:
        pool = self._pools.get(allow_private)
        if pool is None:
            limits = self._dialing.limits
            pool = self._pools[allow_private] = httpcore.AsyncConnectionPool(
                # A separate context, because httpcore writes its ALPN list into it.
                ssl_context=self._dialing.tls.fresh(),
                http1=False,
                http2=True,
                max_connections=limits.connections_per_origin_max,
                max_keepalive_connections=limits.idle_connections_per_origin_max,
                keepalive_expiry=limits.idle_keep_s,
                socket_options=(
                    [] if _USER_TIMEOUT is None else [(socket.IPPROTO_TCP, _USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)]
                ),
                network_backend=_GuardedBackend(self._dialing, allow_private=allow_private),
            )
        return pool

    async def aclose(self) -> None:
        """Close every pool."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.aclose()


class _Once:
    """A body that can be read only once."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._begun:
            raise SendFailed("the peer wants the request anew, and its body is gone", phase="send", sent=True)
        self._begun = True
        return self._body.__aiter__()


def _translated(error: Exception, phase: str) -> UpstreamFailure:
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, UpstreamFailure):
        return error
    if isinstance(error, httpcore.ConnectTimeout):
        return ConnectTimeout(detail, phase="connect", sent=False)
    if isinstance(error, httpcore.PoolTimeout):
        return PoolTimeout(detail, phase="pool", sent=False)
    if isinstance(error, httpcore.ConnectError):
        is_tls = "SSL" in detail or "certificate" in detail
        return (TlsFailed if is_tls else ConnectFailed)(detail, phase="tls" if is_tls else "connect", sent=False)
    if isinstance(error, httpcore.WriteTimeout):
        return IdleTimeout(detail, phase="send", sent=True)
    if isinstance(error, httpcore.WriteError):
        return SendFailed(detail, phase="send", sent=True)
    reset = error.args[0] if error.args else None
    if phase == "header" and isinstance(reset, StreamReset) and reset.error_code == ErrorCodes.REFUSED_STREAM:
        # RFC 9113, 8.7: the request was not processed.
        return SendFailed("the peer refused the stream unseen", phase=phase, sent=False)
    if isinstance(error, httpcore.ProtocolError) and phase == "header" and str(error) != _ENDED_UNANSWERED:
        return ProtocolViolation(detail, phase=phase, sent=True)
    return Cut(detail, phase=phase, sent=True)
