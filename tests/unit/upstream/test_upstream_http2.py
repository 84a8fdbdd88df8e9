"""Origins that speak only HTTP/2, against a small server on the h2 library; and what a missing extra says."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trustme

from elkapi.upstream import (
    AddressRefused,
    ConnectFailed,
    Cut,
    HeaderTimeout,
    Origin,
    ProtocolViolation,
    RequestRefused,
    SendFailed,
    TlsFailed,
    TransportMissing,
    UpstreamClient,
)
from tests.unit.upstream.upstream_peers import (
    BIG,
    Ask,
    MakeClient,
    ManualTimers,
    Script,
    Serve,
    Stream,
    Trusting,
    body_of,
    server_context,
)
from tests.waiting import until


def test_asking_for_http2_without_the_extra_says_what_to_install() -> None:
    program = """
import asyncio, importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "h2" else real(name, package)
from elkapi.upstream import Origin, TransportMissing, UpstreamClient, UpstreamRequest

async def main():
    client = UpstreamClient()
    origin = Origin.parse("https://127.0.0.1:1", http2=True, allow_private=True)
    try:
        await client.send(UpstreamRequest(origin=origin, method=b"GET", target=b"/", headers=[]))
    except TransportMissing as failure:
        print(failure.code, failure.sent, failure)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("upstream_transport_missing False ")
    assert "elkapi[http2]" in done.stdout


async def test_http2_through_a_proxy_is_said_to_be_missing(client: UpstreamClient, ask: Ask) -> None:
    origin = Origin.parse("https://x.example", http2=True, proxy_url="http://proxy.example:3128")
    with pytest.raises(TransportMissing):
        await client.send(ask(origin))


@pytest.fixture
def http2() -> None:
    pytest.importorskip("h2", reason="the http2 extra is not installed")


