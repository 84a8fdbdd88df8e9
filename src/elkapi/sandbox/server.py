"""Runs a sandbox (`app`): sockets, uvicorn with the wire protocol, and a thread for tests.

`run` blocks, and prints a line for each address once it accepts connections. `running` is for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from elkapi.observe.serving import Server
from elkapi.sandbox.app import Options, Sandbox, create
from elkapi.sandbox.raw import WireProtocol

HOST = "127.0.0.1"
PORT = 8100
BACKLOG_CONNECTIONS = 1024
CONNECTIONS_MAX = 4096
KEEP_ALIVE_S = 75
SHUTDOWN_S = 2


def run(
    host: str = HOST,
    port: int | None = PORT,
    unix_path: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    allow_remote: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, on `host:port` (0 picks a free port, None means no TCP) and on `unix_path`.

    Raises ValueError for a host other than loopback without `allow_remote`: the sandbox records keys in the clear.
    Raises OSError if a port or path is in use.
    """
    with contextlib.ExitStack() as stack:
        sockets = []
        if port is not None:
            if not allow_remote and not _is_loopback(host):
                raise ValueError(f"{host} is not a loopback address; the sandbox records keys, so allow it explicitly")
            sockets.append(stack.enter_context(_tcp(host, port)))
        if unix_path is not None:
            sockets.append(stack.enter_context(_unix(Path(unix_path))))
        if not sockets:
            raise ValueError("the sandbox needs a port or a socket path")
        sandbox = create(options)
        stack.callback(sandbox.close)
        sys.stdout.write("".join(f"elkapi sandbox listens on {_shown(listening)}\n" for listening in sockets))
        sys.stdout.flush()
        _Server(_config(sandbox)).run(sockets=sockets)


class Running:
    """A running sandbox; `base_url` has no trailing slash (the OpenAI SDK needs `base_url + "/v1"`)."""

    def __init__(self, sandbox: Sandbox, base_url: str) -> None:
        self.sandbox = sandbox
        self.base_url = base_url


class _Server(Server):
    """Ends without a pause if no connection is open."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which first sleeps for 0.1 s."""
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # Idle connections close in this turn of the loop.
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()


@contextlib.contextmanager
def running(options: Options | None = None) -> Iterator[Running]:
    """A sandbox on a free loopback port, served from its own thread until the block ends."""
    with _tcp(HOST, 0) as listening:
        sandbox = create(options)
        server = _Server(_config(sandbox))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="sandbox", daemon=True)
        thread.start()
        try:
            # The socket already listens: connections wait in its backlog until the loop runs.
            yield Running(sandbox, f"http://{HOST}:{listening.getsockname()[1]}")
        finally:
            server.stop()
            thread.join()
            sandbox.close()


def _config(sandbox: Sandbox) -> uvicorn.Config:
    return uvicorn.Config(
        sandbox,
        http=WireProtocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG_CONNECTIONS)


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket that only its owner may open; a stale one is replaced. Raises FileExistsError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise FileExistsError(f"{path} is in use")
        path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        listening.listen(BACKLOG_CONNECTIONS)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _shown(listening: socket.socket) -> str:
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
