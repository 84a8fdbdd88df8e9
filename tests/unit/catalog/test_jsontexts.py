"""Texts of decoded JSON: all of them are seen, and changing them leaves the value itself as it was."""

from __future__ import annotations

from typing import Any

from elkapi.catalog.jsontexts import texts_in, with_texts

VALUE: dict[str, Any] = {"a": "x", "b": [{"c": "y"}, "x", 1, True, None], "d": 0.5}


def test_every_text_is_seen_in_order_and_no_name_of_a_member() -> None:
    assert list(texts_in(VALUE)) == ["x", "y", "x"]
    assert list(texts_in("alone")) == ["alone"]
    assert list(texts_in(7)) == []


def test_texts_are_changed_in_a_value_of_its_own() -> None:
    changed = with_texts(VALUE, {"x": None, "y": "Y"}.get)
    assert changed == {"a": None, "b": [{"c": "Y"}, None, 1, True, None], "d": 0.5}
    changed["b"].clear()
    assert VALUE["b"][0] == {"c": "y"}
