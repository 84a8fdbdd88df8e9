"""Deterministic instances of JSON schemas: the same schema always gives the same value."""

from __future__ import annotations

import math
import re
from typing import Any

DEPTH_MAX = 12
OPTIONAL_DEPTH_MAX = 4
ITEMS_MAX = 64
TEXT_CHARS_MAX = 10_000

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
# Tried in order for a `pattern`; if none matches, the plain text is used, since a solver is not worth it.
_GUESSES = (
    "a", "A", "0", "00", "000", "0000", "00000", "123456", "aa", "AA", "AAA", "abc", "ABC", "Aa", "a-b", "a_b", "A1",
    "+15550100", "555-0100", "(555)555-0100", "1.0.0", "#00ff00", "https://example.com/", *_FORMATS.values(),
)  # fmt: skip
# Python's regular expressions have no time limit, and a slow pattern would block every test. So none is tried if the
# pattern repeats a group or has many repeats, and a name longer than the guesses is not tried.
_REPEATED_GROUP, _REPEAT = re.compile(r"\)[*+{]"), re.compile("[*+{]")
REPEATS_MAX, GUESS_CHARS_MAX = 5, max(map(len, _GUESSES))


def instance(schema: object) -> Any:
    """A valid instance of a JSON schema; {} for a missing or `true` one.

    Supports const, enum, $ref within the schema, allOf, anyOf, oneOf, type lists, properties (only required ones when
    nested deeper than `OPTIONAL_DEPTH_MAX`), items, prefixItems, bounds, multipleOf, lengths and formats. A string is
    the name of its property, so that arguments can be told apart.
    """
    return _value(schema, schema, "text", 0)


def _value(schema: object, root: object, name: str, depth: int) -> Any:
    if not isinstance(schema, dict):
        return {}
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, name, depth)
    if kind == "string":
        return _text(schema, name)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return True if kind == "boolean" else None


def _resolved(schema: dict[str, Any], root: object) -> dict[str, Any]:
    """The schema with $ref, allOf, anyOf and oneOf resolved; the first alternative that is not null is used."""
    for _ in range(DEPTH_MAX):
        if isinstance(schema.get("$ref"), str):
            aside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**_pointed(schema["$ref"], root), **aside}
        elif schema.get("allOf"):
            parts = schema["allOf"]
            schema = {key: value for key, value in schema.items() if key != "allOf"}
            for part in parts:
                schema = _merged(schema, _resolved(part, root) if isinstance(part, dict) else {})
        elif alternatives := schema.get("anyOf") or schema.get("oneOf"):
            chosen = next((one for one in alternatives if not _is_null(one)), alternatives[0])
            schema = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
            schema = _merged(schema, chosen if isinstance(chosen, dict) else {})
        else:
            break
    return schema


def _pointed(reference: str, root: object) -> dict[str, Any]:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _kind(schema: dict[str, Any]) -> str:
    """The type to make, in lower case: Gemini's own schemas have upper-case types."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = next((kind for kind in kinds if kind != "null"), "null")
    if isinstance(kinds, str):
        return kinds.lower()
    return next((kind for kind, key in (("array", "items"), ("string", "pattern")) if key in schema), "object")


def _object(schema: dict[str, Any], root: object, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    made = {
        name: _value(part, root, name, depth + 1)
        for name, part in properties.items()
        if depth < DEPTH_MAX and (name in required or depth < OPTIONAL_DEPTH_MAX)
    }
    for name in required:
        made.setdefault(name, name)
    extra = schema.get("additionalProperties")
    while len(made) < min(schema.get("minProperties", 0), ITEMS_MAX):
        name = f"key{len(made)}"
        made[name] = _value(extra, root, name, depth + 1) if isinstance(extra, dict) else name
    return made


def _array(schema: dict[str, Any], root: object, name: str, depth: int) -> list[Any]:
    made = [_value(part, root, name, depth + 1) for part in schema.get("prefixItems") or []]
    items = schema.get("items")
    wanted = schema.get("minItems") or (1 if depth < OPTIONAL_DEPTH_MAX else 0)
    for number in range(len(made), min(wanted, schema.get("maxItems", ITEMS_MAX), ITEMS_MAX)):
        item = _value(items, root, name, depth + 1) if isinstance(items, dict) else name
        if number and schema.get("uniqueItems"):
            choices = items.get("enum") if isinstance(items, dict) else None
            item = choices[number % len(choices)] if choices else _another(item, number)
        made.append(item)
    return made


def _another(item: Any, number: int) -> Any:
    if isinstance(item, str):
        return f"{item}{number}"
    return item + number if isinstance(item, int | float) and not isinstance(item, bool) else item


def _text(schema: dict[str, Any], name: str) -> str:
    pattern = schema.get("pattern")
    text = _FORMATS.get(schema.get("format", ""), name)
    if isinstance(pattern, str) and _is_quick(pattern):
        guesses = [guess for guess in (name, text, *_GUESSES) if len(guess) <= GUESS_CHARS_MAX]
        try:
            text = next((guess for guess in guesses if re.search(pattern, guess)), text)
        except re.error:
            return text
    low = min(schema.get("minLength", 0), TEXT_CHARS_MAX)
    if len(text) < low:
        text = (text or "a") * math.ceil(low / max(1, len(text)))
        text = text[:low]
    return text[: schema.get("maxLength", TEXT_CHARS_MAX)]


def _is_quick(pattern: str) -> bool:
    return _REPEATED_GROUP.search(pattern) is None and len(_REPEAT.findall(pattern)) <= REPEATS_MAX


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """The least multiple of the step above the lower bound, or without one, the step or the greatest below the upper.

    If the bounds are closer than the step, a number halfway between them.
    """
    step: float = schema.get("multipleOf") or (1 if whole else 0.5)
    low = max(_bound(schema, "minimum", -math.inf), _bound(schema, "exclusiveMinimum", -math.inf))
    high = min(_bound(schema, "maximum", math.inf), _bound(schema, "exclusiveMaximum", math.inf))
    number = step
    if low > -math.inf:
        number = math.ceil(low / step) * step
        number += step if number == schema.get("exclusiveMinimum") else 0
    elif high < step:
        number = math.floor(high / step) * step
        number -= step if number == schema.get("exclusiveMaximum") else 0
    if not whole and (number > high or number == schema.get("exclusiveMaximum")):
        number = (low + high) / 2
    return int(number) if whole else float(number)


def _bound(schema: dict[str, Any], name: str, absent: float) -> float:
    found = schema.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else absent
