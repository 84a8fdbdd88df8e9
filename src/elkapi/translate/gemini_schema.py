"""Convert JSON schema to and from the OpenAPI subset that Gemini calls Schema; arguments are never modified.

Contract: anthropic.md sections 6.1 and 7. Newer models accept JSON schema (`parametersJsonSchema`,
`responseJsonSchema`) with restricted references; the subset is for older ones (`Profile.schema_subset`).
"""

from __future__ import annotations

import re
from typing import Any

from elkapi.errors import BadRequest

_Schema = dict[str, Any]

# The keywords that Schema and JSON schema have in common.
_KEPT = (
    "description",
    "enum",
    "maxItems",
    "minItems",
    "maxLength",
    "minLength",
    "maxProperties",
    "minProperties",
    "maximum",
    "minimum",
    "pattern",
    "propertyOrdering",
    "required",
)
_BESIDE = ("type", "format", "const", "properties", "items", "prefixItems", "allOf", *_KEPT[1:])
_FORMATS = {"string": ("enum", "date-time"), "number": ("float", "double"), "integer": ("int32", "int64")}
NODES_MAX = 10_000
_OF_DEFS = re.compile(r"#/\$defs/([A-Za-z0-9_.-]+)")


def with_plain_references(schema: _Schema) -> _Schema:
    """The schema as newer models accept it: each `$ref` has no siblings and refers to an entry of `$defs`.

    A reference with siblings becomes an `anyOf` of one, targets elsewhere are copied into `$defs`, and a reference
    without a target allows any value.
    """
    schema = {name: value for name, value in schema.items() if name not in ("$schema", "$id")}
    target = _at(schema, schema["$ref"]) if isinstance(schema.get("$ref"), str) else None
    if isinstance(target, dict):
        # The root must be an object with properties, not a union.
        schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
    return _References(schema).whole() if _mentions_reference(schema) else schema


def _mentions_reference(node: Any) -> bool:
    if isinstance(node, dict):
        return "$ref" in node or any(map(_mentions_reference, node.values()))
    return isinstance(node, list) and any(map(_mentions_reference, node))


class _References:
    """Moves the targets of a schema's references into `$defs`, each once."""

    def __init__(self, root: _Schema) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        self._defs: _Schema = {}
        # The prefix of new names, which no name of the schema has.
        self._ours = "ref_"
        own = root.get("$defs")
        while isinstance(own, dict) and any(name.startswith(self._ours) for name in own):
            self._ours += "_"

    def whole(self) -> _Schema:
        return {**self._object(self._root), "$defs": self._defs}

    def _of(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._of(item) for item in node]
        return self._object(node) if isinstance(node, dict) else node

    def _object(self, node: _Schema) -> _Schema:
        path = node.get("$ref")
        # Only at the root; deeper down a property may have such a name.
        moved = ("$defs", "definitions") if node is self._root else ()
        written = {name: self._of(value) for name, value in node.items() if name not in moved}
        if not isinstance(path, str):
            return written
        del written["$ref"]
        if (name := self._name(path)) is None:
            return written
        reference = {"$ref": f"#/$defs/{name}"}
        return {**written, "anyOf": [reference]} if written else reference

    def _name(self, path: str) -> str | None:
        """The name in `$defs` of a reference's target; None if there is no target."""
        if path not in self._names:
            target = _at(self._root, path)
            if not isinstance(target, dict):
                return None
            known = _OF_DEFS.fullmatch(path)
            name = self._names[path] = known[1] if known else f"{self._ours}{len(self._names)}"
            self._defs[name] = self._object(target)
        return self._names[path]


def _at(root: _Schema, path: str) -> Any:
    """The target of a reference within the schema; None if there is none."""
    target: Any = root if path.startswith("#") else None
    for step in filter(None, path.removeprefix("#").split("/")):
        name = step.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    return target


