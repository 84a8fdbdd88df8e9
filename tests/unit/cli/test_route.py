"""`elkapi route explain`: the dry run takes the relay's own steps, asks nobody and changes nothing (guarantee 60)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.conftest import Elkapi

KEYS = ("--key", "sk-upstream-0123456789")


@pytest.fixture
def staged(elkapi: Elkapi) -> Elkapi:
    """`main` before `spare` for the model `big`; `small` stands in for it."""
    for name, models, priority in (("main", "big", "9"), ("spare", "big,small", "1")):
        base = ("--family", "openai", "--base-url", f"https://{name}.example.com/v1", "--models", models)
        elkapi("channel", "add", "--name", name, *base, *KEYS, "--priority", priority)
    for model in ("big", "small"):
        elkapi("price", "set", "--model", model, "--input-per-1m", "1", "--output-per-1m", "2")
    elkapi("key", "create", "--name", "alice", "--alias", "best=big", "--fallback", "big=small")
    return elkapi


def steps(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(step["model"], step["channel"], step["outcome"]) for step in found["steps"]]


def test_g60_a_dry_run_shows_the_route_that_a_503_leads_to(staged: Elkapi) -> None:
    found = staged("route", "explain", "--key", "alice", "--model", "best", "--fail", "main=503", "--json").json
    assert (found["asked"], found["models"]) == ("best", ["big", "small"])
    assert steps(found) == [("big", "main", "status_503"), ("big", "spare", "ok")]
    assert found["steps"][0]["then"] == "the next attempt is tried; the channel rests for this model"
    assert (found["answered_by"], found["told"]) == ("big", None)


def test_g60_a_dry_run_goes_on_to_the_fallback_model_and_tells_the_end(staged: Elkapi) -> None:
    ask = ("route", "explain", "--key", "alice", "--model", "big", "--json")
    found = staged(*ask, "--fail", "main=timeout", "--fail", "spare=context").json
    assert steps(found) == [
        ("big", "main", "upstream_header_timeout"),
        ("big", "spare", "status_400"),
        ("small", "spare", "status_400"),
    ]
    assert "the upstream may have billed it" in found["steps"][0]["then"]
    assert found["told"].startswith("400 context_length_exceeded: ")
    down = staged(*ask, "--fail", "main=503", "--fail", "spare=refused").json
    assert [step[0] for step in steps(down)] == ["big", "big", "small"]
    assert (
        down["told"]
        == "502 upstream_error: No provider of the model gave a usable answer (2 attempts); please try again."
    )
    declined = staged(*ask, "--fail", "main=filtered", "--fail", "spare=filtered").json
    assert declined["told"].startswith("400 upstream_rejected: ")
    limited = staged(*ask, "--fail", "main=429", "--fail", "spare=busy").json
    assert limited["told"].startswith("429 upstream_rate_limited")


def test_g60_a_policy_that_does_not_go_on_for_a_reason_is_seen_not_to(staged: Elkapi) -> None:
    staged("key", "edit", "alice", "--fallback-on", "context")
    ask = ("route", "explain", "--key", "alice", "--model", "big", "--json")
    found = staged(*ask, "--fail", "main=503", "--fail", "spare=503").json
    assert {step[0] for step in steps(found)} == {"big"}
    assert found["answered_by"] is None


def test_a_call_that_would_be_refused_before_any_attempt_says_so(staged: Elkapi) -> None:
    unknown = staged("route", "explain", "--group", "default", "--model", "nothing", "--json").json
    assert unknown["steps"] == []
    assert unknown["told"].startswith("503 model_not_found")
    staged("key", "create", "--name", "bob", "--models", "small")
    assert staged("route", "explain", "--key", "bob", "--model", "big", "--json").json["told"].startswith("403 ")
    staged("key", "disable", "alice")
    assert staged("route", "explain", "--key", "alice", "--model", "big", "--json").json["told"].startswith("401")


def test_what_makes_no_sense_is_refused_with_its_field(staged: Elkapi) -> None:
    for more, word in (
        (("--fail", "nobody=503"), "nobody"),
        (("--fail", "main=soon"), "soon"),
        (("--path", "/v1/models"), "not allowed"),
        (("--group", "none"), "none"),
    ):
        done = staged("route", "explain", "--model", "big", *more)
        assert done.status == 2, done.err
        assert word in done.err
    assert staged("route", "explain", "--model", "big", "--key", "nobody").status == 1


def test_people_read_a_table_and_how_it_ends(staged: Elkapi) -> None:
    done = staged("route", "explain", "--model", "big", "--fail", "main=401")
    assert (
        "the channel key is disabled"
        in staged("route", "explain", "--model", "big", "--fail", "main=401", "--json").out
    )
    assert "MODEL" in done.out
    assert done.out.rstrip().endswith("answered by big")
    # Nothing was changed by asking.
    assert [key["state"] for key in staged("channel", "show", "1", "--json").json["keys"]] == ["enabled"]
