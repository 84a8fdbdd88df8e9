"""Gemini's own schema language (a part of OpenAPI's), checked as Google checks it and turned into JSON Schema."""

from __future__ import annotations

from typing import Any

from elkapi.sandbox.messages import Problem

# JSON Schema has many more words; in this place Google refuses them.
WORDS = {
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties", "required",
    "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf", "propertyOrdering",
    "default", "items", "minimum", "maximum",
}  # fmt: skip
TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
# The same by their numbers, which older clients write.
NUMBERED = ("", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")


def camel(name: str) -> str:
    """`system_instruction` as `systemInstruction`: Google takes both."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def invalid(message: str) -> Problem:
    """A 400 as Google words it."""
    return Problem(400, message)


def unknown_name(name: str, path: str) -> Problem:
    """The 400 for a field that Google's protocol buffers do not have."""
    place = f" at '{path}'" if path else ""
    return Problem(400, f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.')


def json_schema(schema: object, path: str) -> dict[str, Any]:
    """The JSON Schema of a Gemini schema. Raises Problem for what Gemini has no word for, or refuses."""
    result: dict[str, Any] = {}
    for written, value in object_schema(schema, path).items():
        name = camel(written)
        if name not in WORDS:
            raise unknown_name(written, path)
        if name == "type":
            result["type"] = _type(value, path)
        elif name == "properties" and isinstance(value, dict):
            result["properties"] = {
                key: json_schema(entry, f"{path}.properties[{key}]") for key, entry in value.items()
            }
        elif name == "items":
            result["items"] = json_schema(value, f"{path}.items")
        elif name == "anyOf" and isinstance(value, list):
            result["anyOf"] = [json_schema(entry, f"{path}.any_of[{index}]") for index, entry in enumerate(value)]
        elif name.startswith(("min", "max")) and isinstance(value, str) and value.isdecimal():
            result[name] = int(value)  # 64-bit numbers travel as text.
        else:
            result[name] = value
    _check(result, path)
    return result


def parameters_schema(function: dict[str, Any], path: str) -> dict[str, Any]:
    """The JSON Schema of a function's arguments, in either of the two languages. Raises Problem."""
    plain, raw = function.get("parameters"), function.get("parametersJsonSchema")
    if plain is not None and raw is not None:
        raise invalid(f"* GenerateContentRequest.{path}: parameters and parameters_json_schema cannot both be set.")
    if plain is None:
        return {"type": "object"} if raw is None else object_schema(raw, f"{path}.parameters_json_schema")
    schema = json_schema(plain, f"{path}.parameters")
    if schema.get("type") not in (None, "object"):
        raise invalid(f"* GenerateContentRequest.{path}.parameters: schema should be of type OBJECT.")
    if schema.get("type") and not schema.get("properties"):
        raise invalid(f"* GenerateContentRequest.{path}.parameters.properties: should be non-empty for OBJECT type")
    return schema


def object_schema(schema: object, path: str) -> dict[str, Any]:
    """A JSON Schema that is given as one. Raises Problem for what is no object."""
    if not isinstance(schema, dict):
        raise invalid(f"Invalid value at '{path}': a schema must be an object.")
    return schema


def _type(value: object, path: str) -> str:
    """A type of JSON Schema, of Gemini's word or number for it. Raises Problem."""
    if isinstance(value, int) and 0 < value < len(NUMBERED):
        value = NUMBERED[value]
    if not isinstance(value, str) or value.upper() not in TYPES:
        raise invalid(f"Invalid value at '{path}.type' (type.googleapis.com/google.ai.Type), \"{value}\"")
    return value.lower()


def _check(schema: dict[str, Any], path: str) -> None:
    """Refuse members of one schema that do not go together. Raises Problem."""
    kind, values = schema.get("type"), schema.get("enum")
    if kind == "array" and "items" not in schema:
        raise invalid(f"* GenerateContentRequest.{path}.items: missing field.")
    if values is not None:
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise invalid(f"Invalid value at '{path}.enum' (TYPE_STRING)")
        if kind != "string":
            raise invalid(f"* GenerateContentRequest.{path}.enum: only allowed for STRING type")
    for name in set(schema.get("required") or ()) - set(schema.get("properties") or ()):
        raise invalid(f"* GenerateContentRequest.{path}.required[0]: property is not defined: {name}")
