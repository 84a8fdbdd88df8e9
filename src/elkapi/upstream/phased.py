"""A reply pulled from another client library, held to our five deadlines; for the transports that are not our own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from elkapi.upstream.errors import Cut, FirstByteTimeout, IdleTimeout, TotalTimeout, UpstreamFailure
from elkapi.upstream.origin import Deadlines
from elkapi.upstream.reply import Headers, UpstreamReply
from elkapi.upstream.timers import Expired, Timers, run_until
from elkapi.upstream.wire import fields_of

T = TypeVar("T")
Translate = Callable[[Exception, str], UpstreamFailure]
"""(a foreign exception, our phase) -> ours."""


class PulledReply(UpstreamReply):
    """Backpressure is the library's: it reads from its socket only as far as its small buffer."""

    __slots__ = (
        "_close",
        "_deadlines",
        "_failure",
        "_over",
        "_phase",
        "_source",
        "_timers",
        "_total_at_s",
        "_translate",
    )

    def __init__(
        self,
        status: int,
        headers: Headers,
        source: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        translate: Translate,
        timers: Timers,
        deadlines: Deadlines,
        total_at_s: float,
    ) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.fields = fields_of(headers)
        self._source = source
        self._close = close
        self._translate = translate
        self._timers = timers
        self._deadlines = deadlines
        self._total_at_s = total_at_s
        self._phase = "first_byte"
        self._over = False
        self._failure: UpstreamFailure | None = None

    async def _pull(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._over:
            return b""
        wait_s = self._deadlines.first_byte_s if self._phase == "first_byte" else self._deadlines.idle_s
        phase_at_s = self._timers.monotonic_s() + wait_s
        try:
            chunk = await run_until(self._timers, min(phase_at_s, self._total_at_s), self._next())
        except Expired:
            failure = self._late()
        except UpstreamFailure as error:
            failure = error
        except Exception as error:
            failure = self._translate(error, self._phase)
            failure.__cause__ = error
        else:
            self._phase = "body"
            if not chunk:
                self._over = True
                await self._closed_quietly()
            return chunk
        self._over, self._failure = True, failure
        await self._closed_quietly()
        raise failure

    async def _next(self) -> bytes:
        async for chunk in self._source:
            if chunk:
                return chunk
        return b""

    def _late(self) -> UpstreamFailure:
        if self._timers.monotonic_s() >= self._total_at_s:
            return TotalTimeout("total_s passed", phase=self._phase, sent=True)
        kind = FirstByteTimeout if self._phase == "first_byte" else IdleTimeout
        return kind("the reply stands still", phase=self._phase, sent=True)

    def cancel(self) -> None:
        if self._given_up():
            # The libraries close asynchronously; the loop keeps the task until it has run.
            task = asyncio.ensure_future(self._closed_quietly())
            _closing.add(task)
            task.add_done_callback(_closing.discard)

    async def aclose(self) -> None:
        if self._given_up():
            await self._closed_quietly()

    def _given_up(self) -> bool:
        """Mark the reply as abandoned by its reader, which is no proper end; False if it was already over."""
        if self._over:
            return False
        self._over, self._failure = True, Cut("closed by the reader", phase=self._phase, sent=True)
        return True

    async def _closed_quietly(self) -> None:
        # The connection is closed either way, and the first failure is the one to report.
        with contextlib.suppress(Exception):
            await self._close()


_closing: set[asyncio.Future[None]] = set()


async def begun(timers: Timers, when_s: float, ask: Callable[[], Awaitable[T]], close: Callable[[T], object]) -> T:
    """The library's reply, by `when_s` (else Expired).

    A reply that arrives as its caller leaves, or as its time ends, is closed: nobody will read it, and the library's
    pool would count it for ever.
    """
    came: list[T] = []

    async def asked() -> T:
        came.append(reply := await ask())
        return reply

    try:
        return await run_until(timers, when_s, asked())
    except BaseException:
        for reply in came:
            with contextlib.suppress(Exception):
                if isinstance(closing := close(reply), Awaitable):
                    await closing
        raise
