"""Going on from a film by the address that we gave out: it reaches the account that made it, by its name there."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from tests.tasks.rows import SUBMITS
from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Caller, Served, serving

VEO = "veo.predict"
MODEL = str(SUBMITS[VEO].params["model"])
PATH = f"/v1beta/models/{MODEL}:predictLongRunning"


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("own-files")) as one:
        yield one
        assert one.gate.books().loss_nano == 0


@pytest.fixture(scope="module")
def maker(gateways: Served) -> Caller:
    return Caller(gateways, VEO)


@pytest.fixture(scope="module")
def made(gateways: Served, maker: Caller) -> tuple[str, int]:
    """The address of a film, and its account, which is from then on the second choice."""
    done = maker.through(AT_ONCE)
    account = accounts(gateways)[-1]
    url = gateways.sandbox.base_url
    gateways.run(
        gateways.gate.channel(
            url, (MODEL,), family="gemini", secrets=("AIzaOther",), priority=10, forward_headers=(FAULT,)
        )
    )
    return str(done["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]), account


@pytest.fixture
def film(made: tuple[str, int]) -> str:
    return made[0]


def extend(asking: Asking, address: Any) -> httpx.Response:
    instance = {"prompt": "and on", "video": {"uri": address}}
    return asking.call("POST", PATH, json={"instances": [instance]}, headers={FAULT: AT_ONCE})


def sent(gateways: Served) -> dict[str, Any]:
    came = next(one for one in reversed(gateways.sandbox.sandbox.recorder.shown()) if one.method == "POST")
    return dict(msgspec.json.decode(base64.b64decode(came.body_base64))["instances"][0])


def accounts(gateways: Served) -> list[int]:
    return [row[0] for row in gateways.gate.sql("select channel_id from tasks order by id")]


def test_a_film_of_the_callers_own_is_extended_where_it_was_made(
    gateways: Served, maker: Caller, made: tuple[str, int]
) -> None:
    film, made_at = made
    asset = film.rpartition("/")[2].partition(":")[0]
    listed = maker.call("GET", "/v1/tasks?limit=100").json()["data"]
    (signed,) = [made["url"] for task in listed for made in task.get("output") or () if asset in made["url"]]
    elsewhere = f"https://other.test{urlsplit(film).path}"
    for address in (film, signed, elsewhere):
        reply = extend(maker, address)
        assert reply.status_code == 200, reply.text
        uri = sent(gateways)["video"]["uri"]
        assert uri.startswith(f"{gateways.sandbox.base_url}/v1beta/files/")
        assert uri not in reply.text
        assert accounts(gateways)[-1] == made_at
    assert maker.begin(AT_ONCE).status_code == 200
    assert accounts(gateways)[-1] != made_at


def test_a_film_of_nobody_or_of_another_is_not_found(gateways: Served, maker: Caller, film: str) -> None:
    other, before = Asking(gateways, VEO), accounts(gateways)
    origin = gateways.gate.origin
    unknown = [
        f"{origin}/v1beta/files/{'0' * 32}:download?alt=media",
        f"{origin}/v1/assets/{'0' * 32}/video.mp4",
        f"{origin}/v1/videos",
        origin.upper().replace("HTTP", "http"),
    ]
    for asking, address in ((other, film), *((maker, one) for one in unknown)):
        reply = extend(asking, address)
        assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND"), reply.text
        assert "does not exist" in reply.json()["error"]["message"]
    assert accounts(gateways) == before


@pytest.mark.parametrize(
    "address",
    [
        "gs://bucket/film.mp4",
        "https://generativelanguage.googleapis.com/v1beta/files/abc123:download?alt=media",
        f"https://other.test/v1/assets/{'0' * 32}/video.mp4",
        "https://[",
        "",
    ],
)
def test_an_address_that_is_not_ours_passes_as_it_is(gateways: Served, address: str) -> None:
    reply = extend(Asking(gateways, VEO), address)
    assert reply.status_code == 200, reply.text
    assert sent(gateways)["video"] == {"uri": address}


def test_a_task_names_no_more_films_than_it_may_go_on_from(gateways: Served) -> None:
    instances = [{"prompt": "x", "video": {"uri": f"gs://bucket/{number}"}} for number in range(17)]
    reply = Asking(gateways, VEO).call("POST", PATH, json={"instances": instances})
    assert (reply.status_code, "at most 16" in reply.json()["error"]["message"]) == (400, True), reply.text


def test_a_film_whose_account_is_gone_is_not_made_elsewhere(gateways: Served, maker: Caller) -> None:
    """The film of another kind of provider's has no account among Veo's."""
    kling = Caller(gateways, "kling.text-to-video", key=maker.key)
    done = kling.through(AT_ONCE)
    reply = extend(maker, done["data"]["task_result"]["videos"][0]["url"])
    assert (reply.status_code, reply.json()["error"]["status"]) == (503, "NOT_FOUND"), reply.text
