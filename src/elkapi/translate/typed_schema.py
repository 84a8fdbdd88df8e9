"""Adapt JSON schemas for Moonshot, which refuses a schema without a type, or with one beside its alternatives.

Contract: Moonshot's own specification of its subset ("Moonshot Flavored JSON Schema"). The result accepts at least what
the schema accepts; arguments are never modified.
"""

from __future__ import annotations

from typing import Any

from elkapi.errors import BadRequest
from elkapi.translate.gemini_schema import with_plain_references

_Schema = dict[str, Any]

# What may stand beside alternatives.
_TOLD = ("description", "default", "title", "$defs", "$schema")
_ANY: tuple[_Schema, ...] = tuple({"type": kind} for kind in ("string", "number", "boolean", "object", "array", "null"))
_OF_OBJECTS = ("properties", "required", "additionalProperties", "patternProperties")


def typed(schema: _Schema) -> _Schema:
    """The schema with a type, a reference or alternatives at every place, and no two of them. Raises BadRequest."""
    try:
        return _typed(with_plain_references(schema))
    except RecursionError:
        raise BadRequest("A JSON schema is nested too deeply for this model.", param="tools") from None


def _typed(node: _Schema) -> _Schema:
    if "$ref" in node:
        return node
    if isinstance(node.get("allOf"), list):
        node = _folded(node, "allOf", required=True)
    name = next((name for name in ("anyOf", "oneOf") if isinstance(node.get(name), list) and node[name]), None)
    if name is not None:
        node = _folded(node, name, required=False) if "properties" in node else _shared(node, name)
    if isinstance(node.get("type"), list):
        node = _split(node)
    if not isinstance(node.get("type"), str) and "anyOf" not in node:
        node = _guessed(node)
    return {name: _inside(name, value) for name, value in node.items()}


def _inside(name: str, value: Any) -> Any:
    if name in ("properties", "$defs", "patternProperties") and isinstance(value, dict):
        return {key: _one(inner) for key, inner in value.items()}
    if name == "anyOf":
        return [_one(inner) for inner in value]
    return _one(value) if name in ("items", "additionalProperties") and isinstance(value, dict) else value


def _one(value: Any) -> Any:
    return _typed(value) if isinstance(value, dict) else {"anyOf": list(_ANY)} if value is True else value


def _folded(node: _Schema, name: str, *, required: bool) -> _Schema:
    """An object with the properties of its parts as its own; they are required only if all parts count."""
    parts = [part for part in node[name] if isinstance(part, dict) and "$ref" not in part]
    result = {key: value for key, value in node.items() if key != name}
    for part in parts:
        for key, value in part.items():
            if key == "properties" and isinstance(value, dict):
                result[key] = {**value, **result.get(key, {})}
            elif key == "required" and isinstance(value, list):
                if required:
                    result[key] = list(dict.fromkeys([*result.get(key, ()), *value]))
            elif required:
                result.setdefault(key, value)
    return result


def _shared(node: _Schema, name: str) -> _Schema:
    """Alternatives that each have what stood beside them."""
    beside = {key: value for key, value in node.items() if key not in (name, *_TOLD)}
    told = {key: value for key, value in node.items() if key in _TOLD}
    branches = [{**beside, **part} if isinstance(part, dict) and "$ref" not in part else part for part in node[name]]
    return {**told, "anyOf": branches}


def _split(node: _Schema) -> _Schema:
    """One alternative for each of several types."""
    told = {key: value for key, value in node.items() if key in _TOLD}
    rest = {key: value for key, value in node.items() if key not in ("type", *_TOLD)}
    kinds = [{"type": kind} if kind == "null" else {**rest, "type": kind} for kind in node["type"]]
    if isinstance(values := rest.get("enum"), list):
        for kind in kinds:
            if "enum" in kind:
                kind["enum"] = [value for value in values if _fits(value, kind["type"])]
        kinds = [kind for kind in kinds if kind.get("enum", None in values)]
    return {**told, **kinds[0]} if len(kinds) == 1 else {**told, "anyOf": kinds or list(_ANY)}


def _guessed(node: _Schema) -> _Schema:
    """A node without a type, with the one that its other members imply, or with all."""
    if any(name in node for name in _OF_OBJECTS):
        return {"type": "object", **node}
    if "items" in node or "prefixItems" in node:
        return {"type": "array", **node}
    values = node.get("enum", [node["const"]] if "const" in node else None)
    if isinstance(values, list) and (kinds := {_kind_of(value) for value in values}):
        kind, *more = sorted(kinds)
        return {"type": kind, **node} if not more else _split({**node, "type": [kind, *more]})
    return {**node, "anyOf": list(_ANY)}


def _fits(value: Any, kind: str) -> bool:
    return _kind_of(value) == kind or (kind == "number" and _kind_of(value) == "integer")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")
