"""What the contracts of Luma, MiniMax, Pika and Sora say beside the rows themselves, through the gateway."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from elkapi.money import parse_usd
from elkapi.sandbox.tasks import FILES
from tests.assets.media import png
from tests.tasks import shapes
from tests.tasks.rows import ONCE, PICTURE
from tests.tasks.test_rows import AT_ONCE, FAULT, OPEN, Asking, Caller, Served, done_of, serving

AT = {FAULT: AT_ONCE}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("contracts")) as one:
        yield one
        assert one.gate.books().loss_nano == 0


def last_submit(gateways: Served) -> tuple[str, bytes]:
    """(content type, body) as the provider had it."""
    came = next(one for one in reversed(gateways.sandbox.sandbox.recorder.shown()) if one.method == "POST")
    return dict(came.headers)["content-type"], base64.b64decode(came.body_base64)


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


@pytest.mark.parametrize("name", ["characters[][id]", "characters[0][id]"])
def test_a_form_names_only_characters_of_its_own_account(gateways: Served, name: str) -> None:
    asking = Asking(gateways, "sora.character-create")
    character = asking.send(ONCE["sora.character-create"], {}).json()["id"]
    files = [("prompt", (None, "a dog")), ("model", (None, "sora-2")), (name, (None, character))]
    assert asking.call("POST", "/v1/videos", files=files).status_code == 200
    other = asking.call("POST", "/v1/videos", files=files, key=gateways.key())
    assert (other.status_code, other.json()["error"]["code"]) == (404, "task_not_exist")


def test_a_form_whose_model_is_another_there_stays_a_form(gateways: Served) -> None:
    gateways.run(gateways.gate.price("film", per_call_usd="0.5"))
    url = gateways.sandbox.base_url
    gateways.run(gateways.gate.channel(url, ("film",), secrets=("sk-film",), model_map={"film": "sora-2"}))
    picture = ("a.png", png(720, 1280), "application/octet-stream")
    files = {"prompt": (None, "a dog"), "model": (None, "film"), "input_reference": picture}
    reply = Asking(gateways, "sora.create").call("POST", "/v1/videos", files=files)
    assert reply.status_code == 200, reply.text
    asked = gateways.sandbox.sandbox.store.shelf(FILES).all()[-1].asked
    assert (asked.model, reply.json()["model"]) == ("sora-2", "film")
    kind, body = last_submit(gateways)
    assert kind.startswith("multipart/form-data")
    assert b"Content-Type: image/png" in body


@pytest.mark.parametrize("sends", ["json", "form"])
def test_elkapis_own_words_for_a_sora_video_mean_what_they_say(gateways: Served, sends: str) -> None:
    """sora.md, "ElkAPI extras"."""
    body = {"model": "sora-2", "prompt": "a dog", "duration": 8, "width": 1280, "height": 720, "image": PICTURE}
    body |= {"fps": 24, "seed": 1, "n": 1, "response_format": "url", "user": "u", "group": "g"}
    asking = Asking(gateways, "sora.create")
    sent = {"json": body} if sends == "json" else {"files": {name: (None, str(value)) for name, value in body.items()}}
    reply = asking.call("POST", "/v1/videos", **sent)
    assert reply.status_code == 200, reply.text
    assert (reply.json()["seconds"], reply.json()["size"]) == ("8", "1280x720")
    kind, came = last_submit(gateways)
    own = {"model": "sora-2", "prompt": "a dog", "seconds": "8", "size": "1280x720"}
    assert (kind, json.loads(came)) == ("application/json", {**own, "input_reference": {"image_url": PICTURE}})


def test_openais_own_words_pass_byte_for_byte(gateways: Served) -> None:
    body = b'{ "model":"sora-2", "prompt":"a dog", "seconds":"4", "new": {} }'
    asking = Asking(gateways, "sora.create")
    headers = {"content-type": "application/json"}
    assert asking.call("POST", "/v1/videos", content=body, headers=headers).status_code == 200
    assert last_submit(gateways)[1] == body
    assert asking.call("POST", "/v1/videos", json={"prompt": "a dog", "seconds": 8}).json()["seconds"] == "8"


def test_metadata_of_a_form_in_json_reaches_the_provider(gateways: Served) -> None:
    """As clients of new-api send it."""
    asking, model = Asking(gateways, "sora.create"), "doubao-seedance-1-0-pro-250528"
    metadata = {"ratio": "9:16", "resolution": "480p", "watermark": True}
    form = {"prompt": "a dog", "model": model, "seconds": "5", "metadata": json.dumps(metadata)}
    reply = asking.call("POST", "/v1/videos", files={name: (None, text) for name, text in form.items()})
    assert reply.status_code == 200, reply.text
    kind, came = last_submit(gateways)
    content = [{"type": "text", "text": "a dog"}]
    assert (kind, json.loads(came)) == (
        "application/json",
        {"model": model, "content": content, "duration": 5, **metadata},
    )
    for text in ("[]", "a dog", '{"a":' + "[" * 200 + "]" * 200 + "}"):
        parts = {name: (None, value) for name, value in (form | {"metadata": text}).items()}
        assert asking.call("POST", "/v1/videos", files=parts).status_code == 400


@pytest.mark.parametrize("sends", ["json", "form"])
@pytest.mark.parametrize(
    ("said", "came"),
    [
        ({"size": "16:9"}, {"size": "1280x720"}),
        ({"size": "1280*720"}, {"size": "1280x720"}),
        ({"seconds": "8s"}, {"seconds": "8"}),
        ({"size": "", "seconds": ""}, {}),
    ],
)
def test_a_spelling_that_is_not_openais_reaches_it_as_its_own(
    gateways: Served, said: dict[str, str], came: dict[str, str], sends: str
) -> None:
    asking, body = Asking(gateways, "sora.create"), {"model": "sora-2", "prompt": "a dog"}
    parts = {name: (None, value) for name, value in (body | said).items()}
    sent = {"json": body | said} if sends == "json" else {"files": parts}
    reply = asking.call("POST", "/v1/videos", **sent)
    assert reply.status_code == 200, reply.text
    assert json.loads(last_submit(gateways)[1]) == body | came


def test_who_waits_for_a_picture_is_answered_with_it(gateways: Served) -> None:
    asking = Asking(gateways, "luma.image")
    body = {"model": "photon-1", "prompt": "a fox", "sync": True, "sync_timeout": 30}
    headers = {**AT, "idempotency-key": "once"}
    replies = [asking.call("POST", asking.path, json=body, headers=headers) for _ in range(2)]
    for reply in replies:
        assert (reply.status_code, reply.json()["state"]) == (201, "completed"), reply.text
        assert reply.json()["assets"]["image"].startswith(gateways.gate.origin)
    assert "idempotent-replayed" in replies[1].headers
    failed = asking.call("POST", asking.path, json=body, headers={FAULT: f"{AT_ONCE}, task-fails"})
    assert (failed.json()["state"], failed.json()["assets"]) == ("failed", None)


def test_who_waited_long_enough_is_told_how_it_stands(gateways: Served) -> None:
    asking = Asking(gateways, "luma.image")
    body = {"model": "photon-1", "prompt": "a fox", "sync": True, "sync_timeout": 0.1}
    reply = asking.call("POST", asking.path, json=body, headers={FAULT: OPEN})
    assert (reply.status_code, reply.json()["state"] in ("queued", "dreaming")) == (201, True), reply.text


@pytest.mark.parametrize("wrong", [{"sync": "yes"}, {"sync": True, "sync_timeout": -1}, {"sync_timeout": "5"}])
def test_a_wait_that_is_none_is_refused_before_anything_is_held(gateways: Served, wrong: dict[str, object]) -> None:
    asking = Asking(gateways, "luma.image")
    reply = asking.call("POST", asking.path, json={"model": "photon-1", "prompt": "a fox", **wrong})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")
    assert asking.call("GET", "/v1/tasks").json()["data"] == []


def test_the_reverse_form_reaches_a_reseller_by_the_models_name_alone(gateways: Served) -> None:
    asking = Asking(gateways, "sora.reverse-create")
    sent = {"prompt": "a dog", "resolution": 720, "duration": 10, "n_variants": 2, "image_url": PICTURE, "style": "x"}
    reply = asking.call("POST", asking.path, json=sent, headers=AT)
    assert reply.status_code == 200, reply.text
    came = json.loads(last_submit(gateways)[1])
    assert came == {**sent, "model": "sora", "resolution": "720p"}
    done = Caller(gateways, "sora.reverse-create", key=asking.key).until(reply.json()["data"], "SUCCESS")
    assert len(done["data"]["data"]["generations"]) == 2
    # Two videos are two calls.
    assert gateways.charge_nano(reply.headers["x-request-id"]) == 2 * parse_usd("0.5")
    # Another model is OpenAI's own form there.
    other = asking.call("POST", asking.path, json={"prompt": "a dog", "model": "sora-2", "duration": 8}, headers=AT)
    assert other.status_code == 200, other.text
    assert json.loads(last_submit(gateways)[1]) == {"prompt": "a dog", "model": "sora-2", "seconds": "8"}


def test_the_reverse_model_is_served_to_the_other_forms_too(gateways: Served) -> None:
    asking = Asking(gateways, "tasks.create")
    for path in ("/v1/videos", "/v1/video/generations"):
        reply = asking.call("POST", path, json={"model": "sora", "prompt": "a dog", "seconds": "5"}, headers=AT)
        assert reply.status_code == 200, reply.text
        came = json.loads(last_submit(gateways)[1])
        assert came == {"model": "sora", "prompt": "a dog", "duration": 5, "n_variants": 1}


def test_a_thumbnail_is_any_providers_poster_and_a_spritesheet_openais(gateways: Served) -> None:
    for row, wanted in (("pika.generate", ("image/jpeg", 404)), ("sora.create", ("image/webp", "image/jpeg"))):
        caller = Caller(gateways, row)
        task_id, _ = caller.begun(AT_ONCE)
        caller.until(task_id, done_of(caller.form))
        for variant, kind in zip(("thumbnail", "spritesheet"), wanted, strict=True):
            reply = caller.call("GET", f"/v1/videos/{task_id}/content?variant={variant}")
            assert kind in (reply.status_code, reply.headers["content-type"])


def test_a_submit_without_a_model_says_so(gateways: Served) -> None:
    reply = Asking(gateways, "tasks.create").call("POST", "/v1/video/generations", json={"prompt": "a dog"})
    assert (reply.status_code, reply.json()["code"]) == (400, "missing_model")


def test_a_list_of_klings_is_in_klings_form_whoever_began_what_is_in_it(gateways: Served) -> None:
    caller = Caller(gateways, "kling.text-to-video")
    path = caller.path
    begun = [
        caller.call("POST", path, json=body).json()
        for body in ({"model_name": "kling-v1-6", "prompt": "a dog"}, {"model": "kling-v1-6", "prompt": "a cat"})
    ]
    assert begun[1]["status"] == "queued"
    reply = caller.call("GET", path)
    listed = msgspec.json.decode(reply.content, type=shapes.KlingList)
    assert (listed.request_id, len(listed.data)) == (reply.headers["x-request-id"], 2)
    assert listed.data[1].task_id == begun[0]["data"]["task_id"]
    # Asked for by itself it is told in the words in which it was begun.
    assert caller.call("GET", f"{path}/{listed.data[0].task_id}").json()["task_id"] == begun[1]["task_id"]


@pytest.mark.parametrize(
    ("more", "is_flat"),
    [
        ({"model_name": "kling-v1-6"}, False),
        ({"model_name": "kling-v1-6", "model": "kling-v1-6"}, False),
        ({"model": "kling-v1-6"}, True),
        ({"model_name": "kling-v1-6", "metadata": {"mode": "pro"}}, True),
        ({"model_name": "kling-v1-6", "response_format": "url", "mode": "pro"}, True),
    ],
)
def test_a_request_in_the_gateways_own_words_is_known_by_any_of_them(
    gateways: Served, more: dict[str, object], is_flat: bool
) -> None:
    caller = Caller(gateways, "kling.text-to-video")
    reply = caller.call("POST", caller.path, json={"prompt": "a dog", **more})
    assert ("status" in reply.json(), "code" in reply.json()) == (is_flat, not is_flat), reply.text
    sent = json.loads(last_submit(gateways)[1])
    assert sent["model_name"] == "kling-v1-6"
    assert not {"model", "metadata", "response_format"} & sent.keys() or not is_flat
    assert sent.get("mode") == ("pro" if len(more) > 1 and is_flat else None)


@pytest.mark.parametrize(
    ("row", "family", "below", "body", "real"),
    [
        (
            "seedance.submit",
            "ark",
            "/api/v3",
            {"content": [{"type": "text", "text": "a dog"}]},
            "doubao-seedance-1-0-pro-250528",
        ),
        ("luma.generate", "luma", "", {"prompt": "a fox"}, "ray-2"),
    ],
)
def test_a_mapped_model_keeps_the_name_that_its_caller_knows(
    gateways: Served, row: str, family: str, below: str, body: dict[str, object], real: str
) -> None:
    name, caller = f"our-{family}", Caller(gateways, row)
    gateways.run(gateways.gate.price(name, per_call_usd="0.5", output_per_1m_usd="2"))
    url = gateways.sandbox.base_url + below
    more: dict[str, Any] = {
        "family": family,
        "secrets": (f"{family}-key",),
        "model_map": {name: real},
        "forward_headers": (FAULT,),
    }
    gateways.run(gateways.gate.channel(url, (name,), **more))
    begun = caller.call("POST", caller.path, json={"model": name, **body}, headers=AT)
    assert begun.status_code in (200, 201), begun.text
    done = caller.until(begun.json()["id"], done_of(caller.form))
    listed = caller.call("GET", caller.path)
    wrapped = caller.call("POST", "/runway/feed", json={"task_id": done["id"]})
    assert done["model"] == name
    for text in (begun.text, json.dumps(done), listed.text, wrapped.text):
        assert real not in text


def test_a_task_that_runs_from_its_submit_says_since_when(gateways: Served) -> None:
    caller = Asking(gateways, "tasks.create")
    body = {"model": "veo-3.0-generate-001", "input": {"prompt": "a dog"}}
    begun = caller.call("POST", caller.path, json=body, headers={FAULT: OPEN}).json()
    shown = caller.call("GET", f"{caller.path}/{begun['id']}").json()
    wrapped = caller.call("POST", "/runway/feed", json={"task_id": begun["id"]}).json()["data"]
    for one in (begun, shown):
        assert one["status"] == "running"
        assert one["started_at"] >= one["created_at"]
    assert wrapped["start_time"] == shown["started_at"]


@pytest.mark.parametrize(
    ("model", "methods"),
    [("veo-3.0-generate-001", ["predictLongRunning"]), ("kling-v1-6", []), ("sora-2", []), ("film-of-ours", [])],
)
def test_a_model_that_makes_videos_is_listed_as_one(gateways: Served, model: str, methods: list[str]) -> None:
    if model.startswith("film-of"):
        gateways.run(gateways.gate.price(model, per_call_usd="0.5"))
        url = gateways.sandbox.base_url
        gateways.run(gateways.gate.channel(url, (model,), secrets=("sk-upstream",), model_map={model: "sora-2"}))
    asking = Asking(gateways, "sora.create")
    for listed in (
        asking.call("GET", f"/v1/models/{model}").json(),
        next(one for one in asking.call("GET", "/v1/models").json()["data"] if one["id"] == model),
    ):
        assert listed["supported_endpoint_types"] == ["openai", "openai-video"]
    for path in (f"/v1beta/models/{model}", f"/v1/models/{model}"):
        google = asking.call("GET", path, headers={"x-goog-api-key": asking.key}).json()
        assert google["supportedGenerationMethods"] == methods
    # What no list tells of is not served either.
    for path, body in (
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "a dog"}]}),
        ("/v1/responses", {"input": "a dog"}),
    ):
        assert asking.call("POST", path, json={"model": model, **body}).status_code == 503


@pytest.mark.parametrize("row", ["kling.text-to-video", "minimax.generate"])
def test_a_provider_that_has_too_much_to_do_is_a_rate_limit_in_its_own_form(gateways: Served, row: str) -> None:
    caller = Caller(gateways, row)
    reply = caller.begin("status=429")
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "upstream_rate_limited"), reply.text
    told = reply.json()
    assert (told.get("code"), told.get("base_resp", {}).get("status_code")) in ((1302, None), (None, 1002))
    assert caller.begin(AT_ONCE).status_code == 200


@pytest.mark.parametrize("more", [{}, {"aspect_ratio": "9:16", "seconds": 10}, {"image": PICTURE}])
def test_a_reseller_of_runways_takes_a_neutral_request(gateways: Served, more: dict[str, object]) -> None:
    asking = Asking(gateways, "tasks.create")
    reply = asking.call("POST", asking.path, json={"model": "gen3", "input": {"prompt": "a dog", **more}}, headers=AT)
    assert reply.status_code == 200, reply.text
    sent = json.loads(last_submit(gateways)[1])
    assert sent["ratio"] == more.get("aspect_ratio", "16:9")
    assert set(sent["options"]["motion_vector"].values()) == {0}


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("veo3.1", {}, {"ratio": "1280:720"}),
        ("veo3.1", {"aspect_ratio": "9:16", "seconds": 4}, {"ratio": "720:1280", "duration": 4}),
        ("gen4_turbo", {"image": PICTURE}, {"ratio": "1280:720"}),
        ("gen4.5", {}, {"ratio": "1280:720", "duration": 5}),
    ],
)
def test_runway_is_told_what_its_models_demand(
    gateways: Served, model: str, more: dict[str, object], said: dict[str, object]
) -> None:
    if model == "gen4.5":
        url, secrets = f"{gateways.sandbox.base_url}/runway", ("key_sandbox",)
        gateways.run(gateways.gate.channel(url, (model,), family="runway", secrets=secrets))
        gateways.run(gateways.gate.price(model, per_second_usd="0.5"))
    asking = Asking(gateways, "tasks.create")
    reply = asking.call("POST", asking.path, json={"model": model, "input": {"prompt": "a dog", **more}})
    assert reply.status_code == 200, reply.text
    sent = json.loads(last_submit(gateways)[1])
    assert {name: sent[name] for name in ("ratio", "duration") if name in sent} == said
