"""A reply as its reader holds it, without a socket: nothing lost, nothing twice, an end told after what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from elkapi.upstream import Cut, Deadlines
from elkapi.upstream.phased import PulledReply
from elkapi.upstream.reply import SocketReply
from elkapi.upstream.timers import LoopTimers
from elkapi.upstream.wire import fields_of
from tests.unit.upstream.upstream_peers import taking

CUT = Cut("cut", phase="body", sent=True)


class Wire:
    """The connection, as a reply sees it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.resumed = 0
        self.dropped = 0

    def resume_reply(self, reply: SocketReply) -> None:
        self.resumed += 1

    def drop_reply(self, reply: SocketReply) -> None:
        self.dropped += 1


def wire_of(reply: SocketReply) -> Wire:
    assert isinstance(reply._wire, Wire)
    return reply._wire


def begun(*chunks: bytes) -> SocketReply:
    reply = SocketReply(Wire(), False)
    headers = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
    reply.give_head(200, headers, fields_of(headers))
    for chunk in chunks:
        reply.give_body(chunk)
    reply.wake()
    return reply


def ended(*chunks: bytes) -> SocketReply:
    reply = begun(*chunks)
    reply.end()
    return reply


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_first_value_of_a_repeated_header_counts_and_names_are_tried_in_order() -> None:
    reply = begun()
    assert reply.fields == {b"x-a": b"1", b"x-b": b"2"}
    assert reply.header(b"absent", b"x-b", b"x-a") == b"2"
    assert reply.header(b"absent") is None


@pytest.mark.parametrize("end", [ended, begun], ids=["all of it is there", "its end is still to come"])
@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5, 6, 7])
async def test_read_gives_so_much_and_the_rest_afterwards(end: Callable[..., SocketReply], limit: int) -> None:
    reply = end(b"abc", b"def")
    if end is begun:
        asyncio.get_running_loop().call_soon(reply.end)
    assert await reply.read(limit) == (b"abcdef"[:limit], limit >= 6)
    assert await reply.read(100) == (b"abcdef"[limit:], True)
    assert await reply.read(100) == (b"", True)
    assert reply.buffered_bytes == 0


async def test_chunks_that_waited_are_given_joined_and_the_connection_may_go_on() -> None:
    reply = begun(b"abc", b"def")
    assert await reply.next_chunk() == b"abcdef"
    assert (wire_of(reply).resumed, reply.buffered_bytes) == (1, 0)
    reply.give_body(b"g")
    reply.end()
    assert [chunk async for chunk in reply] == [b"g"]
    assert await reply.next_chunk() == b""


async def test_what_read_left_over_is_poured_at_once_and_what_comes_after_it_too() -> None:
    reply, got = begun(b"abcdef"), list[bytes]()
    assert await reply.read(2) == (b"ab", False)
    pouring = asyncio.ensure_future(reply.pour(taking(got)))
    await turns()
    assert got == [b"cdef"]
    reply.give_body(b"g")
    reply.wake()
    assert got == [b"cdef", b"g"]
    reply.end()
    await pouring
    assert got == [b"cdef", b"g"]


async def all_of(reply: SocketReply, got: list[bytes]) -> None:
    async for chunk in reply:
        got.append(chunk)


async def poured(reply: SocketReply, got: list[bytes]) -> None:
    await reply.pour(taking(got))


@pytest.mark.parametrize("taken", [all_of, poured])
async def test_a_failure_is_told_after_what_came_before_it_however_the_body_is_taken(
    taken: Callable[..., Awaitable[None]],
) -> None:
    reply, got = begun(b"abc"), list[bytes]()
    reply.end_badly(CUT)
    with pytest.raises(Cut):
        await taken(reply, got)
    assert got == [b"abc"]
    assert reply.is_over
    with pytest.raises(Cut):
        await reply.read(100)


async def test_a_failure_wakes_whoever_waits_for_the_head_or_the_body() -> None:
    headless = SocketReply(Wire(), False)
    waiting = asyncio.ensure_future(headless.head())
    pulling = begun()
    taken = asyncio.ensure_future(pulling.next_chunk())
    pouring, got = begun(), list[bytes]()
    poured_out = asyncio.ensure_future(poured(pouring, got))
    await turns()
    for reply in (headless, pulling, pouring):
        assert not reply.is_over
        reply.end_badly(CUT)
    await turns()
    for task in (waiting, taken, poured_out):
        with pytest.raises(Cut):
            await task
    assert got == []


