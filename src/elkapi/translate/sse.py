"""Decode server-sent events, in pieces of any size, into frames, without I/O; dialects interpret the frames.

Format: the WHATWG event stream. A frame keeps its bytes, so it can be relayed unchanged, except for a byte order mark,
which keeps some SDKs from recognizing the first event. The body of an error, which is not an event by that format, is
also accepted as one, since some servers abort a stream with it.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8

import msgspec

# The last event of a response repeats the whole object, including images.
FRAME_BYTES_MAX = 32 * 1024 * 1024
# Two complete line ends. A CR at the very end may be half of a CRLF.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r(?!\Z))")
_BLANK_LINE_BYTES_MAX = 4
# What may surround the object of an error: Google's servers send it in an array, even for calls in OpenAI's format.
AROUND = b"[], \t\r\n"


class FrameTooLarge(Exception):
    """One frame is longer than FRAME_BYTES_MAX; the stream cannot be relayed in constant memory."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event. `raw` includes the blank line; `event` is the event line's value or b"".

    `data` is the data lines joined by newlines, or None for a frame of only comments.
    """

    raw: bytes
    event: bytes
    data: bytes | None


class SseDecoder:
    """Splits bytes into frames. Line ends may be LF, CRLF or CR; a frame ends at a blank line."""

    __slots__ = ("_has_cr", "_pending", "_searched")

    def __init__(self) -> None:
        # A long frame grows in place and each byte is searched once, so that many small pieces stay linear.
        self._pending = bytearray()
        self._searched = 0  # Up to here `_pending` has no frame end.
        self._has_cr = False

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._pending

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes. Raises FrameTooLarge."""
        pending: bytes | bytearray = chunk
        if self._pending:
            pending = self._pending
            pending += chunk
        has_cr = self._has_cr or b"\r" in chunk
        frames: list[Frame] = []
        start, search = 0, self._searched
        # The common case: LF only, one search per frame.
        if not has_cr:
            while (end := pending.find(b"\n\n", search)) >= 0:
                frames.append(frame_of(bytes(pending[start : end + 2])))
                start = search = end + 2
        else:
            while (blank := _BLANK_LINE.search(pending, search)) is not None:
                frames.append(frame_of(bytes(pending[start : blank.end()])))
                start = search = blank.end()
        if pending is chunk and start == len(chunk):
            return frames  # Nothing was pending, and nothing is left.
        if start or pending is chunk:
            self._pending = bytearray(pending[start:])
            has_cr = has_cr and b"\r" in self._pending
        self._has_cr = has_cr
        self._searched = max(0, len(self._pending) - _BLANK_LINE_BYTES_MAX + 1)
        if len(self._pending) > FRAME_BYTES_MAX:
            raise FrameTooLarge
        return frames

    def close(self) -> list[Frame]:
        """The last frame if the stream ended without its blank line, as some upstreams do after `[DONE]`."""
        rest, self._pending, self._searched, self._has_cr = bytes(self._pending), bytearray(), 0, False
        return [frame_of(rest + b"\n\n")] if rest.strip() else []


def frame_of(raw: bytes) -> Frame:
    """One whole event, with its blank line."""
    # The common case: a single `data: {...}\n\n`.
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
        return Frame(raw, b"", raw[6:-2])
    raw = raw.removeprefix(BOM_UTF8)
    event = b""
    data: list[bytes] = []
    for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
    if not data and b'"error"' in raw and (bare := raw.strip(AROUND)).startswith(b"{"):
        return Frame(raw, event, bare)
    return Frame(raw, event, b"\n".join(data) if data else None)
