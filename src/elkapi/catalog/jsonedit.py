"""Locate a top-level member in JSON bytes and change it without rebuilding the rest.

A relayed body is never parsed and serialized again: unknown fields must survive byte for byte. The scanner matches only
strings and brackets, so numbers cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from elkapi.errors import BadRequest

# Runs of plain characters match in one step: one step per character scans text with line breaks 20 times slower.
# An object or array without nested ones also matches in one step; long conversations consist mostly of these.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_TEXT + rb"|[{\[](?:[^\"{}\[\]]++|" + _TEXT + rb")*+[}\]]|[{}\[\]]", re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_STRING = re.compile(_TEXT, re.DOTALL)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.encode

Span = tuple[int, int]
# As integers: `in` on bytes first tries to convert its operand to one, and that exception costs more than the search.
BACKSLASH, QUOTE = 0x5C, 0x22
OPENING = b"{["
# The shortest member: `"":1,`.
_MEMBER_BYTES_MIN = 5
# How much of a caller's field name an error quotes.
MEMBER_CHARS_MAX = 64


def string_member(body: bytes, name: str) -> Span | None:
    """The span of a top-level member's string value (quotes included), or None if there is none.

    Raises BadRequest for a duplicate member: the gateway could price one value while the upstream uses the other.
    `body` must already have been accepted by a JSON decoder.
    """
    quoted = _quoted(name)
    # Without a backslash a name has only one spelling, so a single match is the member itself.
    if body.count(quoted) == 1 and BACKSLASH not in body:
        return _value_span(body, body.index(quoted) + len(quoted))
    ends = _keys_named(body, (name,))
    return _value_span(body, ends[name]) if ends else None


def check_once(body: bytes, members: Mapping[str, msgspec.Raw]) -> None:
    """Raise BadRequest if a top-level member occurs twice in the body that was decoded into `members`.

    Decoders differ in which duplicate they keep, so the upstream could serve another call than the one priced.
    """
    # Braces, commas, colons and quotes: without white space the body consists of them and the members.
    size = 4 * len(members) + 1 + sum(map(len, members)) + sum(map(len, members.values()))
    spare = len(body) - size
    if spare < _MEMBER_BYTES_MIN:
        return
    # Python's default format: a space after each comma and colon.
    if spare == 2 * len(members) - 1:
        written = b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in members.items()])
        if body == b"{%b}" % written:
            return
    _keys_named(body, tuple(members))


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    """A member's name with its quotes."""
    return b'"' + name.encode() + b'"'


def _value_span(body: bytes, key_end: int) -> Span | None:
    colon = _COLON.match(body, key_end)
    if colon is None:
        return None
    value = _STRING.match(body, colon.end())
    return value.span() if value else None


def _keys_named(body: bytes, names: tuple[str, ...]) -> dict[str, int]:
    """The end offsets of the top-level keys that decode to one of `names`. Raises BadRequest for a duplicate."""
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
    """Raise BadRequest for a duplicate member at any depth. Decodes the whole body again.

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
    """The body with a top-level string member set: replaced in place, or inserted first if missing."""
    encoded = _encode(value)
    if (span := string_member(body, name)) is not None:
        return body[: span[0]] + encoded + body[span[1] :]
    return _put_first(body, name, encoded)


def with_raw(body: bytes, name: str, value: bytes) -> bytes:
    """The body with a top-level member set to raw JSON: inserted first if missing, else rebuilt member by member."""
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
    """The body without these top-level members; all other values keep their exact bytes."""
    members = _members.decode(body)
    if not any(name in members for name in names):
        return body
    return _encode({name: raw for name, raw in members.items() if name not in names})


def with_names(body: bytes, names: tuple[tuple[str, str | None], ...]) -> bytes:
    """The body with top-level members under other names, None for those to omit; all values keep their exact bytes.

    A member that is there under its new name already is kept, and the one under the old name is omitted.
    """
    members = _members.decode(body)
    found = [pair for pair in names if pair[0] in members]
    for old, new in found:
        raw = members.pop(old)
        if new is not None:
            members.setdefault(new, raw)
    return _encode(members) if found else body


def with_overrides(
    body: bytes,
    replace: dict[str, msgspec.Raw],
    default: dict[str, msgspec.Raw],
    remove: tuple[str, ...],
) -> bytes:
    """The body with a channel's parameter overrides; all other values keep their exact bytes."""
    if not (replace or default or remove):
        return body
    members = _members.decode(body)
    for name in remove:
        members.pop(name, None)
    for name, raw in default.items():
        members.setdefault(name, raw)
    members.update(replace)
    return _encode(members)
