"""Calls through an outbound HTTP or SOCKS proxy, by aiohttp and aiohttp_socks, behind the client's own interface.

The proxy's address is judged by the guard and the judged address is the one dialed. The target's name is resolved and
judged before the proxy hears of it, but the proxy resolves the name once more for itself: a proxy can connect wherever
it likes, and an answer that changes in between is not seen from here. Whoever configures a proxy trusts it that far;
over https it still cannot read or change the call. With `allow_private` neither is judged, nor is the target resolved.

On this path `header_s` also covers sending the request, and aiohttp keeps the connections. It looks only whether one is
open: that nobody takes one on which bytes came unasked, which would answer another caller, is seen to here. It also
reads some replies that could be understood in two ways; those are judged again as on our own connections.
"""

from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import python_socks
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError
from yarl import URL

from elkapi.upstream.connection import poll_for
from elkapi.upstream.dialer import permitted_addresses
from elkapi.upstream.errors import (
    ConnectFailed,
    ConnectTimeout,
    Cut,
    HeaderTimeout,
    ProtocolViolation,
    SendFailed,
    TlsFailed,
    TotalTimeout,
    UpstreamFailure,
)
from elkapi.upstream.origin import Origin, UpstreamRequest
from elkapi.upstream.phased import PulledReply, begun
from elkapi.upstream.pool import Dialing
from elkapi.upstream.reply import UpstreamReply
from elkapi.upstream.timers import Expired, run_until
from elkapi.upstream.wire import callers_headers, check_method, check_target, fields_of, reply_framing

SESSIONS_MAX = 256
READ_CHUNK_BYTES = 64 * 1024
# aiohttp adds these by itself; what the caller did not send is not sent.
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    ProxyConnectionError,
    ProxyError,
    python_socks.ProxyError,
)
_TOO_LATE_TO_CONNECT = (aiohttp.ConnectionTimeoutError, ProxyTimeoutError, python_socks.ProxyTimeoutError)


class _GuardedResolver(AbstractResolver):
    """Resolves the only name that aiohttp dials itself: the proxy's."""

    def __init__(self, dialing: Dialing, *, allow_private: bool) -> None:
        self._dialing = dialing
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await permitted_addresses(self._dialing.resolve, host, port, allow_private=self._allow_private)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class _Wary(aiohttp.BaseConnector):
    """Takes no pooled connection that holds unsolicited bytes, or an end that the loop has not noticed yet."""

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            protocol, transport = connection.protocol, connection.transport
            is_open = protocol is not None and not protocol.should_close
            if is_open and transport is not None and not poll_for(transport.get_extra_info("socket")).poll(0):
                return connection
            connection.close()
        return None


class _ToHttpProxy(_Wary, aiohttp.TCPConnector):
    pass


class _ToSocksProxy(_Wary, ProxyConnector):
    pass