def echo_script(act: Callable[[Any, int, Any, bytes], str | None]) -> Script:
    """An h2 server side: collects each request, then calls `act(connection, stream_id, headers, body)`.

    It leaves, without a word, after an `act` that says "leave", and resets its connection after one that says "reset".
    """
    import h2.config
    import h2.connection
    import h2.events

    async def script(stream: Stream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        await stream.write(connection.data_to_send())
        requests: dict[int, list[Any]] = {}
        said: str | None = None
        while said is None and (data := await stream.reader.read(65536)):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    requests[event.stream_id] = [dict(event.headers), b""]
                elif isinstance(event, h2.events.DataReceived):
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    requests[event.stream_id][1] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    headers, body = requests.pop(event.stream_id)
                    said = act(connection, event.stream_id, headers, body)
            await stream.write(connection.data_to_send())
        if said == "reset":
            await asyncio.sleep(0.02)
            stream.reset()

    return script


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = server_context(authority.issue_cert("localhost"))
    context.set_alpn_protocols(["h2"])
    return context


@pytest.mark.usefixtures("http2")
async def test_a_body_shorter_or_longer_than_announced_is_no_reply(
    serve: Serve, make_client: MakeClient, ask: Ask, tls: ssl.SSLContext, trusting: Trusting
) -> None:
    def act(connection: Any, stream_id: int, headers: Any, body: bytes) -> None:
        connection.send_headers(stream_id, [(":status", "200"), ("content-length", "5")])
        connection.send_data(stream_id, bytes(int(headers[b"x-size"])), end_stream=True)

    peer = await serve(echo_script(act), tls=tls)
    client = make_client(tls=trusting)
    for size in (b"4", b"6"):
        with pytest.raises((Cut, ProtocolViolation)):
            await body_of(client, ask(msgspec.structs.replace(peer.origin, http2=True), headers=[(b"x-size", size)]))


@pytest.mark.usefixtures("http2")
async def test_requests_share_one_http2_connection(
    serve: Serve, make_client: MakeClient, ask: Ask, tls: ssl.SSLContext, trusting: Trusting
) -> None:
    seen = []

    def act(connection: Any, stream_id: int, headers: Any, body: bytes) -> None:
        seen.append(headers)
        connection.send_headers(stream_id, [(":status", "200"), ("x-size", str(len(body)))])
        connection.send_data(stream_id, b"got " + body, end_stream=True)

    peer = await serve(echo_script(act), tls=tls)
    origin = msgspec.structs.replace(peer.origin, http2=True)
    client = make_client(tls=trusting)

    async def call(number: int) -> bytes:
        given = [(b"x-a", b"1"), *((name, b"x") for name in own)]
        reply = await client.send(ask(origin, body=b"%d" % number, headers=given))
        assert (reply.status, reply.header(b"x-size")) == (200, b"1")
        return (await reply.read(BIG))[0]

    # The client's own, in any letters.
    own = (b"connection", b"host", b"Content-Length", b"TE", b"expect", b"proxy-authorization", b"http2-settings")
    assert await call(0) == b"got 0"
    assert await asyncio.gather(*(call(number) for number in range(1, 9))) == [b"got %d" % n for n in range(1, 9)]
    assert peer.connections == 1
    assert seen[0][b":path"] == b"/v1/x"
    assert seen[0][b":authority"] == origin.authority.encode()
    assert (seen[0][b"x-a"], seen[0][b"content-length"]) == (b"1", b"1")
    assert seen[0].keys() == {b":method", b":path", b":authority", b":scheme", b"x-a", b"content-length"}


@pytest.mark.usefixtures("http2")
async def test_an_unsafe_request_is_refused_over_http2_too(
    serve: Serve, make_client: MakeClient, ask: Ask, tls: ssl.SSLContext, trusting: Trusting
) -> None:
    peer = await serve(echo_script(lambda *_: "leave"), tls=tls)
    client = make_client(tls=trusting)
    for change in (
        {"target": b"/x y"},
        {"target": b"http://other.example/"},
        {"method": b"CONNECT"},
        {"headers": [(b"x", b"a\r\nb: c")]},
        {"headers": [(b"bad name", b"a")]},
    ):
        with pytest.raises(RequestRefused):
            await client.send(ask(msgspec.structs.replace(peer.origin, http2=True), **change))
    assert peer.connections == 0


@pytest.mark.usefixtures("http2")
@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.77"], ["127.0.0.77", "127.0.0.1"]])
async def test_each_address_of_a_name_is_tried_over_http2_too(
    serve: Serve, make_client: MakeClient, ask: Ask, tls: ssl.SSLContext, trusting: Trusting, addresses: list[str]
) -> None:
    def act(connection: Any, stream_id: int, _headers: Any, _body: bytes) -> None:
        connection.send_headers(stream_id, [(":status", "204")], end_stream=True)

    async def resolve(_host: str, _port: int) -> list[str]:
        return addresses

    peer = await serve(echo_script(act), tls=tls)
    origin = msgspec.structs.replace(peer.origin, http2=True)
    assert (await make_client(tls=trusting, resolver=resolve).send(ask(origin))).status == 204


@pytest.mark.usefixtures("http2")
async def test_a_reset_stream_is_cut_and_a_silent_one_times_out(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask, tls: ssl.SSLContext, trusting: Trusting
) -> None:
    silent = asyncio.Event()

    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> None:
        if body == b"silent":
            silent.set()
            return
        connection.send_headers(stream_id, [(":status", "200")])
        connection.send_data(stream_id, b"half")
        connection.reset_stream(stream_id)

    peer = await serve(echo_script(act), tls=tls)
    origin = msgspec.structs.replace(peer.origin, http2=True)
    client = make_client(tls=trusting)
    reply = await client.send(ask(origin, body=b"reset"))
    with pytest.raises(Cut):
        await reply.read(BIG)
    task = asyncio.ensure_future(client.send(ask(origin, body=b"silent")))
    await silent.wait()
    timers.advance(70.0)
    with pytest.raises(HeaderTimeout) as caught:
        await task
    assert caught.value.sent


def answer(connection: Any, stream_id: int, body: bytes = b"ok") -> None:
    connection.send_headers(stream_id, [(":status", "200")])
    connection.send_data(stream_id, body, end_stream=True)


@pytest.mark.usefixtures("http2")
async def test_a_peer_that_fell_silent_is_asked_anew_on_another_connection_and_a_slow_one_is_not(
    serve: Serve, client: UpstreamClient, timers: ManualTimers, ask: Ask
) -> None:
    asked = asyncio.Event()

    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> None:
        asked.set()
        if body != b"silent":
            answer(connection, stream_id, body)

    peer = await serve(echo_script(act))
    origin = msgspec.structs.replace(peer.origin, http2=True)

    async def call(body: bytes) -> tuple[bytes, bool]:
        return await (await client.send(ask(origin, body=body))).read(BIG)

    async def given_up_after(wait_s: float) -> None:
        asked.clear()
        calling = asyncio.ensure_future(call(b"silent"))
        await asked.wait()
        timers.advance(wait_s)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    assert await call(b"a") == (b"a", True)
    await given_up_after(1.0)
    assert await call(b"b") == (b"b", True)
    assert peer.connections == 1
    await given_up_after(30.0)
    assert await call(b"c") == (b"c", True)
    assert peer.connections == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
@pytest.mark.usefixtures("http2")
async def test_a_peer_that_acknowledges_nothing_is_given_up_by_the_kernel(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    """Others may wait on its connection all the time, so that nobody here would ever give it up."""
    from elkapi.upstream.over_http2 import UNACKNOWLEDGED_MS_MAX

    peer = await serve(echo_script(lambda connection, stream_id, *_: answer(connection, stream_id)))
    reply = await client.send(ask(msgspec.structs.replace(peer.origin, http2=True)))
    assert await reply.read(BIG) == (b"ok", True)
    transport: Any = client._http2
    (pooled,) = transport._pools[True].connections
    sock = pooled._connection._network_stream.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_MS_MAX


@pytest.mark.parametrize("how", ["leave", "reset"])
@pytest.mark.usefixtures("http2")
async def test_a_connection_that_its_peer_closed_is_replaced_before_a_request_leaves(
    serve: Serve, client: UpstreamClient, ask: Ask, how: str
) -> None:
    bodies = []

    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> str | None:
        bodies.append(body)
        answer(connection, stream_id)
        return how

    peer = await serve(echo_script(act))
    origin = msgspec.structs.replace(peer.origin, http2=True)
    for number in range(3):
        reply = await client.send(ask(origin, body=b"%d" % number))
        assert await reply.read(BIG) == (b"ok", True)
        await until(lambda: not peer._tasks)
        await asyncio.sleep(0.01)  # Turns of the loop, in which the socket is closed.
    assert bodies == [b"0", b"1", b"2"]
    assert peer.connections == 3


@pytest.mark.usefixtures("http2")
async def test_a_reused_connection_that_dies_unanswered_is_stale_and_a_fresh_one_cut(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> str | None:
        if body == b"leave":
            return "leave"
        answer(connection, stream_id)
        return None

    peer = await serve(echo_script(act))
    origin = msgspec.structs.replace(peer.origin, http2=True)
    for stale in (False, True):
        with pytest.raises(Cut) as caught:
            await client.send(ask(origin, body=b"leave"))
        assert (caught.value.sent, caught.value.stale) == (True, stale)
        assert await (await client.send(ask(origin, body=b"x"))).read(BIG) == (b"ok", True)


@pytest.mark.usefixtures("http2")
async def test_a_request_that_a_leaving_peer_did_not_look_at_goes_on_with_its_body(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    """An upstream that ends a connection after so many requests says so with GOAWAY."""

    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> None:
        if stream_id == 3:
            connection.close_connection(last_stream_id=1)
        else:
            answer(connection, stream_id, body)

    peer = await serve(echo_script(act))
    origin = msgspec.structs.replace(peer.origin, http2=True)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    await (await client.send(ask(origin))).read(BIG)
    assert await (await client.send(ask(origin, body=b"whole"))).read(BIG) == (b"whole", True)
    with pytest.raises(SendFailed, match="its body is gone"):
        await client.send(ask(origin, body=pieces(), body_bytes=5))


@pytest.mark.usefixtures("http2")
async def test_a_stream_that_was_refused_unseen_sent_nothing(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(echo_script(lambda connection, stream_id, *_: connection.reset_stream(stream_id, error_code=7)))
    with pytest.raises(SendFailed) as caught:
        await client.send(ask(msgspec.structs.replace(peer.origin, http2=True), body=b"x"))
    assert (caught.value.sent, caught.value.stale) == (False, False)


@pytest.mark.usefixtures("http2")
async def test_a_reply_that_comes_as_its_caller_leaves_gives_its_stream_back(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    def act(connection: Any, stream_id: int, _headers: Any, body: bytes) -> None:
        connection.send_headers(stream_id, [(":status", "200")])
        connection.send_data(stream_id, b"half", end_stream=body == b"whole")

    peer = await serve(echo_script(act))
    origin = msgspec.structs.replace(peer.origin, http2=True)
    await (await client.send(ask(origin, body=b"whole"))).read(BIG)
    transport: Any = client._http2
    asked = transport._request

    async def leaves(*what: Any) -> Any:
        reply = await asked(*what)
        asyncio.get_running_loop().call_soon(calling.cancel)
        return reply

    transport._request = leaves
    calling = asyncio.ensure_future(client.send(ask(origin, body=b"x")))
    with pytest.raises(asyncio.CancelledError):
        await calling
    (pooled,) = transport._pools[True].connections
    assert pooled.is_idle()


@pytest.mark.usefixtures("http2")
async def test_the_guard_holds_for_http2_too(make_client: MakeClient, ask: Ask) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    client = make_client(resolver=resolve)
    with pytest.raises(AddressRefused) as caught:
        await client.send(ask(Origin.parse("https://x.example", http2=True)))
    assert caught.value.sent is False
    origin = Origin.parse("https://127.0.0.1:1", http2=True, allow_private=True)
    with pytest.raises(ConnectFailed):
        await client.send(ask(origin))


@pytest.mark.usefixtures("http2")
@pytest.mark.parametrize("plain", [False, True], ids=["a stranger's certificate", "no TLS at all"])
async def test_a_handshake_that_fails_is_told_as_one_and_sent_nothing(
    serve: Serve, make_client: MakeClient, ask: Ask, tls: ssl.SSLContext, trusting: Trusting, plain: bool
) -> None:

    async def babble(stream: Stream) -> None:
        await stream.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    peer = await serve(babble, tls=None if plain else tls)
    origin = Origin.parse(f"https://localhost:{peer.origin.port}", http2=True, allow_private=True)
    client = make_client(tls=trusting if plain else ssl.create_default_context)
    with pytest.raises(TlsFailed) as caught:
        await client.send(ask(origin))
    assert (caught.value.phase, caught.value.sent) == ("tls", False)
