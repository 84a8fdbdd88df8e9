"""What a remix, an edit or an extension of a video costs: by the length and the size that it is made in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from elkapi.money import parse_usd
from tests.assets.media import mp4
from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Served, serving

# As they are seeded.
SMALL, LARGE = parse_usd("0.30"), parse_usd("0.50")
PRO = {"model": "sora-2-pro", "prompt": "a dog", "size": "1792x1024", "seconds": "8"}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("follow-ups")) as one:
        url = one.sandbox.base_url
        one.run(one.gate.channel(url, ("sora-2-pro",), secrets=("sk-pro",), forward_headers=(FAULT,)))
        one.run(one.gate.price("sora-2", per_second_usd="0.10"))
        yield one
        assert one.gate.books().loss_nano == 0


class Videos(Asking):
    """A key that makes videos by OpenAI's routes."""

    def filmed(self, path: str, **sent: Any) -> tuple[str, int]:
        """(its id, what it cost), once it is made."""
        reply = self.call("POST", path, headers={FAULT: AT_ONCE}, **sent)
        assert reply.status_code == 200, reply.text
        path = f"/v1/videos/{reply.json()['id']}"
        while (now := self.call("GET", path).json())["status"] in ("queued", "in_progress"):
            pass
        assert now["status"] == "completed", now
        return now["id"], self.served.charge_nano(reply.headers["x-request-id"])


@pytest.fixture
def videos(gateways: Served) -> Videos:
    return Videos(gateways, "sora.create")


def test_a_remix_costs_what_its_source_did(videos: Videos) -> None:
    source, cost = videos.filmed("/v1/videos", json=PRO)
    assert cost == 8 * LARGE
    for body in ({"prompt": "a cat"}, {"prompt": "a cat", "seconds": "4", "size": "1280x720"}):
        remix, its_cost = videos.filmed(f"/v1/videos/{source}/remix", json=body)
        assert its_cost == cost
        assert videos.call("GET", f"/v1/videos/{remix}").json()["remixed_from_video_id"] == source
    edit, its_cost = videos.filmed(
        "/v1/videos/edits", json={"prompt": "a cat", "video": {"id": source}, "seconds": "4"}
    )
    assert its_cost == cost
    assert videos.call("GET", f"/v1/videos/{edit}").json()["remixed_from_video_id"] is None


def test_what_names_a_larger_size_than_its_source_costs_that(videos: Videos) -> None:
    """Some providers would make it; it was priced like its source."""
    source, cost = videos.filmed("/v1/videos", json=PRO | {"size": "1280x720"})
    assert cost == 8 * SMALL
    for body in ({"prompt": "a cat", "size": "1792x1024"}, {"prompt": "a cat", "size": "480x854"}):
        dearest = LARGE if body["size"] == "1792x1024" else SMALL
        reply = videos.call("POST", "/v1/quote", json={"path": f"/v1/videos/{source}/remix", "body": body})
        assert reply.json()["hold_nano_usd"] == 8 * dearest
    edit = {"path": "/v1/videos/edits", "body": {"prompt": "a cat", "video": {"id": source}, "size": "1792x1024"}}
    assert videos.call("POST", "/v1/quote", json=edit).json()["hold_nano_usd"] == 8 * LARGE


def test_an_extension_costs_the_seconds_that_it_adds(videos: Videos) -> None:
    source, _ = videos.filmed("/v1/videos", json=PRO)
    body = {"prompt": "on", "seconds": "4", "video": {"id": source}}
    longer, cost = videos.filmed("/v1/videos/extensions", json=body)
    assert cost == 4 * LARGE
    # It lasts 12 seconds, and so does what is made of it.
    assert videos.filmed(f"/v1/videos/{longer}/remix", json={"prompt": "a cat"})[1] == 12 * LARGE


@pytest.mark.parametrize("seconds", [2, 4, 12])
def test_an_edit_of_an_uploaded_film_costs_its_length(videos: Videos, seconds: int) -> None:
    film = ("a.mp4", mp4(seconds * 1000, 720, 1280), "video/mp4")
    _, cost = videos.filmed("/v1/videos/edits", files={"prompt": (None, "in red"), "video": film})
    assert cost == seconds * parse_usd("0.10")


def test_an_edit_of_an_uploaded_film_is_held_at_its_size(videos: Videos) -> None:
    film = "data:video/mp4;base64," + base64.b64encode(mp4(4000, 1024, 1792)).decode()
    body = {"prompt": "in red", "model": PRO["model"], "video": film}
    reply = videos.call("POST", "/v1/quote", json={"path": "/v1/videos/edits", "body": body})
    assert reply.json()["hold_nano_usd"] == 4 * LARGE


def test_a_film_that_cannot_be_measured_is_the_providers_to_refuse(videos: Videos) -> None:
    for film in ("data:video/mp4;base64,AAAA", "data:video/mp4;base64,~", "data:,é", 5):
        body = json.dumps({"prompt": "in red", "video": film})
        reply = videos.call("POST", "/v1/videos/edits", content=body, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "video"), reply.text
