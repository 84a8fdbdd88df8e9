"""Where a top-level member stands inside JSON bytes, and how to change it without rebuilding the rest.

A relayed body is never parsed and written again: fields nobody here knows must survive byte for byte. The scanner
looks at strings and brackets only, so numbers cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from elkapi.errors import BadRequest

# Runs of plain characters are taken at once: one step a character made a text with line breaks 20 times slower to scan.
# So is an object or array that holds no other: most of what a long conversation is made of.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_TEXT + rb"|[{\[](?:[^\"{}\[\]]++|" + _TEXT + rb")*+[}\]]|[{}\[\]]", re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_STRING = re.compile(_TEXT, re.DOTALL)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.encode

Span = tuple[int, int]
# As a number: for bytes, `in` first tries to make one of them, and the exception of that costs more than the look.
BACKSLASH, QUOTE = 0x5C, 0x22
OPENING = b"{["
# `"":1,`: no member is shorter.
_MEMBER_BYTES_MIN = 5
# What is told of a name that anybody may have made up.
MEMBER_CHARS_MAX = 64


def string_member(body: bytes, name: str) -> Span | None:
    """The span of the string value (quotes included) of a top-level member, or None when there is none.

    Raises BadRequest when the member stands there twice: two readers could pick different ones, and a gateway that
    prices one while the upstream serves the other is wrong. `body` must already have been accepted by a JSON decoder.
    """
    quoted = _quoted(name)
    # Without a backslash a member's name is spelled one way only, so a single hit is the member itself.
    if body.count(quoted) == 1 and BACKSLASH not in body:
        return _value_span(body, body.index(quoted) + len(quoted))
    ends = _keys_named(body, (name,))
    return _value_span(body, ends[name]) if ends else None


def check_once(body: bytes, members: Mapping[str, msgspec.Raw]) -> None:
    """Raises BadRequest for a top-level member that stands twice in a body, of which a decoder gave these `members`.

    Of two, a decoder keeps one and another might keep the other, so that another call would be served than was priced.
    """
    # Braces, commas, colons and quotes: without white space they and the members are the whole body.
    size = 4 * len(members) + 1
    for name, value in members.items():
        size += len(name) + len(value)
    spare = len(body) - size
    if spare < _MEMBER_BYTES_MIN:
        return
    # The other common form, Python's: a space after each comma and colon.
    if spare == 2 * len(members) - 1:
        written = b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in members.items()])
        if body == b"{%b}" % written:
            return
    _keys_named(body, tuple(members))


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    """A member's name as it stands in a body."""
    return b'"' + name.encode() + b'"'


def _value_span(body: bytes, key_end: int) -> Span | None:
    colon = _COLON.match(body, key_end)
    if colon is None:
        return None
    value = _STRING.match(body, colon.end())
    return value.span() if value else None


def _keys_named(body: bytes, names: tuple[str, ...]) -> dict[str, int]:
    """Where the top-level keys end that decode to one of `names`. Raises BadRequest for one that stands there twice."""
    plain = {name.encode(): name for name in names}
    ends: dict[str, int] = {}
    depth = 1
    for token in _TOKEN.finditer(body, body.index(b"{") + 1):
        start, end = token.span()
        first = body[start]
        if first == QUOTE:
            if depth != 1 or _COLON.match(body, end) is None:
                continue
            key = body[start + 1 : end - 1]
            name = plain.get(_text.decode(body[start:end]).encode() if b"\\" in key else key)
            if name is None:
                continue
            if name in ends:
                raise _twice(name)
            ends[name] = end
        elif end - start == 1:
            depth += 1 if first in OPENING else -1
    return ends


def check_all_named_once(body: bytes) -> None:
    """Raises BadRequest for a member that stands twice in its object, wherever that is: all of it is decoded once more.

    `body` must already have been accepted by a JSON decoder.
    """
    json.loads(body, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise _twice(name)
        members[name] = value
    return members


def _twice(name: str) -> BadRequest:
    name = name[:MEMBER_CHARS_MAX]
    return BadRequest(f"The body contains `{name}` twice; send it once.", param=name, code="duplicate_field")


def with_string(body: bytes, name: str, value: str) -> bytes:
    """The body with a top-level string member set: spliced where it stands, or put first when it is missing."""
    encoded = _encode(value)
    if (span := string_member(body, name)) is not None:
        return body[: span[0]] + encoded + body[span[1] :]
    return _put_first(body, name, encoded)


def with_raw(body: bytes, name: str, value: bytes) -> bytes:
    """The body with a top-level member set to raw JSON: put first when it is missing, else rebuilt member by member."""
    if _quoted(name) not in body and b"\\u" not in body:
        return _put_first(body, name, value)
    members = _members.decode(body)
    members[name] = msgspec.Raw(value)
    return _encode(members)


def _put_first(body: bytes, name: str, value: bytes) -> bytes:
    start = body.index(b"{") + 1
    rest = body[start:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return body[:start] + _encode(name) + b":" + value + comma + rest


def without(body: bytes, names: tuple[str, ...]) -> bytes:
    """The body without these top-level members; every other value keeps its exact bytes."""
    members = _members.decode(body)
    if not any(name in members for name in names):
        return body
    return _encode({name: raw for name, raw in members.items() if name not in names})


def with_overrides(
    body: bytes,
    replace: dict[str, msgspec.Raw],
    default: dict[str, msgspec.Raw],
    remove: tuple[str, ...],
) -> bytes:
    """The body with a channel's parameter overrides; every untouched value keeps its exact bytes."""
    if not (replace or default or remove):
        return body
    members = _members.decode(body)
    for name in remove:
        members.pop(name, None)
    for name, raw in default.items():
        members.setdefault(name, raw)
    members.update(replace)
    return _encode(members)
