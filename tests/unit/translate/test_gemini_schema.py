"""JSON schema into Gemini's subset: the nearest that accepts at least as much, bounded, nothing changed in place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from elkapi.errors import BadRequest
from elkapi.translate.gemini_schema import from_subset, to_subset, with_plain_references

STRING = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "subset"),
    [
        ({"type": "string", "format": "uri", "title": "T", "default": "x"}, STRING),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "integer", "exclusiveMinimum": 0, "minimum": 1}, {"type": "integer", "minimum": 1}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a", None], "type": ["string", "null"]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "integer", "description": "One of: 1, 2."}),
        ({"type": "integer", "enum": ["1", "2"]}, {"type": "integer", "description": "One of: 1, 2."}),
        (
            {"type": ["boolean", "string"], "enum": ["auto"]},
            {"anyOf": [{"type": "boolean", "description": "One of: auto."}, {"type": "string", "enum": ["auto"]}]},
        ),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "enum": [1, 2, None]},
            {"type": "integer", "description": "One of: 1, 2.", "nullable": True},
        ),
        ({"anyOf": [{"type": "null"}], "required": ["a"]}, {"nullable": True}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [STRING, {"type": "integer"}]}),
        ({"anyOf": [STRING, {"type": "null"}], "description": "d"}, {**STRING, "description": "d", "nullable": True}),
        ({"oneOf": [STRING, {"type": "number"}]}, {"anyOf": [STRING, {"type": "number"}]}),
        ({"type": "array"}, {"type": "array", "items": STRING}),
        ({"type": "array", "prefixItems": [STRING]}, {"type": "array", "items": STRING}),
        (
            {"type": "array", "items": [STRING, {"type": "number"}]},
            {"type": "array", "items": {"anyOf": [STRING, {"type": "number"}]}},
        ),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"allOf": [_object(a=STRING), _object(b=STRING)]}, _object(a=STRING, b=STRING)),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": STRING}}, STRING),
        ({"$ref": "#/nowhere", "type": "string"}, STRING),
        ({"$ref": "https://elsewhere.test/", "type": "string"}, STRING),
        (_object(), None),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"anyOf": [STRING, {"const": None}]}, {**STRING, "nullable": True}),
        ({"anyOf": [STRING, {"type": "null", "description": "None."}]}, {**STRING, "nullable": True}),
        (
            {**_object(a=STRING, b=STRING), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {"anyOf": [{**_object(a=STRING, b=STRING), "required": [name]} for name in "ab"]},
        ),
        ({**_object(a=STRING), "oneOf": [_object(b=STRING)]}, _object(a=STRING, b=STRING)),
        ({"anyOf": [{"type": "null"}]}, {"nullable": True}),
        ({"type": "array", "items": []}, {"type": "array", "items": STRING}),
        (
            {"required": True, "allOf": [{**_object(a=STRING), "required": ["a"]}, {"required": ["a"]}]},
            {**_object(a=STRING), "required": ["a"]},
        ),
        ({"type": "number", "format": "double", "maximum": 2}, {"type": "number", "format": "double", "maximum": 2}),
        ({**STRING, "pattern": "a+", "maxLength": 3}, {**STRING, "pattern": "a+", "maxLength": 3}),
    ],
)
def test_a_schema_becomes_its_nearest_subset(schema: dict[str, Any], subset: dict[str, Any] | None) -> None:
    before = copy.deepcopy(schema)
    assert to_subset(schema) == subset
    assert schema == before


def test_a_schema_of_itself_ends() -> None:
    tree = {"$defs": {"node": _object(left={"$ref": "#/$defs/node"})}, **_object(root={"$ref": "#/$defs/node"})}
    assert to_subset(tree) == _object(root=_object(left={}))


def test_a_schema_that_grows_without_measure_is_refused() -> None:
    doubling = {f"d{n}": _object(a={"$ref": f"#/$defs/d{n + 1}"}, b={"$ref": f"#/$defs/d{n + 1}"}) for n in range(30)}
    with pytest.raises(BadRequest):
        to_subset({"$ref": "#/$defs/d0", "$defs": doubling})


@pytest.mark.parametrize(("said", "read"), [("3", 3), ("²", "²"), ("9" * 5_000, "9" * 5_000), ("-1", "-1")])
def test_a_count_that_google_writes_as_text_is_a_number_and_no_other_text_is(said: str, read: int | str) -> None:
    assert from_subset({"type": "ARRAY", "minItems": said, "items": {"type": "STRING"}})["minItems"] == read


def test_types_by_their_numbers_are_those_of_the_same_name() -> None:
    """Google's older clients, and LangChain on them, ask with `enum-encoding=int`."""
    numbered = {"type": 6, "properties": {"a": {"type": 1, "nullable": True}, "b": {"type": 5, "items": {"type": 3}}}}
    assert from_subset(numbered) == {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "array", "items": {"type": "integer"}}},
    }
    assert from_subset({"type": 0, "description": "any"}) == {"description": "any"}


