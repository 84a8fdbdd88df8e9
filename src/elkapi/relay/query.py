"""Reads query strings: the last value of each name, and numbers with one common error."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from elkapi.errors import BadRequest

FIELDS_MAX = 100


def query_of(text: str) -> dict[str, str]:
    """Names and values; the last value of a repeated name. Raises BadRequest."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX))
    except ValueError:
        raise BadRequest(f"The query string must be valid UTF-8 with at most {FIELDS_MAX} parameters.") from None


def number_in(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """A number of the query, such as a page size; None if it is not set. Raises BadRequest."""
    if not (text := query.get(name)):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise BadRequest(f"`{name}` must be a whole number from {least} to {most}.", param=name)
    return int(text)
