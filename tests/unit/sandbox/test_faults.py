"""The fault grammar: what it reads and refuses, how long a directive applies, and that its document is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.sandbox import faults
from elkapi.sandbox.faults import RULES, Extent, FaultError, Faults, Rule, Tries, directives_in, read_directive, resolve

DOCUMENT = Path(__file__).parents[3] / "docs" / "sandbox.md"
ROW = re.compile(r"^\| `([^`]+)` \| .+ \| (ASGI|wire|stream|task) \|$", re.MULTILINE)


def resolved(directive: str) -> Faults:
    return resolve([(directive, b"")], Tries())


def test_a_directive_sets_exactly_the_faults_it_names() -> None:
    assert resolved("status=429, retry-after=2,delay=150ms , hang") == Faults(
        status=429, retry_after_ms=2000, delay_s=0.15, hang=True
    )
    assert resolved("cut-after=3, stall-after=100b") == Faults(
        cut_after=Extent(3, is_bytes=False), stall_after=Extent(100, is_bytes=True)
    )
    assert resolved("usage=-5").shown_tokens(7) == -5
    assert resolved("usage=huge").shown_tokens(7) == faults.USAGE_HUGE_TOKENS
    assert resolved("no-usage").shown_tokens(7) is None
    assert resolved("").shown_tokens(7) == 7


OUTSIDE = [
    "statu=429",
    "status",
    "status=abc",
    "status=199",
    "status=600",
    "status=204",
    "status=304",
    "status=٤٢٩",
    "hang=1",
    "delay=fast",
    "delay=1h",
    "delay=-1s",
    "delay=3601",
    "cut-after=-1",
    "cut-after=1kb",
    "cut-after=",
    "usage=many",
    "times=0",
    "refuse-key=",
    "1xx=101",
    "oversized-headers=0",
    "usage-in=nowhere",
    "pace",
    "split=0",
    "error-after",
    "oversized-headers=9999999999",
]


@pytest.mark.parametrize("directive", OUTSIDE)
def test_a_directive_outside_the_grammar_is_refused_and_named(directive: str) -> None:
    with pytest.raises(FaultError, match=re.escape(directive.partition("=")[0])):
        read_directive(directive)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        read_directive(text)
    except FaultError:
        return
    assert all(
        part.partition("=")[0].strip() in {rule.name for rule in RULES} for part in text.split(",") if part.strip()
    )


@given(st.binary(max_size=200))
def test_directives_are_found_in_any_bytes(noise: bytes) -> None:
    found = directives_in(noise + b"[sandbox: status=500]" + noise)
    assert " status=500" in found


def test_a_flood_of_directives_is_refused() -> None:
    with pytest.raises(FaultError, match="more than"):
        directives_in(b"[sandbox: hang]" * (faults.DIRECTIVES_MAX + 1))


def test_later_directives_win_over_earlier_ones() -> None:
    both = resolve([("status=500, delay=1s", b""), ("status=429", b"")], Tries())
    assert both == Faults(status=429, delay_s=1.0)


def test_times_counts_tries_of_the_same_body() -> None:
    tries = Tries()

    def status(body: bytes) -> int | None:
        return resolve([("status=500, times=2", body)], tries).status

    assert [status(b"a") for _ in range(4)] == [500, 500, None, None]
    assert [status(b"b") for _ in range(3)] == [500, 500, None]


def test_times_counts_under_a_marker_whatever_the_body() -> None:
    tries = Tries()
    statuses = [resolve([("status=500, times=2, marker=m", b"%d" % n)], tries).status for n in range(4)]
    assert statuses == [500, 500, None, None]


def test_counted_tries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "TRIES_KEPT_MAX", 3)
    tries = Tries()
    for number in range(10):
        resolve([("hang, times=1", b"%d" % number)], tries)
    assert len(tries._seen) == 3


def _kind(rule: Rule) -> str:
    return next((kind for kind in ("wire", "stream", "task") if getattr(rule, kind)), "ASGI")


def test_every_fault_is_documented_and_every_documented_fault_exists() -> None:
    documented = {row[1].partition("=")[0]: row[2] for row in ROW.finditer(DOCUMENT.read_text())}
    implemented = {rule.name: _kind(rule) for rule in RULES}
    assert documented == implemented


def test_every_documented_example_is_in_the_grammar() -> None:
    examples = [row[1] for row in ROW.finditer(DOCUMENT.read_text())]
    assert examples
    for example in examples:
        assert read_directive(example), example


def test_every_rule_fills_a_field_of_its_own_and_knows_its_absence() -> None:
    fields = [rule.field for rule in RULES]
    assert sorted(fields) == sorted(Faults.__struct_fields__)
    assert all(getattr(Faults(), rule.field) == rule.absent for rule in RULES)
