"""What guards find in a text: words in every spelling, personal data by its check digits, and nothing near them."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from elkapi.guards import pii as patterns
from elkapi.guards import rules as rules_module
from elkapi.guards.found import Blocked, Found, TooMuch, masked
from elkapi.guards.pii import CHARS_MAX, finder
from elkapi.guards.rules import checked, rule_of
from elkapi.guards.text import plain
from elkapi.guards.window import Window
from elkapi.guards.words import WordList
from elkapi.types import Guard, PiiKind

ZERO_WIDTH = "\u200b"


def words(*listed: str, match: Any = "word", action: Any = "mask") -> Guard:
    return Guard(name="w", kind="words", words=listed, match=match, action=action)


def pii(*kinds: PiiKind, regions: tuple[str, ...] = ()) -> Guard:
    return Guard(name="p", kind="pii", find=kinds, regions=regions, action="mask")


@pytest.mark.parametrize(
    "text",
    [
        "a Secret plan",
        "A SECRET PLAN",
        "secret",
        "(secret)",
        "secret\nplan",
        "ｓｅｃｒｅｔ",
        f"sec{ZERO_WIDTH}ret",
        "se\u00adcret",
        "\U0001d5cc\U0001d5be\U0001d5bc\U0001d5cb\U0001d5be\U0001d5cd",
    ],
)
def test_a_listed_word_is_found_however_it_is_spelled(text: str) -> None:
    assert len(WordList(["Secret"], whole=True).find(text)) == 1


@pytest.mark.parametrize("text", ["secretary", "unsecret", "secret_key", "secret7", "secre t", "sécret"])
def test_a_part_of_another_word_is_no_whole_word(text: str) -> None:
    assert WordList(["secret"], whole=True).find(text) == []


def test_a_letter_with_its_mark_is_one_letter_composed_or_not() -> None:
    found = WordList(["café"], whole=True)
    assert [len(found.find(text)) for text in ("CAFÉ", "cafe\u0301", "cafe", "cafés")] == [1, 1, 0, 0]


def test_substrings_phrases_and_scripts_without_spaces_are_found() -> None:
    assert len(WordList(["secret"], whole=False).find("top-secretary")) == 1
    assert len(WordList(["project  x"], whole=True).find("the Project\n\tX is")) == 1
    assert len(WordList(["秘密"], whole=False).find("これは秘密です")) == 1
    assert len(WordList(["c++"], whole=True).find("C++ and c+++")) == 2
    assert len(WordList(["STRASSE"], whole=True).find("die Straße")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "top  secret",
        "top\tsecret",
        "top\x1csecret",
        "top\u1680secret",
        "top\u2028secret",
        "t\ufe0fop secret",
        "t\U000e0100op secret",
        "t\u3164op secret",
        "t\u034fop secret",
    ],
)
def test_a_phrase_is_found_whatever_stands_between_its_letters_unseen(text: str) -> None:
    assert checked([rule_of(words("top secret"))], f"a {text}!") == "a [REDACTED]!"


@pytest.mark.parametrize("fold_case", [True, False])
def test_a_sign_folds_the_same_beside_a_letter_outside_of_ascii(fold_case: bool) -> None:
    """Text of ASCII alone takes a shorter way."""
    for code in range(128):
        text = f"a{chr(code)}b"
        assert plain(f"{text}\u00e6", fold_case=fold_case).text == plain(text, fold_case=fold_case).text + "\u00e6"


def test_blanks_around_a_line_end_are_that_line_end() -> None:
    assert plain("a \t\r\n b", fold_case=False).text == "a\nb"
    assert plain("a\u2028b\x85c d", fold_case=False).text == "a\nb\nc d"


def test_a_phrase_of_signs_stands_alone_beside_a_word_and_a_listed_word_is_listed_without_its_blanks() -> None:
    assert len(WordList([".net"], whole=True).find("asp.net")) == 1
    assert len(WordList(["c++"], whole=True).find("c++11")) == 1
    assert WordList(["secret"], whole=True).find("xsecret") == []
    assert len(WordList([" secret\n"], whole=True).find("(secret)")) == 1


def test_of_words_that_begin_alike_or_overlap_nothing_is_left() -> None:
    beginning = words("sec", "secrets", "secret", match="substring")
    assert checked([rule_of(beginning)], "my secrets") == "my [REDACTED]"
    assert checked([rule_of(words("top secret", "secret plan"))], "a top secret plan") == "a [REDACTED]"


def test_a_guard_that_blocks_is_asked_whatever_one_before_it_found() -> None:
    rules = [rule_of(words("secret")), rule_of(Guard(name="b", kind="words", words=("plan",)))]
    assert checked(rules, "a secret") == "a [REDACTED]"
    with pytest.raises(Blocked, match="b"):
        checked(rules, "a secret plan")


def test_a_changed_guard_is_another_rule_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_module, "_rules", {})
    monkeypatch.setattr(rules_module, "RULES_MAX", 2)
    listed = [words("secret"), words("secret", action="block"), words("secret", match="substring"), words("plan")]
    assert [rule_of(guard).guard for guard in listed] == listed
    assert len(rules_module._rules) <= 2


def test_a_mask_covers_the_text_as_it_was_given() -> None:
    text = f"x sec{ZERO_WIDTH}ret y"
    assert checked([rule_of(words("secret"))], text) == "x [REDACTED] y"


def test_overlapping_findings_are_masked_once_under_the_longest() -> None:
    found = [Found(2, 5, "A"), Found(4, 9, "B"), Found(9, 10, "C")]
    assert masked("0123456789", found) == "01[B][C]"
    assert masked("0123456789", [Found(2, 9, "A"), Found(2, 4, "B"), Found(5, 6, "C")]) == "01[A]9"


def test_thousands_of_words_are_compared_in_one_pass() -> None:
    many = [f"word{number}x" for number in range(20_000)]
    rule = rule_of(words(*many))
    assert rule is rule_of(words(*many))
    assert checked([rule], "a word19999x b word20000x") == "a [REDACTED] b word20000x"


FOUND: list[tuple[PiiKind, str, str]] = [
    ("email", "write to Jane.Doe+x@mail.example.co.uk now", "Jane.Doe+x@mail.example.co.uk"),
    ("email", "jörg@müller.de", "jörg@müller.de"),
    ("iban", "to DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432.", "GB82WEST12345698765432"),
    ("iban", "gb82west12345698765432", "gb82west12345698765432"),
    ("email", "jo\u0308rg@mu\u0308ller.de", "jo\u0308rg@mu\u0308ller.de"),
    ("card", "card 4111 1111 1111 1111 12/27", "4111 1111 1111 1111"),
    ("card", "378282246310005", "378282246310005"),
    ("card", "５５５５５５５５５５５５４４４４", "５５５５５５５５５５５５４４４４"),
    ("phone", "call +49 30 901820 or", "+49 30 901820"),
    ("phone", "+1 (650) 253-0000", "+1 (650) 253-0000"),
    ("ip", "from 192.168.10.254, port", "192.168.10.254"),
    ("ip", "at 2001:db8::8a2e:370:7334.", "2001:db8::8a2e:370:7334"),
    ("secret", "key=sk-proj-abcdefghij0123456789abcd ok", "sk-proj-abcdefghij0123456789abcd"),
    ("secret", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "ghp_" + "a1" * 18, "ghp_" + "a1" * 18),
    (
        "private_key",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA==\n-----END RSA PRIVATE KEY----- x",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA==\n-----END RSA PRIVATE KEY-----",
    ),
]


@pytest.mark.parametrize(("kind", "text", "expected"), FOUND)
def test_personal_data_is_found_to_the_sign_and_named(kind: PiiKind, text: str, expected: str) -> None:
    assert [(text[one.start : one.end], one.label) for one in finder([kind], ())(text)] == [(expected, kind.upper())]


CARDS = [
    "4222222222222",
    "4111111111111111",
    "4111111111111111110",
    "343434343434343",
    "378282246310005",
    "30569309025904",
    "3056930902590012",
    "3612345678901234563",
    "38520000023237",
    "3530111333300000",
    "6011111111111117",
    "6212345678901232",
    "621234567890123457",
    "6759649826438453",
    "5105105105105100",
    "2223003122003222",
    "2720999999999996",
]


@pytest.mark.parametrize("number", CARDS)
def test_a_card_of_every_issuer_and_length_is_found_and_no_longer_number(number: str) -> None:
    find = finder(("card",), ())
    for text in (number, f"{number[:2]} {' '.join(number[2:])}"):
        assert checked([rule_of(pii("card"))], f"a {text}, b") == "a [CARD], b"
    assert find(f"a {number}b") == []
    assert find(number[:-1] + str((int(number[-1]) + 1) % 10)) == []


SECRETS = [
    "ASIA" + "A1" * 8,
    "gho_" + "a1" * 18,
    "github_pat_" + "a1" * 11,
    "glpat-" + "a1" * 10,
    "AIza" + "a1-_b" * 7,
    "xoxb-" + "1a-2b" * 2,
    "sk_live_" + "a1" * 8,
    "rk_test_" + "a1" * 8,
    "hf_" + "a1" * 15,
    "npm_" + "a1" * 18,
    f"eyJ{'a1' * 4}.eyJ{'b2' * 4}.{'c3-_' * 4}",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_of_every_issuer_is_found(secret: str) -> None:
    assert checked([rule_of(pii("secret"))], f"key={secret} ok") == "key=[SECRET] ok"


def test_a_private_key_that_does_not_end_is_found() -> None:
    assert checked([rule_of(pii("private_key"))], "-----BEGIN PRIVATE KEY-----\nMIIE\n") == "[PRIVATE_KEY]"


LISTED: list[tuple[PiiKind, list[str]]] = [
    ("card", ["4111111111111111", "5500000000000004", "4012888888881881", "378282246310005"]),
    ("card", ["4111 1111 1111 1111", "5500 0000 0000 0004", "4012-8888-8888-1881", "3782 822463 10005"]),
    ("iban", ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606"]),
    ("iban", ["DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32", "FR14 2004 1010 0505 0001 3M02 606"]),
    ("phone", ["030 901820", "030 901821", "030 901822", "030 901823", "+1 650-253-0000"]),
    ("phone", ["650-253-0000", "650-253-0001", "650-253-0002", "650-253-0003"]),
]


@pytest.mark.parametrize("between", ["\n", " \r\n\t", ", ", ";\n"])
@pytest.mark.parametrize(("kind", "listed"), LISTED)
def test_all_of_a_list_is_found_however_it_is_written(kind: PiiKind, listed: list[str], between: str) -> None:
    text = between.join(listed)
    found = finder([kind], ("DE", "US"))(text)
    assert sorted({text[one.start : one.end] for one in found}) == sorted(listed)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("card", "05/26 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("card", "in 2026 4111111111111111 of 4111111111111112 5500000000000004", "4111111111111111"),
        ("card", "4111111111111112 5500000000000004", "5500000000000004"),
        ("iban", "account No12 GB82WEST12345698765432", "GB82WEST12345698765432"),
        ("iban", "DE89 3704 0044 0532 0130 01 GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 32"),
        ("phone", "650-253-0000 650-253-0001 650-253-0002 650-253-0003", "650-253-0003"),
        ("phone", "call +49 30\n901820 or", "+49 30\n901820"),
    ],
)
def test_what_stands_before_it_hides_nothing(kind: PiiKind, text: str, expected: str) -> None:
    assert expected in {text[one.start : one.end] for one in finder([kind], ("US",))(text)}


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",
        "4111 1111 1111 1112",
        "1234567890123",
        "41111111111111111",
        "+1 123 456 7890",
        # A digit of another script has no value in a check digit.
        "42" + "\u0660" * 14,
        "411111111111116",
        "51051051051051013",
        "34343434343434342",
        "723456789012341",
        "1234567890123452",
        "version 1.2.3 of 10.11.12.13.14 and 999.1.1.1",
        "std::vector<a::b> at 12:30:45",
        "sk-learn-has-a-very-long-name-without-figures",
        "user@localhost",
        "2026-11-28 03:24 and 1,000,000",
        "030 901820",
    ],
)
def test_what_only_looks_like_personal_data_is_let_through(text: str) -> None:
    assert finder(tuple(CHARS_MAX), ())(text) == []


def test_phone_numbers_of_a_country_need_no_country_code_there() -> None:
    assert checked([rule_of(pii("phone", regions=("DE",)))], "ruf 030 901820 an") == "ruf [PHONE] an"


def test_long_runs_of_anything_are_searched_in_a_moment() -> None:
    find = finder(tuple(CHARS_MAX), ("US",))
    for piece in (
        "a",
        "1 ",
        "a@",
        "1.",
        "a:",
        "AB12",
        "-",
        "+1",
        "-----BEGIN PRIVATE KEY-----",
        "2612 ",
        "AT12 ",
        "1\n",
    ):
        find(piece * 5_000)


@pytest.mark.parametrize(
    ("kind", "piece", "regions"),
    [("card", "4111 ", ()), ("card", "2345 6789\n", ()), ("iban", "DE22 ", ()), ("phone", "030 901820\n", ("DE",))],
)
def test_a_text_with_more_than_can_be_looked_at_is_never_let_through(
    kind: PiiKind, piece: str, regions: tuple[str, ...]
) -> None:
    find = finder((kind,), regions)
    with pytest.raises(TooMuch):
        find(piece * 400_000)
    with pytest.raises(Blocked, match="p") as blocked:
        checked([rule_of(pii(kind, regions=regions))], piece * 400_000)
    assert "too many numbers to check" in blocked.value.reason


def test_what_is_found_and_what_cannot_be_a_number_of_the_kind_is_as_much_as_there_is() -> None:
    assert len(finder(("iban",), ())("DE89370400440532013000\n" * 10_000)) == 10_000
    # Without a region only what has a country code can be a phone number.
    assert finder(("phone",), ())("030 901820\n" * 10_000) == []
    assert len(finder(("phone",), ())("+49 30 901820 x " * 4_000)) == 4_000
    assert len(finder(("phone",), ("DE",))("030 901820, " * 1_500)) == 1_500


class Searched:
    """A pattern that notes how much it is given to search at a time."""

    def __init__(self, pattern: re.Pattern[str], sizes: list[int]) -> None:
        self._pattern = pattern
        self._sizes = sizes

    def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
        self._sizes.append(min(end, len(text)) - start)
        return self._pattern.search(text, start, end)


def test_a_search_of_a_long_text_lets_the_event_loop_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    for name in ("_EMAIL", "_IBAN", "_CARD", "_PHONE", "_IPV4", "_IPV6", "_SECRET", "_PRIVATE_KEY"):
        monkeypatch.setattr(patterns, name, Searched(getattr(patterns, name), sizes))
    find = finder(tuple(CHARS_MAX), ())
    for piece in ("a@", "1.", "-----BEGIN "):
        find(piece * 200_000)
    assert max(sizes) <= patterns.SLICE_CHARS + patterns.BEHIND_CHARS < 100_000


@pytest.mark.parametrize("seed", range(40))
def test_what_is_found_does_not_depend_on_where_a_slice_ends(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    pieces = [
        *TEXT.split(" "),
        "a@b.example",
        "192.0.2.7",
        "2001:db8::7",
        "AKIA" + "A1" * 8,
        "x" * 70,
        "-",
        ".",
        "@",
        " ",
    ]
    pieces.append("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----")
    text = "".join(chance.choice(pieces) + chance.choice(["", " "]) for _ in range(120))
    find = finder(tuple(CHARS_MAX), ())
    whole = find(text)
    monkeypatch.setattr(patterns, "SLICE_CHARS", chance.choice((1, 5, 17, 64)))
    assert find(text) == whole


TEXT = (
    "My mail is jane@example.com, the plan is secret and the secretary knows. "
    "Pay DE89 3704 0044 0532 0130 00 or card 4111 1111 1111 1111; call +49 30 901820. "
    f"Se{ZERO_WIDTH * 30}cret! " + "nothing here " * 80 + "secret sec"
)


@pytest.mark.parametrize("seed", range(40))
def test_g41_a_window_masks_what_the_whole_text_masks_however_it_is_cut(seed: int) -> None:
    rules = [rule_of(words("secret", "plan is")), rule_of(pii("email", "iban", "card", "phone"))]
    finds: list[Any] = [rule.find for rule in rules]
    whole = masked(TEXT, [one for find in finds for one in find(TEXT)])
    chance, window, rest, released = random.Random(seed), Window(rules), TEXT, ""
    while rest:
        size = chance.choice((1, 1, 2, 3, 7, 40, 400))
        piece, rest = rest[:size], rest[size:]
        released += window.feed(piece)
        assert whole.startswith(released)
    assert released + window.flush() == whole


LONGEST: list[tuple[PiiKind, str]] = [
    ("email", "x" * 64 + "@" + ".".join(["y" * 40] * 4) + ".example"),
    ("iban", "MT84-" + "-".join("MALT011000012345MTLCAST001S")),
    ("card", "41-" + "-".join("11111111111111110")),
    ("phone", "+1 - 2 - 1 - 2 - 7 - 3 - 6 - 5 - 0 - 0 - 0"),
    ("ip", "2001:0db8:1111:2222:3333:4444:5555:6666"),
    ("secret", f"eyJ{'a1' * 200}.eyJ{'b2' * 300}.{'c3' * 300}"),
    ("private_key", f"-----BEGIN PRIVATE KEY-----{'A1' * 2500}-----END PRIVATE KEY-----"),
]


@pytest.mark.parametrize(("kind", "text"), LONGEST)
def test_g41_the_longest_of_a_kind_passes_no_window_in_pieces(kind: PiiKind, text: str) -> None:
    window, said = Window([rule_of(pii(kind))]), f"it is {text} and " + "so on " * 40
    released = "".join(window.feed(said[start : start + 3]) for start in range(0, len(said), 3))
    assert released + window.flush() == said.replace(text, f"[{kind.upper()}]")


def test_g41_the_longest_word_passes_no_window_in_pieces_also_if_folding_lengthens_it() -> None:
    for listed, said in ((("x", "open sesame now"), "open sesame now"), (("\ufdfa",), plain("\ufdfa").text)):
        window = Window([rule_of(words(*listed))])
        text = f"he said {said} and went, and nobody saw it"
        assert "".join(map(window.feed, text)) + window.flush() == text.replace(said, "[REDACTED]")
    # The guard and the kind with the longest findings decide.
    text = f"he paid with {CARDS[2]} and wrote to {LONGEST[0][1]} about it"
    window = Window([rule_of(words("x")), rule_of(pii("email", "card"))])
    expected = text.replace(CARDS[2], "[CARD]").replace(LONGEST[0][1], "[EMAIL]")
    assert "".join(map(window.feed, text)) + window.flush() == expected
    # Whether a word continues is seen with one more sign.
    window = Window([rule_of(words("secret"))])
    text = "the secretary and the secrets of a very long day"
    assert "".join(map(window.feed, text)) + window.flush() == text


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_window_releases_nothing_of_a_listed_word_and_stops(size: int) -> None:
    window, released = Window([rule_of(words("top secret", action="block"))]), ""
    text = "this is fine, and it goes on for a while; but top secret is not"
    stopped = None
    try:
        for start in range(0, len(text), size):
            released += window.feed(text[start : start + size])
        released += window.flush()
    except Blocked as blocked:
        stopped = blocked.guard
    assert stopped == "w"
    assert "top" not in released
    assert text.startswith(released)


def test_a_window_holds_no_more_than_its_bound() -> None:
    size = 200_000
    window = Window([rule_of(words("secret"))])
    assert len(window.feed(ZERO_WIDTH * size)) > size - 10_000
    for _ in range(1000):
        window.feed("and so on ")
    assert len(window._held) + len(window._seen) < 10_000


def test_signs_that_nobody_sees_neither_hide_a_word_nor_repeat_a_text() -> None:
    for hidden in (40, 2_000):
        text = f"it was said sec{ZERO_WIDTH * hidden}ret{ZERO_WIDTH * hidden} and it is well known"
        window = Window([rule_of(words("secret"))])
        expected = text.replace(f"sec{ZERO_WIDTH * hidden}ret", "[REDACTED]")
        assert "".join(map(window.feed, text)) + window.flush() == expected


def test_a_phrase_that_another_text_interrupts_is_masked_from_there_on_and_nothing_is_told_twice() -> None:
    phrase = "a very long phrase that is listed"
    window = Window([rule_of(words(phrase))])
    assert window.feed(phrase[:20]) + window.flush() == phrase[:20]
    rest = " and so it goes on and on for a while"
    assert "".join(map(window.feed, phrase[20:] + rest)) + window.flush() == f"[REDACTED]{rest}"


def test_a_word_that_another_text_interrupts_does_not_slip_through() -> None:
    window = Window([rule_of(words("secret", action="block"))])
    assert window.feed("the sec") + window.flush() == "the sec"
    window.feed("ret")
    with pytest.raises(Blocked):
        window.flush()


def test_folding_is_the_same_for_a_text_and_its_pieces() -> None:
    text = "Ångström ﬁne Ⅷ ẞ  x"
    assert plain(text).text == "".join(plain(sign).text for sign in text).replace("  ", " ")
