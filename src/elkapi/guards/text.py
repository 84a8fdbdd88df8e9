"""Normalizes text for guards: compatibility forms, case, invisible characters and spaces; pure.

If case is kept, line ends are kept too: what is found by pattern is mostly on one line.

Every character is folded by itself, so a text folds the same however a stream splits it.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import msgspec

_SPACES = str.maketrans("\t\n\v\f\r\x1c\x1d\x1e\x1f", " " * 9)
_LINES = str.maketrans("\t\v\f\r\x1c\x1d\x1e\x1f", " \n\n\n    ")
_LINE_ENDS = frozenset("\n\v\f\r\x85\u2028\u2029")
_BLANKS = frozenset(" \n")
# Invisible, although Unicode classifies them as letters or marks: joiners, fillers, variation selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")


class Plain(msgspec.Struct, frozen=True):
    """A folded text; `at` has the original offset of each character (None: the same offsets)."""

    text: str
    at: list[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The span in the original text of a span in the folded one."""
        return (start, end) if self.at is None else (self.at[start], self.at[end - 1] + 1)


def plain(text: str, *, fold_case: bool = True) -> Plain:
    """The normalized text; with `fold_case` False, case and line ends are kept."""
    if text.isascii():
        spaced = text.translate(_SPACES)
        # Most text needs no change of offsets.
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
    """Whether a character belongs to a word: letters, digits, underscores and combining marks."""
    return sign.isalnum() or sign == "_" or unicodedata.combining(sign) != 0
