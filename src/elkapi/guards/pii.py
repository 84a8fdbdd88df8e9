"""Finds personal data and secrets by fixed patterns, validated with check digits and real number plans.

Only our own patterns run, and every repetition in them is bounded, so the time is linear. `phonenumbers` validates
phone numbers, `stdnum` IBANs, `ipaddress` IP addresses.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import re
import string
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from elkapi.guards.found import Found, TooMuch
from elkapi.guards.text import plain
from elkapi.types import PiiKind

Span = tuple[int, int]

# Combining marks may be separate from their letters.
_EMAIL = re.compile(
    r"(?<![\w\u0300-\u036f.%+-])[\w\u0300-\u036f.%+-]{1,64}@"
    r"(?:[\w\u0300-\u036f-]{1,63}\.){1,8}(?:[^\W\d_]|[\u0300-\u036f]){2,24}(?![\w-])"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \n-]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(r"(?<![\d])[2-6]\d(?:[ \n-]?\d){10,17}")
# The start of a candidate inside a run that already started with something else.
_IBAN_INSIDE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}")
_CARD_INSIDE = re.compile(r"(?<!\d)[2-6]\d{3}")
_PHONE = re.compile(r"(?<![\w+])\+?\(?\d[\d ().\-/]{5,40}\d(?!\w)")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}(?![\w:])")
_SECRET = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-[A-Za-z0-9_-]{20,1000}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}"
    r"|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|npm_[A-Za-z0-9]{36}"
    r"|eyJ[A-Za-z0-9_-]{8,400}\.eyJ[A-Za-z0-9_-]{8,600}\.[A-Za-z0-9_-]{16,600}"
    r")"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY-----"
    r"[A-Za-z0-9+/=\s:,]{0,5000}(?:-----END (?:[A-Z]{2,12} ){0,3}PRIVATE KEY-----)?"
)
# A search holds the GIL, and so blocks the event loop, until it matches or ends, so it proceeds in slices. A match that
# starts in a slice may end up to BEHIND_CHARS after it.
SLICE_CHARS, BEHIND_CHARS = 64 * 1024, 8 * 1024
BEGINNING_CHARS = 4
_BETWEEN = str.maketrans("", "", " \n-")
_FIGURES = {ord("A") + number: str(10 + number) for number in range(26)}
# Limits of the candidates checked per text, about a second of work: a phone number takes 0.3 ms, a check digit 6 us.
# A text with more raises TooMuch.
RUNS_MAX = 2_000
WRONG_RUNS_MAX = 200_000
# Luhn: the value of a digit, and of a doubled one, as every second digit of a card is.
_ONCE = bytes(value - 48 if 48 <= value < 58 else 0 for value in range(256))
_TWICE = bytes(sum(divmod(2 * (value - 48), 10)) if 48 <= value < 58 else 0 for value in range(256))
# Card prefixes and the lengths of their numbers.
_ISSUERS = (
    (("4",), (13, 16, 19)),
    (("34", "37"), (15,)),
    (("30", "36", "38", "39"), (14, 16, 19)),
    (("35", "50", "56", "57", "58", "60", "62", "63", "64", "65", "67"), (16, 17, 18, 19)),
    (("51", "52", "53", "54", "55", "22", "23", "24", "25", "26", "27"), (16,)),
)
# The longest match of each kind with a character on either side: what a window over a stream must hold back.
CHARS_MAX: dict[PiiKind, int] = {
    "email": 256,
    "iban": 66,
    "card": 40,
    "phone": 48,
    "ip": 60,
    "secret": 1650,
    "private_key": 5200,
}


def finder(kinds: Sequence[PiiKind], regions: Sequence[str]) -> Callable[[str], list[Found]]:
    """A function that finds these kinds in a text; phone numbers without a country code only of `regions` ("DE", "US").

    The function raises TooMuch. Libraries are loaded here, not by the first call.
    """
    if "phone" in kinds:
        importlib.import_module("phonenumbers")
    if "iban" in kinds:
        importlib.import_module("stdnum.iban")
        _iban_lengths()
    ways: dict[PiiKind, Callable[[str], Iterator[Span]]] = {
        "email": _emails,
        "iban": _ibans,
        "card": _cards,
        "phone": lambda text: _phones(text, regions),
        "ip": _addresses,
        "secret": _secrets,
        "private_key": _private_keys,
    }

    def find(text: str) -> list[Found]:
        seen = plain(text, fold_case=False)
        return [Found(*seen.span(*span), kind.upper()) for kind in kinds for span in ways[kind](seen.text)]

    return find


def _hits(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Like `pattern.finditer(text)`, in slices."""
    hit = _next_hit(pattern, text, 0)
    while hit is not None:
        yield hit
        hit = _next_hit(pattern, text, hit.end())


def _next_hit(pattern: re.Pattern[str], text: str, place: int) -> re.Match[str] | None:
    """Like `pattern.search(text, place)`, in slices."""
    for start in range(place, len(text), SLICE_CHARS):
        end = start + SLICE_CHARS
        hit = pattern.search(text, start, end + BEHIND_CHARS)
        if hit is not None and hit.start() < end:
            return hit
    return None


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from (hit.span() for hit in _hits(_EMAIL, text))


