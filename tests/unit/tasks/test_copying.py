"""Where the files of a task are asked for, and turns of copies: one whose files do not come leaves some to others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from elkapi.assets.kinds import GLB, PNG
from elkapi.catalog.task import Made
from elkapi.tasks import copying
from elkapi.tasks.copying import COPIES_AT_ONCE_MAX, Copies, CopyFailed
from elkapi.tasks.machine import Reading
from elkapi.tasks.results import kind_shown
from elkapi.types import Channel, ChannelKey, State
from elkapi.upstream import Origin, UpstreamRequest
from elkapi.upstream.errors import UpstreamFailure
from elkapi.upstream.gcp import TokenRefused

VIDEO = Reading(State.SUCCEEDED, "done", True, 100, made=((Made("url"), "https://files.example/v.mp4"),))


class Host:
    """Copies at once what is not of the channel 1, and that never; it stands for all of a poller's parts."""

    def __init__(self) -> None:
        self.copier, self.way = self, None
        self.begun = 0

    async def copy(self, task: Any, number: int, made: Made, request: UpstreamRequest, source: str) -> Any:
        self.begun += 1
        if task == 1:
            await asyncio.Event().wait()


async def test_a_provider_whose_files_do_not_come_keeps_no_other_waiting() -> None:
    host: Any = Host()
    copies = Copies(host)

    def of(channel_id: int) -> Any:
        channel = Channel(channel_id, "east", "kling", "https://provider.example", keys=(), models=("m",))
        task: Any = channel_id
        submit: Any = None
        return copies.of(task, submit, (channel, ChannelKey(1, "k")), VIDEO)

    hanging = [asyncio.ensure_future(of(1)) for _ in range(2 * COPIES_AT_ONCE_MAX)]
    await asyncio.sleep(0)
    await of(2)
    assert copies.waiting == len(hanging)
    assert 1 < host.begun <= COPIES_AT_ONCE_MAX
    for one in hanging:
        one.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert copies.waiting == 0


ADDRESS = "https://files.example/a b/v.mp4?sig=1#t=2"
GOOGLES = Made("uri", auth=True)
BY_ID = Made("id", via="GET /files/{value}")
BY_NAME = Made("id", via="GET /files/{value}", then="file.url")
SIGNED: list[tuple[bytes, bytes]] = [(b"authorization", b"Bearer k")]
ITSELF = UpstreamRequest(Origin.parse("https://east.example"), b"GET", b"/files/f1", [])


class Asked:
    """In the place of what asks a provider: answers and credentials, or the error that asking for them ends in."""

    def __init__(self, answer: Any = None, error: Exception | None = None) -> None:
        self.answer = answer
        self.error = error
        self.requests: list[tuple[UpstreamRequest, str]] = []

    async def ask(self, _way: Any, _operation: Any, _account: Any, what: str, values: Any) -> Any:
        assert (what, values) == ("GET /files/{value}", {"value": "f1"})
        return self.answer

    async def sign(self, *_: Any) -> list[tuple[bytes, bytes]]:
        if self.error is not None:
            raise self.error
        return SIGNED

    async def request(self, *given: Any) -> UpstreamRequest:
        assert given[-2:] == ("GET /files/{value}", {"value": "f1"})
        return ITSELF

    async def copy(self, task: Any, number: int, made: Made, request: UpstreamRequest, source: str) -> Any:
        self.requests.append((request, source))
        return number


async def asked_for(
    patch: pytest.MonkeyPatch, asked: Asked, made: Made, value: str, **channel: Any
) -> tuple[UpstreamRequest, str]:
    """(the request for a file, the address that is kept of it)."""
    patch.setattr(copying, "asked", asked.ask)
    patch.setattr(copying, "credential", asked.sign)
    patch.setattr(copying, "request_for", asked.request)
    parts: Any = SimpleNamespace(copier=asked, way=SimpleNamespace(signer=None, settings=None))
    east = Channel(1, "east", "kling", channel.pop("base_url", "https://east.example"), keys=(), models=(), **channel)
    reading = Reading(State.SUCCEEDED, "done", True, 100, made=((made, value),))
    no_task: Any = None
    await Copies(parts).of(no_task, no_task, (east, ChannelKey(1, "k")), reading)
    return asked.requests[0]


