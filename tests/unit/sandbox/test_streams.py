"""Streams under every fault, on frames alone and over the wire: what arrives, how it ends, and what is billed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from elkapi.sandbox.app import Options
from elkapi.sandbox.faults import RULES, Tries, resolve
from elkapi.sandbox.messages import Answer, Charge, Frame, Mark, Stream
from elkapi.sandbox.server import Running, running
from elkapi.sandbox.stream import COMMENT, output_tokens, stream_answer, under_faults
from tests.waiting import until_blocking

from .exchanging import KEY, Exchange, connected, read_to_end, read_until_stalled, read_whole

LETTERS: dict[str, tuple[Mark, int]] = {
    "r": ("setup", 0), "a": ("content", 1), "b": ("content", 1), "c": ("content", 2), "f": ("terminal", 0),
    "u": ("usage", 0), "d": ("terminal", 0),
}  # fmt: skip
FRAMES = [Frame(f"<{letter}>\n\n".encode(), *LETTERS[letter]) for letter in "rabcfud"]


def given() -> Answer:
    return stream_answer(FRAMES, error=b"<!>\n\n", charge_at=lambda tokens: Charge("m", 5, tokens))


def sent(directive: str) -> list[Frame]:
    stream = given().stream
    assert isinstance(stream, Stream)
    return list(itertools.islice(under_faults(stream, resolve([(directive, b"")], Tries())), 50))


def letters(frames: list[Frame]) -> str:
    return "".join("." if frame.mark == "stop" else frame.data.decode().strip("<>\n ") for frame in frames)


@pytest.mark.parametrize(
    ("directive", "said"),
    [
        ("", "rabcfud"),
        ("no-usage", "rabcfd"),
        ("truncated", "rabc"),
        ("truncated=1", "rabcfu"),
        ("error-before", "r!"),
        ("error-after=2", "rab!"),
        ("error-after=9", "rabc!"),
        ("cut-after=2", "ra."),
        ("cut-after=0", "."),
        ("cut-after=9", "rabcfud"),
        ("stall-after=1", "r."),
        ("reset-after=7", "rabcfud"),
        ("hang-after-headers", "."),
        ("endless", "rabc" + "a" * 46),
        ("endless, cut-after=6", "rabcaa."),
        ("error-after=1, cut-after=2", "ra."),
    ],
)
def test_a_fault_changes_the_frames_so(directive: str, said: str) -> None:
    assert letters(sent(directive)) == said


def test_tokens_are_what_the_frames_carry() -> None:
    assert output_tokens(sent("")) == 4
    assert output_tokens(sent("cut-after=3")) == 2
    assert given().charge == Charge("m", 5, 4)


def test_a_broken_frame_still_ends_like_a_whole_one() -> None:
    frames = sent("invalid-json")
    assert [frame.data for frame in frames[:3]] == [b"<r>\n\n", b"<a\n\n", b"<b>\n\n"]


def test_comments_stand_before_each_frame() -> None:
    assert all(frame.data.startswith(COMMENT + b"<") for frame in sent("comments"))


@pytest.mark.parametrize("size", [1, 2, 4, 5, 7, 34, 35, 1000])
def test_split_bytes_are_the_same_bytes_and_tokens_in_other_pieces(size: int) -> None:
    frames = sent(f"split={size}")
    assert b"".join(frame.data for frame in frames) == b"".join(frame.data for frame in FRAMES)[: 50 * size]
    assert all(len(frame.data) == size for frame in frames[:-1])
    assert output_tokens(frames) == 4


def test_bytes_of_a_cut_frame_are_sent_and_its_tokens_are_not_counted() -> None:
    frames = sent("cut-after=7b")
    assert [frame.data for frame in frames] == [b"<r>\n\n", b"<a", b""]
    assert output_tokens(frames) == 0


# Over the wire


def chat_request(fault: str, **more: Any) -> bytes:
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "[[tokens: 6]]"}], "stream": True}
    body = json.dumps({**asked, "stream_options": {"include_usage": True}, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}x-sandbox-fault: {fault}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chunks_of(got: Exchange) -> list[bytes]:
    """The data of each whole event of a chunked stream, one chunk an event."""
    parts = got.body.split(b"\r\n")
    return [part.removeprefix(b"data: ").strip() for part in parts if part.startswith((b"data: ", b": "))]


# directive: how the connection ends, how many events came, what the last holds, outcome, tokens billed (None: no line)
SEEN: dict[str, tuple[str, int, bytes, str, int | None]] = {
    "": ("open", 10, b"[DONE]", "complete", 6),
    "no-usage": ("open", 9, b"[DONE]", "complete", 6),
    "truncated": ("open", 7, b"w005", "complete", 6),
    "truncated=1": ("open", 9, b'"choices":[]', "complete", 6),
    "error-before": ("open", 2, b'"error"', "cut", None),
    "error-after=2": ("open", 4, b'"error"', "cut", 2),
    "cut-after=3": ("closed", 3, b"w001", "cut", 2),
    "reset-after=3": ("reset", 0, b"", "cut", 2),
    "stall-after=3": ("closed", 3, b"w001", "cut", 2),
    "hang-after-headers": ("closed", 0, b"", "cut", 0),
    "pace=2ms": ("open", 10, b"[DONE]", "complete", 6),
    "slow-drip=1ms": ("open", 10, b"[DONE]", "complete", 6),
    "until-close": ("closed", 0, b"", "complete", 6),
    "cut-mid-chunk=10": ("closed", 0, b"", "cut", 6),
    "content-length": ("open", 10, b"[DONE]", "complete", 6),
}  # fmt: skip


@pytest.mark.parametrize("fault", SEEN)
def test_a_stream_under_a_fault_arrives_ends_and_is_billed_so(sandbox: Running, http: httpx.Client, fault: str) -> None:
    end, count, last, outcome, tokens = SEEN[fault]
    with connected(sandbox.base_url) as connection:
        connection.sendall(chat_request(fault))
        got = Exchange(read_whole(connection), "open") if end == "open" else read_to_end(connection)
    assert got.end == end
    if count:
        assert got.status == 200
        events = chunks_of(got)
        assert (len(events), last in events[-1]) == (count, True), events
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].outcome is not None)
    assert sandbox.sandbox.recorder.shown()[-1].outcome == outcome
    billed = [
        (line["outcome"], line["prompt_tokens"], line.get("output_tokens", 0), line["cost_nano_usd"])
        for line in http.get("/_sandbox/bill").json()["lines"]
    ]
    assert billed == ([] if tokens is None else [(outcome, 2, tokens, 2 * 2500 + tokens * 10_000)])


@pytest.mark.parametrize(
    ("fault", "status"),
    [("status=429, retry-after=3", 429), ("status=529", 529), ("status=503", 503), ("status=500", 500)],
)
def test_a_stream_that_is_refused_is_a_plain_error_and_free(http: httpx.Client, fault: str, status: int) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "stream": True}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-sandbox-fault": fault})
    assert (answer.status_code, "error" in answer.json()) == (status, True)
    assert answer.headers["content-type"] == "application/json"
    assert http.get("/_sandbox/bill").json()["lines_total"] == 0


def test_an_html_page_takes_the_place_of_a_stream(http: httpx.Client) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "stream": True}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-sandbox-fault": "html"})
    assert answer.text.startswith("<!DOCTYPE")
    assert answer.headers["content-type"].startswith("text/html")


def test_a_silent_upstream_sends_nothing_at_all(sandbox: Running) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(chat_request("hang"))
        assert read_to_end(connection).data == b""
    with connected(sandbox.base_url) as connection:
        connection.sendall(chat_request("delay=60s"))
        assert read_until_stalled(connection).end == "stalled"


@pytest.fixture
def patient() -> Iterator[Running]:
    with running(Options(hang_limit_s=60)) as served:
        yield served


@pytest.mark.parametrize("fault", ["pace=60s", "stall-after=3", "endless, pace=1ms", "endless"])
def test_a_caller_that_leaves_a_stream_pays_for_what_was_produced(patient: Running, fault: str) -> None:
    with connected(patient.base_url) as connection:
        connection.sendall(chat_request(fault))
        data = b""
        while data.count(b"data: ") < (1 if fault == "pace=60s" else 3):
            data += connection.recv(4096)
        assert patient.sandbox.bill.statement().lines_total == 0
    until_blocking(lambda: patient.sandbox.bill.statement().lines_total == 1)
    line = json.loads(bytes(patient.sandbox.bill.statement().lines[0]))
    assert line["outcome"] == "aborted"
    assert line["cost_nano_usd"] == 2 * 2500 + line.get("output_tokens", 0) * 10_000
    if not fault.startswith("endless"):
        assert line.get("output_tokens", 0) == (0 if fault == "pace=60s" else 2)
    else:
        assert line["output_tokens"] >= 2


def test_an_endless_stream_ends_at_the_hang_limit(sandbox: Running) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(chat_request("endless, pace=1ms"))
        got = read_to_end(connection)
    assert got.end == "closed"
    assert b"[DONE]" not in got.body
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].outcome == "cut")


def test_every_stream_fault_is_tried_here() -> None:
    names = {rule.name for rule in RULES if rule.stream}
    # Where usage goes is a provider's: test_openai_chat.py.
    assert names == {
        "error-before", "error-after", "truncated", "endless", "usage-in", "pace", "split", "comments",
    }  # fmt: skip
