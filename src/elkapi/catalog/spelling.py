"""Alternative spellings: field names in another case, which are refused, and escaped characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from elkapi.catalog.jsonedit import check_once
from elkapi.errors import BadRequest
from elkapi.translate.decode import decode

_T = TypeVar("_T", bound=msgspec.Struct)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
# An escaped letter, digit, colon or underscore. Encoders escape only other characters, such as `<`.
_BY_NUMBER = re.compile(rb"\\u00(3[\daA]|[46][1-9a-fA-F]|[57][\daA]|5[fF])")


class Strict(msgspec.Struct, frozen=True):
    """A decoder of a view, and the field names that must be spelled exactly: as they are, and by case-folded name."""

    decoder: msgspec.json.Decoder[Any]
    names: frozenset[str]
    folded: Mapping[str, str]


def strict(view: type[_T], *names: str) -> Strict:
    """A decoder of `view` that refuses its fields, and `names`, in another case.

    Upstreams written in Go accept `Model` for `model` and `Tools` for `tools`, so they could serve another model than
    the one priced, or run tools that no hold covers.
    """
    known = frozenset((*view.__struct_encode_fields__, *names))
    return Strict(msgspec.json.Decoder(view), known, {name.casefold(): name for name in known})


def decode_strict(reader: Strict, body: bytes) -> Any:
    """The view of a body. Raises BadRequest as `translate.decode` does, for a misspelled guarded name and for a
    duplicate member.

    `param` is the top-level member only, since the upstream validates what is below.
    """
    try:
        view = decode(reader.decoder, body)
    except BadRequest as error:
        member = error.param and re.split(r"[.\[]", error.param)[0]
        raise BadRequest(error.message, param=member, code=error.code) from None
    # Decoding the members again is faster than finding them with a pattern.
    members = _members.decode(body)
    check_once(body, members)
    if not reader.names.issuperset(members):
        for member in members:
            if member not in reader.names and (right := reader.folded.get(member.casefold())) is not None:
                raise misspelled(member, right)
    return view


def check_spelling(members: Iterable[str], names: Iterable[str]) -> None:
    """Raise BadRequest for a member that is one of `names` in another case.

    Providers written in Go accept `Model` for `model`, so they could serve what is not priced.
    """
    spelled = {name.casefold(): name for name in names}
    for member in members:
        right = spelled.get(member.casefold(), member)
        if member != right:
            raise misspelled(member, right)


def misspelled(member: str, right: str) -> BadRequest:
    """The error for a member that is `right` in another case."""
    return BadRequest(f"`{member[:64]}` must be spelled `{right}`.", param=member)


def spelled_out(body: bytes) -> bytes:
    """JSON with escaped word characters replaced, to search for words; the result need not be valid JSON."""
    if b"\\u00" not in body:
        return body
    return _BY_NUMBER.sub(lambda hit: bytes.fromhex(hit[1].decode()), body)


def folded(body: bytes) -> bytes:
    """`spelled_out` JSON folded as Go compares names: in lower case, the long s as s, the Kelvin sign as k.

    The result need not be valid JSON.
    """
    body = body.lower()
    if b"\\u" in body:
        body = body.replace(b"\\u017f", b"s").replace(b"\\u212a", b"k")
    return body if body.isascii() else body.replace(b"\xc5\xbf", b"s").replace(b"\xe2\x84\xaa", b"k")
