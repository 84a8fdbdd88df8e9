"""The sink of a background response's answer: a log that any number of callers follow, instead of a socket.

It is the `relay.call.Reply` of the call that makes the answer. Frames are numbered from 0; whoever stores them counts
which are in the tables.
"""

from __future__ import annotations

import asyncio

import msgspec

from elkapi.errors import NOT_JSON, UpstreamError
from elkapi.relay.call import Headers
from elkapi.translate.sse import SseDecoder


class _Numbered(msgspec.Struct):
    sequence_number: int | None = None


_numbered = msgspec.json.Decoder(_Numbered)


def sequence_of(data: bytes, otherwise: int) -> int:
    """The sequence number of an event; `otherwise` if it has none."""
    try:
        said = _numbered.decode(data).sequence_number
    except NOT_JSON:
        said = None
    return otherwise if said is None else said


class FrameLog:
    """The frames of a stream so far. `blank` is the response object before the answer."""

    def __init__(self, blank: bytes, bytes_max: int) -> None:
        self.started = False
        self.common = b""
        self.blank = blank
        self.frames: list[bytes] = []
        self.size_bytes = 0
        self.kept = 0
        self.ended = False
        self._decoder = SseDecoder()
        self._left_bytes = bytes_max
        self._changed = asyncio.Event()

    # Written by the call that makes the answer

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer is read from the tables; a stream may also arrive whole."""
        if body[:1] != b"{":
            self._add(body)
        self.end()

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        self.started = True

    def put(self, chunk: bytes) -> None:
        """Append frames. Raises UpstreamError beyond the size that is kept of an answer."""
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise UpstreamError("The answer is too large for a background response.")
        self._add(chunk)

    async def write(self, chunk: bytes) -> None:
        """As `put`: a log is never slow."""
        self.put(chunk)

    def push(self, chunk: bytes) -> None:
        """Ignored: each follower sends its own keep-alive frames."""

    def finish(self, chunk: bytes = b"") -> None:
        """The last frames are always appended: their content is settled and stored by now."""
        if chunk:
            self._add(chunk)
        self.end()

    def abort(self) -> None:
        self.end()

    def end(self) -> None:
        """Mark the end of the log."""
        self.ended = True
        self._wake()

    def _add(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        fresh = [frame.raw for frame in self._decoder.feed(chunk) if frame.data is not None]
        if fresh:
            self.frames += fresh
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Read by followers and by the storing of frames

    async def more(self, seen: int) -> list[bytes]:
        """The frames after the first `seen`; waits for the next one, and is empty at the end."""
        while len(self.frames) <= seen and not self.ended:
            await self._changed.wait()
        return self.frames[seen:]

    def unkept(self, last: bytes = b"") -> tuple[int, bytes] | None:
        """(number of the first, bytes) of the frames that are not stored yet, with the `last` ones still to come."""
        piece = b"".join(self.frames[self.kept :]) + last
        return (self.kept, piece) if piece else None
