"""Other spellings: members in other letters, which are refused, and words behind escapes. It owns no field."""

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
# A letter, digit, colon or underscore by its number. Encoders write only others so, such as `<`.
_BY_NUMBER = re.compile(rb"\\u00(3[\daA]|[46][1-9a-fA-F]|[57][\daA]|5[fF])")


class Strict(msgspec.Struct, frozen=True):
    """A decoder of a view, and the members that a body may name in no other letters: as they are, and folded."""

    decoder: msgspec.json.Decoder[Any]
    names: frozenset[str]
    folded: Mapping[str, str]


def strict(view: type[_T], *names: str) -> Strict:
    """A decoder of `view` that refuses its fields, and `names` beside them, in other letters.

    Upstreams written in Go take `Model` for `model` and `Tools` for `tools`, so they could serve another model than the
    one that is priced, or run tools that no hold covers.
    """
    known = frozenset((*view.__struct_encode_fields__, *names))
    return Strict(msgspec.json.Decoder(view), known, {name.casefold(): name for name in known})


def decode_strict(reader: Strict, body: bytes) -> Any:
    """The view of a body. Raises BadRequest as `translate.decode` does, for another spelling of a guarded name, and for
    a member that stands there twice.

    `param` is the top-level member: what stands below it is the upstream's to judge.
    """
    try:
        view = decode(reader.decoder, body)
    except BadRequest as error:
        member = error.param and re.split(r"[.\[]", error.param)[0]
        raise BadRequest(error.message, param=member, code=error.code) from None
    # Members alone are faster to decode than a pattern finds them.
    members = _members.decode(body)
    check_once(body, members)
    for member in members:
        if member not in reader.names and (right := reader.folded.get(member.casefold())) is not None:
            raise misspelled(member, right)
    return view


def check_spelling(members: Iterable[str], names: Iterable[str]) -> None:
    """Providers written in Go take `Model` for `model`, so they could serve what is not priced. Raises BadRequest for a
    member that is one of `names` in other letters."""
    spelled = {name.casefold(): name for name in names}
    for member in members:
        right = spelled.get(member.casefold(), member)
        if member != right:
            raise misspelled(member, right)


def misspelled(member: str, right: str) -> BadRequest:
    """The refusal of a member that is `right` in other letters."""
    return BadRequest(f"`{member[:64]}` must be spelled `{right}`.", param=member)


def spelled_out(body: bytes) -> bytes:
    """JSON in which every word stands as it is read, for a look for words; it need not be JSON any more."""
    if b"\\u00" not in body:
        return body
    return _BY_NUMBER.sub(lambda hit: bytes.fromhex(hit[1].decode()), body)


def folded(body: bytes) -> bytes:
    """JSON whose words are spelled out, for a look for names as a server written in Go reads them: in small letters,
    the long s as an s, the sign of Kelvin as a k. It need not be JSON any more."""
    body = body.lower()
    if b"\\u" in body:
        body = body.replace(b"\\u017f", b"s").replace(b"\\u212a", b"k")
    return body if body.isascii() else body.replace(b"\xc5\xbf", b"s").replace(b"\xe2\x84\xaa", b"k")
