"""The bill and the record: what is billed and what is not, bounds, files, and the control routes that show them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.sandbox.app import Options
from elkapi.sandbox.bill import Bill
from elkapi.sandbox.messages import Charge
from elkapi.sandbox.record import Recorder
from elkapi.sandbox.server import Running, running
from tests.waiting import until_blocking

from .exchanging import KEY, connected, embedding_body, read_whole, request_bytes


def bill_of(http: httpx.Client) -> dict[str, Any]:
    statement: dict[str, Any] = http.get("/_sandbox/bill").json()
    return statement


def test_an_answered_call_is_one_line_with_both_ids_and_its_price(http: httpx.Client) -> None:
    body = {"model": "text-embedding-3-large", "input": ["a b c", "d"], "dimensions": 2}
    answer = http.post("/v1/embeddings", json=body, headers={"x-client-request-id": "call-7"})
    statement = bill_of(http)
    (line,) = statement["lines"]
    assert isinstance(line.pop("seq"), int)
    assert isinstance(line.pop("time"), float)
    assert line == {
        "provider": "openai",
        "client_request_id": "call-7",
        "upstream_request_id": answer.headers["x-request-id"],
        "model": "text-embedding-3-large",
        "prompt_tokens": 4,
        "cost_nano_usd": 4 * 130,
        "outcome": "complete",
    }
    assert statement["lines_total"] == 1
    assert (statement["prompt_tokens_total"], statement["cost_nano_usd_total"]) == (4, 520)


BILLED = {
    "complete": ("usage=-5", "no-usage", "html", "invalid-json", "slow-drip=1ms", "until-close", "half-close"),
    "cut": ("cut-after=1", "reset-after=1", "cut-mid-chunk=5", "garbage", "stall-after=1", "hang-after-headers"),
}


@pytest.mark.parametrize(("outcome", "fault"), [(outcome, fault) for outcome in BILLED for fault in BILLED[outcome]])
def test_cut_slow_and_wrong_answers_are_billed_in_full(
    http: httpx.Client, sandbox: Running, fault: str, outcome: str
) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(request_bytes(embedding_body("a b c"), fault))
        until_blocking(lambda: bill_of(http)["lines_total"] == 1)
    (line,) = bill_of(http)["lines"]
    assert (line["outcome"], line["cost_nano_usd"]) == (outcome, 60)


@pytest.mark.parametrize("fault", ["delay=60s", "slow-drip=60s", "hang-after-headers", "stall-after=2"])
def test_a_caller_that_leaves_before_the_end_is_billed_as_aborted(fault: str) -> None:
    with running(Options(hang_limit_s=60)) as served, httpx.Client(base_url=served.base_url) as http:
        with connected(served.base_url) as connection:
            connection.sendall(request_bytes(embedding_body("a b c"), fault))
            until_blocking(lambda: any(seen.body_complete for seen in served.sandbox.recorder.shown()))
            assert bill_of(http)["lines_total"] == 0
        until_blocking(lambda: bill_of(http)["lines_total"] == 1)
        assert bill_of(http)["lines"][0]["outcome"] == "aborted"
        assert bill_of(http)["cost_nano_usd_total"] == 60


@pytest.mark.parametrize(
    "fault", ["status=500", "status=429", "echo-secrets", "refuse-key=abcd", "hang", "hang, delay=1ms"]
)
def test_errors_and_calls_never_answered_are_not_billed(http: httpx.Client, sandbox: Running, fault: str) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(request_bytes(embedding_body(), fault))
        until_blocking(lambda: any(seen.outcome is not None for seen in sandbox.sandbox.recorder.shown()))
    assert bill_of(http)["lines_total"] == 0


def test_a_request_that_never_came_in_full_is_not_billed(http: httpx.Client, sandbox: Running) -> None:
    with connected(sandbox.base_url) as connection:
        connection.sendall(request_bytes(embedding_body())[:-5])
        until_blocking(lambda: sandbox.sandbox.recorder.shown())
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].body_base64)
    assert bill_of(http)["lines_total"] == 0
    assert sandbox.sandbox.recorder.shown()[-1].body_complete is False


def test_free_routes_are_not_billed(http: httpx.Client) -> None:
    assert http.get("/v1/models").status_code == 200
    assert bill_of(http)["lines_total"] == 0


def test_the_bill_is_there_as_soon_as_the_answer_is(http: httpx.Client, sandbox: Running) -> None:
    for count in range(1, 51):
        assert http.post("/v1/embeddings", content=embedding_body(str(count))).status_code == 200
        assert sandbox.sandbox.bill.statement().lines_total == count


def test_the_bill_can_be_reset_and_goes_on_counting(http: httpx.Client) -> None:
    http.post("/v1/embeddings", content=embedding_body())
    before = bill_of(http)["lines"][0]["seq"]
    assert http.delete("/_sandbox/bill").status_code == 200
    assert bill_of(http) == {
        "lines_total": 0, "lines_dropped": 0, "prompt_tokens_total": 0, "cost_nano_usd_total": 0, "lines": [],
    }  # fmt: skip
    http.post("/v1/embeddings", content=embedding_body())
    assert bill_of(http)["lines"][0]["seq"] == before + 1


def test_a_bill_keeps_its_last_lines_and_all_its_totals(tmp_path: Path) -> None:
    bill = Bill(tmp_path / "bill", lines_kept_max=3, now=lambda: 5.0)
    for number in range(10):
        bill.append("openai", Charge("m", number, number * 20), "complete", None, f"req_{number}")
    bill.close()
    statement = bill.statement()
    assert (statement.lines_total, statement.lines_dropped, len(statement.lines)) == (10, 7, 3)
    assert (statement.prompt_tokens_total, statement.cost_nano_usd_total) == (45, 900)
    written = [json.loads(line) for line in (tmp_path / "bill").read_text().splitlines()]
    assert [line["seq"] for line in written] == list(range(1, 11))
    assert written[-1] == json.loads(msgspec.json.encode(statement.lines[-1]))


def test_a_bill_file_is_appended_to_never_overwritten(tmp_path: Path) -> None:
    bills = [Bill(tmp_path / "bill"), Bill(tmp_path / "bill")]
    for turn in range(6):
        bills[turn % 2].append("openai", Charge("m", turn, 20), "cut", "call", "req")
    for bill in bills:
        bill.close()
    lines = [json.loads(line) for line in (tmp_path / "bill").read_text().splitlines()]
    assert [line["prompt_tokens"] for line in lines] == list(range(6))
    assert (tmp_path / "bill").stat().st_mode & 0o777 == 0o600


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_bill_that_cannot_be_written_counts_nothing() -> None:
    bill = Bill(FULL)
    with pytest.raises(OSError, match="space"):
        bill.append("openai", Charge("m", 1, 20), "complete", None, "req")
    bill.close()
    assert bill.statement().lines_total == 0


def test_a_request_is_recorded_byte_for_byte_with_its_headers_in_order(http: httpx.Client, sandbox: Running) -> None:
    body = b'{ "input" : "red", "unknown":  [1.0, 1e2], "model":"text-embedding-3-small" }'
    extra = "X-Twice: 1\r\nx-twice: 2\r\nuser-agent: elkapi\r\n"
    with connected(sandbox.base_url) as connection:
        connection.sendall(request_bytes(body, "", extra).replace(b"/v1/embeddings", b"/v1/embeddings?a=%5B1", 1))
        read_whole(connection)
    (seen,) = http.get("/_sandbox/requests").json()["requests"]
    assert base64.b64decode(seen["body_base64"]) == body
    assert (seen["body_bytes"], seen["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert (seen["method"], seen["target"], seen["http_version"]) == ("POST", "/v1/embeddings?a=%5B1", "1.1")
    assert seen["headers"] == [
        ["host", "127.0.0.1"],
        ["authorization", f"Bearer {KEY}"],
        ["x-twice", "1"],
        ["x-twice", "2"],
        ["user-agent", "elkapi"],
        ["x-sandbox-fault", ""],
        ["content-length", str(len(body))],
    ]
    assert (seen["status"], seen["outcome"], seen["body_complete"]) == (200, "complete", True)


def test_the_record_is_shown_from_the_end_and_can_be_reset(http: httpx.Client) -> None:
    for number in range(3):
        http.get(f"/v1/models/{number}")
    shown = http.get("/_sandbox/requests", params={"last": 2}).json()["requests"]
    assert [entry["target"] for entry in shown] == ["/v1/models/1", "/v1/models/2"]
    assert http.get("/_sandbox/requests", params={"last": 0}).json()["requests"] == []
    for wrong in ("x", "9" * 5000):
        assert http.get("/_sandbox/requests", params={"last": wrong}).status_code == 400
    http.delete("/_sandbox/requests")
    assert http.get("/_sandbox/requests").json()["requests"] == []


def test_a_recorder_is_bounded_in_requests_and_in_bytes() -> None:
    recorder = Recorder(requests_kept_max=3, bytes_kept_max=15, now=lambda: 1.0)
    for number in range(5):
        recorder.add_body(recorder.open("POST", str(number), "1.1", ((b"a", b"b"),)), b"1234", complete=True)
    assert [entry.target for entry in recorder.shown()] == ["3", "4"]
    recorder.add_body(recorder.open("POST", "large", "1.1", ()), b"x" * 15, complete=True)
    assert recorder.shown() == []


def test_a_recorder_of_nothing_keeps_nothing() -> None:
    recorder = Recorder(requests_kept_max=0)
    recorder.add_body(recorder.open("POST", "/", "1.1", ()), b"1234", complete=True)
    assert recorder.shown() == []


def test_a_standing_fault_is_set_shown_refused_and_removed(http: httpx.Client) -> None:
    assert http.put("/_sandbox/fault", content="status=503").json() == {"fault": "status=503"}
    assert http.get("/v1/models").status_code == 503
    assert http.put("/_sandbox/fault", content="nonsense=1").status_code == 400
    assert http.put("/_sandbox/fault", content="code=" + "x" * 5000).status_code == 400
    assert http.get("/_sandbox/fault").json() == {"fault": "status=503"}
    assert http.delete("/_sandbox/fault").json() == {"fault": ""}
    assert http.get("/v1/models").status_code == 200


def test_a_key_can_go_bad_and_come_back(http: httpx.Client) -> None:
    http.put("/_sandbox/fault", content=f"refuse-key={KEY[-6:]}")
    assert http.get("/v1/models").status_code == 401
    assert http.get("/v1/models", headers={"authorization": "Bearer sk-another"}).status_code == 200
    http.delete("/_sandbox/fault")
    assert http.get("/v1/models").status_code == 200


def test_the_index_names_providers_routes_and_faults(http: httpx.Client) -> None:
    index = http.get("/_sandbox").json()
    assert "POST /v1/embeddings" in index["providers"]["openai"]["routes"]
    assert "cut-after" in index["faults"]
    assert http.get("/_sandbox/none").status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1:80", "127.9.9.9", "localhost", "LocalHost:1", "[::1]:8100", "[::1]"])
def test_control_routes_answer_under_a_loopback_host(http: httpx.Client, host: str) -> None:
    assert http.get("/_sandbox/requests", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example:80", "10.0.0.1", "localhost.example", "[::2]"])
def test_control_routes_refuse_any_other_host(http: httpx.Client, host: str) -> None:
    assert http.get("/_sandbox/requests", headers={"host": host}).status_code == 421
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


def test_only_the_given_keys_are_taken() -> None:
    options = Options(keys=frozenset({"sk-one"}))
    with running(options) as served, httpx.Client(base_url=served.base_url) as http:
        assert http.get("/v1/models", headers={"authorization": "Bearer sk-one"}).status_code == 200
        assert http.get("/v1/models", headers={"authorization": "Bearer sk-two"}).status_code == 401
