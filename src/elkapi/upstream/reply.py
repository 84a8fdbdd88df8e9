"""A reply as the caller reads it: the head, then the body as it arrives; the socket is in `connection`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from elkapi.upstream.errors import Cut

Headers = list[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]
# Whether more is wanted; an awaitable means yes, after it is done.
More = bool | Awaitable[None]
Take = Callable[[bytes], More]


class UpstreamReply:
    """A reply whose head is complete; its body is read once, in order.

    `headers` have lower-case names and keep order and repeats; `fields` are the same by name, with the first value of a
    repeated one. `reused` tells whether the connection was pooled. Iterating gives non-empty chunks as they arrive. Any
    wait raises the UpstreamFailure that ended the reply, after the bytes before it were returned. A reply that is not
    read to its end must be closed with `cancel()` or `aclose()`.
    """

    __slots__ = ("_rest", "fields", "headers", "reused", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.fields: Fields = {}
        self.reused = False
        self._rest = b""

    def header(self, *names: bytes) -> bytes | None:
        """The first value of the first of these headers that is present; names in lower case."""
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
        """Pass every further chunk to `take` as it arrives, until it wants no more or the body ends properly.

        Raises what `take` raises, and what any other wait raises.
        """
        while chunk := await self.next_chunk():
            more = take(chunk)
            if more is False:
                return
            if more is not True:
                await more

    async def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """(bytes, complete): the rest of the body, at most `limit_bytes` of it.

        If `complete` is False the body continues and can still be read; nothing read is lost.
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
        """Close the connection now unless the reply is complete; idempotent, never blocks."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """The same as `cancel`, for use as a context and for transports that wait for the peer."""
        self.cancel()


class Wire(Protocol):
    """The reply's interface to its connection."""

    loop: asyncio.AbstractEventLoop

    def resume_reply(self, reply: SocketReply) -> None: ...

    def drop_reply(self, reply: SocketReply) -> None: ...


class SocketReply(UpstreamReply):
    """A reply of our own HTTP/1.1 connection, which calls `give_*`, `wake` and `end*`; none of those blocks.

    Bytes are collected and returned joined, so a slow reader makes few large writes instead of many small ones.
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
        self.status = 0  # Not through super(), because this runs for every call.
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

    def head(self) -> asyncio.Future[None]:
        """Done when status and headers have arrived; raises the failure that came instead."""
        waiter = self._wait()
        if self.status or self._failure is not None:
            self._answer(waiter)
        return waiter

    def _answer(self, waiter: asyncio.Future[None]) -> None:
        if self.status == 0 and self._failure is not None:
            waiter.set_exception(self._failure)
        else:
            waiter.set_result(None)

    async def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        if not self._ended or self._rest or self.buffered_bytes > limit_bytes:
            return await super().read(limit_bytes)
        # The common case: everything is here already.
        chunks, self._chunks = self._chunks, []
        self.buffered_bytes = 0
        return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), True

    async def pour(self, take: Take) -> None:
        """As above. While `take` keeps up it is called where the bytes arrive, without a loop iteration for each."""
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
        """Take out everything received so far."""
        chunks = self._chunks
        self._chunks = []
        self.buffered_bytes = 0
        # Called even while nothing is paused: it only compares a flag.
        self._wire.resume_reply(self)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _wait(self) -> asyncio.Future[None]:
        """Not a coroutine, because each coroutine between a caller and its future costs time on every resumption."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two readers of one reply")
        self._waiter = waiter = self._wire.loop.create_future()
        return waiter

    def wake(self) -> None:
        """Wake the reader; the connection calls it once for everything that one segment brought."""
        if self._take is not None and self._chunks:
            try:
                self._more = self._take(self._joined())
            except Exception as error:  # The reader's own error, raised where it waits.
                self._more = error
            if self._more is True and self._failure is None:
                return
            self._take = None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._answer(waiter)

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