@pytest.mark.parametrize(
    "subset", [STRING, _object(a={"type": "string", "enum": ["x"]}), {"anyOf": [STRING, {"type": "number"}]}]
)
def test_the_subset_is_read_back_as_it_was(subset: dict[str, Any]) -> None:
    assert to_subset(from_subset(subset)) == subset
    nullable = {**subset, "nullable": True}
    if "anyOf" not in subset:
        assert to_subset(from_subset(nullable)) == nullable


@pytest.mark.parametrize("spelled", ["propertyOrdering", "property_ordering"])
def test_the_order_of_properties_is_kept_without_googles_word_for_it(spelled: str) -> None:
    """google-genai writes it beside every pydantic model; other providers refuse a keyword that they do not know."""
    read = from_subset({**_object(b=STRING, a=STRING, c=STRING), spelled: ["c", "no such", "a", 1, "c"]})
    assert read == _object(a=STRING, b=STRING, c=STRING)
    assert list(read["properties"]) == ["c", "a", "b"]
    assert from_subset({**STRING, spelled: ["a"]}) == STRING


def test_a_reference_stands_alone_and_leads_into_defs() -> None:
    """Google's newer models refuse one with other words beside it, and know no other place to refer to."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "color": {"$ref": "#/$defs/Color", "description": "of the car", "default": "red"},
            "plain": {"$ref": "#/$defs/Color"},
            "old": {"type": "array", "items": {"$ref": "#/definitions/Size"}},
            "like": {"$ref": "#/properties/old"},
            "tree": {"$ref": "#/$defs/Tree"},
            "again": {"$ref": "#"},
            "lost": {"$ref": "https://example.com/schema", "title": "Lost"},
            "$ref": {"type": "string"},
            "definitions": {"type": "string"},
        },
        "$defs": {
            "Color": {"enum": ["red"], "type": "string"},
            "Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
            "Unused": {"type": "null"},
        },
        "definitions": {"Size": {"type": "integer"}},
    }
    given = copy.deepcopy(schema)
    written = with_plain_references(schema)
    assert schema == given
    color, tree = {"$ref": "#/$defs/Color"}, {"$ref": "#/$defs/Tree"}
    properties = {
        "color": {"description": "of the car", "default": "red", "anyOf": [color]},
        "plain": color,
        "old": {"type": "array", "items": {"$ref": "#/$defs/ref_1"}},
        "like": {"$ref": "#/$defs/ref_2"},
        "tree": tree,
        "again": {"$ref": "#/$defs/ref_4"},
        "lost": {"title": "Lost"},
        "$ref": {"type": "string"},
        "definitions": {"type": "string"},
    }
    assert written == {
        "type": "object",
        "properties": properties,
        "$defs": {
            "Color": {"enum": ["red"], "type": "string"},
            "ref_1": {"type": "integer"},
            "ref_2": properties["old"],
            "Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": tree}}},
            "ref_4": {"type": "object", "properties": properties},
        },
    }


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"type": "INTEGER", "format": "enum", "enum": ["101", "-2"]}, {"type": "integer", "enum": [101, -2]}),
        ({"type": "NUMBER", "enum": ["0.5", "2"]}, {"type": "number", "enum": [0.5, 2]}),
        (
            {"type": 3, "enum": ["1", 2, "many"], "nullable": True},
            {"type": ["integer", "null"], "enum": [1, 2, "many", None]},
        ),
        ({"type": "STRING", "enum": ["1"]}, {"type": "string", "enum": ["1"]}),
    ],
)
def test_the_enum_of_a_number_which_google_writes_as_strings_holds_numbers(given: Any, read: Any) -> None:
    """Strings would leave no value that is of the type and in the enum."""
    assert from_subset(given) == read


def test_what_is_copied_into_defs_takes_no_name_that_stands_there() -> None:
    references = {"a": {"$ref": "#/definitions/A"}, "b": {"$ref": "#/definitions/B"}, "c": {"$ref": "#/$defs/ref_1"}}
    schema = {
        "properties": references,
        "definitions": {"A": {"type": "string"}, "B": {"type": "integer"}},
        "$defs": {"ref_1": {"type": "boolean"}, "ref__0": {"type": "null"}},
    }
    written = with_plain_references(schema)
    led = {name: written["$defs"][one["$ref"].rpartition("/")[2]] for name, one in written["properties"].items()}
    assert led == {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "boolean"}}


def test_a_schema_without_references_stays_as_it_is() -> None:
    schema = {"$id": "x", "type": "object", "properties": {"a": {"type": ["string", "null"], "const": "b"}}}
    assert with_plain_references(schema) == {"type": "object", "properties": schema["properties"]}


def test_a_schema_that_is_a_reference_is_what_it_leads_to() -> None:
    members = {"type": "object", "properties": {"a": {"type": "string"}}}
    for beside in ({}, {"type": "object", "description": "d"}):
        schema = {"$ref": "#/$defs/Args", "$defs": {"Args": members}, **beside}
        written = with_plain_references(schema)
        assert {name: value for name, value in written.items() if name != "$defs"} == {**members, **beside}
