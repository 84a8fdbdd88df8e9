"""`Guard` -> `Rule`: a guard prepared once to check text for all its calls; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from elkapi.guards import pii
from elkapi.guards.found import Blocked, Found, TooMuch, masked
from elkapi.guards.words import WordList
from elkapi.types import Guard

# Compiled guards by content: a new snapshot rarely changes one, and a list of thousands takes tens of ms.
RULES_MAX = 1024
TOO_MUCH = "a text contains too many numbers to check; split it"


class Rule(msgspec.Struct, frozen=True):
    """A guard with its `find` (None: a hook, which is asked elsewhere) and the longest text it can find.

    `digest` identifies its content.
    """

    guard: Guard
    digest: bytes
    find: Callable[[str], list[Found]] | None = None
    chars_max: int = 0


_rules: dict[bytes, Rule] = {}


def rule_of(guard: Guard) -> Rule:
    """The rule of a guard."""
    digest = hashlib.blake2b(msgspec.json.encode(guard), digest_size=16).digest()
    if (known := _rules.get(digest)) is not None:
        return known
    if guard.kind == "words":
        words = WordList(guard.words, whole=guard.match == "word")
        rule = Rule(guard, digest, words.find, words.longest)
    elif guard.kind == "pii":
        find = pii.finder(guard.find, guard.regions)
        rule = Rule(guard, digest, find, max(pii.CHARS_MAX[kind] for kind in guard.find))
    else:
        rule = Rule(guard, digest)
    if len(_rules) >= RULES_MAX:
        _rules.clear()
    _rules[digest] = rule
    return rule


def found_in(rules: Sequence[Rule], text: str) -> list[tuple[Rule, Found]]:
    """The findings of these rules, in order; hooks find nothing here. Raises Blocked for a text with too many
    candidates."""
    result: list[tuple[Rule, Found]] = []
    for rule in rules:
        try:
            result += [(rule, found) for found in rule.find(text)] if rule.find is not None else ()
        except TooMuch:
            raise Blocked(rule.guard.name, TOO_MUCH) from None
    return result


def checked(rules: Sequence[Rule], text: str) -> str:
    """The text with its findings masked. Raises Blocked."""
    if not text:
        return text
    found = found_in(rules, text)
    for rule, _ in found:
        if rule.guard.action == "block":
            raise Blocked(rule.guard.name)
    return masked(text, [one for _, one in found]) if found else text
