"""What holds in every protocol alike: scripts, faults, streams, bill lines and the refusal of strangers."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from elkapi.sandbox.bill import Line
from elkapi.sandbox.server import Running
from tests.waiting import until_blocking

from .exchanging import bill_lines
from .speaking import WAYS, Way, bodies, signature, streamed_text, text_of


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def line(sandbox: Running) -> Line:
    """The only bill line, once it is there."""
    until_blocking(lambda: bill_lines(sandbox))
    (only,) = bill_lines(sandbox)
    return only


def test_a_stream_says_what_the_whole_answer_says_and_costs_the_same(sandbox: Running, way: Way) -> None:
    whole = way.send(sandbox.base_url, "[[say: one two three four]]")
    streamed = way.send(sandbox.base_url, "[[say: one two three four]]", streams=True)
    assert text_of(whole.json()) == streamed_text(bodies(way, streamed.content)) == "one two three four"
    first, second = bill_lines(sandbox)
    assert first.outcome == second.outcome == "complete"
    assert (first.prompt_tokens, first.output_tokens) == (second.prompt_tokens, second.output_tokens) == (5, 4)
    assert first.cost_nano_usd == second.cost_nano_usd > 0


@pytest.mark.parametrize("status", [400, 403, 404, 408, 429, 500, 503, 529])
def test_an_asked_status_comes_in_the_protocols_own_words_and_is_not_billed(
    sandbox: Running, way: Way, status: int
) -> None:
    answer = way.send(sandbox.base_url, f"hi [sandbox: status={status}, retry-after=2]", streams=True)
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "2"
    body = answer.json()
    if way.name == "anthropic":
        assert body["error"]["message"]
        assert body["request_id"] == answer.headers["request-id"]
    elif way.kind == "aws":
        assert body["message"]
        assert answer.headers["x-amzn-errortype"].endswith("Exception")
    else:
        assert body["error"]["code"] == status
        assert body["error"]["status"].isupper()
    assert bill_lines(sandbox) == []


def test_a_stream_that_fails_before_its_content_is_an_error_and_free(sandbox: Running, way: Way) -> None:
    found = bodies(way, way.send(sandbox.base_url, "hi [sandbox: error-before]", streams=True).content)
    assert streamed_text(found) == ""
    assert "error" in found[-1] or found[-1]["type"] == "modelStreamErrorException"
    until_blocking(lambda: sandbox.sandbox.recorder.shown()[-1].outcome == "cut")
    assert bill_lines(sandbox) == []


def test_a_stream_that_fails_later_ends_with_the_error_and_bills_what_was_said(sandbox: Running, way: Way) -> None:
    text = "[[say: one two three]] [sandbox: error-after=2]"
    found = bodies(way, way.send(sandbox.base_url, text, streams=True).content)
    assert streamed_text(found) == "one two"
    assert "error" in found[-1] or found[-1]["type"] == "modelStreamErrorException"
    assert (line(sandbox).outcome, line(sandbox).output_tokens) == ("cut", 2)


def test_a_truncated_stream_ends_cleanly_without_its_end(sandbox: Running, way: Way) -> None:
    answer = way.send(sandbox.base_url, "[[say: one two]] [sandbox: truncated]", streams=True)
    found = bodies(way, answer.content)
    assert streamed_text(found) == "one two"
    ends = ("message_stop", "messageStop", "finishReason", "metadata")
    assert not any(end in json.dumps(body) for body in found for end in ends)


@pytest.mark.parametrize(("fault", "outcome"), [("cut-after=3", "cut"), ("reset-after=3", "cut")])
def test_a_cut_stream_breaks_the_connection_and_bills_the_frames_sent(
    sandbox: Running, way: Way, fault: str, outcome: str
) -> None:
    with pytest.raises(httpx.TransportError):
        way.send(sandbox.base_url, f"[[tokens: 50]] [sandbox: {fault}]", streams=True)
    assert line(sandbox).outcome == outcome
    assert line(sandbox).output_tokens <= 3


def test_a_stream_whose_reader_leaves_is_billed_up_to_there(sandbox: Running, way: Way) -> None:
    full = 50 * len(WAYS)
    text = f"[[tokens: {full}]] [sandbox: pace=20ms]"
    url = sandbox.base_url + way.paths[True]
    content = json.dumps(way.body(text, True)).encode()
    headers = {"content-type": "application/json", **way.headers}
    if way.signs:
        headers |= signature("POST", url, content)
    with httpx.stream("POST", url, content=content, headers=headers) as answer:
        next(answer.iter_raw())
    assert line(sandbox).outcome == "aborted"
    assert line(sandbox).output_tokens < full


def test_usage_can_be_left_out_or_be_wrong(sandbox: Running, way: Way) -> None:
    for streams in (False, True):
        without = way.send(sandbox.base_url, "hi [sandbox: no-usage]", streams=streams)
        found = bodies(way, without.content) if streams else [without.json()]
        assert not any(word in json.dumps(body) for body in found for word in ("utTokens", "ut_tokens", "TokenCount"))
        wrong = way.send(sandbox.base_url, "hi [sandbox: usage=-5]", streams=streams)
        found = bodies(way, wrong.content) if streams else [wrong.json()]
        assert any("-5" in json.dumps(body) for body in found)
    assert {entry.output_tokens for entry in bill_lines(sandbox)} <= {3, 4}


@pytest.mark.parametrize("fault", ["html", "invalid-json"])
def test_a_body_that_is_no_answer(sandbox: Running, way: Way, fault: str) -> None:
    answer = way.send(sandbox.base_url, f"hi [sandbox: {fault}]")
    assert answer.status_code == 200
    with pytest.raises(ValueError):
        answer.json()
    assert ("text/html" in answer.headers["content-type"]) == (fault == "html")


def test_a_marked_fault_goes_away_after_its_tries(sandbox: Running, way: Way) -> None:
    text = f"hi [sandbox: status=503, times=1, marker={way.name}]"
    statuses = [way.send(sandbox.base_url, text).status_code for _ in range(2)]
    assert statuses == [503, 200]
    sandbox.sandbox.stand("")


def test_a_split_stream_says_the_same(sandbox: Running, way: Way) -> None:
    answer = way.send(sandbox.base_url, "[[say: one two three]] [sandbox: split=3]", streams=True)
    assert streamed_text(bodies(way, answer.content)) == "one two three"
    assert line(sandbox).output_tokens == 3


def test_a_refused_key_is_refused_everywhere(sandbox: Running, way: Way) -> None:
    tail = {"anthropic": "6789", "gemini": "6789"}.get(way.name, "SANDBOX" if way.signs else "boxed")
    answer = way.send(sandbox.base_url, f"hi [sandbox: refuse-key={tail}]")
    assert answer.status_code == {"anthropic": 401, "gemini": 400}.get(way.name, 403 if way.signs else 401)


def test_a_caller_without_a_key_is_refused(sandbox: Running, way: Way) -> None:
    bare = msgspec.structs.replace(way, headers={"anthropic-version": "2023-06-01"}, signs=False)
    assert bare.send(sandbox.base_url, "hi").status_code in (401, 403)
    assert bill_lines(sandbox) == []


def test_a_wrong_script_word_is_refused(sandbox: Running, way: Way) -> None:
    answer = way.send(sandbox.base_url, "[[sing: a song]]")
    assert answer.status_code == 400
    assert "script" in answer.text


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff"])
def test_a_body_that_is_no_object_is_a_400(sandbox: Running, way: Way, body: bytes) -> None:
    url = sandbox.base_url + way.paths[False]
    headers = dict(way.headers)
    if way.signs:
        headers |= signature("POST", url, body)
    assert httpx.post(url, content=body, headers=headers).status_code == 400
