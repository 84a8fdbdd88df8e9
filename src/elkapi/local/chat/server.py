"""The chat process: HTTP/1.1 on a unix socket in OpenAI's chat format, for the gateway only.

It owns the process and the HTTP handling; `request` validates, `slots` queues and `engine` generates.
Routes: `POST /v1/chat/completions`, `GET /v1/models`, `GET /healthz` and the private `POST /v1/chat/count`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from elkapi.errors import BadRequest, GatewayError, Unavailable
from elkapi.local.chat import answer
from elkapi.local.chat.engine import ChatEngine, EngineRefused, LlamaEngine
from elkapi.local.chat.request import ChatRequest, read_chat, read_count
from elkapi.local.chat.rows import BUNDLED_CHAT, ChatRow, locate_chat
from elkapi.local.chat.slots import EngineFailed, Generation, Slots
from elkapi.local.listening import listen
from elkapi.local.models import ModelUnusable
from elkapi.local.serving import (
    DRAIN_S,
    Bodies,
    Gone,
    Receive,
    Scope,
    Send,
    Server,
    find_handler,
    send_whole,
    serve,
    unless_gone,
    write_error,
)
from elkapi.observe.process import run_loop, usable_cores

log = logging.getLogger("elkapi.local")
T = TypeVar("T")

BODY_BYTES_MAX = 4 * 1024 * 1024
BODY_BYTES_IN_FLIGHT_MAX = 16 * 1024 * 1024
# Even on a busy machine a batch of tokens takes well below a second, compiling the largest schema a few.
STALL_S = 60.0
TICK_S = 1.0
EXIT_STALLED = 70
# The chat process yields to everything else on the machine, embeddings above all.
NICE = 10

EVENTS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class ChatLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`window` is the prompt and answer together, in tokens; with `idle_s` 0 an idle process never ends."""

    window: int = 4096
    slots: int = 2
    queue_max: int = 16
    threads: int = 0
    memory_bytes_max: int = 1024 * 1024 * 1024
    idle_s: float = 0.0


