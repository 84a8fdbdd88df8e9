"""Google's tokens: one exchange for all who need it, renewed in time, and no call that was sent."""

from __future__ import annotations

import asyncio
import gc

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from elkapi.clock import ManualClock
from elkapi.upstream import UpstreamClient, UpstreamFailure
from elkapi.upstream.gcp import RENEW_BEFORE_S, TokenRefused, TokenSource
from tests.unit.upstream.upstream_peers import Serve, Stream
from tests.waiting import until


@pytest.fixture(scope="module")
def account() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return msgspec.json.encode({"client_email": "a@p.example", "private_key": pem}).decode()


def token(number: int, life_s: int = 3600) -> bytes:
    body = msgspec.json.encode({"access_token": f"token-{number}", "expires_in": life_s})
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Endpoint:
    """A token endpoint that answers while `open` is set: with `answers` in turn, then with tokens by number."""

    url = ""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()

    async def script(self, stream: Stream) -> None:
        while await stream.request():
            self.asked += 1
            await self.open.wait()
            answer = self.answers.pop(0) if self.answers else token(self.asked)
            if not answer:
                return
            await stream.write(answer)


@pytest.fixture
async def endpoint(serve: Serve) -> Endpoint:
    made = Endpoint()
    made.url = f"http://127.0.0.1:{(await serve(made.script)).origin.port}/token"
    return made


async def test_calls_at_once_share_one_exchange_and_its_failure(
    endpoint: Endpoint, client: UpstreamClient, account: str
) -> None:
    source = TokenSource(client.send, ManualClock())
    endpoint.answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
    for number in (1, 2):
        endpoint.open.clear()
        asked = [asyncio.ensure_future(source.token(1, account, endpoint.url, True)) for _ in range(5)]
        await until(lambda: endpoint.asked == number)  # noqa: B023
        asked.pop(0).cancel()  # Whoever leaves takes it from nobody else.
        await asyncio.sleep(0.01)
        endpoint.open.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert endpoint.asked == number
    assert found == ["token-2"] * 4


async def test_a_failure_that_nobody_waits_for_any_more_is_no_fault_that_nobody_handled(
    endpoint: Endpoint, client: UpstreamClient, account: str
) -> None:
    faults, source = [], TokenSource(client.send, ManualClock())
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    endpoint.answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
    endpoint.open.clear()
    asked = asyncio.ensure_future(source.token(1, account, endpoint.url, True))
    await until(lambda: endpoint.asked == 1)
    asked.cancel()
    endpoint.open.set()
    await until(lambda: not source._under_way)
    del asked
    gc.collect()
    assert not faults


async def test_a_token_is_renewed_before_it_ends_and_each_account_has_its_own(
    endpoint: Endpoint, client: UpstreamClient, account: str
) -> None:
    clock = ManualClock()
    source = TokenSource(client.send, clock)
    assert await source.token(1, account, endpoint.url, True) == "token-1"
    clock.advance(3600 - RENEW_BEFORE_S - 1)
    assert await source.token(1, account, endpoint.url, True) == "token-1"
    assert await source.token(1, account + " ", endpoint.url, True) == "token-2"
    clock.advance(1)
    assert await source.token(1, account, endpoint.url, True) == "token-3"


async def test_an_exchange_that_breaks_off_has_sent_no_call(
    endpoint: Endpoint, client: UpstreamClient, account: str
) -> None:
    source = TokenSource(client.send, ManualClock())
    endpoint.answers = [b""]
    with pytest.raises(UpstreamFailure) as broken:
        await source.token(1, account, endpoint.url, True)
    assert not broken.value.sent
    endpoint.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]
    with pytest.raises(TokenRefused, match="holds no token"):
        await source.token(1, account, endpoint.url, True)
    with pytest.raises(ValueError, match="JSON text"):
        await source.token(1, "{}", endpoint.url, True)
