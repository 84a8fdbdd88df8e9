"""Policies as an operator types them: what was written is what is shown, in JSON and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Elkapi

OPTIONS = (
    *("--alias", "fast=gpt-4o-mini", "--fallback", "gpt-4o=claude-sonnet-4-5,gpt-4.1"),
    *("--fallback-on", "error,refusal"),
    *("--requests-per-min", "60", "--tokens-per-min", "1000", "--parallel-max", "0"),
    *("--cache", "on", "--cache-age", "3600", "--cache-shared", "off", "--cache-hit-ratio", "0.1"),
    *("--guard", "no-mail", "--guard", "no-magic", "--guard-streams", "window"),
)
POLICY: dict[str, Any] = {
    "aliases": {"fast": "gpt-4o-mini"},
    "fallbacks": {"gpt-4o": ["claude-sonnet-4-5", "gpt-4.1"]},
    "fallback_on": ["error", "refusal"],
    "requests_per_min": 60,
    "tokens_per_min": 1000,
    "parallel_max": 0,
    "cache": True,
    "cache_age_max_s": 3600,
    "cache_shared": False,
    "cache_hit_ratio_micro": 100_000,
    "guards": ["no-mail", "no-magic"],
    "guard_streams": "window",
}


@pytest.fixture(autouse=True)
def _guards(elkapi: Elkapi) -> None:
    """The guardrails that the policy names."""
    elkapi("guard", "set", "no-mail", "--pii", "email", "--action", "mask")
    elkapi("guard", "set", "no-magic", "--word", "xyzzy")


def shown(elkapi: Elkapi, *arguments: str) -> Any:
    return elkapi(*arguments, "--json").json["policy"]


def test_g16_a_keys_policy_is_shown_as_it_was_given(elkapi: Elkapi) -> None:
    assert shown(elkapi, "key", "create", "--name", "k", *OPTIONS) == POLICY
    assert shown(elkapi, "key", "show", "k") == POLICY
    assert shown(elkapi, "key", "edit", "k", "--parallel-max", "7", "--clear", "aliases") == {
        **{name: value for name, value in POLICY.items() if name != "aliases"},
        "parallel_max": 7,
    }
    assert "parallel_max=7" in elkapi("key", "show", "k").out


def test_g16_a_groups_policy_is_shown_as_it_was_given(elkapi: Elkapi) -> None:
    assert shown(elkapi, "group", "set", "vip", "--ratio", "0.5", *OPTIONS) == POLICY
    assert shown(elkapi, "group", "set", "vip", "--clear", "fallbacks", "--clear", "fallback_on") == {
        name: value for name, value in POLICY.items() if not name.startswith("fallback")
    }
    listed = elkapi("group", "list", "--json").json
    assert {row["name"]: bool(row["policy"]) for row in listed} == {"default": False, "vip": True}


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "create", "--name", "k", "--alias", "fast"),
        ("key", "create", "--name", "k", "--fallback", "a="),
        ("key", "create", "--name", "k", "--fallback", "a=b", "--fallback", "a=c"),
        ("key", "create", "--name", "k", "--alias", "a=b", "--alias", "a=c"),
        ("channel", "edit", "c", "--header-set", "x-a: 1", "--header-set", "x-a: 2"),
        ("channel", "edit", "c", "--status-map", "404=503", "--status-map", "404=500"),
        ("key", "create", "--name", "k", "--fallback-on", "whim"),
        ("key", "create", "--name", "k", "--requests-per-min", "-1"),
        ("key", "create", "--name", "k", "--guard", "nobody-made-this"),
        ("guard", "set", "g"),
        ("guard", "set", "g", "--pii", "shoe-size"),
        ("guard", "set", "g", "--word", "a", "--hook", "http://x"),
        ("key", "create", "--name", "k", "--cache", "maybe"),
        ("key", "create", "--name", "k", "--cache-hit-ratio", "much"),
        ("key", "create", "--name", "k", "--cache-hit-ratio", "1.5"),
        ("group", "set", "vip", "--parallel-max", "3"),
        ("group", "set", "default"),
        ("group", "set", "default", "--parallel-max", "3", "--clear", "parallel_max"),
    ],
)
def test_what_makes_no_sense_is_refused(elkapi: Elkapi, arguments: tuple[str, ...]) -> None:
    outcome = elkapi(*arguments)
    assert outcome.status == 2, outcome.err


def test_a_word_that_is_none_of_a_list_is_refused_with_the_list(elkapi: Elkapi) -> None:
    for arguments, known in (
        (("group", "set", "default", "--fallback-on", "error,timeout"), "error, context, refusal"),
        (("guard", "set", "g", "--pii", "mail"), "email, phone, iban, card, ip, secret, private_key"),
    ):
        outcome = elkapi(*arguments)
        assert outcome.status == 2
        assert f"'{arguments[-1].rpartition(',')[2]}' is not one of {known}" in outcome.err


def test_g16_guardrails_are_shown_as_they_were_given(elkapi: Elkapi, tmp_path: Path) -> None:
    words_file = tmp_path / "words.txt"
    words_file.write_text("plugh\n\nfrotz\n", "utf-8")
    given = ("--words-file", str(words_file), "--match", "substring", "--action", "mask", "--direction", "output")
    words = {"kind": "words", "direction": "output", "action": "mask", "match": "substring"}
    for verb in (("set", "w", "--word", "xyzzy", *given), ("show", "w")):
        assert elkapi("guard", *verb, "--json").json == {"name": "w", **words, "words": ["xyzzy", "plugh", "frotz"]}
    hook = ("set", "h", "--hook", "http://127.0.0.1:9/look", "--deadline", "0.5", "--when-down", "open")
    secret = elkapi("guard", *hook).out.splitlines()[1]
    assert secret.startswith("hook-")
    listed = elkapi("guard", "list", "--json")
    rows = {row["name"]: row for row in listed.json}
    assert list(rows) == ["h", "no-magic", "no-mail", "w"]
    assert rows["h"]["when_down"] == "open"
    assert secret not in listed.out
    assert [row["text"] for row in elkapi("guard", "try", "w", "a PLUGHER", "--json").json] == ["PLUGH"]
    assert elkapi("guard", "remove", "w").status == 0
    assert elkapi("guard", "show", "w").status != 0
