"""Text as guards compare it: compatibility forms, letter case, invisible signs and spaces spelled one way; pure.

Where letters keep their case, lines keep their ends too: what is found by its form mostly stands on one line.

Every sign is folded by itself, so a text and its pieces fold alike, whichever way a stream cuts it.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import msgspec

_SPACES = str.maketrans("\t\n\v\f\r", "     ")
_LINES = str.maketrans("\t\v\f\r", " \n\n\n")
_LINE_ENDS = frozenset("\n\v\f\r\x85\u2028\u2029")
_BLANKS = frozenset(" \n")
# Without a look of their own, but letters or marks to Unicode: joiners, fillers, variation selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")


class Plain(msgspec.Struct, frozen=True):
    """A folded text; `at` has, for each of its signs, the place in the given text (None: the same place)."""

    text: str
    at: list[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """A span of the folded text in the given one."""
        return (start, end) if self.at is None else (self.at[start], self.at[end - 1] + 1)


def plain(text: str, *, fold_case: bool = True) -> Plain:
    """The text as guards see it; with `fold_case` False, letters keep their case and lines their ends."""
    if text.isascii():
        spaced = text.translate(_SPACES)
        # Most text is plain already, and stays in place.
        if "  " not in spaced:
            return Plain(spaced.lower() if fold_case else text.translate(_LINES))
    folded = _folded if fold_case else _seen
    pieces: list[str] = []
    at: list[int] = []
    last = ""
    for place, sign in enumerate(text):
        piece = folded(sign)
        if not piece:
            continue
        if piece in _BLANKS and last in _BLANKS:
            if piece == "\n":
                pieces[-1] = last = piece
            continue
        pieces.append(piece)
        at.extend([place] * len(piece))
        last = piece
    return Plain("".join(pieces), at)


@lru_cache(maxsize=65_536)
def _seen(sign: str) -> str:
    if sign in _INVISIBLE or unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f":
        return ""
    if "\U000e0100" <= sign <= "\U000e01ef":
        return ""
    if sign in _LINE_ENDS:
        return "\n"
    return " " if sign.isspace() else unicodedata.normalize("NFKC", sign)


@lru_cache(maxsize=65_536)
def _folded(sign: str) -> str:
    if sign in _LINE_ENDS:
        return " "
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", _seen(sign)).casefold())


def is_word_sign(sign: str) -> bool:
    """Whether a sign belongs to the word beside it: letters, digits, underscores, and marks on any of them."""
    return sign.isalnum() or sign == "_" or unicodedata.combining(sign) != 0
