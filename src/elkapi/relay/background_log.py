"""Where the answer of a background response goes: a log that any number of callers follow, in the place of a socket.

It is `relay.call.Reply` to the call that makes the answer. Frames are numbered from 0; what of them is in the tables
already is counted by whoever keeps them.
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
    """The sequence number of an event; `otherwise` where it says none."""
    try:
        said = _numbered.decode(data).sequence_number
    except NOT_JSON:
        said = None
    return otherwise if said is None else said


class FrameLog:
    """Frames of a stream as they come. `blank` is the response object before there is an answer."""

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

    # What the call that makes the answer does

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer is read from the tables; a stream may come whole too."""
        if body[:1] != b"{":
            self._add(body)
        self.end()

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        self.started = True

    def put(self, chunk: bytes) -> None:
        """Raises UpstreamError for more than is kept of an answer."""
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise UpstreamError("The answer is too large for a background response.")
        self._add(chunk)

    async def write(self, chunk: bytes) -> None:
        """As `put`: nobody here is slow."""
        self.put(chunk)

    def push(self, chunk: bytes) -> None:
        """Keep-alive frames are each follower's own."""

    def finish(self, chunk: bytes = b"") -> None:
        """The last frames are told in any case: what they say is settled by now, and kept."""
        if chunk:
            self._add(chunk)
        self.end()

    def abort(self) -> None:
        self.end()

    def end(self) -> None:
        """Nothing follows."""
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

    # What those who follow and keep it do

    async def more(self, seen: int) -> list[bytes]:
        """The frames after the first `seen`; waits for the next one, and is empty at the end."""
        while len(self.frames) <= seen and not self.ended:
            await self._changed.wait()
        return self.frames[seen:]

    def unkept(self, last: bytes = b"") -> tuple[int, bytes] | None:
        """(number of the first, bytes) of the frames that are not in the tables yet, with the `last` ones to come."""
        piece = b"".join(self.frames[self.kept :]) + last
        return (self.kept, piece) if piece else None
