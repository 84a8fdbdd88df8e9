"""Addresses that a caller may give for callbacks, and the question whether the receiver wants them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from elkapi.errors import BadRequest
from elkapi.tasks.callback_address import URL_CHARACTERS_MAX, challenge, check_callback_url, split
from elkapi.upstream import Deadlines, UpstreamClient, UpstreamReply, UpstreamRequest
from elkapi.upstream.errors import TotalTimeout
from tests.receiver import Received, Receiver, answer, receiving


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.test/in?token=a%20b&x=1",
        "http://hooks.example.test:8080",
        "https://8.8.8.8/in",
        "https://[2001:4860:4860::8888]/",
    ],
)
def test_a_public_address_passes(url: str) -> None:
    check_callback_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.test/in",
        "ftp://hooks.example.test/",
        "unix:///run/elkapi.sock",
        "file:///etc/passwd",
        "https://user:password@hooks.example.test/",
        "https://hooks.example.test/#part",
        "https://hooks.example.test/?a=1#part",
        "https://hooks.example.test/a b",
        "https://hooks.example.test/?a=\r\nx: y",
        "https://hooks.example.test/?a= b",
        "https://hooks.example.test/?a=\x7f",
        "https://hooks.example.test/?a=ü",
        "https://hooks.example.test:0/",
        "https:///path",
        "https://hooks.example.test/" + "a" * 2_048,
        "http://127.0.0.1/",
        "http://10.0.0.1:8080/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://0x7f.1/",
        "http://127.0.0.0x1/",
        "http://2130706433/",
        "http://127.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://db.internal/",
        "http://api.localhost/",
        "http://printer.local/",
    ],
)
def test_ssrf_an_address_that_cannot_or_must_not_be_called_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_callback_url(url)
    assert refused.value.param == "callback_url"


def test_an_operator_may_allow_private_addresses() -> None:
    check_callback_url("http://127.0.0.1:9/", allow_private=True)
    assert split("http://127.0.0.1:9?a=1", allow_private=True)[1] == b"/?a=1"
    assert split("http://127.0.0.1:9/in/x?a=/?", allow_private=True)[1] == b"/in/x?a=/?"


@pytest.mark.parametrize("url", ["unix:///run/elkapi.sock", "file:///etc/passwd", "https://user:password@127.0.0.1/"])
def test_also_where_private_addresses_are_allowed_only_the_web_is_called(url: str) -> None:
    with pytest.raises(BadRequest):
        check_callback_url(url, allow_private=True)
    with pytest.raises(ValueError, match="URL"):
        split(url, allow_private=True)


def test_an_address_may_be_so_long_and_no_longer() -> None:
    longest = "https://8.8.8.8/".ljust(URL_CHARACTERS_MAX, "a")
    check_callback_url(longest)
    with pytest.raises(BadRequest):
        check_callback_url(longest + "a")


async def asked(says: Callable[[Received], bytes]) -> Receiver:
    client = UpstreamClient()
    try:
        async with receiving(says) as receiver:
            await challenge(client.send, receiver.url, allow_private=True)
            return receiver
    finally:
        await client.aclose()


async def test_a_receiver_that_repeats_the_challenge_is_accepted() -> None:
    receiver = await asked(lambda event: answer(200, event.body))
    assert set(msgspec.json.decode(receiver.got[0].body)) == {"challenge"}


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b'{"challenge":"another"}'),
        answer(200, b"[]"),
        answer(200, b'{"challenge":5}'),
        answer(200, b"\xff"),
        answer(404, b"{}"),
        answer(302, b"", "location: /"),
        b"",
    ],
)
async def test_a_receiver_that_does_not_repeat_it_is_refused(said: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        await asked(lambda _: said)
    assert refused.value.param == "callback_url"


@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_that_repeats_the_challenge_is_no_consent(status: int) -> None:
    with pytest.raises(BadRequest, match="did not answer the challenge within 3 seconds"):
        await asked(lambda event: answer(status, event.body))


async def test_a_receiver_has_three_seconds_for_all_of_its_answer() -> None:
    sent: list[UpstreamRequest] = []

    async def send(request: UpstreamRequest) -> UpstreamReply:
        sent.append(request)
        raise TotalTimeout("total_s passed", phase="header", sent=True)

    with pytest.raises(BadRequest) as refused:
        await challenge(send, "https://hooks.example.test/in", param="notify")
    assert refused.value.param == "notify"
    assert [getattr(sent[0].deadlines, name) for name in Deadlines.__struct_fields__] == [3.0] * 5
    assert (sent[0].method, sent[0].target) == (b"POST", b"/in")


async def test_ssrf_a_challenge_goes_to_no_private_address() -> None:
    client = UpstreamClient(resolver=_loopback)
    async with receiving() as receiver:
        with pytest.raises(BadRequest):
            await challenge(client.send, f"http://hooks.example.test:{receiver.port}/")
        assert receiver.connections == 0
    await client.aclose()


async def _loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]
