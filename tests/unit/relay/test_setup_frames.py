"""What comes before the first content of a stream is put together once a read, not once a frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from elkapi.relay.stream import _Stream
from elkapi.translate.sse import SseDecoder


class Piece(bytes):
    """Bytes that count how often something is made by adding them to other bytes."""

    added = 0

    def __radd__(self, before: bytes) -> bytes:
        Piece.added += 1
        return before + bytes(self)


class Crossing:
    """Content comes with the last frame."""

    failure = None
    ended = whole = content = spoken = False

    def feed(self, frame: Any) -> bytes:
        self.content = self.spoken = frame.data is not None
        return Piece(frame.raw)


async def test_many_empty_frames_before_the_first_content_are_joined_and_not_added_one_by_one() -> None:
    sent = b":\n\n" * 1000 + b"data: 1\n\n"

    async def next_chunk() -> bytes:
        return sent

    one = SimpleNamespace(judging=False, call=SimpleNamespace(reply=None), request=SimpleNamespace(body=b""))
    stream = _Stream(
        cast(Any, one), cast(Any, SimpleNamespace(next_chunk=next_chunk)), cast(Any, Crossing()), SseDecoder()
    )
    assert await stream.until_content() is None
    assert (stream.setup, Piece.added) == (sent, 0)
