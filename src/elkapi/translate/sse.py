"""Server-sent events without I/O: bytes in any cut -> whole frames; it owns framing and leaves meaning to the dialects.

Format: the WHATWG event stream. A frame's bytes are kept as they came, so a relayed frame is relayed unchanged; only a
byte order mark is left out, after which some SDKs do not know the first event for one. What is no event by that format,
but the body of an error, is read as one: some servers break a stream off with what they answer other calls.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8

import msgspec

# A response tells again in its last event all that it made, pictures too.
FRAME_BYTES_MAX = 32 * 1024 * 1024
# Two line ends, neither of them half of one. A CR at the very end may be half.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r(?!\Z))")
_BLANK_LINE_BYTES_MAX = 4
# What may stand around the object of an error: Google's servers write an array of it, also where they refuse a call of
# OpenAI's form.
AROUND = b"[], \t\r\n"


class FrameTooLarge(Exception):
    """One frame is longer than FRAME_BYTES_MAX; the stream cannot be relayed in constant memory."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """`raw` with its blank line; `event` is the event line's value or b"", `data` the data lines joined by newlines.

    A frame of comments alone has `data` None.
    """

    raw: bytes
    event: bytes
    data: bytes | None


class SseDecoder:
    """Feed pieces, get whole frames. Line ends may be LF, CRLF or CR; a frame ends at a blank line."""

    __slots__ = ("_has_cr", "_pending", "_searched")

    def __init__(self) -> None:
        # A long frame grows where it is, and is searched once: neither is done anew with each of its pieces.
        self._pending = bytearray()
        self._searched = 0  # So far `_pending` ends no frame.
        self._has_cr = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes. Raises FrameTooLarge."""
        pending: bytes | bytearray = chunk
        if self._pending:
            pending = self._pending
            pending += chunk
        has_cr = self._has_cr or b"\r" in chunk
        frames: list[Frame] = []
        start, search = 0, self._searched
        # The common case first: LF only, one search a frame.
        if not has_cr:
            while (end := pending.find(b"\n\n", search)) >= 0:
                frames.append(_frame(bytes(pending[start : end + 2])))
                start = search = end + 2
        else:
            while (blank := _BLANK_LINE.search(pending, search)) is not None:
                frames.append(_frame(bytes(pending[start : blank.end()])))
                start = search = blank.end()
        if pending is chunk and start == len(chunk):
            return frames  # Nothing was there before, and nothing is left.
        if start or pending is chunk:
            self._pending = bytearray(pending[start:])
            has_cr = has_cr and b"\r" in self._pending
        self._has_cr = has_cr
        self._searched = max(0, len(self._pending) - _BLANK_LINE_BYTES_MAX + 1)
        if len(self._pending) > FRAME_BYTES_MAX:
            raise FrameTooLarge
        return frames

    def close(self) -> list[Frame]:
        """The last frame when the stream ended without its blank line (some upstreams do that after `[DONE]`)."""
        rest, self._pending, self._searched, self._has_cr = bytes(self._pending), bytearray(), 0, False
        return [_frame(rest + b"\n\n")] if rest.strip() else []


def _frame(raw: bytes) -> Frame:
    # `data: {...}\n\n` alone, as most streams send it.
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
