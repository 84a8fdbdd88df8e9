"""The guard: addresses judged by class after resolution, at every connect, on the very address that is dialed."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elkapi.upstream import (
    AddressRefused,
    ConnectFailed,
    ConnectTimeout,
    Origin,
    ProtocolViolation,
    UpstreamClient,
    UpstreamRequest,
    follow,
    refusal,
)
from elkapi.upstream.dialer import ADDRESSES_TRIED_MAX, Resolver, dial, permitted_addresses, system_resolver
from elkapi.upstream.follow import next_hop
from tests.unit.upstream.upstream_peers import (
    BIG,
    OK,
    Ask,
    MakeClient,
    ManualTimers,
    Peer,
    Script,
    Serve,
    Stream,
    answering,
    body_of,
)


def answers(*lists: list[str]) -> tuple[Resolver, list[tuple[str, int]]]:
    """(resolver, asked): gives the n-th list to the n-th question and repeats the last one."""
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return lists[min(len(asked), len(lists)) - 1]

    return resolve, asked


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "carrier_nat"),
        ("100.127.255.254", "carrier_nat"),
        ("100.100.100.200", "metadata"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "metadata"),
        ("169.254.1.1", "link_local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("169.254.170.23", "metadata"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "metadata"),
        ("192.0.0.8", "reserved"),
        ("192.0.2.1", "reserved"),
        ("192.88.99.1", "reserved"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "reserved"),
        ("198.19.255.255", "reserved"),
        ("198.51.100.1", "reserved"),
        ("203.0.113.1", "reserved"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "metadata"),
        ("::ffff:0:10.0.0.1", "reserved"),
        ("::ffff:0:8.8.8.8", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("::8.8.8.8", "reserved"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b:1::8.8.8.8", "private"),
        ("2002:7f00:1::", "loopback"),
        ("2002:c0a8:101::1", "private"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "reserved"),
        ("2001:0:7f00:1:0:0:0:0", "reserved"),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", "reserved"),
        ("2001:db8::1", "reserved"),
        ("2001:2::1", "reserved"),
        ("3fff::1", "reserved"),
        ("2606:4700::5efe:10.0.0.1", "private"),
        ("2606:4700::200:5efe:7f00:1", "loopback"),
        ("2002:808:808::5efe:10.0.0.1", "private"),
        ("2002:7f00:1::5efe:8.8.8.8", "loopback"),
        ("2606:4700::5efe:8.8.8.8", None),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("::1%lo", "loopback"),
        ("fec0::1", "private"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::23", "metadata"),
        ("fd00:42::42", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("fd12:3456::1", "private"),
        ("ff02::1", "multicast"),
        ("100::1", "reserved"),
        ("4000::1", "reserved"),
        ("::fffe:808:808", "reserved"),
        ("::1:0:808:808", "reserved"),
        ("64:ff9a:ffff:ffff:ffff:ffff:808:808", "reserved"),
        ("64:ff9b::1:808:808", "reserved"),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "private"),
        ("febf:ffff::1", "link_local"),
        ("fdff:ffff::1", "private"),
        ("1fff:ffff::1", "reserved"),
        ("3fff:ffff::1", None),
        ("localhost", "malformed"),
        ("", "malformed"),
        ("127.1", "malformed"),
        ("1.1.1.1", None),
        ("9.255.255.255", None),
        ("11.0.0.0", None),
        ("126.255.255.255", None),
        ("128.0.0.0", None),
        ("192.167.255.255", None),
        ("192.169.0.0", None),
        ("198.17.255.255", None),
        ("198.20.0.0", None),
        ("223.255.255.255", None),
        ("8.8.8.8", None),
        ("100.63.255.255", None),
        ("100.128.0.1", None),
        ("172.15.0.1", None),
        ("172.32.0.1", None),
        ("169.253.255.255", None),
        ("::ffff:8.8.8.8", None),
        ("64:ff9b::8.8.8.8", None),
        ("2002:808:808::1", None),
        ("2003:a00:1::1", None),
        ("3fff:1000::1", None),
        ("2606:4700:4700::1111", None),
        ("2a00:1450:4001:80b::200e", None),
    ],
)
def test_an_address_is_judged_by_its_class_and_by_what_it_carries(address: Any, reason: str | None) -> None:
    assert refusal(address) == reason


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("0.0.0.0", "0.255.255.255"),
        ("10.0.0.0", "10.255.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("127.0.0.0", "127.255.255.255"),
        ("168.63.129.16", "168.63.129.16"),
        ("169.254.0.0", "169.254.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.0.0", "192.0.0.255"),
        ("192.0.2.0", "192.0.2.255"),
        ("192.88.99.0", "192.88.99.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("198.18.0.0", "198.19.255.255"),
        ("198.51.100.0", "198.51.100.255"),
        ("203.0.113.0", "203.0.113.255"),
        ("224.0.0.0", "255.255.255.255"),
        ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_a_range_is_refused_from_its_first_address_to_its_last_and_not_beyond(first: str, last: str) -> None:
    before, after = ip_address(first), ip_address(last)
    assert refusal(first) is not None
    assert refusal(last) is not None
    for beside in (int(before) - 1, int(after) + 1):
        if 0 <= beside < 1 << after.max_prefixlen:
            assert refusal(str(type(after)(beside))) is None


@pytest.mark.parametrize(
    "host", ["0", "0.0.0.0", "127.1", "0x7f.1", "2130706433", "017700000001", "[::]", "[::ffff:127.0.0.1]", "localhost"]
)
async def test_go_2026_5652_zero_address_is_refused_by_resolved_class(
    make_client: MakeClient, ask: Ask, host: str
) -> None:
    """Every spelling goes through the system's own resolver, none of which needs a network."""
    client = make_client(resolver=system_resolver)
    with pytest.raises(AddressRefused) as caught:
        await client.send(ask(Origin.parse(f"http://{host}:8080")))
    assert caught.value.sent is False
    assert client.stats()["open"] == 0


