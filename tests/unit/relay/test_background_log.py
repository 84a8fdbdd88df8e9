"""The log of a background response: what is a frame, how much is kept, and who is woken."""

from __future__ import annotations

import asyncio

import pytest

from elkapi.errors import UpstreamError
from elkapi.relay.background_log import FrameLog, sequence_of

FIRST, SECOND = b'data: {"n":1}\n\n', b'data: {"n":2}\n\n'


async def test_frames_are_numbered_however_they_are_cut_and_what_is_no_event_is_none() -> None:
    log = FrameLog(b"{}", 1_000)
    log.start(200, [])
    assert log.started
    log.put(b": keep-alive\n\n" + FIRST + SECOND[:5])
    assert (await log.more(0), log.unkept()) == ([FIRST], (0, FIRST))
    log.kept = 1
    assert (log.unkept(), log.unkept(b"x")) == (None, (1, b"x"))
    await log.write(SECOND[5:])
    assert (await log.more(0), await log.more(1), log.unkept()) == ([FIRST, SECOND], [SECOND], (1, SECOND))
    assert log.size_bytes == len(b": keep-alive\n\n" + FIRST + SECOND)


@pytest.mark.parametrize("end", ["end", "abort", "finish", "send"])
async def test_a_follower_waits_for_the_next_frame_and_for_the_end(end: str) -> None:
    log = FrameLog(b"{}", 1_000)
    waiting = asyncio.ensure_future(log.more(0))
    await asyncio.sleep(0)
    log.push(FIRST)
    await asyncio.sleep(0)
    assert not waiting.done()
    log.put(FIRST)
    assert await waiting == [FIRST]
    waiting = asyncio.ensure_future(log.more(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    if end == "send":
        log.send(200, [], b'{"id":"resp_1"}')
    else:
        getattr(log, end)()
    assert (await waiting, await log.more(0), log.ended) == ([], [FIRST], True)


async def test_a_stream_may_arrive_whole() -> None:
    log = FrameLog(b"{}", 1)
    log.send(200, [], FIRST + SECOND)
    assert (await log.more(0), log.ended) == ([FIRST, SECOND], True)


async def test_so_many_bytes_are_kept_and_the_last_frames_in_any_case() -> None:
    log = FrameLog(b"{}", len(FIRST))
    log.put(FIRST)
    with pytest.raises(UpstreamError):
        log.put(b":")
    log.finish(SECOND)
    assert await log.more(0) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("data", "number"), [(b'{"sequence_number":0}', 0), (b'{"sequence_number":7}', 7), (b"{}", 3), (b"[DONE]", 3)]
)
def test_an_event_has_the_number_that_it_says_or_else_its_place(data: bytes, number: int) -> None:
    assert sequence_of(data, 3) == number