@pytest.mark.parametrize(
    ("made", "value", "answer", "headers", "source"),
    [
        (Made("url"), ADDRESS, None, [], ADDRESS),
        (GOOGLES, ADDRESS, None, SIGNED, ADDRESS),
        (BY_NAME, "f1", ({"file": {"url": ADDRESS}}, b""), [], ADDRESS),
    ],
    ids=["by its address", "with the key", "by its name"],
)
async def test_a_file_is_asked_for_at_the_address_that_its_provider_told(
    monkeypatch: pytest.MonkeyPatch, made: Made, value: str, answer: Any, headers: Any, source: str
) -> None:
    request, kept = await asked_for(monkeypatch, Asked(answer), made, value)
    assert (request.origin, request.target) == (Origin.parse("https://files.example"), b"/a%20b/v.mp4?sig=1")
    assert request.headers == [(b"accept", b"*/*"), *headers]
    assert kept == source


async def test_a_file_that_its_provider_gives_itself_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await asked_for(monkeypatch, Asked(), BY_ID, "f1") == (ITSELF, "")


async def test_a_file_is_asked_for_on_its_channels_way_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    way: dict[str, Any] = {"allow_private": True, "proxy_url": "http://proxy.example:3128"}
    request, _ = await asked_for(monkeypatch, Asked(), Made("url"), ADDRESS, **way)
    assert request.origin == Origin.parse("https://files.example", **way)
    request, _ = await asked_for(monkeypatch, Asked(), Made("url"), ADDRESS, base_url="unix:///run/sandbox.sock")
    assert request.origin == Origin.parse("unix:///run/sandbox.sock")


@pytest.mark.parametrize(
    ("made", "value", "asked", "again"),
    [
        (Made("url"), "ftp://files.example/v.mp4", Asked(), False),
        (BY_NAME, "f1", Asked(0.0), True),
        (BY_NAME, "f1", Asked(None), True),
        (BY_NAME, "f1", Asked(({"file": {}}, b"")), True),
        (GOOGLES, ADDRESS, Asked(error=ValueError("no key")), True),
        (GOOGLES, ADDRESS, Asked(error=TokenRefused("no token")), True),
        (GOOGLES, ADDRESS, Asked(error=UpstreamFailure("away", phase="connect", sent=False)), True),
    ],
    ids=["no address", "no answer", "not there", "not named", "no key", "no token", "away"],
)
async def test_a_file_that_cannot_be_asked_for_is_tried_again_where_that_may_change(
    monkeypatch: pytest.MonkeyPatch, made: Made, value: str, asked: Asked, again: bool
) -> None:
    with pytest.raises(CopyFailed) as caught:
        await asked_for(monkeypatch, asked, made, value)
    assert (caught.value.again, caught.value.ours) == (again, False)
    assert asked.requests == []


def test_a_file_is_shown_as_what_it_is_and_a_kind_without_a_name_of_its_own_as_its_family_says() -> None:
    assert [kind_shown("video", PNG), kind_shown("image", GLB), kind_shown("file", GLB)] == ["image", "image", "file"]


@pytest.mark.parametrize("optional", [True, False])
async def test_a_task_succeeds_without_a_file_that_it_can_do_without(optional: bool) -> None:
    parts: Any = SimpleNamespace(copier=Asked(), way=None)
    east = Channel(1, "east", "kling", "https://east.example", keys=(), models=())
    poster = Made("poster", kind="image", optional=optional)
    reading = Reading(State.SUCCEEDED, "done", True, 100, made=((poster, "ftp://x"), (Made("url"), ADDRESS)))
    no_task: Any = None
    copies = Copies(parts).of(no_task, no_task, (east, ChannelKey(1, "k")), reading)
    if optional:
        copied: Any = (1,)
        assert await copies == copied
        return
    with pytest.raises(CopyFailed):
        await copies
