"""The body of a batch is checked line by line, in little memory however many lines there are."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from elkapi.errors import BadRequest
from elkapi.relay.batches.asked import REQUESTS_MAX, understood

# What the bodies of lines come to must not be held a second time.
BYTES_A_LINE = 200


def body(lines: int, *more: bytes) -> bytes:
    message = {"role": "user", "content": "word " * 40}
    params = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [message]})
    rows = [b'{"custom_id":"line-%d","params":%b}' % (number, params) for number in range(lines)]
    return b'{"requests":[%b]}' % b",".join([*rows, *more])


def test_a_hundred_thousand_lines_are_understood_in_memory_that_does_not_hold_them_twice() -> None:
    asked = body(REQUESTS_MAX)
    tracemalloc.start()
    try:
        found = understood(asked)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.items) == REQUESTS_MAX
    assert found.models == {"m": 0}
    assert found.line(REQUESTS_MAX - 1)[0] == f"line-{REQUESTS_MAX - 1}"
    assert peak_bytes < BYTES_A_LINE * REQUESTS_MAX < len(asked)


def test_one_line_more_is_refused() -> None:
    with pytest.raises(BadRequest, match="requests"):
        understood(body(REQUESTS_MAX + 1))


def test_a_bad_last_line_is_named() -> None:
    with pytest.raises(BadRequest) as refused:
        understood(body(99, b'{"custom_id":"x","params":{"model":"m","max_tokens":"many","messages":[1]}}'))
    assert refused.value.param == "requests.99.params.max_tokens"
