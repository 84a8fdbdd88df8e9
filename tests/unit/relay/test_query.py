"""Numbers of a query are read in one way by every page, and refused in one."""

from __future__ import annotations

import pytest

from elkapi.errors import BadRequest
from elkapi.relay.query import FIELDS_MAX, number_in, query_of


@pytest.mark.parametrize("text", ["1_0", "+5", " 5", "5 ", "-1", "0", "101", "9" * 5000, "\u0665", "1.0", "1e1", "x"])
def test_a_number_that_nobody_can_mean_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(BadRequest, match="`limit` must be a whole number from 1 to 100") as refused:
        number_in({"limit": text}, "limit", 1, 100)
    assert refused.value.param == "limit"


def test_a_number_is_the_last_of_its_name_and_an_empty_one_is_none() -> None:
    assert number_in(query_of("limit=5&limit=7&order=asc"), "limit", 1, 100) == 7
    assert number_in(query_of("limit=&order=asc"), "limit", 1, 100) is None
    assert number_in(query_of(""), "limit", 1, 100) is None


@pytest.mark.parametrize("text", ["a=%ff", "&".join(["a=1"] * (FIELDS_MAX + 1))])
def test_a_query_that_is_no_text_or_has_no_end_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="query string must be valid UTF-8"):
        query_of(text)
