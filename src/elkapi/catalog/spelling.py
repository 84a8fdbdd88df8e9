"""Other spellings: members in other letters, which decoders refuse, and words behind escapes. It owns no field."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Annotated, Any, TypeVar

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import decode

_T = TypeVar("_T", bound=msgspec.Struct)
# No value fits.
_Never = Annotated[str, msgspec.Meta(min_length=1, max_length=0)]
# A letter, digit, colon or underscore by its number. Encoders write only others so, such as `<`.
_BY_NUMBER = re.compile(rb"\\u00(3[\daA]|[46][1-9a-fA-F]|[57][\daA]|5[fF])")


class Strict(msgspec.Struct, frozen=True):
    """A decoder of a view, and the other spellings it takes note of."""

    decoder: msgspec.json.Decoder[Any]
    spellings: frozenset[str]


def strict(view: type[_T], *names: str) -> Strict:
    """A decoder of `view` that refuses every other spelling of `names`.

    Upstreams written in Go take `Model` for `model`, so they could serve another model than the one that is priced. As
    fields that no value fits, such spellings are found by the one decoding that happens anyway.
    """
    spelled = {"".join(letters) for name in names for letters in product(*zip(name, name.upper(), strict=True))}
    others = spelled - set(names)
    guarded = msgspec.defstruct(view.__name__, [(name, _Never, "") for name in sorted(others)], bases=(view,))
    return Strict(msgspec.json.Decoder(guarded), frozenset(others))


def decode_strict(reader: Strict, body: bytes) -> Any:
    """The view of a body. Raises BadRequest as `translate.decode` does, and for another spelling of a guarded name.

    `param` is the top-level member: what stands below it is the upstream's to judge.
    """
    try:
        return decode(reader.decoder, body)
    except BadRequest as error:
        member = error.param and re.split(r"[.\[]", error.param)[0]
        text = (
            f"Invalid body: write `{member.lower()}` in small letters." if member in reader.spellings else error.message
        )
        raise BadRequest(text, param=member, code=error.code) from None


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
    return BadRequest(f"Invalid body: write `{right}` as it is spelled here.", param=member)


def spelled_out(body: bytes) -> bytes:
    """JSON in which every word stands as it is read, for a look for words; it need not be JSON any more."""
    if b"\\u00" not in body:
        return body
    return _BY_NUMBER.sub(lambda hit: bytes.fromhex(hit[1].decode()), body)
