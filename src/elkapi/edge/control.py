"""Relays the control process's pages over its unix socket, as bytes; nothing of it is imported."""

from __future__ import annotations

from elkapi.edge.proxies import TrustedProxies
from elkapi.errors import Unavailable
from elkapi.relay.call import Call
from elkapi.relay.plane import DataPlane
from elkapi.upstream import Deadlines, Origin, UpstreamFailure, UpstreamRequest

DEADLINES = Deadlines(connect_s=1.0, header_s=60.0, first_byte_s=60.0, idle_s=60.0, total_s=300.0)
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"te", b"trailer", b"expect"}
)
_NOT_RELAYED = _HOP_BY_HOP | {b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for"}
_NOT_RELAYED_BACK = _HOP_BY_HOP | {b"date", b"server"}


async def relay_to_control(plane: DataPlane, call: Call, proxies: TrustedProxies) -> None:
    """Relay one call to the control process and its reply back. Raises Unavailable if it is not running.

    A body of a GET is neither read nor relayed: these callers need no key, so nothing of theirs is collected.
    """
    headers = [(name, value) for name, value in call.headers if name not in _NOT_RELAYED]
    headers += [
        (b"x-forwarded-host", call.header(b"host") or b""),
        (b"x-forwarded-proto", proxies.scheme(call)),
        (b"x-forwarded-for", proxies.client_ip(call).encode()),
    ]
    target = call.path + (f"?{call.query}" if call.query else "")
    order = UpstreamRequest(
        origin=Origin.parse("unix://" + plane.settings.socket_path("control")),
        method=call.method.encode(),
        target=target.encode("latin-1"),
        headers=headers,
        deadlines=DEADLINES,
    )
    try:
        reply = await plane.client.send(order)
    except UpstreamFailure:
        raise Unavailable("The control process is restarting; the API itself is not affected.") from None
    try:
        call.reply.start(reply.status, [(n, v) for n, v in reply.headers if n not in _NOT_RELAYED_BACK])
        async for chunk in reply:
            await call.reply.write(chunk)
        call.reply.finish()
    except UpstreamFailure:
        call.reply.abort()
    finally:
        reply.cancel()