async def test_cve_2025_66405_guard_sits_in_the_dialer_not_on_a_route(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    """No header, target or spelling of a route changes what is dialed: the origin's own host, judged at the socket."""
    peer = await serve(answering(OK))
    resolve, asked = answers(["127.0.0.1"])
    client = make_client(resolver=resolve)
    origin = Origin.parse(f"http://provider.example:{peer.origin.port}")
    for change in (
        {"headers": [(b"x-portkey-custom-host", b"http://127.0.0.1/"), (b"host", b"public.example")]},
        {"target": b"/v1/proxy/http://public.example/"},
        {"target": b"//public.example/"},
    ):
        with pytest.raises(AddressRefused):
            await client.send(ask(origin, **change))
    assert {host for host, _ in asked} == {"provider.example"}
    assert peer.connections == 0


async def test_a_name_that_changes_its_address_after_the_check_is_not_asked_again(
    make_client: MakeClient, ask: Ask
) -> None:
    """DNS rebinding: the first answer is public, any later one would be loopback. One connect, one question."""
    resolve, asked = answers(["192.0.2.9", "203.0.113.9"], ["127.0.0.1"])
    client = make_client(resolver=resolve)
    origin = Origin.parse("http://rebind.example")
    for _ in range(2):  # The second answer is judged as freshly as the first.
        with pytest.raises(AddressRefused):
            await client.send(ask(origin))
    assert len(asked) == 2


async def test_what_was_judged_is_what_is_dialed(
    make_client: MakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialed = []

    async def record(family: int, address: Any, label: str, timers: ManualTimers, deadline_s: float) -> None:
        dialed.append(address)
        raise ConnectFailed("recorded", phase="connect", sent=False)

    monkeypatch.setattr("elkapi.upstream.dialer._connect", record)
    resolve, asked = answers(["10.0.0.1", "1.1.1.1", "::1", "2606:4700:4700::1111"])
    client = make_client(resolver=resolve)
    with pytest.raises(ConnectFailed):
        await client.send(ask(Origin.parse("https://mixed.example")))
    assert dialed == [("1.1.1.1", 443), ("2606:4700:4700::1111", 443)]
    assert len(asked) == 1


async def test_every_connect_is_judged_also_after_the_first_was_fine(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    resolve, _ = answers(["127.0.0.1"], ["127.0.0.1"], ["not an address"])
    client = make_client(resolver=resolve)
    origin = Origin.parse(f"http://provider.example:{peer.origin.port}", allow_private=True)
    assert await body_of(client, ask(origin)) == b"ok"
    assert await body_of(client, ask(origin)) == b"ok"
    with pytest.raises(AddressRefused):
        await client.send(ask(origin))


async def test_a_permitted_origin_and_a_guarded_one_never_share_a_connection(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    peer = await serve(answering(OK))
    client = make_client()
    assert await body_of(client, ask(peer.origin)) == b"ok"
    guarded = Origin.parse(f"http://127.0.0.1:{peer.origin.port}")
    with pytest.raises(AddressRefused):
        await client.send(ask(guarded))
    assert client.stats()["idle"] == 1


async def test_a_name_that_does_not_resolve_or_has_no_address_is_a_connect_failure() -> None:
    async def fails(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    async def empty(_host: str, _port: int) -> list[str]:
        return []

    resolvers: tuple[Resolver, ...] = (fails, empty)
    for resolve in resolvers:
        with pytest.raises(ConnectFailed) as caught:
            await permitted_addresses(resolve, "x.example", 443, allow_private=False)
        assert (caught.value.phase, caught.value.sent) == ("resolve", False)


async def test_a_refused_connection_tries_the_next_address(serve: Serve, make_client: MakeClient, ask: Ask) -> None:
    peer = await serve(answering(OK))
    # Nobody listens on the peer's port at the first address.
    resolve, _ = answers(["127.0.0.77", "127.0.0.1"])
    client = make_client(resolver=resolve)
    origin = Origin.parse(f"http://two.example:{peer.origin.port}", allow_private=True)
    assert await body_of(client, ask(origin)) == b"ok"


async def test_nobody_listening_is_a_connect_failure_that_sent_nothing(
    make_client: MakeClient, ask: Ask, serve: Serve
) -> None:
    peer = await serve(answering(OK))
    await peer.stop()
    with pytest.raises(ConnectFailed) as caught:
        await make_client().send(ask(peer.origin))
    assert caught.value.sent is False


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example",
        "x.example",
        "http://",
        "http://user@x.example",
        "http://user:pw@x.example",
        "http://x.example@evil.example",
        "http://x.example/#f",
        "http://x.example/?q=1",
        "http://x.example?",
        "http://x.example:0",
        "http://x.example:99999",
        "http://x.example:x",
        "http://x .example",
        "http://x.example\r\nHost: y",
        "http://x.example\\@evil.example",
        "http://x\\.example",
        "http://x\x7f.example",
        "http://x.example:0443\u0661",
        "http://[fe80::1%25eth0]/",
        "http://exämple.de",
        "unix://relative.sock",
        "unix:///a.sock?x",
        "file:///etc/passwd",
    ],
)
def test_an_origin_refuses_urls_that_could_mean_something_else(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(url)


def test_an_origin_knows_default_ports_and_is_a_key() -> None:
    assert Origin.parse("https://x.example/v1") == Origin.parse("https://X.example:443")
    assert hash(Origin.parse("http://x.example")) == hash(Origin.parse("http://x.example:80/"))
    assert Origin.parse("http://x.example") != Origin.parse("http://x.example", allow_private=True)
    assert Origin.parse("http://x.example:8080").authority == "x.example:8080"
    assert Origin.parse("https://x.example.:443").authority == "x.example"
    assert Origin.parse("http://[2606::1]:8080").authority == "[2606::1]:8080"
    assert Origin.parse("unix:///run/x.sock").unix_path == "/run/x.sock"


@pytest.mark.parametrize("proxy_url", ["ftp://x", "socks5://", "http://p#f", "nonsense"])
def test_an_origin_refuses_a_proxy_it_cannot_speak_to(proxy_url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse("https://x.example", proxy_url=proxy_url)


# --- redirects


def redirect(location: bytes) -> Script:
    return answering(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")


async def test_the_client_itself_follows_nothing(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(redirect(b"/elsewhere"))
    reply = await client.send(ask(peer.origin, b"GET"))
    assert (reply.status, reply.header(b"location")) == (302, b"/elsewhere")


async def test_ghsa_9f46_w24h_69w4_redirect_hops_are_guarded_at_connect_time(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    """The first hop is allowed to be private; the place it redirects to is judged for itself, and refused."""
    inner = await serve(answering(OK))
    outer = await serve(redirect(b"http://127.0.0.1:%d/secret" % inner.origin.port))
    client = make_client()
    request = ask(outer.origin, b"GET")
    with pytest.raises(AddressRefused):
        await follow(client, await client.send(request), request)
    named = await serve(redirect(b"http://public.example:%d/secret" % inner.origin.port))
    resolve, _ = answers(["127.0.0.1"])
    client = make_client(resolver=resolve)
    request = ask(named.origin, b"GET")
    with pytest.raises(AddressRefused):
        await follow(client, await client.send(request), request)
    assert inner.connections == 0


async def test_a_redirect_on_the_same_origin_is_followed_with_its_headers(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen = []

    async def script(stream: Stream) -> None:
        while True:
            request = await stream.request()
            seen.append(request)
            if request.startswith(b"GET /v1/x"):
                await stream.write(b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nLocation: ../file?a=1#frag\r\n\r\n")
            else:
                await stream.write(OK)

    peer = await serve(script)
    request = ask(peer.origin, b"GET", headers=[(b"authorization", b"Bearer k")])
    reply = await follow(client, await client.send(request), request)
    assert await reply.read(BIG) == (b"ok", True)
    assert seen[1].startswith(b"GET /file?a=1 HTTP/1.1\r\n")
    assert b"authorization: Bearer k" in seen[1]


async def test_a_redirect_whose_body_does_not_end_keeps_no_connection(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    endless = answering(b"HTTP/1.1 302 Found\r\nContent-Length: 9\r\nLocation: /again\r\n\r\nsome", OK)
    peer: Peer = await serve(lambda stream: answering(OK)(stream) if peer.connections > 1 else endless(stream))
    request = ask(peer.origin, b"GET")
    reply = await follow(client, await client.send(request), request)
    assert (await reply.read(BIG), client.stats()["open"]) == ((b"ok", True), 1)


REDIRECT = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /again\r\n\r\n"


async def test_so_many_redirects_are_followed_and_not_one_more(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(answering(REDIRECT, REDIRECT, REDIRECT, OK))
    request = ask(peer.origin, b"GET")
    assert (await follow(client, await client.send(request), request, hops_max=3)).status == 200
    endless = await serve(redirect(b"/again"))
    request = ask(endless.origin, b"GET")
    with pytest.raises(ProtocolViolation, match="more than 3 redirects"):
        await follow(client, await client.send(request), request)
    assert endless.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_every_kind_of_redirect_is_followed(
    serve: Serve, client: UpstreamClient, ask: Ask, status: int, method: bytes
) -> None:
    async def script(stream: Stream) -> None:
        is_there = b" /again " in await stream.request()
        await stream.write(OK if is_there else REDIRECT.replace(b"302", b"%d" % status))
        await script(stream)

    peer = await serve(script)
    request = ask(peer.origin, method)
    assert (await follow(client, await client.send(request), request)).status == 200


@pytest.mark.parametrize("head", [b"300 Choices\r\nLocation: /x", b"304 Same\r\nLocation: /x", b"302 Found\r\nX-A: 1"])
async def test_what_is_no_redirect_or_leads_nowhere_is_returned_as_it_is(
    serve: Serve, client: UpstreamClient, ask: Ask, head: bytes
) -> None:
    peer = await serve(answering(b"HTTP/1.1 " + head + b"\r\nContent-Length: 0\r\n\r\n"))
    request = ask(peer.origin, b"GET")
    assert (await follow(client, await client.send(request), request)).status == int(head[:3])


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE"])
async def test_what_may_change_something_is_never_repeated_elsewhere(
    serve: Serve, client: UpstreamClient, ask: Ask, method: bytes
) -> None:
    peer = await serve(redirect(b"/again"))
    request = ask(peer.origin, method)
    assert (await follow(client, await client.send(request), request)).status == 302


def test_what_calls_share_is_dropped_like_other_headers_by_a_hop_to_another_origin() -> None:
    origin = Origin.parse("https://api.example", allow_private=True)
    shared = ((b"authorization", b"Bearer k"), (b"User-Agent", b"elkapi"))
    request = UpstreamRequest(
        origin=origin, method=b"GET", target=b"/a", headers=[(b"range", b"bytes=0-")], shared=shared
    )
    hop = next_hop(request, b"https://cdn.example/b")
    assert (hop.shared, hop.headers) == ((), [(b"User-Agent", b"elkapi"), (b"range", b"bytes=0-")])
    assert next_hop(request, b"/b").shared == shared
    # Another port and another scheme are another origin too.
    assert next_hop(request, b"https://api.example:8443/b").shared == ()
    plain = UpstreamRequest(
        origin=Origin.parse("http://api.example"), method=b"GET", target=b"/a", headers=[], shared=shared
    )
    hop = next_hop(plain, b"https://api.example/b")
    assert (hop.shared, hop.headers, hop.origin.is_tls) == ((), [(b"User-Agent", b"elkapi")], True)


def test_a_hop_goes_on_through_the_same_proxy_without_the_permission() -> None:
    origin = Origin.parse("https://api.example", proxy_url="http://p.example:3128", allow_private=True)
    request = UpstreamRequest(origin=origin, method=b"GET", target=b"/a", headers=[])
    assert next_hop(request, b"https://cdn.example/b?c=1").origin == Origin.parse(
        "https://cdn.example", proxy_url="http://p.example:3128"
    )
    assert next_hop(request, b"/b").origin == origin


async def test_no_more_addresses_are_tried_than_the_bound_and_only_permitted_ones() -> None:
    resolve, _ = answers(["10.0.0.1", *(f"1.1.1.{number}" for number in range(12))])
    found = await permitted_addresses(resolve, "many.example", 443, allow_private=False)
    assert found == [f"1.1.1.{number}" for number in range(ADDRESSES_TRIED_MAX)]
    resolve, _ = answers(["10.0.0.1", "not an address"])
    assert await permitted_addresses(resolve, "own.example", 443, allow_private=True) == ["10.0.0.1"]
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1 \(private\), not an address \(malformed\)"):
        await permitted_addresses(resolve, "own.example", 443, allow_private=False)


async def test_a_name_that_cannot_be_one_is_a_connect_failure() -> None:
    with pytest.raises(ConnectFailed) as caught:
        await permitted_addresses(system_resolver, "a" * 70 + ".example", 443, allow_private=False)
    assert (caught.value.phase, caught.value.sent) == ("resolve", False)


async def test_each_address_has_an_equal_share_of_the_time_left(
    timers: ManualTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    async def silent(family: int, address: Any, label: str, timers: ManualTimers, deadline_s: float) -> None:
        tried.append((family, address, deadline_s - timers.monotonic_s()))
        timers.advance(deadline_s - timers.monotonic_s())
        raise ConnectTimeout("silent", phase="connect", sent=False)

    monkeypatch.setattr("elkapi.upstream.dialer._connect", silent)
    resolve, _ = answers(["1.1.1.1", "2606:4700:4700::1111", "1.1.1.2"])
    with pytest.raises(ConnectTimeout):
        await dial(Origin.parse("http://three.example:81"), resolve, timers, timers.monotonic_s() + 6)
    assert tried == [
        (socket.AF_INET, ("1.1.1.1", 81), pytest.approx(2)),
        (socket.AF_INET6, ("2606:4700:4700::1111", 81), pytest.approx(2)),
        (socket.AF_INET, ("1.1.1.2", 81), pytest.approx(2)),
    ]


def test_a_hop_to_another_origin_loses_credentials_and_permissions() -> None:
    origin = Origin.parse("https://api.example", allow_private=True)
    harmless = [(b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"), (b"Accept-Language", b"en")]
    headers = [(b"Authorization", b"k"), (b"x-api-key", b"k"), (b"cookie", b"k"), *harmless]
    request = UpstreamRequest(origin=origin, method=b"GET", target=b"/a", headers=headers)
    hop = next_hop(request, b"https://cdn.example/b")
    assert (hop.headers, hop.target) == (harmless, b"/b")
    assert hop.origin == Origin.parse("https://cdn.example")
    assert next_hop(request, b"https://api.example:8443/b").headers == harmless
    assert next_hop(request, b"//cdn.example/b").origin.host == "cdn.example"
    assert next_hop(request, b"/b").headers == headers
    assert next_hop(request, "/ä b?c=%2F".encode()).target == b"/%C3%A4%20b?c=%2F"


@pytest.mark.parametrize(
    "location",
    [b"http://api.example/", b"ftp://x/", b"https://u@x/", b"javascript:1", b"https://x\\@y/", b"/\xff", b"unix:///x"],
)
def test_a_hop_out_of_https_or_to_an_unreadable_place_is_refused(location: bytes) -> None:
    origin = Origin.parse("https://api.example")
    request = UpstreamRequest(origin=origin, method=b"GET", target=b"/a", headers=[])
    with pytest.raises(ProtocolViolation):
        next_hop(request, location)


async def test_a_local_socket_cannot_redirect_elsewhere(
    serve: Serve, client: UpstreamClient, ask: Ask, tmp_path: Path
) -> None:
    peer = await serve(redirect(b"http://public.example/"), unix_path=str(tmp_path / "s.sock"))
    request = ask(peer.origin, b"GET")
    with pytest.raises(ProtocolViolation):
        await follow(client, await client.send(request), request)
    await asyncio.sleep(0)


async def test_a_dialed_socket_does_not_block_sends_at_once_and_notices_a_dead_peer(
    serve: Serve, timers: ManualTimers
) -> None:
    peer = await serve(answering(OK))
    resolve, _ = answers(["127.0.0.1"])
    origin = Origin.parse(f"http://own.example:{peer.origin.port}", allow_private=True)
    with await dial(origin, resolve, timers, timers.monotonic_s() + 6) as sock:
        options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        assert [bool(sock.getsockopt(*option)) for option in options] == [True, True]
        assert sock.getblocking() is False


async def test_a_machine_without_the_address_family_tries_the_next_address(
    serve: Serve, make_client: MakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await serve(answering(OK))

    def lacking(family: int, *rest: Any) -> Any:
        if family == socket.AF_INET6:
            raise OSError("Address family not supported by protocol")
        return socket.socket(family, *rest)

    monkeypatch.setattr("elkapi.upstream.dialer.socket", SimpleNamespace(**{**vars(socket), "socket": lacking}))
    resolve, _ = answers(["::1", "127.0.0.1"])
    origin = Origin.parse(f"http://two.example:{peer.origin.port}", allow_private=True)
    assert await body_of(make_client(resolver=resolve), ask(origin)) == b"ok"