class ProxyTransport:
    """One aiohttp session per proxy address and trust setting."""

    def __init__(self, dialing: Dialing) -> None:
        self._dialing = dialing
        self._sessions: dict[tuple[str, str, bool], aiohttp.ClientSession] = {}

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """See `UpstreamClient.send`."""
        check_method(request.method)
        check_target(request.target)
        headers = callers_headers([*request.shared, *request.headers])
        timers, deadlines = self._dialing.timers, request.deadlines
        started_s = timers.monotonic_s()
        total_at_s = started_s + deadlines.total_s
        progress = SimpleNamespace(sent=False, reused=False)
        try:
            session = await run_until(
                timers, min(started_s + deadlines.connect_s, total_at_s), self._session(request.origin)
            )
        except Expired:
            raise ConnectTimeout(
                "the proxy or the target did not resolve in time", phase="resolve", sent=False
            ) from None
        head_at_s = timers.monotonic_s() + deadlines.connect_s + deadlines.header_s
        try:
            reply = await begun(
                timers,
                min(head_at_s, total_at_s),
                lambda: self._request(session, request, headers, progress),
                aiohttp.ClientResponse.close,
            )
        except Expired:
            kind = TotalTimeout if timers.monotonic_s() >= total_at_s else HeaderTimeout
            raise kind("no reply head in time", phase="header", sent=progress.sent) from None
        except UpstreamFailure:
            raise
        except Exception as error:  # aiohttp, aiohttp_socks and python_socks each have their own exception hierarchy.
            failure = _translated(error, "header", sent=progress.sent)
            # With a partial head it would not be stale; the message is then that part.
            failure.stale = progress.reused and isinstance(failure, Cut | SendFailed) and not _answered(error)
            raise failure from error

        if reply.status == 407 and not request.origin.is_tls and _is_http_proxy(request.origin.proxy_url or ""):
            # The proxy's own answer to the CONNECT: not the upstream's, and not for a caller.
            reply.close()
            raise ConnectFailed("the proxy refuses our credentials (status 407)", phase="connect", sent=False)

        reply_headers = [(name.lower(), value) for name, value in reply.raw_headers]
        version = f"{reply.version.major}.{reply.version.minor}" if reply.version else ""
        try:
            is_head = request.method == b"HEAD"
            reply_framing(is_head, reply.status, version, reply_headers, fields_of(reply_headers))
        except UpstreamFailure:
            reply.close()
            raise

        async def close() -> None:
            reply.close()

        return PulledReply(
            reply.status,
            reply_headers,
            reply.content.iter_chunked(READ_CHUNK_BYTES),
            close,
            lambda error, phase: _translated(error, phase, sent=True),
            timers,
            deadlines,
            total_at_s,
        )

    async def _request(
        self,
        session: aiohttp.ClientSession,
        request: UpstreamRequest,
        headers: list[tuple[bytes, bytes]],
        progress: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        origin = request.origin
        own = [(name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in headers]
        if request.body_bytes is not None and not isinstance(request.body, bytes):
            own.append(("Content-Length", str(request.body_bytes)))
        proxy_url = origin.proxy_url or ""
        return await session.request(
            request.method.decode("ascii"),
            URL(f"{origin.scheme}://{origin.authority}{request.target.decode('ascii')}", encoded=True),
            headers=own,
            data=request.body or None,
            proxy=proxy_url if _is_http_proxy(proxy_url) else None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=request.deadlines.connect_s),
            trace_request_ctx=progress,
        )

    async def _session(self, origin: Origin) -> aiohttp.ClientSession:
        assert origin.proxy_url is not None
        parts = urlsplit(origin.proxy_url)
        resolve, private = self._dialing.resolve, origin.allow_private
        # Checked for every call, because aiohttp dials a literal address without asking its resolver.
        proxy_port = parts.port or 1080
        addresses = await permitted_addresses(resolve, parts.hostname or "", proxy_port, allow_private=private)
        if not private:
            await permitted_addresses(resolve, origin.host, origin.port, allow_private=False)
        address = "" if _is_http_proxy(origin.proxy_url) else addresses[0]
        key = (origin.proxy_url, address, private)
        session = self._sessions.get(key)
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                await self._sessions.pop(next(iter(self._sessions))).close()
            session = self._sessions[key] = self._new_session(origin, address)
        return session

    def _new_session(self, origin: Origin, address: str) -> aiohttp.ClientSession:
        limits = self._dialing.limits
        context: ssl.SSLContext = self._dialing.tls.get()
        common: dict[str, Any] = {
            "ssl": context,
            "limit": limits.connections_per_origin_max,
            "keepalive_timeout": limits.idle_keep_s,
            "use_dns_cache": False,
        }
        connector: aiohttp.TCPConnector
        if address:
            parts = urlsplit(origin.proxy_url or "")
            scheme = parts.scheme.rstrip("ah")
            connector = _ToSocksProxy(
                host=address,
                port=parts.port or 1080,
                proxy_type=python_socks.ProxyType[scheme.upper()],
                # Percent-encoded as in any URL; for an HTTP proxy aiohttp decodes them itself.
                username=parts.username and unquote(parts.username),
                password=parts.password and unquote(parts.password),
                **{name: value for name, value in common.items() if name != "use_dns_cache"},
            )
        else:
            resolver = _GuardedResolver(self._dialing, allow_private=origin.allow_private)
            connector = _ToHttpProxy(resolver=resolver, **common)
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        trace.on_connection_reuseconn.append(_note_reused)
        trace.on_connection_create_start.append(_note_new)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTO_HEADERS,
            trace_configs=[trace],
            max_line_size=limits.header_bytes_max,
            max_field_size=limits.header_bytes_max,
            read_bufsize=limits.reply_buffer_bytes_max,
        )

    async def aclose(self) -> None:
        """Close every session."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()


async def _note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent = True


async def _note_reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


async def _note_new(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = False


def _answered(error: Exception) -> bool:
    """Whether a connection ended inside a reply's head."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)


def _is_http_proxy(proxy_url: str) -> bool:
    return proxy_url.startswith(("http://", "https://"))


def _translated(error: Exception, phase: str, *, sent: bool) -> UpstreamFailure:
    # The text of a reply error quotes the address, and the proxy's contains its password.
    said = f"{error.status} {error.message}" if isinstance(error, aiohttp.ClientResponseError) else error
    detail = f"{type(error).__name__}: {said}"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, UpstreamFailure):  # The guarded resolver's error, wrapped by aiohttp.
        return cause
    is_tls = isinstance(error, ssl.SSLError | aiohttp.ClientSSLError) or isinstance(cause, ssl.SSLError)
    if is_tls and not sent:
        return TlsFailed(detail, phase="tls", sent=False)
    if isinstance(error, _TOO_LATE_TO_CONNECT):
        return ConnectTimeout(detail, phase="connect", sent=False)
    if isinstance(error, _NOT_CONNECTED) or not sent:
        # Before the request leaves, only a tunnel has been requested.
        return ConnectFailed(detail, phase="connect", sent=False)
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        return Cut(detail, phase=phase, sent=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolViolation(detail, phase=phase, sent=True)
    if isinstance(error, OSError) and phase == "header":
        return SendFailed(detail, phase="send", sent=True)
    return Cut(detail, phase=phase, sent=True)
