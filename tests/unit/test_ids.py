"""Public spellings of ids: what was written is read again, and nothing else is taken for an id."""

from __future__ import annotations

import pytest

from elkapi.ids import made_ns, new_id, parse_prefixed_id, parse_request_id, request_id_text

ID = bytes(range(16))


def test_what_was_written_is_read_again() -> None:
    made = new_id()
    assert parse_request_id(request_id_text(made)) == made
    assert parse_request_id(made.hex()) == made
    # The task that a request began has its digits.
    assert parse_request_id("task_" + made.hex()) == made
    assert parse_request_id("task_req_" + made.hex()) is None
    assert parse_prefixed_id("task_" + made.hex(), "task_") == made


def test_an_id_says_when_it_was_made() -> None:
    assert made_ns(new_id(1_800_000_000_123_456_789)) == 1_800_000_000_123_000_000


@pytest.mark.parametrize(
    "digits", ["", "00", ID.hex() + "0", ID.hex()[:-1], "g" + ID.hex()[1:], "00" + " " * 30, "\u0663" * 32]
)
def test_only_thirty_two_digits_are_an_id(digits: str) -> None:
    assert parse_request_id("req_" + digits) is None
    assert parse_prefixed_id("task_" + digits, "task_") is None


def test_an_id_of_another_kind_or_of_none_is_not_read() -> None:
    assert parse_prefixed_id("req_" + ID.hex(), "task_") is None
    assert parse_prefixed_id(ID.hex(), "task_") is None
