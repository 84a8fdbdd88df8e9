"""What every model process shares: its unix socket served by uvicorn, a request's body, and a caller who may leave."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

import msgspec
import uvicorn

from elkapi.errors import BodyTooLarge, MethodNotAllowed, NotFound, Unavailable

DRAIN_S = 30
EXIT_NO_MODEL = 78

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")


class Overloaded(Unavailable):
    """There is no room for another call now. Of this status the relay knows that the model is well and how long to
    wait, and says so to the caller with a 503; a bare 503 would be a model that is broken.
    """

    status, code = 529, "model_overloaded"


class Gone(Exception):
    """The client left before its answer."""


def find_handler(routes: Mapping[str, tuple[str, T]], scope: Scope) -> T:
    """Who answers this path and method; raises NotFound and MethodNotAllowed."""
    try:
        method, handler = routes[scope["path"]]
    except KeyError:
        raise NotFound(f"There is nothing at {scope['path']}.") from None
    if scope["method"] != method:
        raise MethodNotAllowed(f"Use {method} here.", (method,))
    return handler


async def read_body(receive: Receive, bytes_max: int, fits: Callable[[int], bool]) -> bytes:
    """The whole body; `fits(bytes)` says whether the process can hold that many now.

    Raises Gone, BodyTooLarge and Overloaded.
    """
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts += message.get("body", b"")
        if len(parts) > bytes_max:
            raise BodyTooLarge(f"The body is larger than {bytes_max} bytes.")
        if not fits(len(parts)):
            raise Overloaded("The local model process holds too many large requests.")
        if not message.get("more_body"):
            return bytes(parts)


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """The work's result; when the client leaves first, the work is cancelled and Gone raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


class Server(uvicorn.Server):
    """uvicorn's server, but it says when it listens, and a signal it drained for is not raised again at the end."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def serve(
    app: App,
    listener: socket.socket,
    on_ready: Callable[[], None],
    drain_s: int = DRAIN_S,
    on_server: Callable[[Server], None] = lambda _: None,
) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is under way for at most `drain_s` seconds.

    `on_server` is handed the server before it starts: setting its `should_exit` ends it like a signal.
    """
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=drain_s,
    )
    server = Server(config, on_ready)
    on_server(server)
    await server.serve(sockets=[listener])


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs the process's one coroutine, on uvloop where there is one."""
    if sys.platform == "win32":
        asyncio.run(main)
        return
    import uvloop

    uvloop.run(main)


def write_error(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """The OpenAI shape of an error."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code}})
