"""An upstream that gives every call the same answer, for failures that the sandbox has no fault for."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import msgspec


class Canned:
    """Answers each call with `status`, `kind` (content type) and `body`; closes the connection if `status` is 0.

    A call for a stream gets `frames` if there are any. Calls wait until `gate` is set. `squeeze` compresses the answers
    with gzip.
    """

    def __init__(self, status: int, body: object, frames: bytes = b"") -> None:
        self.status = status
        self.body = msgspec.json.encode(body)
        self.frames = frames
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: list[bytes] = []
        self.waiting = 0
        self.most_waiting = 0
        self.url = ""
        self.kind = b"application/json"
        self.extra = b""

    def squeeze(self) -> None:
        self.body = gzip.compress(self.body)
        self.extra = b"content-encoding: gzip\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                asked = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                self.bodies.append(asked)
                if not self.status:
                    break
                self.waiting += 1
                self.most_waiting = max(self.most_waiting, self.waiting)
                await self.gate.wait()
                self.waiting -= 1
                streamed = self.frames and (b'"stream":true' in asked or b"streamgenerate" in head)
                kind, body = (b"text/event-stream", self.frames) if streamed else (self.kind, self.body)
                writer.write(
                    b"HTTP/1.1 %d Canned\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b"
                    % (self.status, kind, len(body), self.extra, body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def canned(status: int, body: object = None, frames: bytes = b"") -> AsyncIterator[Canned]:
    """A canned upstream on a loopback port."""
    upstream = Canned(status, body, frames)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        upstream.gate.set()
        server.close()
