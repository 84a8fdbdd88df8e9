"""Changing one member of a body leaves every other byte as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.catalog import jsonedit
from elkapi.catalog.jsonedit import check_once, string_member, with_names, with_overrides, with_string
from elkapi.errors import BadRequest


def test_splicing_keeps_unknown_fields_byte_for_byte() -> None:
    body = b'{ "input" : "a \\u00e9" , "model"  :  "x" , "n": 1.50, "z":{"model":"inner"} }'
    assert with_string(body, "model", "long-name") == body.replace(b'"x"', b'"long-name"')


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b","input":"x"}',
        b'{"model":"a","mod\\u0065l":"b","input":"x"}',
        b'{"x":{"model":"n"},"model":"a","input":"y","model":"a"}',
    ],
)
def test_a_second_model_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        string_member(body, "model")
    assert (caught.value.code, caught.value.param) == ("duplicate_field", "model")


def _check_once(body: bytes) -> None:
    check_once(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a","model":"b","input":"x"}', "model"),
        (b'{"model":"a","input":"line\\nbreak","model":"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b","input":"x"}', "model"),
        (b'{"\\u006dodel":"a","input":"say \\"model","mod\\u0065l":"b"}', "model"),
        (b'{"input":"x","model":"a","inpu\\u0074":["y"]}', "input"),
        (b'{"input":"x","model":"a","deep":{"input":1},"input":[1]}', "input"),
        (b'{"model":"a","input":["model","input"],"input":"x"}', "input"),
        (b'{"anything":{},"model":"a","anything":[]}', "anything"),
        (b'{"":1,"":1}', ""),
        ('{"é":1,"model":"a","é":1}'.encode(), "é"),
        # As long as the same body would be with a space after each comma and colon.
        (b'{"n":1,"n":1,"a":1,"b":1,"cd":12}', "n"),
        (b'{"n":1, "n":2}', "n"),
        (b'{ "n": 1,\n "a": [{"b": [1, {}]}],\n "n": 1 }\n', "n"),
    ],
)
def test_a_second_member_is_found_in_every_form_of_a_body(body: bytes, name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _check_once(body)
    assert (caught.value.code, caught.value.param) == ("duplicate_field", name)


def test_a_long_name_that_stands_twice_is_told_in_part() -> None:
    with pytest.raises(BadRequest) as caught:
        _check_once(b'{"%b":1,"%b":1}' % (b"x" * 9000, b"x" * 9000))
    assert caught.value.param == "x" * 64


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b" { } ",
        b'{"model":"a","input":"line\\nbreak"}',
        b'{"input":"say \\"model\\": and \\"model","model":"a"}',
        b'{"input":["model","caf\\u00e9"],"deep":{"model":1},"model":"a"}',
        b'{"mod\\u0065l":"a","input":"model"}',
        b'{"max":1,"max_tokens":2,"n":3}',
        b'{"max": 1, "max_tokens": 2, "n": 3}\n',
        b'{\r\n\t"a" : {"a" : [{"a" : "a"}]} ,\r\n\t"b" : "a" }',
    ],
)
def test_a_name_that_stands_elsewhere_is_no_second_member(body: bytes) -> None:
    _check_once(body)


@given(
    st.dictionaries(st.text(max_size=6), st.integers() | st.text(max_size=4) | st.lists(st.none()), min_size=1),
    st.data(),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :"), (",", ": ")]),
    st.booleans(),
)
def test_what_is_refused_is_a_second_member_and_nothing_else(
    members: dict[str, Any], data: st.DataObject, separators: tuple[str, str], ascii_only: bool
) -> None:
    comma, colon = separators
    parts = [json.dumps(k, ensure_ascii=ascii_only) + colon + json.dumps(v) for k, v in members.items()]
    _check_once(("{" + comma.join(parts) + "}").encode("utf-8"))
    again = data.draw(st.sampled_from(parts))
    parts.insert(data.draw(st.integers(0, len(parts))), again)
    with pytest.raises(BadRequest):
        _check_once(("{" + comma.join(parts) + "}").encode("utf-8"))


@pytest.mark.parametrize(("separators", "tokens"), [((",", ":"), 0), ((", ", ": "), 0), ((",", ": "), 1100)])
def test_a_long_conversation_is_scanned_only_in_rare_forms_and_a_message_at_a_time(
    separators: tuple[str, str], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    class Counted:
        def finditer(self, *given: Any) -> Iterator[Any]:
            for token in pattern.finditer(*given):
                steps.append(token)
                yield token

    pattern = jsonedit._TOKEN
    monkeypatch.setattr(jsonedit, "_TOKEN", Counted())
    messages = [{"role": "user", "content": "é"}] * 1000
    _check_once(json.dumps({"model": "m", "messages": messages}, separators=separators).encode())
    assert len(steps) <= tokens


def test_an_escaped_key_is_the_same_key() -> None:
    assert with_string(b'{"mod\\u0065l":"a"}', "model", "b") == b'{"mod\\u0065l":"b"}'


def test_a_nested_or_quoted_model_is_not_the_models_name() -> None:
    body = b'{"input":"say \\"model\\": \\"evil\\"","deep":[{"model":"inner"}],"model":"outer"}'
    span = string_member(body, "model")
    assert span is not None
    assert body[slice(*span)] == b'"outer"'


def test_what_stands_deep_inside_is_no_member_of_the_body() -> None:
    body = b'{"a":{"b":{"c":[{}]},"model":"inner"},"n":"\\u0061","model":"outer"}'
    span = string_member(body, "model")
    assert span is not None
    assert body[slice(*span)] == b'"outer"'


@pytest.mark.parametrize("body", [b'{"input":"model"}', b'{"input":["model",1]}', b'{"model":5}', b'{"model":null}'])
def test_only_a_text_under_its_name_is_the_models_name(body: bytes) -> None:
    assert string_member(body, "model") is None


def test_a_missing_member_is_put_first() -> None:
    assert with_string(b'{"input":"model"}', "model", "m") == b'{"model":"m","input":"model"}'
    assert with_string(b'{"input":"x"}', "model", "m") == b'{"model":"m","input":"x"}'
    assert with_string(b" { } ", "model", "m") == b' {"model":"m" } '


members = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "model"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
    ),
    max_size=5,
)


@given(members, st.text(max_size=10), st.text(max_size=10), st.booleans())
def test_a_splice_reads_back_as_the_same_object_with_one_value_changed(
    others: dict[str, object], old: str, new: str, ascii_only: bool
) -> None:
    value = {**others, "model": old}
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert json.loads(with_string(body, "model", new)) == {**others, "model": new}


def test_overrides_set_default_and_remove_and_leave_values_raw() -> None:
    raw = msgspec.Raw
    body = b'{"a":1.50,"b":[1, 2],"c":"x"}'
    changed = with_overrides(body, {"b": raw(b'"new"')}, {"a": raw(b"9"), "d": raw(b"true")}, ("c",))
    assert changed == b'{"a":1.50,"b":"new","d":true}'
    assert with_overrides(body, {}, {}, ()) is body


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b'{ "x":{"old":1.50} }', b'{ "x":{"old":1.50} }'),
        (b'{"old":1.50,"x":{"gone":[1, 2]}}', b'{"x":{"gone":[1, 2]},"new":1.50}'),
        (b'{"old":1,"new":2,"gone":"y"}', b'{"new":2}'),
    ],
)
def test_members_get_another_name_or_none_and_keep_their_values(body: bytes, written: bytes) -> None:
    assert with_names(body, (("old", "new"), ("gone", None))) == written