class ChatApp:
    """The ASGI application over one engine; without one, every call fails with the reason."""

    def __init__(self, engine: ChatEngine | None, row: ChatRow, limits: ChatLimits, unusable: str = "") -> None:
        self._engine = engine
        self._row = row
        self._limits = limits
        self._unusable = unusable
        self._bodies = Bodies(BODY_BYTES_MAX, BODY_BYTES_IN_FLIGHT_MAX)
        self.slots = Slots(engine, limits.slots, limits.queue_max) if engine is not None else None
        self._routes: dict[str, tuple[str, Callable[[Receive, Send], Awaitable[None]]]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/chat/count": ("POST", self._count),
            "/v1/models": ("GET", self._list_models),
            "/healthz": ("GET", self._health),
        }

    def close(self) -> None:
        """Stop running answers and the runtime."""
        if self.slots is not None and self._engine is not None:
            self.slots.close()
            self._engine.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except Gone:
            return
        except GatewayError as error:
            body = write_error(error)
            await send_whole(send, error.status, body, error.headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = find_handler(self._routes, scope)
        try:
            await handler(receive, send)
        except (GatewayError, Gone):
            raise
        except Exception:
            # Any fault ends only this attempt: the caller gets a clean 500, the log the traceback.
            log.exception("%s %s failed", scope["method"], scope["path"])
            raise GatewayError("The local model process failed on this request.") from None

    async def _chat(self, receive: Receive, send: Send) -> None:
        request = await self._read(receive, lambda body: read_chat(body, self._row, self._limits.window))
        slots = self._usable()
        await unless_gone(slots.enter(), receive)
        head = answer.Head(f"chatcmpl-{secrets.token_hex(12)}", self._row.id, int(time.time()))
        with slots.run(request.body) as generation:
            leaving = asyncio.ensure_future(_leave_when_gone(generation, receive))
            try:
                if request.stream:
                    await self._stream(send, head, request, generation)
                else:
                    await self._whole(send, head, request, generation)
            finally:
                leaving.cancel()

    async def _whole(self, send: Send, head: answer.Head, request: ChatRequest, generation: Generation) -> None:
        texts: list[str] = []
        logprobs: list[answer.Token] = []
        finish, usage = "", None
        async for chunk in self._chunks(generation):
            for piece in answer.pieces(chunk, request.top_logprobs):
                texts.append(piece.text)
                logprobs += piece.logprobs
            finish = answer.finish_of(chunk) or finish
            usage = chunk.usage or usage
        if not finish or usage is None:
            raise _cut(generation)
        body = answer.whole(head, "".join(texts), logprobs or None, finish, usage)
        await send_whole(send, 200, body)

    async def _stream(self, send: Send, head: answer.Head, request: ChatRequest, generation: Generation) -> None:
        """Send one frame per chunk. Before the first chunk an error is a status, after it an event."""
        begun, ended = False, False
        usage: answer.Usage | None = None
        try:
            async for chunk in self._chunks(generation):
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
                    await _send_part(send, answer.opening_frame(head))
                    begun = True
                for piece in answer.pieces(chunk, request.top_logprobs):
                    await _send_part(send, answer.piece_frame(head, piece))
                if finish := answer.finish_of(chunk):
                    await _send_part(send, answer.closing_frame(head, finish))
                    ended = True
                usage = chunk.usage or usage
            if not ended or usage is None:
                raise _cut(generation)
        except GatewayError as error:
            if not begun:
                raise
            body = write_error(error)
            await _send_part(send, b"data: " + body + b"\n\n", last=True)
            return
        if request.include_usage:
            await _send_part(send, answer.usage_frame(head, usage))
        await _send_part(send, answer.DONE, last=True)

    async def _chunks(self, generation: Generation) -> AsyncIterator[answer.Chunk]:
        """The runtime's chunks, decoded; its errors are raised as GatewayError."""
        try:
            async for raw in generation.chunks():
                chunk = answer.read_chunk(raw)
                if chunk.error is not None:
                    raise answer.refusal(chunk.error, self._row.id, self._limits.window)
                yield chunk
        except EngineRefused as error:
            raise BadRequest(f"The local model refused the request: {str(error)[:300]}") from None
        except EngineFailed:
            raise GatewayError("The local model failed on this input.", code="local_inference_failed") from None

    async def _count(self, receive: Receive, send: Send) -> None:
        messages = await self._read(receive, lambda body: read_count(body, self._row))
        self._usable()
        assert self._engine is not None
        # In the loop's default executor, since the runtime is called over its own socket.
        tokens = await asyncio.to_thread(self._engine.count, messages)
        await send_whole(send, 200, msgspec.json.encode({"input_tokens": tokens}))

    def _usable(self) -> Slots:
        if self.slots is None:
            raise Unavailable(self._unusable, code="local_model_unusable", retry_after_s=None)
        return self.slots

    async def _read(self, receive: Receive, read: Callable[[bytes], T]) -> T:
        async with self._bodies.received(receive) as body:
            return read(body)

    async def _list_models(self, receive: Receive, send: Send) -> None:
        row = self._row
        model = {
            "id": row.id,
            "object": "model",
            "created": row.created,
            "owned_by": row.owned_by,
            "context_length": self._limits.window,
            "license": row.licence,
        }
        await send_whole(send, 200, msgspec.json.encode({"object": "list", "data": [model]}))

    async def _health(self, receive: Receive, send: Send) -> None:
        """The status with the numbers of running answers and waiting callers."""
        running, waiting = (self.slots.running, self.slots.waiting) if self.slots is not None else (0, 0)
        state = {"status": "ok" if self.slots is not None else "unusable", "running": running, "waiting": waiting}
        await send_whole(send, 200, msgspec.json.encode(state))


def _cut(generation: Generation) -> Exception:
    """Why an answer is incomplete: its client left, or the runtime stopped without an end."""
    return (
        Gone()
        if generation.left
        else GatewayError("The local model stopped before the end of its answer.", code="local_inference_failed")
    )


async def _leave_when_gone(generation: Generation, receive: Receive) -> None:
    """Stop when the client leaves; after the body, that is the only message left."""
    await receive()
    generation.leave()


async def _send_part(send: Send, frame: bytes, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": not last})


def thread_count(threads: int) -> int:
    """The number of compute threads: `threads`, or half of the usable cores if 0, so that the others stay free."""
    return threads or max(1, usable_cores() // 2)


def run(socket_path: str, own_socket: str, limits: ChatLimits, listener: socket.socket | None = None) -> int:
    """Run the process; returns its exit code, 0 after a drain or after `idle_s` without a call.

    `listener` is passed by whoever starts this process on demand. An unusable model is logged and reported to callers;
    the process keeps running, since callers would otherwise wait for the next one.
    """
    started_s = time.monotonic()
    limits = msgspec.structs.replace(limits, window=BUNDLED_CHAT.window(limits.window))
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _be_small(limits)
    row = BUNDLED_CHAT
    engine, unusable = _engine(row, own_socket, limits)
    app = ChatApp(engine, row, limits, unusable)

    def ready() -> None:
        log.info("ready in %.2f s: %s on %s", time.monotonic() - started_s, row.id, socket_path)

    try:
        run_loop(_serve(app, listener or listen(socket_path), ready, limits))
    finally:
        app.close()
        if listener is None:
            with contextlib.suppress(FileNotFoundError):
                Path(socket_path).unlink()
    return 0


def _be_small(limits: ChatLimits) -> None:
    """Lower the priority and limit the memory of this process."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    if not limits.memory_bytes_max:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes_max, limits.memory_bytes_max))


def _engine(row: ChatRow, own_socket: str, limits: ChatLimits) -> tuple[ChatEngine | None, str]:
    """The loaded model, or None and the reason for callers; the operator's details are logged."""
    try:
        path = locate_chat(row)
        threads = thread_count(limits.threads)
        return LlamaEngine(row, path, own_socket, limits.window, limits.slots, threads), ""
    except (ModelUnusable, ImportError, RuntimeError, MemoryError) as error:
        log.error("the model %s cannot be used: %s", row.id, error)
        return (
            None,
            f"The local model {row.id} cannot be used on this machine; the operator finds the reason in the log.",
        )


async def _serve(app: ChatApp, listener: socket.socket, ready: Callable[[], None], limits: ChatLimits) -> None:
    servers: list[Server] = []
    ticking = asyncio.ensure_future(_look_after(app, limits, servers))
    try:
        await serve(app, listener, ready, DRAIN_S, servers.append)
    finally:
        ticking.cancel()


async def _look_after(app: ChatApp, limits: ChatLimits, servers: list[Server]) -> None:
    """End the process when it was idle for `idle_s`, and at once if the runtime is stalled."""
    born_s = time.monotonic()
    while True:
        await asyncio.sleep(TICK_S)
        slots = app.slots
        if slots is not None and slots.stalled(STALL_S):
            log.error("the runtime has made no progress for %.0f s; ending this process", STALL_S)
            # Not an orderly end: the thread that hangs in the runtime would never return.
            os._exit(EXIT_STALLED)
        idle_s = slots.idle_s() if slots is not None else time.monotonic() - born_s
        if limits.idle_s and idle_s > limits.idle_s:
            for server in servers:
                server.stop()
