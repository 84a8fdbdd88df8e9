"""What follows from a try: 2xx is delivered, 410 the end, all else is tried again, later each time, for a day."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.tasks.retrying import WAIT_S_MAX, after, retry_after, wait_after

NOW_NS = 1_800_000_000_000_000_000
DAY_NS = 86_400_000_000_000


def outcome(status: int | None, **given: Any) -> tuple[str, float]:
    """(state, seconds until it is due)."""
    values: dict[str, Any] = {"tries": 1, "until_ns": NOW_NS + DAY_NS, "retry_after_s": None} | given
    then = after(status, now_ns=NOW_NS, share=lambda: 0.0, **values)
    return then.state, (then.due_ns - NOW_NS) / 1e9


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "delivered"), (204, "delivered"), (299, "delivered"), (410, "given_up")]
    + [(status, "pending") for status in (None, 301, 302, 400, 401, 404, 429, 500, 503)],
)
def test_what_a_status_means(status: int | None, state: str) -> None:
    assert outcome(status)[0] == state


def test_waits_double_up_to_a_ceiling_and_spread() -> None:
    assert [wait_after(tries, 0.0) for tries in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert wait_after(1_000, 0.0) == WAIT_S_MAX
    assert wait_after(3, 1.0) == 15
    assert [outcome(500, tries=tries)[1] for tries in (1, 5)] == [5, 80]


def test_the_receivers_own_word_is_heeded_where_it_is_longer() -> None:
    assert outcome(429, retry_after_s=3_600.0) == ("pending", 3_600)
    assert outcome(429, retry_after_s=1.0) == ("pending", 5)


def test_after_a_day_it_is_given_up() -> None:
    assert outcome(500, until_ns=NOW_NS + 4_000_000_000)[0] == "given_up"
    assert outcome(410, retry_after_s=1.0)[0] == "given_up"


def test_a_receiver_that_is_down_for_longer_than_a_day_is_asked_once_more_at_its_end() -> None:
    assert outcome(503, retry_after_s=100_000.0) == ("pending", 86_400)
    assert outcome(503, retry_after_s=100_000.0, until_ns=NOW_NS)[0] == "given_up"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"120", 120.0),
        (b" 0 ", 0.0),
        (b"Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        (b"soon", None),
        (b"-1", None),
        (b"9" * 400, None),
        (b"\xff", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: bytes | None, seconds: float | None) -> None:
    assert retry_after(value, NOW_NS) == seconds
