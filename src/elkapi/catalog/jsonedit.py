"""Where a top-level member stands inside JSON bytes, and how to change it without rebuilding the rest.

A relayed body is never parsed and written again: fields nobody here knows must survive byte for byte. The scanner
looks at strings and brackets only, so numbers cost nothing.
"""

from __future__ import annotations

import json
import re
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
# A body that spells more of the names that are looked for is counted name by name: what is kept of it has an end.
_SPELLINGS_MAX = 32
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


def check_named_once(body: bytes, names: tuple[str, ...]) -> None:
    """Raises BadRequest for a top-level member that stands there twice, as `string_member` does at a greater cost.

    A letter of a name can be hidden in one way only, as a \\u escape, so other backslashes (line breaks) are no reason
    to scan: the one plain spelling is the member, and a second member would be a second plain spelling.
    """
    # One byte is looked for fifty times faster than two, and most bodies hold no backslash at all.
    if not (BACKSLASH in body and b"\\u" in body):
        # All names in one pass, by the parts between them; a search for each took three times as long.
        found = _spellings(names).split(body, _SPELLINGS_MAX)[1::2]
        if len(found) == len(set(found)):
            return
        if len(found) < _SPELLINGS_MAX:
            names = tuple(name for name in names if found.count(_quoted(name)) > 1)
    if names:
        _keys_named(body, names)


@lru_cache(maxsize=256)
def _spellings(names: tuple[str, ...]) -> re.Pattern[bytes]:
    """Any of these members' names as it stands in a body."""
    return re.compile(b'("(?:%b)")' % b"|".join(re.escape(name.encode()) for name in names))


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
            raise _twice(name[:MEMBER_CHARS_MAX])
        members[name] = value
    return members


def _twice(name: str) -> BadRequest:
    return BadRequest(f"The body names `{name}` twice; name it once.", param=name, code="duplicate_field")


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
