"""Which JSON schemas OpenAI holds a model to strictly; writing them is its dialects' own.

Anthropic's strict schemas may have members that need not be there. OpenAI refuses such a schema where it is to be
strict, and follows it as well as the model can where it is not.
"""

from __future__ import annotations

from typing import Any

from elkapi.translate.ir import ChatRequest

_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
_KNOWN = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("title", "description", "$schema", "$ref", "$defs", "definitions", "pattern", "format"),
        *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    }
)


def strict_of(request: ChatRequest, strict: bool | None, schema: dict[str, Any] | None) -> bool | None:
    """`strict` as an OpenAI-type upstream may be told it; None where its rules do not allow it."""
    if not strict or request.dialect != "anthropic":
        return strict
    whole = schema is not None and schema.get("type") == "object" and "anyOf" not in schema
    return True if whole and _is_strict(schema) else None


def takes_objects(schema: dict[str, Any]) -> bool:
    """Whether its type is that of objects, or has it among others."""
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _is_strict(schema: Any) -> bool:
    """Whether every object in it is closed and wants all its members, in words that are taken."""
    if not isinstance(schema, dict) or not schema.keys() <= _KNOWN:
        return False
    if "$ref" in schema and len(schema) > 1:
        return False  # Nothing may stand beside a reference.
    properties, wanted = schema.get("properties", {}), schema.get("required", [])
    choices = schema.get("anyOf", [])
    if not (isinstance(properties, dict) and isinstance(wanted, list) and isinstance(choices, list)):
        return False
    if "format" in schema and schema["format"] not in _FORMATS:
        return False
    is_closed = schema.get("additionalProperties") is False and all(name in wanted for name in properties)
    if not is_closed and takes_objects(schema):
        return False
    within = [*properties.values(), *choices, *([schema["items"]] if "items" in schema else ())]
    for name in ("$defs", "definitions"):
        defined = schema.get(name, {})
        within += defined.values() if isinstance(defined, dict) else [defined]
    return all(_is_strict(each) for each in within)