async def test_a_head_that_came_before_its_failure_is_a_head() -> None:
    reply = begun()
    reply.end_badly(CUT)
    await reply.head()
    failed = SocketReply(Wire(), False)
    failed.end_badly(CUT)
    with pytest.raises(Cut):
        await failed.head()


async def test_a_taker_that_fails_or_has_enough_is_asked_no_more_and_one_that_waits_is_waited_for() -> None:
    class Mine(Exception):
        pass

    def fails(_chunk: bytes) -> bool:
        raise Mine

    reply = begun()
    pouring = asyncio.ensure_future(reply.pour(fails))
    await turns()
    reply.give_body(b"a")
    reply.wake()
    with pytest.raises(Mine):
        await pouring
    reply.give_body(b"b")
    assert await reply.next_chunk() == b"b"

    got, free = list[bytes](), asyncio.get_running_loop().create_future()
    reply = begun()

    def take(chunk: bytes) -> bool | asyncio.Future[None]:
        got.append(chunk)
        return free if len(got) == 1 else False

    pouring = asyncio.ensure_future(reply.pour(take))
    await turns()
    for chunk in (b"a", b"b", b"c"):
        reply.give_body(chunk)
        reply.wake()
        await turns()
    assert got == [b"a"]
    free.set_result(None)
    await pouring
    assert got == [b"a", b"bc"]


async def test_a_reply_has_one_reader() -> None:
    reply = begun()
    first = asyncio.ensure_future(reply.next_chunk())
    await turns()
    with pytest.raises(RuntimeError, match="two readers"):
        await reply.next_chunk()
    reply.end()
    assert await first == b""


async def test_cancelling_drops_the_connection_once_and_what_was_not_read() -> None:
    reply = begun(b"abc")
    reply.cancel()
    reply.cancel()
    assert wire_of(reply).dropped == 1
    with pytest.raises(Cut, match="closed by the reader"):
        await reply.next_chunk()
    whole = ended(b"abc")
    await whole.aclose()
    assert wire_of(whole).dropped == 0
    assert await whole.read(100) == (b"abc", True)
    waited_for = begun()
    pulling = asyncio.ensure_future(waited_for.next_chunk())
    await turns()
    await waited_for.aclose()
    with pytest.raises(Cut):
        await pulling


def pulled(*chunks: bytes, ends: bool = True, closed: list[bool] | None = None) -> PulledReply:
    """A reply of somebody else's client, which fails after its chunks where it does not end; `closed` grows with each
    time that it is closed.
    """

    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if not ends:
            raise ConnectionError("reset")

    async def close() -> None:
        if closed is not None:
            closed.append(True)

    return PulledReply(
        200,
        [],
        source(),
        close,
        lambda error, phase: Cut(str(error), phase=phase, sent=True),
        LoopTimers(),
        Deadlines(),
        LoopTimers.monotonic_s() + 60,
    )


async def test_a_reply_of_another_client_that_failed_has_no_proper_end_later() -> None:
    reply = pulled(b"abc", ends=False)
    assert await reply.next_chunk() == b"abc"
    for _ in range(2):
        with pytest.raises(Cut, match="reset"):
            await reply.read(100)


@pytest.mark.parametrize("how", ["cancel", "aclose"])
async def test_a_reply_of_another_client_that_was_closed_early_has_no_proper_end(how: str) -> None:
    reply = pulled(b"abc", b"def")
    assert await reply.next_chunk() == b"abc"
    if how == "cancel":
        reply.cancel()
    else:
        await reply.aclose()
    with pytest.raises(Cut, match="closed by the reader"):
        await reply.read(100)
    done = pulled(b"abc")
    assert await done.read(100) == (b"abc", True)
    await done.aclose()
    assert await done.read(100) == (b"", True)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_reply_of_another_client_is_closed_once_whatever_it_ends_by(ends: bool) -> None:
    closed: list[bool] = []
    reply = pulled(b"", b"abc", ends=ends, closed=closed)
    assert await reply.next_chunk() == b"abc"
    assert closed == []
    if ends:
        assert await reply.next_chunk() == b""
    else:
        with pytest.raises(Cut) as caught:
            await reply.next_chunk()
        assert isinstance(caught.value.__cause__, ConnectionError)
    reply.cancel()
    await reply.aclose()
    await turns()
    assert closed == [True]
