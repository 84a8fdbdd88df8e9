"""The model process: HTTP/1.1 on a unix socket in the OpenAI dialect, for the gateway only.

It owns the process (socket, threads, drain) and the HTTP handling; `embeddings` validates, `lanes` queues and `engine`
runs the model. Routes: `POST /v1/embeddings`, `GET /v1/models`, `GET /healthz` and the private
`POST /v1/tokenize/count`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from elkapi.errors import GatewayError, Unavailable
from elkapi.local import embeddings
from elkapi.local.batcher import Limits, QueueFull
from elkapi.local.engine import Engine, load_engines
from elkapi.local.lanes import InferenceFailed, Lanes
from elkapi.local.listening import listen
from elkapi.local.models import ModelUnusable
from elkapi.local.serving import (
    EXIT_NO_MODEL,
    Bodies,
    Gone,
    Overloaded,
    Receive,
    Scope,
    Send,
    find_handler,
    send_whole,
    serve,
    unless_gone,
    write_error,
)
from elkapi.local.vocabulary import VocabularyUnusable
from elkapi.observe.process import run_loop, usable_cores

log = logging.getLogger("elkapi.local")

BODY_BYTES_MAX = 32 * 1024 * 1024
# Bodies being received, parsed and tokenized at once; further calls are refused with a retry time.
BODY_BYTES_IN_FLIGHT_MAX = 64 * 1024 * 1024
# Smaller work runs on the event loop: switching threads takes longer (about 70 us).
INLINE_BODY_BYTES_MAX = 2048
INLINE_VECTORS_MAX = 8
TEXT_THREADS = 2

T = TypeVar("T")


class ModelApp:
    """The ASGI application over loaded engines; `close` ends its threads."""

    def __init__(self, engines: dict[str, Engine], lanes: int, limits: Limits | None = None) -> None:
        self._engines = engines
        self._lanes = {
            name: Lanes(engine, engine.row.dimensions, limits or Limits(), lanes) for name, engine in engines.items()
        }
        self._text_pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")
        self._bodies = Bodies(BODY_BYTES_MAX, BODY_BYTES_IN_FLIGHT_MAX)
        self._models = embeddings.write_models(engines)
        self._routes: dict[str, tuple[str, Callable[[Receive], Awaitable[bytes]]]] = {
            "/v1/embeddings": ("POST", self._embeddings),
            "/v1/tokenize/count": ("POST", self._count),
            "/v1/models": ("GET", self._list_models),
            "/healthz": ("GET", self._health),
        }

    def close(self) -> None:
        """End the threads; waiting requests are not answered."""
        for lanes in self._lanes.values():
            lanes.close()
        self._text_pool.shutdown(cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the model process speaks http only, not {scope['type']}")
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            body, status = await self._answer(scope, receive), 200
        except Gone:
            return
        except GatewayError as error:
            body = write_error(error)
            status, headers = error.status, error.headers
        await send_whole(send, status, body, headers)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        handler = find_handler(self._routes, scope)
        try:
            return await handler(receive)
        except QueueFull as full:
            message = "Too many calls are waiting for the local model; please try again."
            raise Overloaded(message, retry_after_s=full.retry_after_s) from None
        except VocabularyUnusable as error:
            raise Unavailable(str(error), code="vocabulary_unavailable", retry_after_s=None) from None
        except InferenceFailed:
            raise GatewayError("The local model failed on this input.", code="local_inference_failed") from None
        except (GatewayError, Gone):
            raise
        except Exception:
            # Any fault ends only this attempt: the caller gets a clean 500, the log the traceback.
            log.exception("%s %s failed", scope["method"], scope["path"])
            raise GatewayError("The local model process failed on this request.") from None

    async def _embeddings(self, receive: Receive) -> bytes:
        async with self._bodies.received(receive) as body:
            request = await self._text_work(body, embeddings.read_embeddings, body)
            engine = embeddings.pick(self._engines, request.model)
            tokens = await self._text_work(body, embeddings.read_tokens, engine, request)
        vectors = await unless_gone(self._lanes[engine.row.id].embed(tokens), receive)
        count = sum(map(len, tokens))
        write = partial(embeddings.write_embeddings, engine.row.id, vectors, count, request.encoding_format)
        if len(tokens) <= INLINE_VECTORS_MAX:
            return write()
        return await asyncio.get_running_loop().run_in_executor(self._text_pool, write)

    async def _count(self, receive: Receive) -> bytes:
        async with self._bodies.received(receive) as body:
            request = embeddings.read_count(body)
            # The first use of a vocabulary loads it, so a count by vocabulary never runs on the event loop.
            inline = len(body) <= INLINE_BODY_BYTES_MAX and request.vocabulary is None
            work = partial(embeddings.count_tokens, self._engines, request)
            tokens = work() if inline else await asyncio.get_running_loop().run_in_executor(self._text_pool, work)
        return embeddings.write_count(tokens)

    async def _list_models(self, receive: Receive) -> bytes:
        return self._models

    async def _health(self, receive: Receive) -> bytes:
        """The status with the waiting texts and tokens, which show whether this process is the bottleneck."""
        queued = [lanes.queued() for lanes in self._lanes.values()]
        return embeddings.write_health(sum(texts for texts, _ in queued), sum(tokens for _, tokens in queued))

    async def _text_work(self, body: bytes, work: Callable[..., T], *args: Any) -> T:
        if len(body) <= INLINE_BODY_BYTES_MAX:
            return work(*args)
        return await asyncio.get_running_loop().run_in_executor(self._text_pool, partial(work, *args))


def lane_count(threads: int) -> int:
    """The number of threads that run the model: `threads`, or one per usable core if 0."""
    return threads or usable_cores()


def run(socket_path: str, threads: int = 0, models_dir: str = "") -> int:
    """Run the process; returns its exit code: 0 after a drain, 78 if no model can be used.

    An unusable model is logged and left out; the others are served.
    """
    started_s = time.monotonic()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        engines, refused = load_engines(models_dir, lane_count(threads))
    except ModelUnusable as error:
        engines, refused = {}, [error]
    for problem in refused:
        log.error("%s", problem)
    if not engines:
        log.error("no local model is usable")
        return EXIT_NO_MODEL
    app = ModelApp(engines, lane_count(threads))

    def ready() -> None:
        log.info("ready in %.2f s: %s on %s", time.monotonic() - started_s, ", ".join(engines), socket_path)

    try:
        run_loop(serve(app, listen(socket_path), ready))
    finally:
        app.close()
        with contextlib.suppress(FileNotFoundError):
            Path(socket_path).unlink()
    return 0
