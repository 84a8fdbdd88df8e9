"""The compiled SQL: one statement for many rows, every size, both dialects."""

from __future__ import annotations

import pytest

from elkapi.ledger.statements import SIZES, Rows, for_dialect


class Cursor:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def execute(self, text: str, values: list[int]) -> None:
        self.calls.append((text, values))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 16, 63, 64, 256, 333])
def test_any_number_of_rows_is_written_once_and_in_order(count: int) -> None:
    cursor = Cursor()
    rows = Rows({size: str(size) for size in SIZES}, 2)
    flat = list(range(2 * count))
    rows.insert(cursor, flat)
    assert [value for _, values in cursor.calls for value in values] == flat
    assert all(len(values) == 2 * int(text) for text, values in cursor.calls)


@pytest.mark.parametrize(("dialect", "place"), [("sqlite", "?"), ("postgresql", "%s")])
def test_g01_admission_is_one_conditional_update_with_bound_values(dialect: str, place: str) -> None:
    text = " ".join(for_dialect(dialect).account_change_if.split())
    assert text.startswith("UPDATE accounts SET")
    assert text.count(place) == 4
    assert ">=" in text.partition("WHERE")[2]
