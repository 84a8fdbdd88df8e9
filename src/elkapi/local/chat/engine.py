"""The runtime (xllamacpp, llama.cpp inside) behind two calls: write an answer, count a prompt. It owns its quirks.

Quirks it keeps from the rest: the runtime always listens somewhere, so it gets a unix socket of its own, which counting
uses; it logs every call to standard error, and stops for ever when that is a pipe nobody reads, so it is kept silent.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from elkapi.local.chat.rows import ChatRow
from elkapi.local.models import check_file

# Tokens read at once: after each such batch a caller who left is noticed (about 0.4 s on one core).
BATCH_TOKENS = 64
HTTP_THREADS = 2
COUNT_S = 10.0
SILENT = -1

OnChunk = Callable[[bytes], bool]


class EngineRefused(Exception):
    """The runtime does not take this request; its words are for the caller."""


class ChatEngine(Protocol):
    """What the server needs of a runtime. Both calls block, and may be made from several threads at once."""

    def write(self, body: bytes, on_chunk: OnChunk) -> None:
        """Hands each chunk (one JSON object) to `on_chunk` until the answer ends or that answers True.

        Raises EngineRefused.
        """

    def count(self, messages: list[dict[str, str]]) -> int:
        """The tokens of a prompt as the model would read it."""

    def close(self) -> None:
        """Ends the runtime; no call may be under way."""


class LlamaEngine:
    """A loaded model with `slots` answers at once, each of `window` tokens."""

    def __init__(self, row: ChatRow, path: Path, own_socket: str, window: int, slots: int, threads: int) -> None:
        """Checks the weights' hash, then loads them; raises ModelUnusable, WeightsRefused and RuntimeError."""
        check_file(path, row.weights_sha256)
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {row.id}
        params.n_ctx = window * slots
        params.n_parallel = slots
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_threads_http = HTTP_THREADS
        params.hostnames = [own_socket]
        params.verbosity = SILENT
        params.cache_ram_mib = 0
        params.warmup = params.fit_params = params.ui = params.ctx_shift = False
        params.endpoint_slots = False
        self._own_socket = own_socket
        Path(own_socket).unlink(missing_ok=True)
        with _signals_held():
            self._server: Any = xllamacpp.Server(params)

    def write(self, body: bytes, on_chunk: OnChunk) -> None:
        try:
            self._server.handle_chat_completions(body, on_chunk)
        except ValueError as error:
            raise EngineRefused(str(error)) from None

    def count(self, messages: list[dict[str, str]]) -> int:
        prompt = self._ask("/apply-template", {"messages": messages})["prompt"]
        # As the runtime does it on the way to an answer: the template's own marks are tokens of their own.
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", asked)["tokens"])

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection("localhost", timeout=COUNT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(COUNT_S)
            connection.sock.connect(self._own_socket)
            connection.request("POST", path, msgspec.json.encode(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise EngineRefused(f"the runtime answered {answer.status} to {path}")
            return msgspec.json.decode(content)

    def close(self) -> None:
        self._server = None
        Path(self._own_socket).unlink(missing_ok=True)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait while the runtime starts, and none of its threads ever takes one; its files are for this user."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
