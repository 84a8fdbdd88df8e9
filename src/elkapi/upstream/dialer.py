"""From an origin to a connected socket: resolve, check every address, dial only checked ones; TLS is in `pool`.

The guard is here, below every route, so nothing that opens a connection can bypass it. The name is resolved once per
connect, and the very addresses that were checked are dialed: there is no second DNS answer that could differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence

from elkapi.upstream.errors import AddressRefused, ConnectFailed, ConnectTimeout
from elkapi.upstream.guard import refusal
from elkapi.upstream.origin import Origin
from elkapi.upstream.timers import Expired, Timers, run_until

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> IP addresses in order of preference; raises OSError when the name does not resolve."""

ADDRESSES_TRIED_MAX = 8


async def system_resolver(host: str, port: int) -> list[str]:
    """The system's resolver, on the loop's thread pool."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def permitted_addresses(resolve: Resolver, host: str, port: int, *, allow_private: bool) -> list[str]:
    """The host's addresses that the guard permits, at most `ADDRESSES_TRIED_MAX`.

    Raises ConnectFailed if the name does not resolve, AddressRefused if no address is permitted.
    """
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(f"{host} does not resolve: {error}", phase="resolve", sent=False) from error
    refused: list[str] = []
    permitted: list[str] = []
    for address in found:
        reason = refusal(address)
        if reason is None or (allow_private and reason != "malformed"):
            permitted.append(address)
        else:
            refused.append(f"{address} ({reason})")
    if permitted:
        return permitted[:ADDRESSES_TRIED_MAX]
    if not refused:
        raise ConnectFailed(f"{host} has no address", phase="resolve", sent=False)
    raise AddressRefused(
        f"{host} resolves to {', '.join(refused)}; add the channel with --allow-private if that is meant",
        phase="resolve",
        sent=False,
    )


async def dial(origin: Origin, resolve: Resolver, timers: Timers, deadline_s: float) -> socket.socket:
    """A connected, non-blocking socket to the origin's host (never to its proxy). `deadline_s` is a time of `timers`.

    Addresses are tried in order, each with an equal share of the remaining time, so that one that drops packets does
    not use up the others'. Raises ConnectFailed, ConnectTimeout, AddressRefused.
    """
    if origin.unix_path is not None:
        return await _connect(socket.AF_UNIX, origin.unix_path, origin.unix_path, timers, deadline_s)
    try:
        addresses = await run_until(
            timers,
            deadline_s,
            permitted_addresses(resolve, origin.host, origin.port, allow_private=origin.allow_private),
        )
    except Expired:
        raise ConnectTimeout(f"{origin.host} did not resolve in time", phase="resolve", sent=False) from None
    failure: ConnectFailed | ConnectTimeout | None = None
    for index, address in enumerate(addresses):
        now_s = timers.monotonic_s()
        share_s = now_s + (deadline_s - now_s) / (len(addresses) - index)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        label = f"{origin.host} [{address}]:{origin.port}"
        try:
            return await _connect(family, (address, origin.port), label, timers, share_s)
        except (ConnectFailed, ConnectTimeout) as error:
            failure = error
    assert failure is not None  # `permitted_addresses` never returns an empty list.
    raise failure


async def _connect(
    family: socket.AddressFamily, address: str | tuple[str, int], label: str, timers: Timers, deadline_s: float
) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # No descriptors left, or an address family that this machine lacks.
        raise ConnectFailed(f"no socket for {label}: {error}", phase="connect", sent=False) from error
    try:
        sock.setblocking(False)
        if not isinstance(address, str):  # A string is a unix socket's path.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await run_until(timers, deadline_s, asyncio.get_running_loop().sock_connect(sock, address))
    except Expired:
        sock.close()
        raise ConnectTimeout(f"{label} did not answer in time", phase="connect", sent=False) from None
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"{label}: {error}", phase="connect", sent=False) from error
    except BaseException:
        sock.close()
        raise
    return sock
