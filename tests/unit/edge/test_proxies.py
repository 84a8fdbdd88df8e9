"""Forwarded headers count only when a named proxy sent them, and only from the first untrusted hop on."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.edge.proxies import TrustedProxies
from elkapi.relay.call import Call


def call(peer: str, **headers: str) -> Call:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    reply: Any = None
    return Call(b"", "GET", "/", "", pairs, peer, b"", reply, 0.0)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, , 10.0.0.2,", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, <script>", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "1.1.1.1, ::ffff:10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1:50432, 10.0.0.2:1024", "1.1.1.1"),
        ("10.0.0.1", "[2001:db8::1]:50432", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.3:80", "10.0.0.3"),
        ("10.0.0.1", "1.1.1.1:", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.999:80", "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_hop_nobody_vouches_for(peer: str, forwarded: str, client: str) -> None:
    proxies = TrustedProxies(("10.0.0.0/8", "::1"))
    assert proxies.client_ip(call(peer, x_forwarded_for=forwarded)) == client


def test_the_hops_of_several_lines_are_one_list_and_no_other_header_is_one() -> None:
    forwarded = [(b"x-forwarded-for", hops) for hops in (b"6.6.6.6, 1.1.1.1", b"10.0.0.2")]
    asked = call("10.0.0.1")
    asked.headers[:] = [(b"x-real-ip", b"7.7.7.7"), *forwarded, (b"forwarded", b"for=8.8.8.8")]
    assert TrustedProxies(("10.0.0.9/8",)).client_ip(asked) == "1.1.1.1"


def test_nobody_is_trusted_by_default() -> None:
    proxies = TrustedProxies(())
    forged = call("127.0.0.1", x_forwarded_for="1.1.1.1", x_forwarded_proto="https")
    assert (proxies.client_ip(forged), proxies.scheme(forged)) == ("127.0.0.1", b"http")


def test_the_scheme_is_a_trusted_proxys_word() -> None:
    proxies = TrustedProxies(("127.0.0.1",))
    assert proxies.scheme(call("127.0.0.1", x_forwarded_proto="https")) == b"https"
    assert proxies.scheme(call("127.0.0.2", x_forwarded_proto="https")) == b"http"


def test_a_trusted_proxy_is_known_by_its_ipv4_address_where_the_gateway_listens_on_every_ipv6_one() -> None:
    proxies = TrustedProxies(("127.0.0.1",))
    assert proxies.scheme(call("::ffff:127.0.0.1", x_forwarded_proto="https")) == b"https"
    assert proxies.scheme(call("::ffff:127.0.0.2", x_forwarded_proto="https")) == b"http"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("api.example.com", "http://api.example.com"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("evil.example/path", ""),
        ("a b", ""),
        ("user@host", ""),
        ("", ""),
    ],
)
def test_the_origin_is_the_host_that_the_caller_named_if_it_is_one(host: str, origin: str) -> None:
    assert TrustedProxies(()).origin(call("127.0.0.1", host=host)) == origin
    secure = TrustedProxies(("127.0.0.1",)).origin(call("127.0.0.1", host=host, x_forwarded_proto="https"))
    assert secure == origin.replace("http:", "https:")


def test_who_names_no_host_knows_no_origin() -> None:
    assert TrustedProxies(()).origin(call("127.0.0.1")) == ""
