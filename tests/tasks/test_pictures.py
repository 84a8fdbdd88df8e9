"""Pictures that neutral forms give by address, for a provider that takes bytes: fetched, or refused before a hold."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.sandbox.record import Shown
from elkapi.storage.repos import tasks as rows
from elkapi.storage.repos.tasks import parse_task_id
from elkapi.tasks.record import opened
from tests.assets.media import jpeg, mp4, png
from tests.tasks.rows import SUBMITS
from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Served, serving

BYTES_MAX = 4096
VEO_MODEL = str(SUBMITS["veo.predict"].params["model"])
SAID = {"model": VEO_MODEL, "prompt": "a dog"}
CHAT = "/v1/chat/completions"
WRAPPED = ("/v1/tasks", "/v1/task/submit")
PATHS = ("/v1/videos", "/v1/video/generations", "/v1/video/create", "/v2/videos/generations", *WRAPPED)


class Host(ThreadingHTTPServer):
    """A host of pictures; `asked` are the paths that came in, `go_on` lets `/slow` end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self.files = {
            "/a.png": png(),
            "/b.jpg": jpeg(),
            "/page": b"<html>",
            "/film": mp4(),
            "/cut": png(),
            "/once/a": png(),
            "/once/b": jpeg(),
            "/big": png() + b"\0" * BYTES_MAX,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked_before = False

    def do_GET(self) -> None:
        host = self.server
        assert isinstance(host, Host)
        host.asked.append(self.path)
        once = self.path == "/once/a"
        self.close_connection = self.asked_before or not once
        if self.asked_before:
            # As of a connection that its host had closed while the request was on its way.
            return
        self.asked_before = True
        if self.path == "/slow":
            host.go_on.wait()
        moved = {"/moved": "/a.png", "/private": "http://10.0.0.1/a.png"}.get(self.path)
        content = host.files.get(self.path)
        self.send_response(302 if moved else 404 if content is None else 200)
        if moved:
            self.send_header("location", moved)
        self.send_header("content-length", str(len(content or b"") + (self.path == "/cut")))
        if not once:
            self.send_header("connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.go_on.set()
        one.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("pictures"), picture_allow_private=True, picture_bytes_max=BYTES_MAX) as one:
        yield one
        assert one.gate.books().loss_nano == 0


@pytest.fixture
def asking(gateways: Served) -> Asking:
    return Asking(gateways, "tasks.create")


@contextlib.contextmanager
def set_to(gateways: Served, **settings: Any) -> Iterator[None]:
    plane = gateways.gate.plane
    before, plane.settings = plane.settings, msgspec.structs.replace(plane.settings, **settings)
    yield
    plane.settings = before


def begin(asking: Asking, path: str, said: dict[str, Any], **headers: str) -> httpx.Response:
    body: dict[str, Any] = {**SAID, **said}
    if path in WRAPPED:
        body = {"model": VEO_MODEL, "input": {"prompt": "a dog", **said}}
    return asking.call("POST", path, json=body, headers={FAULT: AT_ONCE, **headers})


def chat(*urls: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": VEO_MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "a dog"}, *parts]}]}


def submits(gateways: Served) -> list[Shown]:
    """What came in at the provider but for the polls of tasks, which come at any time."""
    shown = gateways.sandbox.sandbox.recorder.shown()
    return [one for one in shown if one.target.endswith(":predictLongRunning")]


def sent(gateways: Served) -> dict[str, Any]:
    """The instance of the last submit as the provider had it."""
    return dict(msgspec.json.decode(base64.b64decode(submits(gateways)[-1].body_base64))["instances"][0])


def in_bytes(kind: str, content: bytes) -> dict[str, str]:
    return {"bytesBase64Encoded": base64.b64encode(content).decode(), "mimeType": kind}


A_PNG, B_JPEG = in_bytes("image/png", png()), in_bytes("image/jpeg", jpeg())


def begun(asking: Asking) -> list[Any]:
    return list(asking.call("GET", "/v1/tasks").json()["data"])


@pytest.mark.parametrize("path", PATHS)
def test_a_picture_by_its_address_is_sent_as_bytes_and_kept_as_it_was_said(
    gateways: Served, asking: Asking, host: Host, path: str
) -> None:
    address = f"{host.origin}/a.png"
    reply = begin(asking, path, {"image": address})
    assert reply.status_code == 200, reply.text
    assert sent(gateways) == {"prompt": "a dog", "image": A_PNG}
    (task,) = begun(asking)
    task_id = parse_task_id(task["id"])
    assert task_id is not None
    with gateways.gate.database.read() as connection:
        row = rows.read(connection, task_id)
        assert row is not None
        kept = msgspec.json.encode(opened(gateways.gate.installation.sealer, row).asked)
    assert address.encode() in kept
    assert A_PNG["bytesBase64Encoded"].encode() not in kept


def test_every_picture_of_a_request_is_fetched_once(gateways: Served, asking: Asking, host: Host) -> None:
    first, last = f"{host.origin}/a.png", f"{host.origin}/b.jpg"
    del host.asked[:]
    assert begin(asking, "/v1/video/create", {"image": first, "last_image": last}).status_code == 200
    assert sent(gateways) == {"prompt": "a dog", "image": A_PNG, "lastFrame": B_JPEG}
    assert host.asked == ["/a.png", "/b.jpg"]
    reply = begin(asking, "/v1/video/create", {"images": [first, f"{host.origin}/moved", last, last]})
    assert reply.status_code == 200, reply.text
    references = [{"image": one, "referenceType": "asset"} for one in (A_PNG, B_JPEG, B_JPEG)]
    assert sent(gateways) == {"prompt": "a dog", "image": A_PNG, "referenceImages": references}
    assert host.asked[2:] == ["/a.png", "/moved", "/a.png", "/b.jpg"]


def test_a_picture_is_asked_for_again_where_its_connection_was_closed(
    gateways: Served, asking: Asking, host: Host
) -> None:
    del host.asked[:]
    said = {"image": f"{host.origin}/once/a", "last_image": f"{host.origin}/once/b"}
    reply = begin(asking, "/v1/videos", said)
    assert reply.status_code == 200, reply.text
    assert sent(gateways) == {"prompt": "a dog", "image": A_PNG, "lastFrame": B_JPEG}
    assert host.asked == ["/once/a", "/once/b", "/once/b"]


def test_a_chats_pictures_are_fetched_and_named(gateways: Served, asking: Asking, host: Host) -> None:
    body = chat(f"{host.origin}/a.png", f"{host.origin}/b.jpg")
    reply = asking.call("POST", CHAT, json=body, headers={FAULT: AT_ONCE})
    assert reply.status_code == 200, reply.text
    assert sent(gateways) == {"prompt": "a dog", "image": A_PNG, "lastFrame": B_JPEG}
    refused = asking.call("POST", CHAT, json=chat(f"{host.origin}/gone")).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_image_url", "messages")
    assert len(begun(asking)) == 1


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/gone", "answered with status 404"),
        ("/page", "is not an image"),
        ("/film", "is not an image"),
        ("/big", f"must have at most {BYTES_MAX} bytes"),
        ("/cut", "the download was interrupted"),
        # Another host loses what the operator allows, and nobody is told what stands there.
        ("/private", "cannot be reached"),
    ],
)
def test_a_picture_that_is_not_had_is_refused_by_its_field(
    gateways: Served, asking: Asking, host: Host, path: str, why: str
) -> None:
    before = len(submits(gateways))
    good, bad = f"{host.origin}/a.png", f"{host.origin}{path}"
    for form, said, param in (
        ("/v1/videos", {"images": [good, bad]}, "images[1]"),
        ("/v1/video/generations", {"image": {"url": bad}}, "image.url"),
        ("/v1/tasks", {"image": good, "last_image": bad}, "input.last_image"),
    ):
        reply = begin(asking, form, said)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_image_url", param)
        assert why in error["message"]
        assert "10.0.0.1" not in reply.text
    assert begun(asking) == []
    assert len(submits(gateways)) == before
    assert gateways.gate.books().customers_held_nano == 0


