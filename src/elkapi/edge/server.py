"""The HTTP/1.1 server of one listening socket: its connections, the sweep of their deadlines, the drain.

`connection` reads and orders requests, `exchange` answers one; every meaning is left to the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import select
import socket
import time
from collections.abc import Awaitable, Callable
from math import inf

from elkapi.edge.connection import Connection
from elkapi.errors import GatewayError
from elkapi.observe.process import descriptors_for_clients
from elkapi.relay.call import Call, Headers
from elkapi.settings import Settings
from elkapi.upstream.burst import Burst

Handler = Callable[[Call], Awaitable[None]]
Rejected = Callable[[GatewayError, bytes], tuple[int, Headers, bytes]]
log = logging.getLogger("elkapi.edge")

SWEEP_EVERY_S = 0.5
ACCEPT_TOLD_EVERY_S = 60.0
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
        self._socket: socket.socket | None = None
        self._callers = select.poll()
        self._listener: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self._accept_told_s = -inf
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept on an already listening socket, which is closed when no more are accepted."""
        self._tick()
        self._socket = sock
        self._callers.register(sock, select.POLLIN)
        await self._listen()

    async def _listen(self, taken: socket.socket | None = None) -> None:
        """Let the loop accept, beside one that was `taken` from the listening socket without it."""
        loop = asyncio.get_running_loop()
        # Where there is no descriptor for it, the next sweep tries again.
        with contextlib.suppress(OSError):
            if taken is not None:
                await loop.connect_accepted_socket(self._connection, taken)
            if self._listener is None and self._socket is not None:
                # The loop closes what it listens on.
                self._listener = await loop.create_server(self._connection, sock=self._socket.dup(), backlog=2048)
        if self.draining:
            self._stop_listening()

    def _connection(self) -> Connection:
        return Connection(self, asyncio.get_running_loop())

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def stop_accepting(self) -> None:
        """Leave the listening socket to others; each connection may finish, or ask once more within DRAIN_IDLE_S."""
        self.draining = True
        self._stop_listening()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
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
        self._see_accepting()
        now_s = time.monotonic()
        for connection in [c for c in self.connections if c.deadline_s < now_s]:
            connection.overdue()
        for connection in [c for c in self.connections if c.unsent_until_s < now_s]:
            connection.check_writing()

    def _see_accepting(self) -> None:
        """Stop listening while nobody can be accepted, for want of a descriptor or of memory: the loop would try again
        at once for as long as somebody waits, and tell nobody."""
        if self._socket is None or (self._listening is not None and not self._listening.done()):
            return
        taken = None
        try:
            if self._callers.poll(0):
                taken, _ = self._socket.accept()
                taken.setblocking(False)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # Somebody else took it, or it left.
        except OSError as error:
            self._stop_listening()
            self._tell_accepting(error)
            return
        if taken is not None or self._listener is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(taken))

    def _tell_accepting(self, error: OSError) -> None:
        now_s = time.monotonic()
        if now_s >= self._accept_told_s + ACCEPT_TOLD_EVERY_S:
            self._accept_told_s = now_s
            log.error("accept_failed", extra={"error": str(error), "connections": len(self.connections)})


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - once per shutdown
        await asyncio.sleep(0.02)
