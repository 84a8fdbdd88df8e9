"""Word lists: finds thousands of words and phrases in one pass over a text, whatever their number; pure."""

from __future__ import annotations

from collections.abc import Sequence

from ahocorasick_rs import AhoCorasick, MatchKind

from elkapi.guards.found import Found
from elkapi.guards.text import is_word_sign, plain

LABEL = "REDACTED"


class WordList:
    """Finds words, folded by `plain`, as whole words or anywhere."""

    def __init__(self, words: Sequence[str], *, whole: bool) -> None:
        folded = sorted({word for given in words if (word := plain(given.strip()).text)})
        self._whole = whole
        self.longest = max(map(len, folded), default=0)
        kind = MatchKind.Standard if whole else MatchKind.LeftmostLongest
        self._automaton = AhoCorasick(folded, matchkind=kind)

    def find(self, text: str) -> list[Found]:
        """Every match, unordered; with whole words, overlapping ones too."""
        seen = plain(text)
        found = self._automaton.find_matches_as_indexes(seen.text, overlapping=self._whole)
        if self._whole:
            found = [one for one in found if _stands_alone(seen.text, one[1], one[2])]
        return [Found(*seen.span(start, end), LABEL) for _, start, end in found]


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether no word continues before or after; irrelevant where a phrase starts or ends with a non-word character."""
    if start and is_word_sign(text[start]) and is_word_sign(text[start - 1]):
        return False
    return not (end < len(text) and is_word_sign(text[end - 1]) and is_word_sign(text[end]))
