"""The HTTP/1.1 server of one listening socket: its connections, the sweep of their deadlines, the drain.

`connection` reads and orders requests, `exchange` answers one; every meaning is left to the handler.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from typing import Any

from elkapi.edge.connection import Connection
from elkapi.errors import GatewayError
from elkapi.observe.process import descriptors_for_clients
from elkapi.relay.call import Call, Headers
from elkapi.settings import Settings
from elkapi.upstream.burst import Burst

Handler = Callable[[Call], Awaitable[None]]
Rejected = Callable[[GatewayError, bytes], tuple[int, Headers, bytes]]
SWEEP_EVERY_S = 0.5
# What a call that a drain cut off gets to give its hold back.
CUT_WAIT_S = 3.0


class Server:
    """All connections of one listening socket. `rejected` renders an error found before there is a call."""

    def __init__(self, handler: Handler, rejected: Rejected, settings: Settings) -> None:
        self.handler = handler
        self.rejected = rejected
        self.settings = settings
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self.descriptors_max = descriptors_for_clients()
        self.burst = Burst()
        self.under_way = 0  # Exchanges that are being answered.
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, sock: Any) -> None:
        """Accept on an already listening socket."""
        loop = asyncio.get_running_loop()
        self._tick()
        self._listener = await loop.create_server(lambda: Connection(self, loop), sock=sock, backlog=2048)

    def stop_accepting(self) -> None:
        """Leave the listening socket to others; each connection may finish, or ask once more within DRAIN_IDLE_S."""
        self.draining = True
        if self._listener:
            self._listener.close()
            self._listener = None
        for connection in self.connections:
            connection.close_soon()

    async def drain(self, seconds: float, cutting: Callable[[], object] | None = None) -> int:
        """Finish what is under way, then close; returns how many connections had to be cut, after `cutting` is told.

        A call whose caller has left is under way until its money is settled, which needs the ledger.
        """
        self.stop_accepting()
        await _until(lambda: not self.connections and not self.under_way, seconds)
        cut = len(self.connections)
        if cut and cutting is not None:
            cutting()
        for connection in list(self.connections):
            connection.abort()
        # Each learns of its end on the loop.
        await _until(lambda: not self.under_way, CUT_WAIT_S)
        if self._sweep:
            self._sweep.cancel()
        return cut

    def _tick(self) -> None:
        """Refresh the Date header, see what may be open and close what overstayed: one timer for all connections."""
        # First of all: without it nobody's deadline holds, whatever becomes of one connection below.
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._tick)
        self.descriptors_max = descriptors_for_clients()
        self.date = b"date: " + email.utils.formatdate(usegmt=True).encode() + b"\r\n"
        now_s = time.monotonic()
        for connection in [c for c in self.connections if c.deadline_s < now_s]:
            connection.overdue()
        for connection in [c for c in self.connections if c.unsent_until_s < now_s]:
            connection.check_writing()


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - once per shutdown
        await asyncio.sleep(0.02)
