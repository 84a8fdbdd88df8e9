"""What every task of the sandbox has in common: states by the clock, ends on request, files, bill and callbacks."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from elkapi.sandbox.pictures import JPEG, WEBP, png, png_size
from elkapi.sandbox.server import Running
from elkapi.sandbox.videos import mp4, seconds_of
from tests.waiting import until_blocking

from .exchanging import bill_lines, own_sandbox

ARK = "/api/v3/contents/generations/tasks"
MODEL = "doubao-seedance-1-0-pro-250528"


class Receiver:
    """Takes callbacks; `consent` answers a challenge, None: the challenge itself does. `refusals`: calls it refuses."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.consent: bytes | None = None
        self.refusals = 0
        self.url = ""

    def answer(self, body: bytes) -> tuple[int, bytes]:
        decoded = json.loads(body)
        if "challenge" in decoded:
            return 200, body if self.consent is None else self.consent
        if self.refusals:
            self.refusals -= 1
            return 500, b""
        self.bodies.append(decoded)
        return 200, b""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = receiver.answer(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # It looks so often whether it is to end; the default is half a second.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/told"
        yield receiver
        server.shutdown()


sandbox = pytest.fixture(own_sandbox)


def begun(http: httpx.Client, text: str = "a boat", **fields: Any) -> str:
    body = {"model": MODEL, "content": [{"type": "text", "text": text}], "resolution": "480p", "duration": 2, **fields}
    answer = http.post(ARK, json=body, headers={"x-client-request-id": "mine"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def shown(http: httpx.Client, task_id: str) -> Any:
    return http.get(f"{ARK}/{task_id}").json()


def ended(http: httpx.Client, task_id: str) -> Any:
    until_blocking(lambda: shown(http, task_id)["status"] not in ("queued", "running"))
    return shown(http, task_id)


def test_a_task_is_queued_runs_and_succeeds(http: httpx.Client) -> None:
    task_id = begun(http, "[sandbox: task-queued=200ms, task-takes=200ms]")
    seen = [shown(http, task_id)["status"]]
    while seen[-1] in ("queued", "running"):
        status = shown(http, task_id)["status"]
        seen += [status] if status != seen[-1] else []
    assert seen in (["queued", "running", "succeeded"], ["queued", "succeeded"])


def test_a_task_that_succeeds_is_billed_once_even_if_nobody_asks(sandbox: Running, http: httpx.Client) -> None:
    begun(http)
    assert bill_lines(sandbox) == []
    until_blocking(lambda: len(bill_lines(sandbox)) == 1)
    (line,) = bill_lines(sandbox)
    tokens = 864 * 480 * 49 // 1024
    assert (line.provider, line.model, line.outcome, line.client_request_id) == ("ark", MODEL, "complete", "mine")
    assert (line.output_tokens, line.cost_nano_usd) == (tokens, tokens * 2_500)


def test_a_task_whose_submit_was_never_answered_is_billed_too(sandbox: Running, http: httpx.Client) -> None:
    with pytest.raises(httpx.TransportError):
        begun(http, "[sandbox: cut-after=5b]")
    until_blocking(lambda: len(bill_lines(sandbox)) == 1)


@pytest.mark.parametrize(
    ("fault", "status"), [("task-fails", "failed"), ("task-moderated", "failed"), ("task-expires", "expired")]
)
def test_a_task_that_ends_otherwise_is_not_billed(
    sandbox: Running, http: httpx.Client, fault: str, status: str
) -> None:
    task = ended(http, begun(http, f"[sandbox: {fault}]"))
    assert task["status"] == status
    assert "content" not in task
    last = begun(http)
    assert ended(http, last)["status"] == "succeeded"
    assert len(bill_lines(sandbox)) == 1


def test_a_task_belongs_to_its_key(http: httpx.Client) -> None:
    task_id = begun(http)
    assert http.get(f"{ARK}/{task_id}", headers={"authorization": "Bearer another"}).status_code == 404


def test_the_address_of_a_file_is_signed_and_expires(http: httpx.Client) -> None:
    url = ended(http, begun(http))["content"]["video_url"]
    assert httpx.get(url).content[4:8] == b"ftyp"
    assert httpx.get(url.replace("signature=", "signature=x")).status_code == 403
    assert httpx.get(url.replace("video.mp4", "last.png")).status_code == 403
    short = ended(http, begun(http, "[sandbox: link-expires=0s]"))["content"]["video_url"]
    until_blocking(lambda: httpx.get(short).status_code == 403)
    assert "<Code>AccessDenied</Code>" in httpx.get(short).text


@pytest.mark.parametrize(
    ("asked", "part", "range_"),
    [
        ("bytes=4-7", slice(4, 8), "bytes 4-7/{}"),
        ("bytes=4-", slice(4, None), "bytes 4-{last}/{}"),
        ("bytes=-3", slice(-3, None), "bytes {third}-{last}/{}"),
        ("bytes=0-999999999", slice(None), "bytes 0-{last}/{}"),
    ],
)
def test_a_part_of_a_file_can_be_asked_for(http: httpx.Client, asked: str, part: slice, range_: str) -> None:
    url = ended(http, begun(http))["content"]["video_url"]
    whole = httpx.get(url).content
    answer = httpx.get(url, headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, whole[part])
    size = len(whole)
    assert answer.headers["content-range"] == range_.format(size, last=size - 1, third=size - 3)


def test_a_part_that_is_not_there_is_refused(http: httpx.Client) -> None:
    url = ended(http, begun(http))["content"]["video_url"]
    assert httpx.get(url, headers={"range": "bytes=999999999-"}).status_code == 416
    # A range that nobody can read is none.
    assert httpx.get(url, headers={"range": f"bytes={'9' * 5000}-"}).status_code == 200


def told(receiver: Receiver, count: int) -> list[str]:
    until_blocking(lambda: len(receiver.bodies) >= count)
    return [body["status"] for body in receiver.bodies]


def test_a_callback_address_is_told_of_every_change(http: httpx.Client, receiver: Receiver) -> None:
    task_id = begun(http, callback_url=receiver.url)
    assert told(receiver, 2) == ["running", "succeeded"]
    assert _unsigned(receiver.bodies[-1]) == _unsigned(shown(http, task_id))


def _unsigned(answer: Any) -> Any:
    """Without the signature of the address, which is good until so many seconds after the answer."""
    address, _, _ = answer["content"]["video_url"].partition("?")
    return answer | {"content": answer["content"] | {"video_url": address}}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("callback-reversed", ["succeeded", "running"]),
        ("callback-twice", ["running", "succeeded", "running", "succeeded"]),
        ("task-fails", ["running", "failed"]),
    ],
)
def test_callbacks_can_come_in_another_order_or_again(
    http: httpx.Client, receiver: Receiver, fault: str, expected: list[str]
) -> None:
    begun(http, f"[sandbox: {fault}]", callback_url=receiver.url)
    assert told(receiver, len(expected)) == expected


def test_a_callback_that_is_refused_is_tried_again(http: httpx.Client, receiver: Receiver) -> None:
    receiver.refusals = 1
    begun(http, callback_url=receiver.url)
    assert told(receiver, 2) == ["running", "succeeded"]


def test_a_cancelled_task_is_told_and_billed_no_more(sandbox: Running, http: httpx.Client, receiver: Receiver) -> None:
    task_id = begun(http, "[sandbox: task-queued=300ms, task-takes=0s]", callback_url=receiver.url)
    assert http.delete(f"{ARK}/{task_id}").status_code == 200
    other = begun(http, "[sandbox: task-queued=500ms]")
    assert ended(http, other)["status"] == "succeeded"
    assert shown(http, task_id)["status"] == "cancelled"
    assert receiver.bodies == []
    assert len(bill_lines(sandbox)) == 1


@pytest.mark.parametrize(
    "consent",
    [None, b"{}", b"no", b'"\xff"', b"[" * 5_000],
    ids=["the challenge", "another", "words", "no UTF-8", "nested"],
)
def test_a_challenge_decides_whether_a_task_begins(
    sandbox: Running, http: httpx.Client, receiver: Receiver, consent: bytes | None
) -> None:
    receiver.consent = consent
    body = {"model": "T2V-01", "prompt": "a boat", "callback_url": receiver.url}
    answer = http.post("/minimax/v1/video_generation", json=body)
    assert answer.status_code == 200
    assert answer.json()["base_resp"]["status_code"] == (2013 if consent else 0)
    if consent is None:
        assert told(receiver, 2) == ["processing", "success"]
    assert len(bill_lines(sandbox)) == int(consent is None)


@pytest.mark.parametrize("url", ["http://192.0.2.1/told", "http://[", "http://127.0.0.1:99999"])
def test_no_address_beyond_this_machine_is_called(http: httpx.Client, url: str) -> None:
    body = {"model": "T2V-01", "prompt": "a boat", "callback_url": url}
    assert http.post("/minimax/v1/video_generation", json=body).json()["base_resp"]["status_code"] == 2013


@pytest.mark.parametrize(("width", "height"), [(16, 16), (64, 48), (1366, 768), (720, 1280)])
def test_a_video_tells_its_size_and_length(width: int, height: int) -> None:
    content = mp4("seed", width, height, 3_000)
    assert content[4:8] == b"ftyp"
    assert seconds_of(content) == 3
    shape = content.index(b"avc1", content.index(b"stsd")) + 28
    assert int.from_bytes(content[shape : shape + 2]) == width
    assert int.from_bytes(content[shape + 2 : shape + 4]) == height
    assert mp4("seed", width, height, 3_000) == content != mp4("another", width, height, 3_000)


def test_what_is_no_video_has_no_length() -> None:
    assert seconds_of(b"") is None
    assert seconds_of(b"mvhd") is None
    assert seconds_of(JPEG) is None


def test_pictures_are_what_they_say() -> None:
    assert png_size(png("seed", 30, 20)) == (30, 20)
    assert png_size(JPEG) is None
    assert (WEBP[:4], WEBP[8:12], JPEG[:3]) == (b"RIFF", b"WEBP", b"\xff\xd8\xff")
