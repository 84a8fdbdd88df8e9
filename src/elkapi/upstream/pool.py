"""Keep-alive connections by origin: who gets which, when another is opened, who waits; bytes are in `connection`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable

from elkapi.upstream.burst import Burst
from elkapi.upstream.connection import Connection
from elkapi.upstream.dialer import Resolver, dial
from elkapi.upstream.errors import ClientClosed, ConnectFailed, ConnectTimeout, Cut, PoolFull, PoolTimeout, TlsFailed
from elkapi.upstream.origin import ClientLimits, Origin
from elkapi.upstream.timers import Expired, Timers, run_until

# A TLS peer that does not answer our close is not awaited: nothing of ours is in flight by then.
TLS_SHUTDOWN_S = 1.0


class TlsContexts:
    """Client contexts, created on first use, since loading the system's certificates takes tens of milliseconds.

    `make` replaces the system's certificates, for example by an operator's own authority.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self._make = make
        self._shared: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        """The shared context for HTTP/1.1."""
        if self._shared is None:
            self._shared = self.fresh()
            self._shared.set_alpn_protocols(["http/1.1"])
        return self._shared

    def fresh(self) -> ssl.SSLContext:
        """A separate context, without ALPN."""
        return self._make()


class Dialing:
    """What opening a connection requires, shared by all buckets of one client."""

    def __init__(self, limits: ClientLimits, timers: Timers, resolve: Resolver, tls: TlsContexts) -> None:
        self.limits = limits
        self.timers = timers
        self.resolve = resolve
        self.tls = tls
        self.burst = Burst()


class Bucket:
    """All connections to one origin. `open` counts every one of them; `idle` is used newest first."""

    def __init__(self, origin: Origin, dialing: Dialing) -> None:
        self.origin = origin
        self.authority = origin.authority.encode("ascii")
        self.open: set[Connection] = set()
        self.idle: list[Connection] = []
        self.dials = 0
        self.dials_total = 0
        self.stale_total = 0
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()
        self.closed = False
        self.burst = dialing.burst
        self._dialing = dialing
        self._limits = dialing.limits
        self._timers = dialing.timers

    @property
    def busy(self) -> int:
        """The number of connections with an exchange in progress."""
        return len(self.open) - len(self.idle)

    def take_idle(self, *, held: bool) -> Connection | None:
        """An idle connection that can be written to; dead ones found on the way are closed. `held`: see
        `Connection.usable`."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable(held=held):
                return connection
            self.stale_total += 1
            connection.close()
        return None

    async def acquire(self, deadline_s: float) -> Connection:
        """The slow path: open a connection, or wait until one is released or a slot is free.

        Raises PoolFull, PoolTimeout and whatever opening raises; `deadline_s` is a time of the client's timers.
        """
        while True:
            if len(self.open) + self.dials < self._limits.connections_per_origin_max:
                self.dials += 1
                return await self._open(deadline_s)
            given = await self._wait(deadline_s)
            if given is None:
                return await self._open(deadline_s)  # The slot came with the wake-up, already counted in `dials`.
            if given.usable(held=False):
                return given
            given.close()

    async def _wait(self, deadline_s: float) -> Connection | None:
        if len(self.waiters) >= self._limits.waiters_per_origin_max:
            raise PoolFull(f"{len(self.waiters)} calls already wait for {self.origin.host}", phase="pool", sent=False)
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        failure = PoolTimeout(f"no connection to {self.origin.host} became free", phase="pool", sent=False)
        handle = self._timers.call_at(deadline_s, lambda: None if waiter.done() else waiter.set_exception(failure))
        self.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())
            raise
        finally:
            handle.cancel()
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def _give_back(self, given: Connection | None) -> None:
        if given is not None:
            self.released(given)
        else:
            self.dials -= 1
            self._wake_one()

    async def _open(self, deadline_s: float) -> Connection:
        """Open a connection; its slot is already counted in `dials`."""
        connection: Connection | None = None
        try:
            sock = await dial(self.origin, self._dialing.resolve, self._timers, deadline_s)
            connection = await self._attach(sock, deadline_s)
        finally:
            self.dials -= 1
            if connection is not None:
                self.dials_total += 1
            if connection is not None and connection.is_open():
                self.open.add(connection)
            else:
                # A connection that ended before this task woke up has already reported it, and would never leave the
                # set.
                self._wake_one()
        return connection

    async def _attach(self, sock: socket.socket, deadline_s: float) -> Connection:
        connection = Connection(self, self._limits, self._timers, sock)
        owned = False

        async def attach() -> None:
            nonlocal owned
            loop = asyncio.get_running_loop()
            owned = True
            if self.origin.is_tls:
                context = self._dialing.tls.get()
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=context,
                    server_hostname=self.origin.host,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_S,
                )
            elif self.origin.unix_path is not None:
                await loop.create_unix_connection(lambda: connection, sock=sock)
            else:
                await loop.create_connection(lambda: connection, sock=sock)

        try:
            await run_until(self._timers, deadline_s, attach())
        except BaseException as error:
            connection.close()
            if not owned:
                sock.close()
            if isinstance(error, Expired):
                raise ConnectTimeout(f"TLS with {self.origin.host} took too long", phase="tls", sent=False) from None
            if isinstance(error, OSError):  # ssl.SSLError is one.
                kind = TlsFailed if self.origin.is_tls else ConnectFailed
                phase = "tls" if self.origin.is_tls else "connect"
                raise kind(f"{self.origin.host}: {error}", phase=phase, sent=False) from error
            raise
        return connection

    # --- Owner

    def released(self, connection: Connection) -> None:
        """A connection is free and reusable."""
        now_s = self._timers.monotonic_s()
        too_old = now_s - connection.opened_at_s > self._limits.connection_life_s_max
        if self.closed or too_old or len(self.idle) >= self._limits.idle_connections_per_origin_max:
            connection.close()
            return
        connection.park(now_s + self._limits.idle_keep_s)
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is closed; its slot is free."""
        if connection in self.open:
            self.open.remove(connection)
            if connection in self.idle:
                self.idle.remove(connection)
            self._wake_one()

    def _wake_one(self) -> None:
        while self.waiters and len(self.open) + self.dials < self._limits.connections_per_origin_max:
            waiter = self.waiters.popleft()
            if not waiter.done():
                self.dials += 1
                waiter.set_result(None)
                return

    @property
    def is_unused(self) -> bool:
        return not self.open and not self.dials and not self.waiters

    def close(self) -> None:
        self.closed = True
        for connection in list(self.open):
            connection.end_badly(Cut("the client was closed", phase="body", sent=True))
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ClientClosed("the client was closed", phase="pool", sent=False))
