"""Checks which JSON schemas the runtime can enforce; pure.

The runtime converts a schema to a grammar and ignores unknown keywords, so those are refused here: an answer that only
seems to follow the schema is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from elkapi.errors import BadRequest

BYTES_MAX = 16 * 1024
DEPTH_MAX = 32

# Annotations, and keywords whose values need no check of ours.
_NOTES = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"})
_PLAIN = frozenset({"type", "required", "enum", "const", "$ref", "minItems", "maxItems", "minLength", "maxLength"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
# Keywords with nested schemas: in an object's values, in an array, or as the value itself.
_NAMED = frozenset({"properties", "$defs", "definitions"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SINGLE = frozenset({"items", "additionalProperties"})


def check_schema(schema: dict[str, Any]) -> None:
    """Raise BadRequest, with param `response_format`, for a schema that is too large or cannot be enforced."""
    if len(msgspec.json.encode(schema)) > BYTES_MAX:
        raise _refused(f"is larger than {BYTES_MAX} bytes")
    _check(schema, DEPTH_MAX)


def _check(schema: dict[str, Any], levels: int) -> None:
    if levels == 0:
        raise _refused(f"is deeper than {DEPTH_MAX} levels")
    for word, value in schema.items():
        if word in _BOUNDS and schema.get("type") != "integer":
            raise _refused(f"bounds a number by `{word}`; only integers can be bounded")
        if word == "pattern" and not (isinstance(value, str) and value.startswith("^") and value.endswith("$")):
            raise _refused("has a `pattern` that does not begin with ^ and end with $")
        if word == "format" and not (isinstance(value, str) and value in _FORMATS):
            raise _refused(f"has the format {str(value)[:64]!r}; known are {', '.join(sorted(_FORMATS))}")
        if word not in _KNOWN:
            raise _refused(f"has the keyword `{word[:64]}`, which cannot be enforced")
        for inner in _inner(word, value):
            _check(inner, levels - 1)


_KNOWN = _NOTES | _PLAIN | _BOUNDS | _NAMED | _LISTED | _SINGLE | {"pattern", "format"}


def _inner(word: str, value: Any) -> Iterator[dict[str, Any]]:
    """The schemas inside a keyword's value; values of another type are left to the runtime's check."""
    held: list[Any] = []
    if word in _NAMED and isinstance(value, dict):
        held = list(value.values())
    elif word in _LISTED and isinstance(value, list):
        held = value
    elif word in _SINGLE:
        held = [value]
    for one in held:
        if isinstance(one, dict):
            yield one


def _refused(what: str) -> BadRequest:
    return BadRequest(f"The schema {what}.", param="response_format")
