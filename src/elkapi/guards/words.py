"""Word lists: thousands of words and phrases found in one pass over a text, in time that depends on neither; pure."""

from __future__ import annotations

from collections.abc import Sequence

from ahocorasick_rs import AhoCorasick, MatchKind

from elkapi.guards.found import Found
from elkapi.guards.text import is_word_sign, plain

LABEL = "REDACTED"


class WordList:
    """Finds its words, folded as `plain` folds, as whole words or anywhere."""

    def __init__(self, words: Sequence[str], *, whole: bool) -> None:
        folded = sorted({word for given in words if (word := plain(given.strip()).text)})
        self._whole = whole
        self.longest = max(map(len, folded), default=0)
        kind = MatchKind.Standard if whole else MatchKind.LeftmostLongest
        self._automaton = AhoCorasick(folded, matchkind=kind)

    def find(self, text: str) -> list[Found]:
        """Every place of a word, in no order; overlapping ones too when whole words are meant."""
        seen = plain(text)
        found = self._automaton.find_matches_as_indexes(seen.text, overlapping=self._whole)
        if self._whole:
            found = [one for one in found if _stands_alone(seen.text, one[1], one[2])]
        return [Found(*seen.span(start, end), LABEL) for _, start, end in found]


def _stands_alone(text: str, start: int, end: int) -> bool:
    """No word goes on before or behind; a phrase that begins or ends with another sign needs no such end there."""
    if start and is_word_sign(text[start]) and is_word_sign(text[start - 1]):
        return False
    return not (end < len(text) and is_word_sign(text[end - 1]) and is_word_sign(text[end]))
