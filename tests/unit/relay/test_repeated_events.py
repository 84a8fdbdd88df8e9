"""An event that repeats the one before passes like any other: it breaks a silence, and waits for a slow caller."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from elkapi.relay.stream import _Stream
from elkapi.translate.sse import SseDecoder

KNOWN, SWALLOWED, OTHER = b"data: known\n\n", b"data: kept back\n\n", b"data: other\n\n"


class Crossing:
    """Knows one event."""

    failure = None
    ended = ends_by_close = False

    def __init__(self) -> None:
        self.fed: list[bytes] = []

    def repeat(self, raw: bytes) -> bytes | None:
        return {KNOWN: b"known", SWALLOWED: b""}.get(raw)

    def feed(self, frame: Any) -> bytes:
        self.fed.append(frame.raw)
        return bytes(frame.raw)


class Out:
    """A caller who is slow or not."""

    def __init__(self) -> None:
        self.slow: asyncio.Future[None] | None = None
        self.got: list[bytes] = []

    def put(self, data: bytes) -> asyncio.Future[None] | None:
        self.got.append(data)
        return self.slow


def stream(crossing: Crossing, out: Out) -> _Stream:
    one = SimpleNamespace(judging=False, call=SimpleNamespace(reply=out), request=SimpleNamespace(body=b""))
    made = _Stream(cast(Any, one), cast(Any, None), cast(Any, crossing), SseDecoder())
    made.silence = cast(Any, SimpleNamespace(spoke=False))
    return made


async def test_a_known_event_is_neither_split_nor_read_and_breaks_the_silence() -> None:
    crossing, out = Crossing(), Out()
    running = stream(crossing, out)
    assert running._take(KNOWN) is True
    assert (out.got, crossing.fed, running.silence.spoke) == ([b"known"], [], True)
    assert running._take(OTHER) is True
    assert (out.got, crossing.fed) == ([b"known", OTHER], [OTHER])


async def test_a_known_event_of_which_the_caller_gets_nothing_yet_is_not_read_either() -> None:
    crossing, out = Crossing(), Out()
    running = stream(crossing, out)
    assert running._take(SWALLOWED) is True
    assert (out.got, crossing.fed, running.silence.spoke) == ([], [], False)


async def test_a_slow_caller_is_waited_for() -> None:
    out = Out()
    out.slow = asyncio.get_running_loop().create_future()
    assert stream(Crossing(), out)._take(KNOWN) is out.slow


async def test_bytes_behind_part_of_an_event_are_no_event() -> None:
    crossing, out = Crossing(), Out()
    running = stream(crossing, out)
    assert running._take(b": ") is True
    assert running._take(KNOWN) is True
    assert (out.got, crossing.fed) == ([b": " + KNOWN], [b": " + KNOWN])
