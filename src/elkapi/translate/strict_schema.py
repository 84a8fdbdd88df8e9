"""Which JSON schemas OpenAI accepts as strict.

Anthropic's strict schemas may have optional properties. OpenAI refuses such a schema if it is declared strict, and
follows it as well as the model can otherwise.
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
    """`strict` for an OpenAI-type upstream; None if its rules do not allow the schema."""
    if not strict or request.dialect != "anthropic":
        return strict
    whole = schema is not None and schema.get("type") == "object" and "anyOf" not in schema
    return True if whole and _is_strict(schema) else None


def takes_objects(schema: dict[str, Any]) -> bool:
    """Whether the type of a schema is or includes `object`."""
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _is_strict(schema: Any) -> bool:
    """Whether the schema has only supported keywords, and every object is closed and requires all its properties."""
    if not isinstance(schema, dict) or not schema.keys() <= _KNOWN:
        return False
    if "$ref" in schema and len(schema) > 1:
        return False  # A reference must have no siblings.
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
