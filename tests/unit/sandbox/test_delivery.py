"""Every fault as a client sees it on a raw connection: bytes, framing and the way the connection ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import httpx
import pytest

from elkapi.sandbox import raw
from elkapi.sandbox.app import Options, create
from elkapi.sandbox.deliver import portion
from elkapi.sandbox.faults import RULES, USAGE_HUGE_TOKENS, Extent
from elkapi.sandbox.messages import OWN_ACCOUNT
from elkapi.sandbox.server import Running, running
from tests.waiting import until_blocking

from .exchanging import (
    KEY,
    Exchange,
    connected,
    embedding_body,
    read_to_end,
    read_until_stalled,
    read_whole,
    request_bytes,
)

Send = Callable[..., Exchange]


def is_embedding(body: bytes) -> bool:
    return len(json.loads(body)["data"]) == 1


def is_server_error(got: Exchange) -> bool:
    return got.status == 503 and json.loads(got.body)["error"]["type"] == "server_error"


def is_out_of_quota(got: Exchange) -> bool:
    return got.status == 429 and json.loads(got.body)["error"]["code"] == "insufficient_quota"


def length_of(got: Exchange) -> int:
    return int(got.head.partition(b"content-length: ")[2].split(b"\r\n")[0])


def cut_short(got: Exchange, body_bytes: int) -> bool:
    return got.status == 200 and len(got.body) == body_bytes < length_of(got)


def is_redirect(got: Exchange) -> bool:
    return got.status == 302 and b"location: http://10.0.0.1/" in got.head


def quotes_secrets(got: Exchange) -> bool:
    return got.status == 401 and all(secret.encode() in got.body for secret in (KEY, OWN_ACCOUNT, "127.0.0.1"))


def is_html(got: Exchange) -> bool:
    return got.status == 200 and got.body.startswith(b"<!DOCTYPE") and b"content-type: text/html" in got.head


def is_half_json(got: Exchange) -> bool:
    return len(got.body) == length_of(got) and got.body.startswith(b"{") and not got.body.endswith(b"}")


def is_chunked(got: Exchange) -> bool:
    return b"transfer-encoding: chunked" in got.head and got.body.endswith(b"\r\n0\r\n\r\n")


def is_answer_to_the_unread(got: Exchange) -> bool:
    return got.status == 422 and b"connection: close" in got.head


def is_unannounced(got: Exchange) -> bool:
    return b"connection:" not in got.head and len(got.body) == length_of(got) and is_embedding(got.body)


# For each fault a directive, the expected end of the connection, and what the client must have seen.
CHECKS: dict[str, tuple[str, str, Callable[[Exchange], bool]]] = {
    "status": ("status=503", "open", is_server_error),
    "code": ("status=429, code=insufficient_quota", "open", is_out_of_quota),
    "retry-after": ("retry-after=1500ms", "open", lambda got: b"retry-after: 2\r\nretry-after-ms: 1500" in got.head),
    "location": ("status=302, location=http://10.0.0.1/", "open", is_redirect),
    "refuse-key": (f"refuse-key={KEY[-4:]}", "open", lambda got: got.status == 401),
    "echo-secrets": ("echo-secrets", "open", quotes_secrets),
    "html": ("html", "open", is_html),
    "invalid-json": ("invalid-json", "open", is_half_json),
    "no-usage": ("no-usage", "open", lambda got: is_embedding(got.body) and b"usage" not in got.body),
    "usage": ("usage=huge", "open", lambda got: json.loads(got.body)["usage"]["total_tokens"] == USAGE_HUGE_TOKENS),
    "oversized-headers": ("oversized-headers=70000", "open", lambda got: len(got.head) > 70_000),
    "delay": ("delay=60s", "stalled", lambda got: got.data == b""),
    "hang": ("hang", "closed", lambda got: got.data == b""),
    "hang-after-headers": ("hang-after-headers", "closed", lambda got: cut_short(got, 0)),
    "cut-after": ("cut-after=100b", "closed", lambda got: cut_short(got, 100)),
    "stall-after": ("stall-after=2", "closed", lambda got: cut_short(got, 128)),
    "slow-drip": ("slow-drip=60s", "head, stalled", lambda got: cut_short(got, 0)),
    "chunked": ("chunked", "open", is_chunked),
    "content-length": ("content-length", "open", lambda got: len(got.body) == length_of(got)),
    "1xx": ("1xx", "open", lambda got: got.status == 103 and got.body.startswith(b"HTTP/1.1 200 OK\r\n")),
    "reset-after": ("reset-after=1", "reset", lambda got: len(got.body) <= 64),
    "cut-mid-chunk": ("cut-mid-chunk=10", "closed", lambda got: len(got.body.partition(b"\r\n")[2]) == 10),
    "until-close": ("until-close", "closed", lambda got: b"content-length" not in got.head and is_embedding(got.body)),
    "close-keepalive": ("close-keepalive", "closed", is_unannounced),
    "half-close": ("half-close", "closed", is_unannounced),
    "extra-answer": ("extra-answer", "open", lambda got: got.body.endswith(raw.extra_answer())),
    "garbage": ("garbage", "closed", lambda got: got.data == raw.GARBAGE),
    "early-close": ("early-close, status=422", "closed", is_answer_to_the_unread),
    "times": ("status=503, times=2", "open", lambda got: got.status == 503),
    "marker": ("status=503, times=1, marker=m", "open", lambda got: got.status == 503),
}


# Faults that act on streams only are shown in test_streams.py, those of tasks in test_tasks.py.
PLAIN = [rule.name for rule in RULES if not rule.stream and not rule.task]


@pytest.mark.parametrize("name", PLAIN)
def test_a_fault_is_seen_by_the_client_as_documented(exchange: Send, name: str) -> None:
    directive, end, seen = CHECKS[name]
    got = exchange(directive, end)
    assert got.end == end
    assert seen(got), got


# A plain body has its length without being asked.
@pytest.mark.parametrize("name", [name for name in PLAIN if name != "content-length"])
def test_an_answer_without_the_fault_does_not_look_like_it(exchange: Send, name: str) -> None:
    got = exchange("")
    assert got.status == 200
    assert is_embedding(got.body)
    _, end, seen = CHECKS[name]
    assert got.end != end or not seen(got)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("early-close", "times", "marker")])
def test_a_fault_in_the_text_does_the_same_as_in_the_header(exchange: Send, name: str) -> None:
    directive, end, seen = CHECKS[name]
    got = exchange("", end, embedding_body(f"red [sandbox: {directive}] blue"))
    assert got.end == end
    assert seen(got), got


def test_the_header_wins_over_the_text_and_the_text_over_the_standing_fault(exchange: Send, sandbox: Running) -> None:
    sandbox.sandbox.stand("status=501, oversized-headers=99")
    text = embedding_body("[sandbox: status=502]")
    assert (exchange("").status, exchange("", body=text).status, exchange("status=503", body=text).status) == (
        501,
        502,
        503,
    )
    assert b"x-sandbox-oversized" in exchange("status=503", body=text).head


def test_an_unknown_fault_is_refused_rather_than_ignored(exchange: Send) -> None:
    for got in (exchange("stats=500"), exchange("", body=embedding_body("[sandbox: stats=500]"))):
        assert got.status == 400
        assert json.loads(got.body)["error"]["code"] == "sandbox_fault_invalid"


def test_a_fault_stops_after_its_times_and_the_same_body_is_answered(exchange: Send) -> None:
    body = embedding_body("once [sandbox: status=503, times=1]")
    assert [exchange("", body=body).status for _ in range(3)] == [503, 200, 200]


def test_a_standing_fault_with_times_counts_every_request(exchange: Send, sandbox: Running) -> None:
    sandbox.sandbox.stand("status=503, times=2")
    assert [exchange("", body=embedding_body(str(n))).status for n in range(4)] == [503, 503, 200, 200]


def test_an_extent_beyond_the_end_leaves_the_answer_whole(exchange: Send) -> None:
    for fault in ("cut-after=999", "cut-after=999999b", "reset-after=999", "stall-after=999"):
        assert is_embedding(exchange(fault).body)


def test_portions_end_exactly_at_their_extent() -> None:
    pieces = (b"abc", b"de", b"f")
    assert portion(pieces, None) == ([b"abc", b"de", b"f"], False)
    assert portion(pieces, Extent(0, is_bytes=False)) == ([], True)
    assert portion(pieces, Extent(2, is_bytes=False)) == ([b"abc", b"de"], True)
    assert portion(pieces, Extent(3, is_bytes=False)) == ([b"abc", b"de", b"f"], False)
    for count in range(8):
        kept, stopped = portion(pieces, Extent(count, is_bytes=True))
        assert b"".join(kept) == b"abcdef"[:count]
        assert stopped == (count < 6)
        assert all(kept)


def test_a_cut_in_a_chunked_body_has_whole_chunks_and_no_end(exchange: Send) -> None:
    got = exchange("chunked, cut-after=2", "closed")
    assert got.body.count(b"40\r\n") == 2
    assert not got.body.endswith(b"0\r\n\r\n")


def test_early_close_answers_before_the_body_was_sent_and_discards_it(sandbox: Running) -> None:
    request = request_bytes(b"x" * 500_000, "early-close")
    with connected(sandbox.base_url) as connection:
        connection.sendall(request[: request.index(b"\r\n\r\n") + 4])
        got = read_to_end(connection)
        assert (got.status, got.end) == (413, "closed")
        connection.sendall(request[request.index(b"\r\n\r\n") + 4 :])
        connection.shutdown(socket.SHUT_WR)
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].outcome == "complete")
    assert sandbox.sandbox.recorder.shown()[-1].body_complete is False


def test_early_close_answers_a_client_that_waits_for_continue(sandbox: Running) -> None:
    request = request_bytes(b"x" * 10, "early-close", "expect: 100-continue\r\n")
    with connected(sandbox.base_url) as connection:
        connection.sendall(request[:-10])
        got = read_to_end(connection)
    assert got.status == 413
    assert b"100 Continue" not in got.data
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].outcome == "complete")


def test_early_close_ends_with_its_times(exchange: Send, sandbox: Running) -> None:
    sandbox.sandbox.stand("early-close, times=1")
    assert exchange("", "closed").status == 413
    assert [exchange("").status for _ in range(2)] == [200, 200]
    in_header = "early-close, times=1, status=422"
    assert exchange(in_header, "closed").status == 422
    assert exchange(in_header).status == 200


def test_early_close_in_a_text_is_refused(exchange: Send) -> None:
    assert exchange("", body=embedding_body("[sandbox: early-close]")).status == 400


def test_a_half_closed_connection_still_takes_bytes(sandbox: Running) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(request_bytes(embedding_body(), "half-close=60s"))
        assert read_to_end(connection).end == "closed"
        # A full close would answer the first of these with a reset, and one of the others would fail.
        for _ in range(3):
            connection.sendall(b"GET")
            assert read_until_stalled(connection).end == "closed"


def test_a_kept_connection_serves_many_requests_with_faults_between(sandbox: Running) -> None:
    with connected(sandbox.base_url) as connection:
        for fault in ("", "status=500", "chunked", "slow-drip=1ms", "1xx", "html", "delay=1ms", "oversized-headers"):
            connection.sendall(request_bytes(embedding_body(), fault))
            assert read_whole(connection), fault
    assert len(sandbox.sandbox.recorder.shown()) == 8


async def test_wire_faults_are_refused_under_another_server() -> None:
    transport = httpx.ASGITransport(create())
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        for rule in RULES:
            if rule.wire:
                headers = {"x-sandbox-fault": CHECKS[rule.name][0]}
                answer = await client.post("/v1/embeddings", content=embedding_body(), headers=headers)
                assert answer.status_code == 501, rule.name
                assert answer.json()["error"]["code"] == "sandbox_needs_wire"
        plain = await client.post("/v1/embeddings", content=embedding_body(), headers={"x-sandbox-fault": "usage=-5"})
        assert plain.json()["usage"]["total_tokens"] == -5


def test_a_body_above_the_limit_is_a_413_and_the_record_says_so() -> None:
    with running(Options(body_bytes_max=1000)) as served, httpx.Client(base_url=served.base_url) as client:
        answer = client.post("/v1/embeddings", content=b"x" * 1001, headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 413
        assert served.sandbox.recorder.shown()[-1].body_complete is False
        assert client.post("/v1/embeddings", content=embedding_body()).status_code == 401
