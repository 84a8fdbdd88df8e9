"""Where text stands in JSON bytes, told by a shape, and how to change it there and nowhere else; pure.

Only what a shape names is decoded. Every other value keeps its exact bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON

Visit = Callable[[str], str]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at in one value, by what kind of JSON it is.

    `text`: it is a text itself. `json`: a text that holds JSON, of which every text and number is looked at; where it
    holds none, it is a text. `deep`: every text and number below it. `items`: of each item of an array. `members`: of
    an object's members, named in small letters and looked up in any; `typed` are those that its `type` decides on.
    `only_text`: anything but a text cannot be looked at, and raises Unseen. `gone`: it is left out, for it tells texts
    in pieces.
    """

    text: bool = False
    json: bool = False
    deep: bool = False
    items: Shape | None = None
    members: Mapping[str, Shape] = {}
    typed: Mapping[str, Mapping[str, Shape]] = {}
    only_text: bool = False
    gone: bool = False


class Unseen(Exception):
    """There is text here that a guard cannot read: a tokenizer's ids."""


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder(Any)
_encode = msgspec.json.encode


def walked(body: bytes, shape: Shape, visit: Visit) -> bytes:
    """The value with every text of the shape replaced by what `visit` makes of it, in the order of the body.

    Objects and arrays on the way are written anew, so a member that stood there twice stands there once, as it was
    looked at. Raises msgspec.DecodeError for what is no JSON where the shape looks, Unseen.
    """
    if shape.gone:
        return b"null"
    kind = body.lstrip()[:1]
    if shape.deep and kind in b'"[{-0123456789':
        return _decoded(body, visit)
    if kind == b'"' and (shape.text or shape.json):
        text = _text.decode(body)
        changed = inside(text, visit) if shape.json else visit(text)
        return body if changed == text else _encode(changed)
    if kind == b"[" and shape.items is not None:
        return _encode([msgspec.Raw(walked(bytes(item), shape.items, visit)) for item in _array.decode(body)])
    if kind == b"{" and shape.members:
        return _encode(_members(_object.decode(body), shape, visit))
    if shape.only_text and kind not in b'"n':
        raise Unseen
    return body


def _members(given: dict[str, msgspec.Raw], shape: Shape, visit: Visit) -> dict[str, msgspec.Raw]:
    shapes = shape.members
    if shape.typed:
        for name, raw in given.items():
            # As it is read, not as it is spelled: an upstream that reads `t\u0065xt` reads a text.
            if name.casefold() == "type" and bytes(raw)[:1] == b'"':
                shapes = {**shapes, **shape.typed.get(_text.decode(raw), {})}
    result = {}
    for name, raw in given.items():
        # Upstreams written in Go take `Content` for `content`, and a long s for a plain one.
        inner = shapes.get(name.casefold())
        result[name] = raw if inner is None else msgspec.Raw(walked(bytes(raw), inner, visit))
    return result


def _decoded(body: bytes, visit: Visit) -> bytes:
    value = _any.decode(body)
    changed = leaves(value, visit)
    return body if changed == value else _encode(changed)


def inside(text: str, visit: Visit) -> str:
    """A text of JSON with every text and number in it visited; what is no JSON is visited as it is."""
    try:
        value = _any.decode(text)
    except NOT_JSON:
        return visit(text)
    changed = leaves(value, visit)
    return text if changed == value else _encode(changed).decode()


def leaves(value: Any, visit: Visit) -> Any:
    """A value with every text below it visited, names of members too, and numbers, which a card's may be."""
    if isinstance(value, str):
        return visit(value)
    if isinstance(value, dict):
        return {visit(str(name)): leaves(inner, visit) for name, inner in value.items()}
    if isinstance(value, list):
        return [leaves(inner, visit) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        digits = str(value)
        changed = visit(digits)
        return value if changed == digits else changed
    return value