def _ibans(text: str) -> Iterator[Span]:
    from stdnum import iban

    lengths = _iban_lengths()

    def is_right(part: str) -> bool:
        # Most check digits are wrong, which `stdnum` takes ten times as long to detect.
        return int((part[4:] + part[:4]).upper().translate(_FIGURES)) % 97 == 1 and bool(iban.is_valid(part))

    return _in_runs(_IBAN, _IBAN_INSIDE, text, lambda part: lengths.get(part[:2].upper(), ()), is_right)


@functools.cache
def _iban_lengths() -> dict[str, tuple[int, ...]]:
    """The length of each country's IBANs, so that only candidates of that length are checked."""
    from stdnum import numdb

    plans, letters = numdb.get("iban"), string.ascii_uppercase
    told = {country: plans.info(country)[0][1].get("bban", "") for country in map("".join, product(letters, letters))}
    return {country: (4 + sum(map(int, re.findall(r"\d+", plan))),) for country, plan in told.items() if plan}


def _cards(text: str) -> Iterator[Span]:
    return _in_runs(_CARD, _CARD_INSIDE, text, _card_lengths, _has_check_digit)


def _has_check_digit(digits: str) -> bool:
    """Whether the Luhn check passes; `stdnum` takes four times as long."""
    raw = digits.encode() if digits.isascii() else b""
    return bool(raw) and (sum(raw[::-2].translate(_ONCE)) + sum(raw[-2::-2].translate(_TWICE))) % 10 == 0


def _card_lengths(part: str) -> tuple[int, ...]:
    return next((lengths for beginnings, lengths in _ISSUERS if part.startswith(beginnings)), ())


def _in_runs(
    pattern: re.Pattern[str],
    inside: re.Pattern[str],
    text: str,
    lengths_of: Callable[[str], Sequence[int]],
    is_right: Callable[[str], bool],
) -> Iterator[Span]:
    """Yield the longest valid prefix of each run, and continue in the rest of the run."""
    wrong = place = 0
    while (hit := _next_hit(pattern, text, place)) is not None:
        place = hit.end()
        if (end := _longest(hit, lengths_of, is_right)) is not None:
            yield hit.start(), end
            place = end
            continue
        wrong += 1
        if wrong > WRONG_RUNS_MAX:
            raise TooMuch
        if (later := inside.search(text, hit.start() + 1, hit.end() + BEGINNING_CHARS)) is not None:
            place = later.start()


def _longest(
    hit: re.Match[str], lengths_of: Callable[[str], Sequence[int]], is_right: Callable[[str], bool]
) -> int | None:
    """The end of the longest valid prefix of a run that no alphanumeric character follows, or None.

    `lengths_of` returns the possible lengths without separators, in ascending order.
    """
    text, part = hit.string, hit.group().translate(_BETWEEN)
    for length in reversed(lengths_of(part)):
        if length <= len(part) and is_right(part[:length]):
            end = [place for place in range(*hit.span()) if text[place].isalnum()][length - 1] + 1
            if not (end < len(text) and text[end].isalnum()):
                return end
    return None


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    yield from _phones_in(text, regions)
    if "\n" in text:
        # A number may continue in the next line although neither line contains one.
        yield from _phones_in(text.replace("\n", " "), regions)


def _phones_in(text: str, regions: Sequence[str]) -> Iterator[Span]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    number = place = 0
    while (run := _next_hit(_PHONE, text, place)) is not None:
        place = run.end()
        is_international = "+" in run.group()
        if not (is_international or regions):
            continue
        number += 1
        if number > RUNS_MAX:
            # Accept a number with a country code without validation.
            if not is_international:
                raise TooMuch
            yield run.span()
            continue
        found = [
            (run.start() + match.start, run.start() + match.end)
            for region in ((None,) if is_international else regions)
            # The matcher's time grows faster than its text, so it sees only one run of digits.
            for match in PhoneNumberMatcher(run.group(), region, leniency=Leniency.VALID)
        ]
        yield from found
        # The run may end inside the number after the last match.
        place = max((end for _, end in found), default=place)


def _addresses(text: str) -> Iterator[Span]:
    if "." in text:
        yield from (hit.span() for hit in _hits(_IPV4, text) if _is_address(hit.group()))
    if ":" in text:
        for hit in _hits(_IPV6, text):
            # `a::b` is common in source code.
            if any(sign.isdigit() for sign in hit.group()) and _is_address(hit.group().rstrip(".")):
                yield hit.start(), hit.start() + len(hit.group().rstrip("."))


def _is_address(part: str) -> bool:
    try:
        ipaddress.ip_address(part)
    except ValueError:
        return False
    return True


def _secrets(text: str) -> Iterator[Span]:
    for hit in _hits(_SECRET, text):
        # Real ones are random; `sk-a-name-made-of-words` is none.
        if any(sign.isdigit() for sign in hit.group()):
            yield hit.span()


def _private_keys(text: str) -> Iterator[Span]:
    if "-----BEGIN" in text:
        yield from (hit.span() for hit in _hits(_PRIVATE_KEY, text))
