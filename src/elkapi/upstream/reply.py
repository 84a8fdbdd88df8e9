"""What the caller holds while a reply arrives: the head, then the body as it comes; the socket is `connection`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from elkapi.upstream.errors import Cut

Headers = list[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]
# Whether more is wanted; an awaitable says yes, after it.
More = bool | Awaitable[None]
Take = Callable[[bytes], More]


class UpstreamReply:
    """A reply whose head is complete; its body is read once, in order.

    `headers` have lower-case names and keep order and repeats; `fields` are the same by name, of a repeated one the
    first value. `reused` tells whether the connection was a pooled one.
    Iterating gives non-empty chunks as they come. Any wait raises the UpstreamFailure that ended the reply, after the
    bytes that came before it were given out. A reply that is not read to its end must be closed with `cancel()` or
    `aclose()`.
    """

    __slots__ = ("_rest", "fields", "headers", "reused", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.fields: Fields = {}
        self.reused = False
        self._rest = b""

    def header(self, *names: bytes) -> bytes | None:
        """The first value of the first of these headers that is there; names in lower case."""
        fields = self.fields
        for name in names:
            if (value := fields.get(name)) is not None:
                return value
        return None

    def __aiter__(self) -> UpstreamReply:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def next_chunk(self) -> bytes:
        """The next bytes of the body, at least one, or b"" at its proper end."""
        if self._rest:
            chunk, self._rest = self._rest, b""
            return chunk
        return await self._pull()

    async def pour(self, take: Take) -> None:
        """Give every further chunk to `take` as it comes, until it wants no more or the body ends properly.

        What it raises is raised here, as is what any other wait raises.
        """
        while chunk := await self.next_chunk():
            more = take(chunk)
            if more is False:
                return
            if more is not True:
                await more

    async def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """(bytes, complete): the rest of the body, at most `limit_bytes` of it.

        `complete` is False when the body goes on; what follows can still be read. Nothing read is lost.
        """
        parts: list[bytes] = []
        size = 0
        while chunk := await self.next_chunk():
            parts.append(chunk)
            size += len(chunk)
            if size > limit_bytes:
                data = b"".join(parts)
                self._rest = data[limit_bytes:]
                return data[:limit_bytes], False
        return (parts[0] if len(parts) == 1 else b"".join(parts)), True

    async def _pull(self) -> bytes:
        raise NotImplementedError

    def cancel(self) -> None:
        """Closes the connection now unless the reply is complete; idempotent, never blocks."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """The same as `cancel`, for `async with` habits and for transports that wait for the peer."""
        self.cancel()


class Wire(Protocol):
    """The connection, as its reply sees it."""

    loop: asyncio.AbstractEventLoop

    def resume_reply(self, reply: SocketReply) -> None: ...

    def drop_reply(self, reply: SocketReply) -> None: ...


class SocketReply(UpstreamReply):
    """A reply of our own HTTP/1.1 connection, which calls `give_*`, `wake` and `end*`; none of those blocks.

    Bytes are kept in a list and handed out joined: a slow reader then makes few large writes instead of many small.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_failure",
        "_more",
        "_take",
        "_waiter",
        "_wire",
        "buffered_bytes",
        "is_head",
    )

    def __init__(self, wire: Wire, is_head: bool) -> None:
        self.status = 0  # Not by super(): this runs for every call.
        self.headers = []
        self.fields = {}
        self.reused = False
        self._rest = b""
        self._wire = wire
        self._chunks: list[bytes] = []
        self._ended = False
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._more: More | Exception = True
        self.buffered_bytes = 0
        self.is_head = is_head

    async def head(self) -> None:
        """Returns when status and headers are there; raises the failure that came instead."""
        if self.status == 0 and self._failure is None:
            await self._wait()
        if self.status == 0 and self._failure is not None:
            raise self._failure

    async def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        if not self._ended or self._rest or self.buffered_bytes > limit_bytes:
            return await super().read(limit_bytes)
        # The common case: all of it is here already.
        chunks, self._chunks = self._chunks, []
        self.buffered_bytes = 0
        return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), True

    async def pour(self, take: Take) -> None:
        """As above; while `take` keeps up it is called where the bytes arrive, without a turn of the loop for each."""
        while True:
            if self._rest or self._chunks or self._failure is not None or self._ended:
                chunk = await self.next_chunk()
                if not chunk:
                    return
                more: More | Exception = take(chunk)
            else:
                self._take, self._more = take, True
                try:
                    await self._wait()
                finally:
                    self._take = None
                more = self._more
            if more is False:
                return
            if isinstance(more, Exception):
                raise more
            if more is not True:
                await more

    async def _pull(self) -> bytes:
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._wait()
        return self._joined()

    def _joined(self) -> bytes:
        """What has come so far, taken out."""
        chunks = self._chunks
        self._chunks = []
        self.buffered_bytes = 0
        # Asked also while nothing is paused: one call that compares a flag.
        self._wire.resume_reply(self)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _wait(self) -> asyncio.Future[None]:
        """A plain function on purpose: each coroutine between a caller and its future costs on every resumption."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two readers of one reply")
        self._waiter = waiter = self._wire.loop.create_future()
        return waiter

    def wake(self) -> None:
        """Let the reader see what came; the connection calls it once for all that one segment brought."""
        if self._take is not None and self._chunks:
            try:
                self._more = self._take(self._joined())
            except Exception as error:  # The reader's own, and raised where it waits.
                self._more = error
            if self._more is True and self._failure is None:
                return
            self._take = None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def give_head(self, status: int, headers: Headers, fields: Fields) -> None:
        self.status = status
        self.headers = headers
        self.fields = fields

    def give_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.buffered_bytes += len(chunk)

    def end(self) -> None:
        self._ended = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end_badly(self, failure: BaseException) -> None:
        self._failure = failure
        self.wake()

    @property
    def is_over(self) -> bool:
        return self._ended or self._failure is not None

    def cancel(self) -> None:
        if not self.is_over:
            self._failure = Cut("closed by the reader", phase="body", sent=True)
            self._wire.drop_reply(self)
            self._chunks.clear()
            self.wake()
