"""No text row is served that nobody calls: `tests/relay/test_text_rows.py` makes the calls."""

from __future__ import annotations

from tests.text_rows import CASES, EVENTS, text_rows


def test_every_text_row_has_a_case_and_every_case_a_row() -> None:
    """A new row needs one entry in tests/text_rows.py."""
    rows = text_rows()
    assert rows.keys() == CASES.keys()
    streamed = {id_ for id_, case in CASES.items() if case.media == EVENTS}
    assert {id_ for id_, kind in rows.items() if kind == "stream"} == streamed
