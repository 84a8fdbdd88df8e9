"""Scripted raw peers and a clock that moves only when told, for the tests of the upstream client."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import trustme

from elkapi.upstream import Origin, UpstreamClient, UpstreamRequest

BIG = 1 << 30
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ManualTimers:
    """`Timers` for tests: `advance` moves the clock and runs what became due, in order."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None], list[bool]]] = []
        self._order = itertools.count()

    def monotonic_s(self) -> float:
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> _Handle:
        cancelled: list[bool] = []
        heapq.heappush(self._heap, (when_s, next(self._order), callback, cancelled))
        return _Handle(cancelled)

    def advance(self, seconds: float) -> None:
        until_s = self._now_s + seconds
        while self._heap and self._heap[0][0] <= until_s:
            when_s, _, callback, cancelled = heapq.heappop(self._heap)
            self._now_s = max(self._now_s, when_s)
            if not cancelled:
                callback()
        self._now_s = until_s


class _Handle:
    def __init__(self, cancelled: list[bool]) -> None:
        self._cancelled = cancelled

    def cancel(self) -> None:
        self._cancelled.append(True)


class Stream:
    """One accepted connection, as a script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, head and body as they came; raises IncompleteReadError at the end of the connection."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                body += await self.reader.readuntil(b"\r\n")
            return head + body
        if b"content-length: " in lower:
            size = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(size)
        return head

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SOL_SOCKET, SO_LINGER: on, 0 s.
        self.writer.transport.abort()


Script = Callable[[Stream], Awaitable[None]]
# What the fixtures of these names are (conftest.py); each takes what its function there does.
Serve = Callable[..., Awaitable["Peer"]]
MakeClient = Callable[..., UpstreamClient]
Ask = Callable[..., UpstreamRequest]
Trusting = Callable[[], ssl.SSLContext]


class Peer:
    """A server that runs `script` for each connection, then closes it unless `keep_open` is set."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.requests: list[bytes] = []
        self.origin = Origin.parse("http://127.0.0.1:1")
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, *, unix_path: str | None = None, tls: Any = None) -> Peer:
        if unix_path is not None:
            self._server = await asyncio.start_unix_server(self._accept, unix_path)
            self.origin = Origin.parse(f"unix://{unix_path}")
            return self
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        port = self._server.sockets[0].getsockname()[1]
        scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        self.origin = Origin.parse(f"{scheme}://{host}:{port}", allow_private=True)
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._run(Stream(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: Stream) -> None:
        try:
            await self.script(stream)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client went away, which many of these tests are about.
        finally:
            stream.writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            # CPython 3.11's own loop trips over abort() on a transport that a flush has closed meanwhile.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)


def answering(*replies: bytes, then: Script | None = None) -> Script:
    """A script that gives the n-th reply to the n-th request of a connection and repeats the last one."""

    async def script(stream: Stream) -> None:
        count = 0
        while True:
            await stream.request()
            await stream.write(replies[min(count, len(replies) - 1)])
            count += 1
            if then is not None:
                await then(stream)
                return

    return script


async def closing(stream: Stream) -> None:
    stream.writer.close()


def taking(got: list[bytes]) -> Callable[[bytes], bool]:
    """A taker of a poured body that is always ready for more."""

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        return True

    return take


async def body_of(client: UpstreamClient, request: UpstreamRequest) -> bytes:
    reply = await client.send(request)
    data, complete = await reply.read(BIG)
    assert complete
    return data


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a peer with this certificate speaks TLS by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
