"""Policies of keys and groups: written, read back, refused when a field is unknown, and handed to the request path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from elkapi.admin import channels, groups, guards, keys
from elkapi.admin.context import Admin, read_input
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.admin.policies import PolicyFields
from elkapi.settings import Settings
from elkapi.snapshot import build_snapshot
from elkapi.storage import apikey
from elkapi.storage.repos import audit, versions
from elkapi.storage.repos import keys as key_rows
from elkapi.types import NO_POLICY, Guard, Policy, policy_of

FULL: dict[str, Any] = {
    "aliases": {"fast": "gpt-4o-mini"},
    "fallbacks": {"gpt-4o": ("claude-sonnet-4-5",), "*": ("gpt-4o-mini",)},
    "fallback_on": ("error", "context"),
    "requests_per_min": 60,
    "tokens_per_min": 100_000,
    "parallel_max": 4,
    "cache": True,
    "cache_age_max_s": 3600,
    "cache_shared": True,
    "cache_hit_ratio_micro": 100_000,
    "batch_ratio_micro": 500_000,
    "guards": ("no-mail", "ask-us"),
    "guard_streams": "window",
}
WORDS: dict[str, Any] = {"name": "no-magic", "words": ("xyzzy", "plugh"), "match": "substring", "action": "mask"}
PII: dict[str, Any] = {"name": "no-mail", "find": ("email", "phone"), "regions": ("DE",), "direction": "output"}
HOOK: dict[str, Any] = {
    "name": "ask-us",
    "url": "https://guard.example/look",
    "secret": "s3cret",
    "deadline_s": 0.5,
    "when_down": "open",
    "direction": "input",
}


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    with Admin.open(settings, "test") as opened:
        for given in (PII, HOOK):
            guards.set_guard(opened, read_input(guards.GuardInput, given))
        yield opened


def fields(**given: Any) -> PolicyFields:
    return read_input(PolicyFields, given)


def test_g16_every_field_of_a_keys_policy_reads_back_and_reaches_its_grant(admin: Admin) -> None:
    assert set(FULL) == set(Policy.__struct_fields__) == set(PolicyFields.__struct_fields__)
    view, plaintext = keys.create_key(admin, keys.KeyInput(name="k", policy=fields(**FULL)))
    assert view.row.policy == keys.show_key(admin, "k").row.policy == Policy(**FULL)
    with admin.database.read() as connection:
        grant = key_rows.find_grant(connection, apikey.digest(plaintext))
    assert grant is not None
    assert grant.policy == Policy(**FULL)


def test_an_edit_of_a_keys_policy_changes_what_it_names_and_leaves_the_rest(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k", policy=fields(**FULL)))
    keys.edit_key(admin, "k", keys.KeyPatch(policy=fields(parallel_max=9, aliases=None)))
    assert keys.show_key(admin, "k").row.policy == Policy(**{**FULL, "aliases": None, "parallel_max": 9})
    keys.edit_key(admin, "k", keys.KeyPatch(name="j"))
    assert keys.show_key(admin, "j").row.policy.parallel_max == 9


def test_a_groups_policy_reads_back_and_reaches_the_snapshot(admin: Admin) -> None:
    groups.set_group(admin, "vip", "0.8", None, fields(**FULL))
    groups.set_group(admin, "vip", None, "very important")
    (row,) = [row for row in groups.list_groups(admin) if row.name == "vip"]
    assert (row.ratio_micro, row.description, row.policy) == (800_000, "very important", Policy(**FULL))
    with admin.database.read() as connection:
        snapshot = build_snapshot(connection, admin.sealer, admin.settings)
    assert snapshot.policies == {"vip": Policy(**FULL)}


def test_a_new_group_needs_a_ratio(admin: Admin) -> None:
    with pytest.raises(InvalidInput, match="ratio"):
        groups.set_group(admin, "vip", None, None, fields(parallel_max=1))


@pytest.mark.parametrize(
    "given",
    [
        {"budget": 5},
        {"requests_per_min": -1},
        {"requests_per_min": "many"},
        {"fallback_on": ["sometimes"]},
        {"fallbacks": {"a": []}},
        {"fallbacks": {"a": ["a"]}},
        {"fallbacks": {"a": ["b", "b"]}},
        {"fallbacks": {"a": ["*"]}},
        {"aliases": {"a": "a"}},
        {"aliases": {"a": "b", "b": "c"}},
        {"aliases": {"a b": "c"}},
        {"guards": ["nobody-made-this"]},
        {"guards": ["no-mail", "no-mail"]},
        {"guard_streams": "maybe"},
        {"cache": "sometimes"},
        {"cache_age_max_s": 0},
        {"cache_hit_ratio_micro": -1},
        {"cache_hit_ratio_micro": 1_000_001},
    ],
)
def test_g16_what_no_policy_can_say_is_refused_and_nothing_is_stored(admin: Admin, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        keys.create_key(admin, keys.KeyInput(name="k", policy=fields(**given)))
    assert keys.list_keys(admin) == []


def test_a_keys_word_goes_before_its_groups_field_by_field() -> None:
    group = Policy(requests_per_min=60, parallel_max=4, aliases={"a": "b"})
    key = Policy(parallel_max=0, aliases={})
    assert policy_of(group, key) == Policy(requests_per_min=60, parallel_max=0, aliases={})
    assert policy_of(group, NO_POLICY) is group


@pytest.mark.parametrize(("kind", "given"), [("words", WORDS), ("pii", PII), ("hook", HOOK)])
def test_g16_every_field_of_a_guardrail_reads_back_and_reaches_the_snapshot(
    admin: Admin, kind: Any, given: dict[str, Any]
) -> None:
    made = guards.set_guard(admin, read_input(guards.GuardInput, given))
    assert made == guards.show_guard(admin, given["name"]) == Guard(kind=kind, **given)
    with admin.database.read() as connection:
        snapshot = build_snapshot(connection, admin.sealer, admin.settings)
        (stored,) = connection.exec_driver_sql(f"select config from guards where name = '{given['name']}'").one()
    assert snapshot.rules[given["name"]].guard == made
    assert "s3cret" not in stored


def test_a_hooks_secret_is_made_once_and_kept(admin: Admin) -> None:
    given = {"name": "h", "url": "http://127.0.0.1:9/x"}
    made = guards.set_guard(admin, read_input(guards.GuardInput, given))
    assert len(made.secret) > 30
    again = guards.set_guard(admin, read_input(guards.GuardInput, {**given, "deadline_s": 1.0}))
    assert (again.secret, again.deadline_s) == (made.secret, 1.0)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "g"},
        {"name": "g", "words": ["a"], "find": ["email"]},
        {"name": "g", "words": ["\u200b"]},
        {"name": "g", "words": ["x" * 201]},
        {"name": "g", "find": ["shoe_size"]},
        {"name": "g", "find": ["phone"], "regions": ["Germany"]},
        {"name": "g", "words": ["a"], "secret": "s"},
        {"name": "g", "words": ["a"], "pattern": "(a+)+"},
        {"name": "g", "url": "ftp://x"},
        {"name": "g", "url": "http://x", "deadline_s": 0},
        {"name": " ", "words": ["a"]},
    ],
)
def test_g16_what_no_guardrail_can_say_is_refused(admin: Admin, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        guards.set_guard(admin, read_input(guards.GuardInput, given))
    assert [guard.name for guard in guards.list_guards(admin)] == ["ask-us", "no-mail"]


def test_a_guardrail_in_use_stays(admin: Admin) -> None:
    groups.set_group(admin, "default", None, None, fields(guards=("no-mail",)))
    keys.create_key(admin, keys.KeyInput(name="k", policy=fields(guards=("ask-us",))))
    keys.create_key(admin, keys.KeyInput(name="another", policy=fields(guards=("no-mail",))))
    with admin.database.read() as connection:
        assert key_rows.names_with_guard(connection, "ask-us") == ["k"]
    keys.revoke_key(admin, "another")
    for name, user in (("no-mail", "default"), ("ask-us", "'k'")):
        with pytest.raises(Refused, match=user):
            guards.remove_guard(admin, name)
    groups.set_group(admin, "default", None, None, fields(guards=None))
    keys.revoke_key(admin, "k")
    for name in ("no-mail", "ask-us"):
        guards.remove_guard(admin, name)
    assert guards.list_guards(admin) == []
    with pytest.raises(Missing):
        guards.remove_guard(admin, "no-mail")


def test_a_group_in_use_stays_and_so_does_the_one_that_is_always_there(admin: Admin) -> None:
    groups.set_group(admin, "vip", "0.8")
    groups.set_group(admin, "other", "0.9")
    for name, group in (("k", "vip"), ("j", "vip"), ("old", "vip"), ("others", "other")):
        keys.create_key(admin, keys.KeyInput(name=name, group=group))
    for name in ("old", "others"):
        keys.revoke_key(admin, name)
    given = channels.ChannelFields(
        name="c", family="openai", base_url="https://example.com", models=("m",), groups=("default", "vip")
    )
    channels.add_channel(admin, given, ["sk-1"])
    with pytest.raises(Refused, match=r"used by channel 1 \(c\), key 1 \(k\), key 2 \(j\); move them"):
        groups.remove_group(admin, "vip")
    channels.edit_channel(admin, "c", channels.ChannelFields(groups=("default",)))
    for name in ("k", "j"):
        with pytest.raises(Refused, match=name):
            groups.remove_group(admin, "vip")
        keys.edit_key(admin, name, keys.KeyPatch(group="default"))
    with admin.database.read() as connection:
        before = versions.read(connection)
    groups.remove_group(admin, "vip")
    with admin.database.read() as connection:
        assert versions.read(connection).routing > before.routing
        assert [row.action for row in audit.newest(connection, limit=1)] == ["group.remove"]
    assert [row.name for row in groups.list_groups(admin)] == ["default", "other"]
    assert [keys.show_key(admin, name).row.group for name in ("old", "others")] == ["default", "other"]
    with pytest.raises(Missing):
        groups.remove_group(admin, "vip")
    with pytest.raises(Refused, match="cannot be removed"):
        groups.remove_group(admin, "default")


def test_of_many_who_use_a_group_some_are_named(admin: Admin) -> None:
    groups.set_group(admin, "vip", "1")
    for number in range(groups.USERS_NAMED_MAX + 2):
        keys.create_key(admin, keys.KeyInput(name=f"k{number}", group="vip"))
    with pytest.raises(Refused, match=r"key 5 \(k4\) and 2 more;"):
        groups.remove_group(admin, "vip")
