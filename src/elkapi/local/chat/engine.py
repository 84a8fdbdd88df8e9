"""The runtime (xllamacpp, which wraps llama.cpp) behind two calls: write an answer, count a prompt's tokens.

It hides two quirks: the runtime always listens, so it gets its own unix socket, which counting uses; and it logs every
call to standard error and hangs if that is an unread pipe, so its log is off.
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

# Prompt tokens per batch: between batches a caller who left is noticed (about 0.4 s on one core).
BATCH_TOKENS = 64
HTTP_THREADS = 2
COUNT_S = 10.0
SILENT = -1

OnChunk = Callable[[bytes], bool]


class EngineRefused(Exception):
    """The runtime refuses this request; the message is for the caller."""


class ChatEngine(Protocol):
    """The server's interface to a runtime. `write` and `count` block and are thread-safe."""

    def write(self, body: bytes, on_chunk: OnChunk) -> None:
        """Pass each chunk (one JSON object) to `on_chunk` until the answer ends or `on_chunk` returns True.

        Raises EngineRefused.
        """

    def count(self, messages: list[dict[str, str]]) -> int:
        """The number of tokens of the prompt as the model reads it."""

    def close(self) -> None:
        """Stop the runtime; no call may be running."""


class LlamaEngine:
    """A loaded model with `slots` answers at once, each of `window` tokens."""

    def __init__(self, row: ChatRow, path: Path, own_socket: str, window: int, slots: int, threads: int) -> None:
        """Check the weights' hash and load them; raises ModelUnusable, WeightsRefused and RuntimeError."""
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
        # As the runtime does for an answer: the template's markers are special tokens.
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
    """Block signals while the runtime starts, so that its threads never receive one, and make its files private."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
