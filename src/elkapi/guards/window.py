"""A bounded window over a text that arrives in pieces: what it releases can no longer be part of a finding.

It holds back as many folded characters as the longest possible finding, and remembers as many that it released.
"""

from __future__ import annotations

from collections.abc import Sequence

from elkapi.guards.found import Blocked, Found, masked, merged
from elkapi.guards.rules import Rule, found_in
from elkapi.guards.text import plain

# Characters that fold to nothing do not count; at most this many of them are held.
INVISIBLE_MAX = 4096
STEP_SHARE = 4


class Window:
    """Takes pieces, returns what may be sent. Raises Blocked before the last part of the finding is released."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        # One more character tells whether a word continues.
        self.width = max((rule.chars_max for rule in rules), default=0) + 1
        # Checking at every piece would recheck everything held for every token.
        self._enough = self.width + self.width // STEP_SHARE
        self._seen = ""
        self._held = ""

    @property
    def held_chars(self) -> int:
        """How much of the input has not been released."""
        return len(self._held)

    def feed(self, piece: str) -> str:
        """The text that may be sent now."""
        self._held += piece
        return self._released(final=False) if len(self._held) > self._enough else ""

    def flush(self) -> str:
        """All that is held: the text ends here, or is interrupted."""
        return self._released(final=True)

    def _released(self, *, final: bool) -> str:
        text, start = self._seen + self._held, len(self._seen)
        if not self._held:
            return ""
        seen = plain(text, fold_case=False)
        known = len(text) if final else self._place(seen.at, len(seen.text) - 1, len(text))
        cut = len(text) if final else max(start, self._place(seen.at, len(seen.text) - self.width, len(text)))
        cut = max(cut, len(text) - self.width * 8 - INVISIBLE_MAX) if not final else cut
        mine: list[Found] = []
        for rule, one in found_in(self._rules, text):
            # A finding that ends before `start` was handled; one that ends with the text may still continue.
            if one.end <= start or (not final and one.end > known):
                continue
            if rule.guard.action == "block":
                raise Blocked(rule.guard.name)
            mine.append(one)
        for one in merged(mine):
            if one.start < cut < one.end:
                cut = one.end
        released = masked(text, mine, start, cut)
        self._held = text[cut:]
        kept = plain(text[:cut], fold_case=False)
        self._seen = text[self._place(kept.at, len(kept.text) - self.width, cut) : cut]
        return released

    @staticmethod
    def _place(at: list[int] | None, number: int, length: int) -> int:
        """The offset in the original text of a folded character; 0 before the first."""
        if number <= 0:
            return 0
        return min(number, length) if at is None else at[number]
