"""Errors of a caller's body name the field, in the caller's words."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from elkapi.errors import BadRequest
from elkapi.translate.decode import convert, decode


class _Inner(msgspec.Struct):
    name: str


class _View(msgspec.Struct):
    model: str
    items: list[_Inner] = []


_decoder = msgspec.json.Decoder(_View)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b'{"items":[]}', "model", "invalid_request"),
        (b'{"model":1}', "model", "invalid_request"),
        (b'{"model":"m","items":[{"name":"a"},{}]}', "items[1].name", "invalid_request"),
        (b'{"model":"m","items":[{"name":2}]}', "items[0].name", "invalid_request"),
        (b"[]", None, "invalid_request"),
        (b"{", None, "bad_request_body"),
        (b'{"model":"\xff"}', None, "bad_request_body"),
        (b'{"x":' + b"[" * 100_000, None, "bad_request_body"),
    ],
)
def test_a_refused_body_names_its_field(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(_decoder, body)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\uDE00", rb"\ud83d\u0041", rb"\\\ud83d", rb"\ud83d\ude00\ud83d"])
def test_a_text_cut_inside_an_emoji_is_told_as_that(half: bytes) -> None:
    for body in (b'{"model":"' + half + b'"}', b'{"model":"' + half + b' and more"}'):
        with pytest.raises(BadRequest, match=r"\\u(d83d|DE00) \(byte \d+\) is half of a surrogate pair") as caught:
            decode(_decoder, body)
        assert caught.value.code == "bad_request_body"
    with pytest.raises(BadRequest, match="malformed"):
        decode(_decoder, rb'{"model":"\ud83d\ude00 \\ud83d" "x"}')


def test_a_decoded_value_is_refused_in_the_same_words() -> None:
    with pytest.raises(BadRequest) as caught:
        convert({"model": "m", "items": [{}]}, _View)
    assert caught.value.param == "items[0].name"
    assert convert({"model": "m"}, _View) == decode(_decoder, b'{"model":"m"}') == _View("m")


class _Near(msgspec.Struct, tag="near", tag_field="type"):
    how: Literal["walk", "ride"] = "walk"


class _Far(msgspec.Struct, tag="far", tag_field="type"):
    how: Literal["fly"] | None = None


class _Trip(msgspec.Struct):
    stops: list[_Near | _Far] = []
    named: dict[str, _Far] = {}
    days: Literal[1, 2] = 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"days":3}', "Invalid body: Invalid enum value 3 - at `$.days`; use one of 1, 2."),
        (
            b'{"stops":[{"type":"far"},{"type":"near","how":"fly"}]}',
            "Invalid body: Invalid enum value 'fly' - at `$.stops[1].how`; use one of 'ride', 'walk'.",
        ),
        (
            b'{"stops":[{"type":"middle"}]}',
            "Invalid body: Invalid value 'middle' - at `$.stops[0].type`; use one of 'near', 'far'.",
        ),
        (
            b'{"named":{"a":{"type":"far","how":"swim"}}}',
            "Invalid body: Invalid enum value 'swim' - at `$.named[...].how`; use one of 'fly'.",
        ),
        (b'{"named":[]}', "Invalid body: Expected `object`, got `array` - at `$.named`."),
    ],
)
def test_a_refused_value_is_told_with_those_to_choose_from(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(msgspec.json.Decoder(_Trip), body)
    assert str(caught.value) == message
    with pytest.raises(BadRequest) as caught:
        convert(msgspec.json.decode(body), _Trip)
    assert str(caught.value) == message
