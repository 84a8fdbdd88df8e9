"""What the contracts of Luma, MiniMax, Pika and Sora say beside the rows themselves, through the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Caller, Served, done_of, serving

AT = {FAULT: AT_ONCE}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("contracts")) as one:
        yield one
        assert one.books().loss_nano == 0


@pytest.mark.parametrize(
    ("path", "items", "body"),
    [
        ("/dream-machine/v1/generations", "generations", {"model": "ray-2"}),
        ("/v1/videos", "data", {"model": "sora-2"}),
    ],
)
def test_a_list_holds_nothing_that_was_refused(gateways: Served, path: str, items: str, body: dict[str, str]) -> None:
    asking = Asking(gateways, "luma.list")
    assert asking.call("POST", path, json=body).status_code == 400
    assert asking.call("GET", path).json()[items] == []
    # Ours has it: there a caller finds out what became of a submit.
    assert [one["status"] for one in asking.call("GET", "/v1/tasks").json()["data"]] == ["failed"]


def test_lumas_words_and_status_are_put_in_the_callers_form(gateways: Served) -> None:
    asking = Asking(gateways, "tasks.create")
    for path in ("/v1/videos", "/v1/video/generations", "/v1/video/create"):
        assert asking.call("POST", path, json={"model": "ray-2", "prompt": "a dog"}, headers=AT).status_code == 200
        reply = asking.call("POST", path, json={"model": "ray-2", "prompt": "a dog", "resolution": "9p"})
        assert (reply.status_code, "resolution must be" in reply.json()["error"]["message"]) == (400, True), reply.text


def test_pikas_feed_takes_the_id_in_the_query_too(gateways: Served) -> None:
    caller = Caller(gateways, "pika.generate")
    task_id, _ = caller.begun(AT_ONCE)
    done = caller.until(task_id, done_of(caller.form))
    feed = caller.call("GET", f"/pika/feed/?id={task_id}").json()
    assert (feed["id"], len(feed["videos"])) == (done["id"], 1)


def test_a_query_of_minimax_names_where_its_file_is(gateways: Served) -> None:
    caller = Caller(gateways, "minimax.generate")
    done = caller.through(AT_ONCE)
    place = caller.fetch(done["file_id"], row="minimax.file").json()
    assert done["file"] == {"download_url": place["file"]["download_url"]}
