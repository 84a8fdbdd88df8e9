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
from elkapi.catalog.jsonedit import check_named_once, string_member, with_overrides, with_string
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b","input":"x"}',
        b'{"model":"a","input":"line\\nbreak","model":"b"}',
        b'{"model":"a","mod\\u0065l":"b","input":"x"}',
        b'{"\\u006dodel":"a","input":"say \\"model","mod\\u0065l":"b"}',
    ],
)
def test_the_quick_look_finds_every_second_model(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        check_named_once(body, ("model",))
    assert (caught.value.code, caught.value.param) == ("duplicate_field", "model")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","input":"line\\nbreak"}',
        b'{"input":"say \\"model\\": and \\"model","model":"a"}',
        b'{"input":["model","caf\\u00e9"],"deep":{"model":1},"model":"a"}',
        b'{"mod\\u0065l":"a","input":"model"}',
    ],
)
def test_the_quick_look_takes_no_text_for_a_second_model(body: bytes) -> None:
    check_named_once(body, ("model",))


def test_a_long_conversation_is_scanned_once_for_all_names_a_message_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    class Counted:
        def finditer(self, *given: Any) -> Iterator[Any]:
            for token in pattern.finditer(*given):
                steps.append(token)
                yield token

    pattern = jsonedit._TOKEN
    monkeypatch.setattr(jsonedit, "_TOKEN", Counted())
    messages = b",".join([b'{"role":"user","content":"a"}'] * 1000)
    names = ("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream")
    check_named_once(b'{"model":"m","user":"\\u00e9","messages":[' + messages + b"]}", names)
    assert len(steps) < 1100


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
    check_named_once(body, ("model",))


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
    "body",
    [
        b'{"model":"a","input":"x","input":"y"}',
        b'{"input":"x","model":"a","inpu\\u0074":["y"]}',
        b'{"input":"x","model":"a","deep":{"input":1},"input":[1]}',
    ],
)
def test_a_second_member_beside_the_model_is_found_too(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        check_named_once(body, ("model", "input"))
    assert (caught.value.code, caught.value.param) == ("duplicate_field", "input")


def test_texts_and_nested_members_are_no_second_input() -> None:
    check_named_once(b'{"model":"a","input":["input","say \\"input\\""],"deep":{"input":1}}', ("model", "input"))


@pytest.mark.parametrize("beside", [0, 40])
def test_a_second_member_is_found_among_many_spellings_of_the_names(beside: int) -> None:
    texts = b",".join([b'"model","input"'] * beside)
    check_named_once(b'{"model":"a","input":[%b]}' % texts, ("model", "input"))
    with pytest.raises(BadRequest) as caught:
        check_named_once(b'{"model":"a","input":[%b],"input":"x"}' % texts, ("model", "input"))
    assert caught.value.param == "input"


def test_a_name_that_begins_another_is_not_that_one() -> None:
    check_named_once(b'{"max":1,"max_tokens":2,"n":3}', ("max", "max_tokens", "n"))
