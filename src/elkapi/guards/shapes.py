"""Visits and replaces the texts in JSON bytes that a shape describes; pure.

Only values that a shape names are decoded. All others keep their exact bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON

Visit = Callable[[str], str]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What to visit in one value, by its JSON type.

    `text`: the string itself. `json`: a string with JSON, in which every string and number is visited; if it is not
    JSON, the string itself. `deep`: every string and number below. `items`: the shape of an array's items. `members`:
    the shapes of an object's members, named in lower case and matched in any; `typed` adds those for its `type`.
    `only_text`: anything but a string raises Unseen. `gone`: the value is removed, since it contains text in pieces.
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
    """The input has text that a guard cannot read: token ids."""


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder(Any)
_encode = msgspec.json.encode


def walked(body: bytes, shape: Shape, visit: Visit) -> bytes:
    """The value with every text of the shape replaced by the result of `visit`, in the order of the body.

    Objects and arrays on the way are serialized again, so of a duplicate member only the visited one remains. Raises
    Unseen, and msgspec.DecodeError if a described value is not JSON.
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
            # Compare the decoded string: `t\u0065xt` is "text" to an upstream.
            if name.casefold() == "type" and bytes(raw)[:1] == b'"':
                shapes = {**shapes, **shape.typed.get(_text.decode(raw), {})}
    result = {}
    for name, raw in given.items():
        # Upstreams written in Go accept `Content` for `content`, and a long s for an s.
        inner = shapes.get(name.casefold())
        result[name] = raw if inner is None else msgspec.Raw(walked(bytes(raw), inner, visit))
    return result


def _decoded(body: bytes, visit: Visit) -> bytes:
    value = _any.decode(body)
    changed = leaves(value, visit)
    return body if changed == value else _encode(changed)


def inside(text: str, visit: Visit) -> str:
    """A string of JSON with every string and number in it visited; if it is not JSON, the string itself is."""
    try:
        value = _any.decode(text)
    except NOT_JSON:
        return visit(text)
    changed = leaves(value, visit)
    return text if changed == value else _encode(changed).decode()


def leaves(value: Any, visit: Visit) -> Any:
    """A value with every string below it visited, including member names, and numbers, which may be card numbers."""
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
