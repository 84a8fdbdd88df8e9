"""Shared by the model processes: uvicorn on a unix socket, bounded request bodies, and callers who leave."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar

import msgspec
import uvicorn

from elkapi.errors import BadRequest, BodyTooLarge, GatewayError, MethodNotAllowed, NotFound, Unavailable
from elkapi.observe import serving
from elkapi.translate.decode import told

DRAIN_S = 30
EXIT_NO_MODEL = 78
# Only the gateway's pool closes idle connections.
KEEP_ALIVE_S = 3600

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")


class Overloaded(Unavailable):
    """No capacity for another call. The relay turns this status into a 503 with a retry time for the caller; a plain
    503 would mean that the model is broken.
    """

    status, code = 529, "model_overloaded"


class Gone(Exception):
    """The client left before the answer."""


def find_handler(routes: Mapping[str, tuple[str, T]], scope: Scope) -> T:
    """The handler of this path and method; raises NotFound and MethodNotAllowed."""
    try:
        method, handler = routes[scope["path"]]
    except KeyError:
        raise NotFound(f"Nothing is served at {scope['path']}.") from None
    if scope["method"] != method:
        raise MethodNotAllowed(f"Use {method} here.", (method,))
    return handler


class Bodies:
    """Limits the bodies in memory: each to `bytes_max`, all together to `in_flight_bytes_max`."""

    def __init__(self, bytes_max: int, in_flight_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.in_flight_bytes_max = in_flight_bytes_max
        self._held_bytes = 0

    @contextlib.asynccontextmanager
    async def received(self, receive: Receive) -> AsyncIterator[bytes]:
        """A whole body, counted until the end of the block. Raises Gone, BodyTooLarge, Overloaded."""
        parts = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                piece = message.get("body", b"")
                parts += piece
                self._held_bytes += len(piece)
                if len(parts) > self.bytes_max:
                    raise BodyTooLarge(f"The body must be at most {self.bytes_max} bytes.")
                if self._held_bytes > self.in_flight_bytes_max:
                    raise Overloaded("Too many large requests are waiting for the local model; please try again.")
                if not message.get("more_body"):
                    break
            yield bytes(parts)
        finally:
            self._held_bytes -= len(parts)


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`; if the client leaves first, `work` is cancelled and Gone raised."""
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


async def send_whole(send: Send, status: int, body: bytes, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a whole JSON answer with `more` headers."""
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


class Server(serving.Server):
    """Calls `on_ready` when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


async def serve(
    app: App,
    listener: socket.socket,
    on_ready: Callable[[], None],
    drain_s: int = DRAIN_S,
    on_server: Callable[[Server], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish running calls for at most `drain_s` seconds.

    `on_server` receives the server before it starts: its `stop` ends it like a signal.
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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )
    server = Server(config, on_ready)
    on_server(server)
    await server.serve(sockets=[listener])


_PATH = re.compile(r"`\$\.([A-Za-z_]+)")
_MISSING = re.compile(r"missing required field `([A-Za-z_]+)`")


def unfit(error: msgspec.ValidationError, type_: Any) -> BadRequest:
    """The error for a body that is not a valid `type_`, naming the field."""
    found = _PATH.search(str(error)) or _MISSING.search(str(error))
    return BadRequest(told(error, type_), param=found.group(1) if found else None)


def write_error(error: GatewayError) -> bytes:
    """An error in OpenAI's format."""
    members = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": members})
