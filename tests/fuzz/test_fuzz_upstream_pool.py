"""The pool under peers that answer, stall, cut and reset at random and callers that leave at random; seeds in the id.

Whatever happens, a caller gets its own reply or an UpstreamFailure, and afterwards no slot, waiter or task is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from elkapi.upstream import ClientLimits, Deadlines, Origin, UpstreamClient, UpstreamFailure, UpstreamRequest
from tests.waiting import until

CALLS = 400
CONNECTIONS_MAX = 7
# Only a peer that falls silent is waited for briefly: a machine that stands still ends no call that waits its turn.
DEADLINES = Deadlines(connect_s=60.0, header_s=0.2, first_byte_s=0.2, idle_s=0.2, total_s=60.0)


def peer(
    rng: random.Random, seen: Counter[bytes]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if size:
                    body = await reader.readexactly(int(size))
                else:
                    body = b""
                    while not body.endswith(b"0\r\n\r\n"):
                        body += await reader.readuntil(b"\r\n")
                    body = body.split(b"\r\n")[1]
                seen[body] += 1
                whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) * 3000, body * 3000)
                if rng.random() < 0.3:
                    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                        len(body) * 3000,
                        body * 3000,
                    )
                cut = rng.randrange(len(whole))
                match rng.randrange(12):
                    case 0:
                        return
                    case 1:
                        writer.transport.abort()
                        return
                    case 2:
                        writer.write(whole[:cut])
                        return
                    case 3:
                        writer.write(whole[:cut])
                        await reader.read()
                        return
                    case 4:
                        writer.write(whole + b"garbage")
                    case 5:
                        writer.write(whole)
                        return
                    case 6:
                        writer.write(whole[:cut])
                        await asyncio.sleep(rng.random() / 100)
                        writer.write(whole[cut:])
                    case _:
                        writer.write(whole)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return handle


async def storm(seed: int) -> None:
    rng = random.Random(seed)
    seen: Counter[bytes] = Counter()
    server = await asyncio.start_server(peer(rng, seen), "127.0.0.1", 0)
    origin = Origin.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", allow_private=True)
    client = UpstreamClient(ClientLimits(connections_per_origin_max=CONNECTIONS_MAX, reply_buffer_bytes_max=4096))
    outcomes: Counter[str] = Counter()

    async def streamed(body: bytes) -> AsyncIterator[bytes]:
        await asyncio.sleep(rng.random() / 200)
        yield body

    async def call(number: int) -> None:
        body = b"%06d" % number
        request = UpstreamRequest(
            origin=origin,
            method=b"POST",
            target=b"/",
            headers=[],
            body=streamed(body) if rng.random() < 0.3 else body,
            deadlines=DEADLINES,
        )
        try:
            reply = await client.send(request)
            if rng.random() < 0.1:
                reply.cancel()
                outcomes["cancelled"] += 1
                return
            data, complete = await reply.read(1 << 20)
        except UpstreamFailure as failure:
            outcomes[failure.code] += 1
            if not failure.sent:
                unsent.add(body)
            return
        outcomes["ok"] += 1
        assert (data, complete) == (body * 3000, True), "a caller got somebody else's reply"

    unsent: set[bytes] = set()
    calls = [asyncio.ensure_future(call(number)) for number in range(CALLS)]
    for task in rng.sample(calls, CALLS // 10):
        asyncio.get_running_loop().call_later(rng.random() / 2, task.cancel)
    results = await asyncio.gather(*calls, return_exceptions=True)
    odd = [error for error in results if error is not None and not isinstance(error, asyncio.CancelledError)]
    assert not odd
    assert max(seen.values()) == 1, "a request was sent twice"
    assert not unsent & set(seen), "a failure said that nothing was sent, and the peer had seen it"
    assert outcomes["ok"] > CALLS / 10
    stats = client.stats()
    assert (stats["dialing"], stats["waiting"]) == (0, 0)
    assert stats["open"] <= CONNECTIONS_MAX
    await client.aclose()
    assert client.stats()["open"] == 0
    server.close()
    mine = asyncio.current_task()
    await until(lambda: all(task is mine or "handle" in repr(task) for task in asyncio.all_tasks()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_storm_of_bad_peers_and_leaving_callers_loses_nothing(
    seed: int, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(storm(seed))
