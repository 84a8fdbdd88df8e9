"""Policies as an operator types them: what was written is what is shown, in JSON and for people."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

cli_main = importlib.import_module("elkapi.cli.main")
Run = Callable[..., tuple[int, str, str]]
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


@pytest.fixture
def elkapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ELKAPI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ELKAPI_DATABASE_URL", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli_main.run(list(arguments))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    run("guard", "set", "no-mail", "--pii", "email", "--action", "mask")
    run("guard", "set", "no-magic", "--word", "xyzzy")
    return run


def shown(run: Run, *arguments: str) -> dict[str, Any]:
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer["policy"]  # type: ignore[no-any-return]


def test_g16_a_keys_policy_is_shown_as_it_was_given(elkapi: Run) -> None:
    assert shown(elkapi, "key", "create", "--name", "k", *OPTIONS) == POLICY
    assert shown(elkapi, "key", "show", "k") == POLICY
    assert shown(elkapi, "key", "edit", "k", "--parallel-max", "7", "--clear", "aliases") == {
        **{name: value for name, value in POLICY.items() if name != "aliases"},
        "parallel_max": 7,
    }
    _, out, _ = elkapi("key", "show", "k")
    assert "parallel_max=7" in out


def test_g16_a_groups_policy_is_shown_as_it_was_given(elkapi: Run) -> None:
    assert shown(elkapi, "group", "set", "vip", "--ratio", "0.5", *OPTIONS) == POLICY
    assert shown(elkapi, "group", "set", "vip", "--clear", "fallbacks", "--clear", "fallback_on") == {
        name: value for name, value in POLICY.items() if not name.startswith("fallback")
    }
    _, out, _ = elkapi("group", "list", "--json")
    assert {row["name"]: bool(row["policy"]) for row in json.loads(out)} == {"default": False, "vip": True}


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
def test_what_makes_no_sense_is_refused(elkapi: Run, arguments: tuple[str, ...]) -> None:
    status, _, err = elkapi(*arguments)
    assert status == 2, err


def test_a_word_that_is_none_of_a_list_is_refused_with_the_list(elkapi: Run) -> None:
    for arguments, known in (
        (("group", "set", "default", "--fallback-on", "error,timeout"), "error, context, refusal"),
        (("guard", "set", "g", "--pii", "mail"), "email, phone, iban, card, ip, secret, private_key"),
    ):
        status, _, err = elkapi(*arguments)
        assert status == 2
        assert f"'{arguments[-1].rpartition(',')[2]}' is not one of {known}" in err


def test_g16_guardrails_are_shown_as_they_were_given(elkapi: Run, tmp_path: Path) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("plugh\n\nfrotz\n", "utf-8")
    given = ("--words-file", str(listed), "--match", "substring", "--action", "mask", "--direction", "output")
    words = {"kind": "words", "direction": "output", "action": "mask", "match": "substring"}
    for verb in (("set", "w", "--word", "xyzzy", *given), ("show", "w")):
        _, out, _ = elkapi("guard", *verb, "--json")
        assert json.loads(out) == {"name": "w", **words, "words": ["xyzzy", "plugh", "frotz"]}
    hook = ("set", "h", "--hook", "http://127.0.0.1:9/look", "--deadline", "0.5", "--when-down", "open")
    _, out, _ = elkapi("guard", *hook)
    secret = out.splitlines()[1]
    assert secret.startswith("hook-")
    _, out, _ = elkapi("guard", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == ["h", "no-magic", "no-mail", "w"]
    assert rows["h"]["when_down"] == "open"
    assert secret not in out
    _, out, _ = elkapi("guard", "try", "w", "a PLUGHER", "--json")
    assert [row["text"] for row in json.loads(out)] == ["PLUGH"]
    assert elkapi("guard", "remove", "w")[0] == 0
    assert elkapi("guard", "show", "w")[0] != 0
