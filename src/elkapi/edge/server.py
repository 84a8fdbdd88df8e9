"""The HTTP/1.1 server of one listening socket: its connections, the check of their deadlines, the drain.

`connection` reads and orders requests, `exchange` answers one; the handler interprets them.
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
# The time that a call cut off by a drain has to release its hold.
CUT_WAIT_S = 3.0


class Server:
    """The connections of one listening socket. `rejected` renders an error found before there is a call."""

    def __init__(self, handler: Handler, rejected: Rejected, settings: Settings) -> None:
        self.handler = handler
        self.rejected = rejected
        self.settings = settings
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self.descriptors_max = descriptors_for_clients()
        self.burst = Burst()
        self.under_way = 0  # Exchanges in progress.
        self._socket: socket.socket | None = None
        self._callers = select.poll()
        self._listener: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self._accept_told_s = -inf
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept on an already listening socket, which is closed at the end of accepting."""
        self._tick()
        self._socket = sock
        self._callers.register(sock, select.POLLIN)
        await self._listen()

    async def _listen(self, taken: socket.socket | None = None) -> None:
        """Let the loop accept, and adopt a socket `taken` from the listening socket outside of it."""
        loop = asyncio.get_running_loop()
        # If no descriptor is left, the next sweep tries again.
        with contextlib.suppress(OSError):
            if taken is not None:
                await loop.connect_accepted_socket(self._connection, taken)
            if self._listener is None and self._socket is not None:
                # A duplicate, because the loop closes the socket it listens on.
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
        """Stop accepting; each connection may finish, or send one more request within DRAIN_IDLE_S."""
        self.draining = True
        self._stop_listening()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for connection in self.connections:
            connection.close_soon()

    async def drain(self, seconds: float, cutting: Callable[[], object] | None = None) -> int:
        """Finish exchanges in progress, then close; returns how many connections had to be cut, after calling
        `cutting`.

        A call whose caller has left stays in progress until its money is settled, which needs the ledger.
        """
        self.stop_accepting()
        await _until(lambda: not self.connections and not self.under_way, seconds)
        cut = len(self.connections)
        if cut and cutting is not None:
            cutting()
        for connection in list(self.connections):
            connection.abort()
        # Each is told on the loop.
        await _until(lambda: not self.under_way, CUT_WAIT_S)
        if self._sweep:
            self._sweep.cancel()
        return cut

    def _tick(self) -> None:
        """Refresh the Date header, check whether to accept, and close overdue connections: one timer for all
        connections."""
        # First, because without it no deadline is enforced, whatever happens to a connection below.
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
        """Stop listening while nobody can be accepted for lack of descriptors or memory: the loop would retry at
        once as long as somebody waits, and report nothing."""
        if self._socket is None or (self._listening is not None and not self._listening.done()):
            return
        taken = None
        try:
            if self._callers.poll(0):
                taken, _ = self._socket.accept()
                taken.setblocking(False)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # Another process accepted it, or it left.
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
