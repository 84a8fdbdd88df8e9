"""Streams: a provider's frames, and every fault that acts on frames; `deliver` sends them.

A provider builds its stream as a list of `Frame`s in its own format and returns it with `stream_answer`:

    frames = [Frame(b'data: {"role":...}\\n\\n', "setup"),
              Frame(b'data: {"content":"Hi"}\\n\\n', "content", output_tokens=1),
              Frame(b'data: {"finish":"stop"}\\n\\n', "terminal"),
              Frame(b'data: {"usage":...}\\n\\n', "usage"),
              Frame(b"data: [DONE]\\n\\n", "terminal")]
    return stream_answer(frames, error=b'data: {"error":...}\\n\\n', charge_at=lambda output_tokens: ...)

Marks: `setup` is before any content (message_start, role, empty block starts), `content` has output, `usage` has only
usage (`no-usage` omits it; the provider omits usage inside other frames, by `request.faults.shown_tokens`), `terminal`
is from the finish reason on. `output_tokens` is what a frame adds to the output. Over all frames it must add up to the
whole usage (hidden reasoning counts with the first frame after it), since the bill of a stream that was cut or left is
`charge_at` of the frames written to the socket. `error` is the frame this provider sends if it fails inside a stream;
it may quote `request.faults.code`.

Extents (`cut-after=3`, ...) count frames, and `slow-drip` and `pace` wait before each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from elkapi.sandbox.faults import Extent, Faults
from elkapi.sandbox.messages import Answer, Charge, Frame, Headers, Mark, Stream

COMMENT = b": the sandbox is still at work\n\n"
SSE = "text/event-stream"
SSE_HEADERS: Headers = ((b"cache-control", b"no-cache"),)


def stream_answer(
    frames: Sequence[Frame],
    *,
    error: bytes,
    charge_at: Callable[[int], Charge | None],
    charge: Charge | None = None,
    media_type: str = SSE,
    headers: Headers = SSE_HEADERS,
) -> Answer:
    """A streamed answer. `charge_at` returns the charge for a number of output tokens; `charge` is only for `dress`."""
    stream = Stream(tuple(frames), error, charge_at)
    pieces = tuple(frame.data for frame in frames)
    return Answer(200, pieces, media_type, headers, charge or charge_at(output_tokens(frames)), stream)


def output_tokens(frames: Iterable[Frame]) -> int:
    """The sum of the frames' output tokens."""
    return sum(frame.output_tokens for frame in frames)


def under_faults(stream: Stream, faults: Faults, media_type: str = SSE) -> Iterator[Frame]:
    """The frames to send; never ends for `endless`. If a fault stops the stream, the last one is marked `stop`."""
    frames: Iterable[Frame] = _shortened(stream, faults)
    if faults.endless:
        frames = _endless(list(frames))
    if faults.invalid_json:
        frames = _halved(frames)
    if faults.error_before or faults.error_after is not None:
        frames = _failing(frames, Frame(stream.error, "error"), faults.error_after or 0)
    if faults.comments and media_type == SSE:
        frames = _commented(frames)
    if faults.split_bytes is not None:
        frames = _split(frames, faults.split_bytes)
    return _portion(frames, stop_extent(faults))


def stop_extent(faults: Faults) -> Extent | None:
    """Where a fault stops the body without ending it, or None."""
    if faults.hang_after_headers:
        return Extent(0, is_bytes=False)
    return faults.stall_after or faults.cut_after or faults.reset_after


def _shortened(stream: Stream, faults: Faults) -> list[Frame]:
    """The frames without usage or without the end, as the faults say."""
    frames = [frame for frame in stream.frames if not (faults.no_usage and frame.mark == "usage")]
    if faults.truncated is None:
        return frames
    if faults.truncated:
        return frames[: -faults.truncated]
    return list(itertools.takewhile(lambda frame: frame.mark != "terminal", frames))


def _endless(frames: list[Frame]) -> Iterator[Frame]:
    """Everything before the end, then the first content frame (without any, the first frame) repeated forever."""
    end = next((index for index, frame in enumerate(frames) if frame.mark == "terminal"), len(frames))
    repeated = next((frame for frame in frames[:end] if frame.mark == "content"), frames[0])
    return itertools.chain(frames[:end], itertools.repeat(repeated))


def _halved(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames with the first content frame's data cut in half, but still ended by a blank line."""
    whole = True
    for frame in frames:
        if whole and frame.mark == "content":
            whole = False
            frame = msgspec.structs.replace(frame, data=frame.data[: len(frame.data) // 2] + b"\n\n")
        yield frame


def _failing(frames: Iterable[Frame], error: Frame, contents: int) -> Iterator[Frame]:
    """The frames up to `contents` content frames, then the error instead of the rest."""
    for frame in frames:
        if frame.mark == "content":
            if not contents:
                break
            contents -= 1
        elif frame.mark == "terminal":
            break
        yield frame
    yield error


def _commented(frames: Iterable[Frame]) -> Iterator[Frame]:
    for frame in frames:
        yield msgspec.structs.replace(frame, data=COMMENT + frame.data)


def _split(frames: Iterable[Frame], size_bytes: int) -> Iterator[Frame]:
    """The same bytes in pieces of `size_bytes`, ignoring frame boundaries; tokens count with a frame's last byte."""
    held, tokens = b"", 0
    mark: Mark = "terminal"
    for frame in frames:
        held, tokens, mark = held + frame.data, tokens + frame.output_tokens, frame.mark
        while len(held) >= size_bytes:
            counted = tokens if len(held) - size_bytes < size_bytes else 0
            yield Frame(held[:size_bytes], frame.mark, counted)
            held, tokens = held[size_bytes:], tokens - counted
    if held or tokens:
        yield Frame(held, mark, tokens)


def _portion(frames: Iterable[Frame], extent: Extent | None) -> Iterator[Frame]:
    """The frames up to an extent, then, if there were more, an empty frame marked `stop`."""
    if extent is None:
        yield from frames
        return
    room = extent.count
    for frame in frames:
        size = len(frame.data) if extent.is_bytes else 1
        if size > room:
            if extent.is_bytes and room:
                yield Frame(frame.data[:room], frame.mark)
            yield Frame(b"", "stop")
            return
        yield frame
        room -= size