def test_what_is_private_and_what_is_not_there_are_told_in_the_same_words(
    gateways: Served, asking: Asking, host: Host
) -> None:
    closed = Host()
    closed.server_close()
    absent = begin(asking, "/v1/videos", {"image": f"{closed.origin}/a.png"})
    del host.asked[:]
    with set_to(gateways, picture_allow_private=False):
        private = begin(asking, "/v1/videos", {"image": f"{host.origin}/a.png"})
    assert (private.status_code, host.asked) == (400, [])
    told = [reply.json()["error"]["message"].partition(" (request id")[0] for reply in (private, absent)]
    assert told == ["The image in `image` cannot be used: it cannot be reached."] * 2
    for address in ("http://user:word@a.test/a.png", "https://[", "http:///a.png"):
        reply = begin(asking, "/v1/videos", {"image": address})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_image_url"), reply.text


def test_pictures_have_one_deadline_and_one_size_together(gateways: Served, asking: Asking, host: Host) -> None:
    with set_to(gateways, picture_fetch_s=0.05):
        late = begin(asking, "/v1/videos", {"image": f"{host.origin}/slow"})
    assert (late.status_code, "within 0.05 seconds" in late.json()["error"]["message"]) == (400, True), late.text
    size = len(png()) + len(jpeg()) - 1
    with set_to(gateways, body_bytes_max=size):
        large = begin(asking, "/v1/videos", {"images": [f"{host.origin}/a.png", f"{host.origin}/b.jpg"]})
    error = large.json()["error"]
    assert (error["param"], f"at most {size} bytes" in error["message"]) == ("images[1]", True), error


@pytest.mark.parametrize("path", ["/v1/videos", CHAT])
def test_nothing_is_fetched_for_who_cannot_pay(gateways: Served, host: Host, path: str) -> None:
    poor = Asking(gateways, "tasks.create", key=gateways.run(gateways.gate.key("0.000001")))
    del host.asked[:]
    address = f"{host.origin}/a.png"
    body = chat(address) if path == CHAT else {**SAID, "image": address}
    for headers in ({}, {"idempotency-key": "poor"}):
        reply = poor.call("POST", path, json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_user_quota"), reply.text
    assert host.asked == []


def test_a_quote_fetches_nothing(asking: Asking, host: Host) -> None:
    del host.asked[:]
    for path, body in (("/v1/videos", {**SAID, "image": f"{host.origin}/gone"}), (CHAT, chat(f"{host.origin}/gone"))):
        reply = asking.call("POST", "/v1/quote", json={"path": path, "body": body})
        assert (reply.status_code, reply.json()["operation"]) == (200, "veo.predict"), reply.text
    assert host.asked == []


def test_a_repeat_is_answered_as_before_whatever_became_of_its_picture(asking: Asking, host: Host) -> None:
    host.files["/once.png"] = png()
    said, key = {"image": f"{host.origin}/once.png"}, {"idempotency-key": "k"}
    first = begin(asking, "/v1/videos", said, **key)
    assert first.status_code == 200, first.text
    for content in (png(5, 5), None):
        host.files.pop("/once.png", None)
        if content is not None:
            host.files["/once.png"] = content
        again = begin(asking, "/v1/videos", said, **key)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    assert len(begun(asking)) == 1
    other = begin(asking, "/v1/videos", {"image": f"{host.origin}/a.png"}, **key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused"), other.text