def to_subset(schema: _Schema) -> _Schema | None:
    """The nearest Schema, or None for an object without properties (Gemini refuses those). Raises BadRequest.

    References are expanded (a circular one allows any value), `const` becomes an enum, a union with null `nullable`,
    other unions `anyOf`, tuples arrays of any of their items. Other keywords (defaults, exclusive bounds, titles,
    additionalProperties) are omitted, so the result accepts at least what the schema accepts.
    """
    result = _Subset(schema).of(schema, ())
    return None if result.get("type") == "object" and not result.get("properties") else result


class _Subset:
    """Converts one schema to the subset; `way` lists the references being expanded."""

    def __init__(self, root: _Schema) -> None:
        self._root = root
        self._nodes_left = NODES_MAX

    def of(self, node: Any, way: tuple[str, ...]) -> _Schema:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise BadRequest(f"A schema must have at most {NODES_MAX} nodes after its references are expanded.")
        if not isinstance(node, dict):
            return {}
        node, way = self._resolve(node, way)
        node, options = _options(node)
        result = {name: node[name] for name in _KEPT if name in node}
        if not isinstance(node.get("required"), list):
            result.pop("required", None)  # A boolean of the property itself in older schemas.
        if node.get("nullable") is True:
            result["nullable"] = True
        if options is not None:
            return self._union(result, options, way)
        _typed(result, node)
        if isinstance(properties := node.get("properties"), dict):
            result["properties"] = {name: self.of(value, way) for name, value in properties.items()}
            result.setdefault("type", "object")
        if result.get("type") == "array":
            result["items"] = self._items(node, way)
        for part in node["allOf"] if isinstance(node.get("allOf"), list) else ():
            _merge(result, self.of(part, way))
        if "enum" in result and result.get("type") != "string":
            _describe(result, result.pop("enum"))
        return result

    def _union(self, result: _Schema, options: list[Any], way: tuple[str, ...]) -> _Schema:
        some = [self.of(option, way) for option in options if not _is_null(option)]
        if len(some) < len(options):
            result["nullable"] = True
        # Other siblings of the union were written into each option.
        beside: _Schema = {name: result[name] for name in ("description", "nullable") if name in result}
        if len(some) < 2:
            return {**(some[0] if some else {}), **beside}
        return {**beside, "anyOf": some}

    def _items(self, node: _Schema, way: tuple[str, ...]) -> _Schema:
        if isinstance(listed := node.get("prefixItems") or node.get("items"), list) and listed:
            places = [self.of(item, way) for item in listed]
            return places[0] if len(places) == 1 else {"anyOf": places}
        return self.of(node.get("items"), way) or {"type": "string"}

    def _resolve(self, node: _Schema, way: tuple[str, ...]) -> tuple[_Schema, tuple[str, ...]]:
        """The node with its reference expanded; an unknown or circular reference allows any value."""
        while isinstance(path := node.get("$ref"), str):
            beside = {name: value for name, value in node.items() if name != "$ref"}
            target = None if path in way else _at(self._root, path)
            node = {**target, **beside} if isinstance(target, dict) else beside
            way = (*way, path)
        return node, way


def _is_null(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    return node.get("type") == "null" or node.get("const", "") is None or node.get("enum") == [None]


def _options(node: _Schema) -> tuple[_Schema, list[Any] | None]:
    """(node with at most one type, the options of its union or list of types).

    Siblings of a union are not allowed, so they are written into each option.
    """
    options = node.get("anyOf") or node.get("oneOf")
    beside = {name: node[name] for name in _BESIDE if name in node}
    if beside and isinstance(options, list):
        options = [option if _is_null(option) else {"allOf": [option, beside]} for option in options]
    if isinstance(kinds := node.get("type"), list):
        named = [kind for kind in kinds if kind != "null"]
        if len(named) > 1:
            options = [{**node, "type": kind} for kind in named]
        node = {**node, "type": named[0] if len(named) == 1 else None, "nullable": "null" in kinds}
    return node, options if isinstance(options, list) and options else None


def _typed(result: _Schema, node: _Schema) -> None:
    """Set the type, the format if the subset knows it, and a constant as an enum (which only strings may have)."""
    kind: Any = node.get("type")
    if "const" in node:
        result["enum"] = [node["const"]]
    if isinstance(values := result.get("enum"), list):
        if None in values:
            result["nullable"] = True
        values = [value for value in values if value is not None]
        if not values:
            del result["enum"]
        elif all(isinstance(value, str) for value in values):
            kind, result["enum"] = kind or "string", values
        else:
            del result["enum"]
            _describe(result, values)
    if isinstance(kind, str):
        result["type"] = kind
        if (form := node.get("format")) in _FORMATS.get(kind, ()):
            result["format"] = form


def _describe(result: _Schema, values: list[Any]) -> None:
    """List the values in the description, since only strings may have an enum."""
    listed = f"One of: {', '.join(map(str, values))}."
    result["description"] = f"{result['description']} {listed}" if result.get("description") else listed


def _merge(into: _Schema, other: _Schema) -> None:
    for name, value in other.items():
        if name == "properties":
            into["properties"] = {**into.get("properties", {}), **value}
        elif name == "required" and isinstance(value, list):
            known = into.get("required", [])
            into["required"] = [*known, *(member for member in value if member not in known)]
        else:
            into.setdefault(name, value)


# Google's types by their enum numbers, as its older clients write them.
_NUMBERED = ("", "string", "number", "integer", "boolean", "array", "object", "null")


def from_subset(schema: Any) -> Any:
    """A Schema as JSON schema: types in lower case, `nullable` as a union with null; snake_case names are accepted.

    `propertyOrdering`, which JSON schema does not have, becomes the order of the properties.
    """
    if isinstance(schema, list):
        return [from_subset(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: _Schema = {}
    order: Any = None
    for spelled, value in schema.items():
        name = _JSON_NAMES.get(spelled) or str(spelled)
        if name == "type" and isinstance(value, str):
            result[name] = value.lower()
        elif name == "type" and isinstance(value, int):
            if 0 < value < len(_NUMBERED):
                result[name] = _NUMBERED[value]
        elif name in ("properties", "$defs") and isinstance(value, dict):
            result[name] = {key: from_subset(item) for key, item in value.items()}
        elif name in ("items", "anyOf", "additionalProperties"):
            result[name] = from_subset(value)
        elif name in _COUNTS and isinstance(value, str) and _COUNT.fullmatch(value) is not None:
            result[name] = int(value)
        elif name == "propertyOrdering":
            order = value
        elif name not in ("nullable", "example") and not (name == "format" and value == "enum"):
            result[name] = value
    if result.get("type") in _NUMBERS and isinstance(values := result.get("enum"), list):
        result["enum"] = [_number(value) for value in values]
    if isinstance(order, list) and isinstance(properties := result.get("properties"), dict):
        result["properties"] = _ordered(properties, order)
    if schema.get("nullable") is True:
        return _nullable(result)
    return result


def _number(value: Any) -> Any:
    """A value of a number's enum, which Google writes as a string."""
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    return float(value) if found[1] else int(value)


def _ordered(properties: _Schema, order: list[Any]) -> _Schema:
    first = [name for name in order if isinstance(name, str) and name in properties]
    return {name: properties[name] for name in (*first, *properties)}


def _nullable(schema: _Schema) -> _Schema:
    if isinstance(kind := schema.get("type"), str):
        schema["type"] = [kind, "null"]
        if isinstance(values := schema.get("enum"), list):
            schema["enum"] = [*values, None]
    elif isinstance(options := schema.get("anyOf"), list):
        schema["anyOf"] = [*options, {"type": "null"}]
    return schema


# Google's JSON has 64-bit integers as strings.
_COUNT = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_NUMBERS = ("integer", "number")
_COUNTS = ("maxItems", "minItems", "maxLength", "minLength", "maxProperties", "minProperties")
_JSON_NAMES = {
    "any_of": "anyOf",
    "max_items": "maxItems",
    "min_items": "minItems",
    "max_length": "maxLength",
    "min_length": "minLength",
    "max_properties": "maxProperties",
    "min_properties": "minProperties",
    "property_ordering": "propertyOrdering",
    "additional_properties": "additionalProperties",
    "defs": "$defs",
    "ref": "$ref",
}
