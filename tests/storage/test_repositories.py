"""Keys, channels, prices, groups, audit: what is written is read back, versions rise, secrets stay in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from elkapi.ledger.accounts import create_account
from elkapi.snapshot.build import build_snapshot
from elkapi.storage import apikey, schema, secrets
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import audit, channels, groups, guards, keys, owners, prices, requests, versions
from elkapi.storage.secrets import Sealer, SecretKeyError, secret_key_path
from elkapi.types import NO_POLICY, Amounts, ChannelLimits, Guard, Policy, RequestRecord, Usage, Variant

NOW_NS = 1_800_000_000_000_000_000
WHO: dict[str, Any] = {"now_ns": NOW_NS, "actor": "test"}
UNCHANGED: Any = {"policy": NO_POLICY, **WHO}
PLANTED = "sk-planted-provider-secret-0123456789"


def make_key(connection: Connection, **changes: Any) -> tuple[keys.KeyRow, str]:
    fields: dict[str, Any] = {
        "name": "k",
        "owner_id": owners.operator_id(connection),
        "group": "default",
        "scope": "live",
        "account_id": create_account(connection, f"test:{len(keys.list_keys(connection))}"),
        "models": None,
        "expires_at_ns": None,
    }
    return keys.create_key(connection, **(fields | changes), **WHO)


def spec(**changes: Any) -> channels.ChannelSpec:
    fields: dict[str, Any] = {
        "name": "main",
        "family": "openai",
        "base_url": "https://api.example.com/v1",
        "config": channels.ChannelConfig(models=("m",)),
    }
    return channels.ChannelSpec(**(fields | changes))


FULL_CONFIG = channels.ChannelConfig(
    models=("a", "b"),
    groups=("default",),
    http2=True,
    model_map={"a": "A"},
    aliases={"c": "a"},
    param_set={"user": msgspec.Raw(b'"x"')},
    param_default={"dimensions": msgspec.Raw(b"8")},
    param_remove=("foo",),
    header_remove=("x-a",),
    forward_headers=("x-b",),
    status_map={404: 503},
    system_prompt="be kind",
    tags=("t",),
    limits=ChannelLimits(connect_s=1.5, total_s=30.0),
)


def test_the_ids_of_a_removed_channel_and_its_keys_are_never_given_to_another(installation: Installation) -> None:
    database, sealer = installation.database, installation.sealer

    def added(name: str) -> tuple[int, int]:
        with database.write() as connection:
            channel_id = channels.add_channel(connection, sealer, spec(name=name), **WHO)
            (key,) = channels.add_keys(connection, sealer, channel_id, [f"sk-{name}"], **WHO)
            return channel_id, key.id

    first, second = added("first"), added("second")
    with database.write() as connection:
        assert channels.remove_channel(connection, second[0], **WHO)
    third = added("third")
    assert third[0] > second[0] > first[0]
    assert third[1] > second[1] > first[1]


def test_a_key_is_found_by_its_digest_and_by_nothing_else(database: Database) -> None:
    with database.write() as connection:
        row, plaintext = make_key(connection, models=["b", "a", "a"], expires_at_ns=NOW_NS)
    with database.read() as connection:
        grant = keys.find_grant(connection, apikey.digest(plaintext))
        assert keys.find_grant(connection, apikey.digest(plaintext + "x")) is None
        stored = connection.execute(select(schema.keys)).one()
    assert grant is not None
    assert (grant.key_id, grant.accounts, grant.enabled) == (row.id, (row.account_id,), True)
    assert grant.models == frozenset({"a", "b"})
    assert grant.expires_at_ns == NOW_NS
    assert row.hint == f"{plaintext[:7]}...{plaintext[-4:]}"
    assert plaintext not in repr(stored)
    assert plaintext[10:40] not in repr(stored)


@pytest.mark.parametrize(
    "hostile", ["' OR 1=1 --", '"; DROP TABLE keys; --', "%", "_" * 51, "\x00", "sk-' UNION SELECT 1"]
)
def test_cve_2026_42208_a_hostile_key_is_data_never_sql(database: Database, hostile: str) -> None:
    with database.write() as connection:
        make_key(connection)
    with database.read() as connection:
        assert keys.find_grant(connection, apikey.digest(hostile)) is None
        assert keys.find_grant(connection, hostile.encode()) is None
        assert len(keys.list_keys(connection)) == 1


def test_cve_2026_25591_a_name_is_matched_whole_never_as_a_pattern(database: Database) -> None:
    with database.write() as connection:
        make_key(connection, name="production")
    with database.read() as connection:
        assert keys.find_by_name(connection, "%") == []
        assert keys.find_by_name(connection, "productio_") == []
        assert len(keys.find_by_name(connection, "production")) == 1


def test_of_a_groups_keys_only_as_many_are_read_as_are_shown(database: Database) -> None:
    with database.write() as connection:
        made = [make_key(connection, name=f"k{number}")[0] for number in range(4)]
        keys.revoke(connection, made[0].id, **WHO)
        assert keys.in_group(connection, "default", 2) == ([(row.id, row.name) for row in made[1:3]], 3)
        assert keys.in_group(connection, "vip", 2) == ([], 0)


def test_g16_edited_key_fields_read_back(database: Database) -> None:
    with database.write() as connection:
        row, _ = make_key(connection)
        groups.set_group(connection, name="vip", ratio_micro=500_000, description=None, **WHO)
        edited = keys.edit(connection, row.id, name="n", group="vip", models=["z"], expires_at_ns=5, **UNCHANGED)
    with database.read() as connection:
        assert keys.get_key(connection, row.id) == edited
    assert edited is not None
    assert (edited.name, edited.group, edited.models, edited.expires_at_ns) == ("n", "vip", ("z",), 5)


def test_cve_2026_47102_an_edit_reaches_no_field_it_does_not_name(database: Database) -> None:
    with database.write() as connection:
        row, _ = make_key(connection)
    edit: Any = keys.edit
    with pytest.raises(TypeError, match="account_id"):
        edit(None, row.id, account_id=1, **WHO)
    with database.write() as connection:
        edited = keys.edit(connection, row.id, name="n", group="default", models=None, expires_at_ns=None, **UNCHANGED)
    assert edited is not None
    assert (edited.account_id, edited.owner_id, edited.scope) == (row.account_id, row.owner_id, row.scope)


def test_g07_editing_a_key_never_writes_money(database: Database) -> None:
    with database.write() as connection:
        row, _ = make_key(connection)
        account = schema.accounts.c.id == row.account_id
        connection.execute(schema.accounts.update().where(account).values(posted_nano=77, held_nano=7))
        keys.edit(connection, row.id, name="n", group="default", models=None, expires_at_ns=None, **UNCHANGED)
        keys.set_enabled(connection, row.id, False, **WHO)
        money = connection.execute(select(schema.accounts.c.posted_nano, schema.accounts.c.held_nano).where(account))
        assert money.one() == (77, 7)
    assert not [column.name for column in schema.keys.columns if "nano" in column.name]
    assert not [column.name for column in schema.owners.columns if "nano" in column.name]


def test_g03_the_database_itself_refuses_an_overdraft(database: Database) -> None:
    with database.write() as connection:
        row, _ = make_key(connection)
    account = schema.accounts.c.id == row.account_id
    for values in ({"posted_nano": -1}, {"held_nano": 1}, {"held_nano": -1}):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(schema.accounts.update().where(account).values(**values))


def test_a_revoked_key_stays_revoked(database: Database) -> None:
    with database.write() as connection:
        row, plaintext = make_key(connection)
        assert keys.revoke(connection, row.id, **WHO) is not None
    with database.write() as connection:
        assert keys.set_enabled(connection, row.id, True, **WHO) is None
        assert keys.revoke(connection, row.id, **WHO) is None
        assert (
            keys.edit(connection, row.id, name="x", group="default", models=None, expires_at_ns=None, **UNCHANGED)
            is None
        )
        grant = keys.find_grant(connection, apikey.digest(plaintext))
    assert grant is not None
    assert not grant.enabled


def test_a_change_of_one_key_is_audited_and_leaves_the_others(database: Database) -> None:
    with database.write() as connection:
        row, _ = make_key(connection, name="one")
        other, _ = make_key(connection, name="other")
        routing = versions.read(connection).routing
        keys.edit(connection, row.id, name="n", group="default", models=None, expires_at_ns=None, **UNCHANGED)
        keys.set_enabled(connection, row.id, False, **WHO)
        keys.set_enabled(connection, row.id, True, **WHO)
        keys.revoke(connection, row.id, **WHO)
        assert keys.get_key(connection, other.id) == other
        assert versions.read(connection).routing == routing
        told = [(entry.action, entry.subject) for entry in audit.newest(connection)][:4]
    assert told == [(f"key.{what}", f"key:{row.id}") for what in ("revoke", "enable", "disable", "edit")]


def test_changes_are_found_by_version(database: Database) -> None:
    with database.write() as connection:
        first, plaintext = make_key(connection)
        before = versions.read(connection).config
    with database.write() as connection:
        other, second = make_key(connection)
    with database.write() as connection:
        keys.set_enabled(connection, first.id, False, **WHO)
    with database.read() as connection:
        changed = {(first.id, apikey.digest(plaintext)), (other.id, apikey.digest(second))}
        assert set(keys.changed_since(connection, before) or ()) == changed
        assert keys.changed_since(connection, versions.read(connection).config) == []


def test_more_changes_than_the_bound_mean_forget_all(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CHANGES_MAX", 1)
    with database.write() as connection:
        make_key(connection)
        make_key(connection)
        assert keys.changed_since(connection, 0) is None


def test_only_routing_changes_raise_the_routing_version(database: Database) -> None:
    with database.write() as connection:
        start = versions.read(connection)
        make_key(connection)
        after_key = versions.read(connection)
        groups.set_group(connection, name="g", ratio_micro=1, description=None, **WHO)
        after_group = versions.read(connection)
        guards.remove_guard(connection, "none", **WHO)
        after_guard = versions.read(connection)
    assert after_guard.routing == after_guard.config > after_group.config
    assert after_key.config > start.config
    assert after_key.routing == start.routing
    assert after_group.routing == after_group.config > after_key.config


def test_after_a_restore_both_versions_are_higher_and_nothing_else_is_changed(database: Database) -> None:
    meta = schema.meta.c
    rest = select(meta.name, meta.value).where(meta.name.not_in(("config_version", "routing_version")))
    with database.write() as connection:
        before = connection.execute(rest.order_by(meta.name)).all()
        versions.raise_to(connection, 1_000)
        assert versions.read(connection) == versions.Versions(1_000, 1_000)
        assert connection.execute(rest.order_by(meta.name)).all() == before != []


def test_every_change_leaves_an_audit_row_without_secrets(database: Database, installation: Installation) -> None:
    with database.write() as connection:
        row, plaintext = make_key(connection)
        channel_id = channels.add_channel(
            connection, installation.sealer, spec(proxy_url=f"http://u:{PLANTED}@p", header_set={"x": PLANTED}), **WHO
        )
        channels.add_keys(connection, installation.sealer, channel_id, [PLANTED], **WHO)
        prices.add_version(connection, model="m", amounts=Amounts(call_nano=1), source="test", **WHO)
        rows = audit.newest(connection)
    assert [entry.action for entry in rows] == ["price.set", "channel.key.add", "channel.add", "key.create"]
    assert {entry.actor for entry in rows} == {"test"}
    assert rows[-1].subject == f"key:{row.id}"
    text = repr(rows)
    assert PLANTED not in text
    assert plaintext not in text


def test_what_each_change_of_a_channel_was_is_told_in_its_audit_row(
    database: Database, installation: Installation
) -> None:
    sealer = installation.sealer
    with database.write() as connection:
        channel_id = channels.add_channel(connection, sealer, spec(), **WHO)
        first, second = channels.add_keys(connection, sealer, channel_id, [PLANTED, PLANTED[::-1]], **WHO)
        channels.replace_channel(connection, sealer, channel_id, spec(name="n", base_url="https://x.example"), **WHO)
        channels.set_enabled(connection, channel_id, True, **WHO)
        channels.set_key_enabled(connection, first.id, False, reason="leaked", **WHO)
        channels.set_key_enabled(connection, first.id, True, reason="answered", **WHO)
        channels.remove_key(connection, second.id, **WHO)
        rows = audit.newest(connection, limit=7)[::-1]
        view = channels.view_channel(connection, sealer, channel_id)
    added = [{"id": key.id, "hint": key.hint} for key in (first, second)]
    assert [(row.action, msgspec.json.decode(row.detail)) for row in rows] == [
        ("channel.add", {"name": "main", "base_url": "https://api.example.com/v1"}),
        ("channel.key.add", {"added": added}),
        ("channel.edit", {"name": "n", "base_url": "https://x.example"}),
        ("channel.enable", {}),
        ("channel.key.disable", {"key": first.id, "reason": "leaked"}),
        ("channel.key.enable", {"key": first.id, "reason": "answered"}),
        ("channel.key.remove", {"key": second.id, "hint": second.hint}),
    ]
    assert {(row.subject, row.created_ns) for row in rows} == {(f"channel:{channel_id}", NOW_NS)}
    assert view is not None
    assert view.created_ns == NOW_NS


def test_what_each_change_of_a_group_or_guardrail_was_is_told_in_its_audit_row(
    database: Database, installation: Installation
) -> None:
    guard = Guard(name="w", kind="words", words=("a", "b"))
    with database.write() as connection:
        groups.set_group(connection, name="g", ratio_micro=500_000, description="d", **WHO)
        policy = Policy(parallel_max=2)
        groups.set_group(connection, name="g", ratio_micro=1_000_000, description=None, policy=policy, **WHO)
        guards.set_guard(connection, installation.sealer, guard, **WHO)
        *changes, guarded = audit.newest(connection, limit=3)[::-1]
        assert groups.get_group(connection, "g") == groups.GroupRow("g", 1_000_000, "d", policy)
    assert [(row.subject, msgspec.json.decode(row.detail)) for row in changes] == [
        ("group:g", {"ratio": "0.5", "description": "d"}),
        ("group:g", {"ratio": "1", "description": None, "policy": {"parallel_max": 2}}),
    ]
    # Of words it is told how many there are.
    assert guarded.subject == "guard:w"
    assert msgspec.json.decode(guarded.detail)["words"] == 2


def test_g16_every_channel_field_reads_back(database: Database, installation: Installation) -> None:
    sealer = installation.sealer
    written = spec(
        enabled=False,
        priority=-3,
        weight=7,
        allow_private=True,
        config=FULL_CONFIG,
        proxy_url="socks5://u:p@127.0.0.1:1",
        header_set={"x-c": "1"},
    )
    assert all(getattr(FULL_CONFIG, f) != getattr(channels.ChannelConfig(), f) for f in ("models", "limits", "http2"))
    with database.write() as connection:
        channel_id = channels.add_channel(connection, sealer, written, **WHO)
    with database.read() as connection:
        assert msgspec.json.encode(channels.read_spec(connection, sealer, channel_id)) == msgspec.json.encode(written)
        loaded = channels.load_channels(connection, sealer)[0]
    assert not loaded.enabled
    for name in channels.ChannelConfig.__struct_fields__:
        assert msgspec.json.encode(getattr(loaded.channel, name)) == msgspec.json.encode(getattr(FULL_CONFIG, name))
    assert loaded.channel.proxy_url == written.proxy_url
    assert loaded.channel.header_set == written.header_set
    changed = spec(name="renamed", weight=0)
    with database.write() as connection:
        assert channels.replace_channel(connection, sealer, channel_id, changed, **WHO)
        assert channels.read_spec(connection, sealer, channel_id) == changed


def test_go_2026_4813_channel_secrets_are_write_only(database: Database, installation: Installation) -> None:
    sealer = installation.sealer
    with database.write() as connection:
        written = spec(proxy_url=f"http://u:{PLANTED}@127.0.0.1:1", header_set={"x-auth": PLANTED})
        channel_id = channels.add_channel(connection, sealer, written, **WHO)
        channels.add_keys(connection, sealer, channel_id, [PLANTED], **WHO)
    with database.read() as connection:
        view = channels.view_channel(connection, sealer, channel_id)
        listed = channels.view_channels(connection, sealer)
        raw = [row for table in (schema.channels, schema.channel_keys) for row in connection.execute(select(table))]
        opened = channels.load_channels(connection, sealer)[0].channel
    assert view is not None
    assert view.has_proxy
    assert view.header_names == ("x-auth",)
    assert view.keys[0].hint == "sk-plan...6789"
    assert PLANTED not in repr(view) + repr(listed) + repr(raw)
    assert opened.keys[0].secret == PLANTED


def test_bulk_pasted_keys_are_added_once(database: Database, installation: Installation) -> None:
    with database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec(), **WHO)
        added = channels.add_keys(connection, installation.sealer, channel_id, ["one", "two", "one"], **WHO)
        again = channels.add_keys(connection, installation.sealer, channel_id, ["two", "three"], **WHO)
        assert [len(added), len(again)] == [2, 1]
        assert len(channels.view_keys(connection, channel_id)) == 3


def test_a_bad_channel_key_is_disabled_alone_with_its_reason_and_comes_back(
    database: Database, installation: Installation
) -> None:
    with database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec(), **WHO)
        first, _ = channels.add_keys(connection, installation.sealer, channel_id, ["one", "two"], **WHO)
        channels.set_key_enabled(connection, first.id, False, reason="401 from the upstream", **WHO)
        version = versions.read(connection)
        channels.set_key_enabled(connection, first.id, False, reason="401 again", **WHO)
        assert versions.read(connection) == version
        off, on = channels.view_keys(connection, channel_id)
        assert (off.enabled, off.reason, off.disabled_by) == (False, "401 from the upstream", "test")
        assert on.enabled
        channels.set_key_enabled(connection, first.id, True, **WHO)
        assert channels.view_keys(connection, channel_id)[0].reason == ""
        assert channels.set_key_enabled(connection, 10_000, True, **WHO) is None


def test_of_the_keys_that_are_off_the_gateways_own_are_found_and_each_is_enabled_alone(
    database: Database, installation: Installation
) -> None:
    sealer = installation.sealer
    automatic: dict[str, Any] = {"reason": "401", "now_ns": 5, "actor": channels.AUTOMATIC}
    with database.write() as connection:
        channel_id = channels.add_channel(connection, sealer, spec(), **WHO)
        secrets_ = ["one", "two", "three", "four"]
        first, second, operators, on = channels.add_keys(connection, sealer, channel_id, secrets_, **WHO)
        assert {key.changed_ns for key in (first, second)} == {NOW_NS}
        for key in (first, second):
            channels.set_key_enabled(connection, key.id, False, **automatic)
        # Another worker met the same refusal: nothing changes, and no snapshot is rebuilt.
        version = versions.read(connection)
        channels.set_key_enabled(connection, first.id, False, **{**automatic, "reason": "403", "now_ns": 6})
        assert versions.read(connection) == version
        channels.set_key_enabled(connection, operators.id, False, reason="old", now_ns=5, actor="test")
        (loaded,) = channels.load_channels(connection, sealer)
        assert [(key.secret, key.enabled) for key in loaded.channel.keys] == list(
            zip(secrets_, (False, False, False, True), strict=True)
        )
        found = channels.disabled_keys(connection, sealer)
        assert [(one.key.id, one.changed_ns) for one in found] == [(first.id, 5), (second.id, 5)]

        def enabled(which: int, now_ns: int) -> bool:
            return channels.enable_key(connection, found[which], "answered", now_ns=now_ns, actor="prober")

        def states() -> list[tuple[bool, str, str, int]]:
            keys_ = channels.view_keys(connection, channel_id)
            return [(key.enabled, key.reason, key.disabled_by, key.changed_ns) for key in keys_]

        # An operator was faster, if only within the same moment.
        channels.set_key_enabled(connection, first.id, True, now_ns=5, actor="test")
        assert not enabled(0, 9)
        assert enabled(1, 9)
        rest = [(False, "old", "test", 5), (True, "", "", NOW_NS)]
        assert states() == [(True, "", "", 5), (True, "", "", 9), *rest]
        # It was refused again since: what was seen of it before no longer counts.
        channels.set_key_enabled(connection, second.id, False, **{**automatic, "now_ns": 10})
        assert not enabled(1, 11)
        assert states() == [(True, "", "", 5), (False, "401", "auto", 10), *rest]
    assert on.enabled


def test_a_channel_is_found_by_its_whole_name(database: Database, installation: Installation) -> None:
    with database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec(name="main"), **WHO)
        assert channels.find_id(connection, "main") == channel_id
        for pattern in ("%", "mai_", "MAIN"):
            assert channels.find_id(connection, pattern) is None
        assert channels.exists(connection, channel_id)
        assert not channels.exists(connection, channel_id + 1)


def test_a_channel_key_is_removed_alone_and_its_id_is_given_to_no_other(
    database: Database, installation: Installation
) -> None:
    sealer = installation.sealer
    with database.write() as connection:
        channel_id = channels.add_channel(connection, sealer, spec(), **WHO)
        first, second = channels.add_keys(connection, sealer, channel_id, ["one", "two"], **WHO)
        before = versions.read(connection)
        assert channels.remove_key(connection, second.id, **WHO) == channel_id
        assert versions.read(connection).routing > before.routing
        assert channels.view_keys(connection, channel_id) == [first]
        newest = audit.newest(connection, limit=1)[0]
        assert (newest.action, newest.subject) == ("channel.key.remove", f"channel:{channel_id}")
        version = versions.read(connection)
        assert channels.remove_key(connection, second.id, **WHO) is None
        assert versions.read(connection) == version
        # Tasks name the key that began them.
        (again,) = channels.add_keys(connection, sealer, channel_id, ["two"], **WHO)
        assert again.id not in (first.id, second.id)


def test_a_change_of_one_channel_or_key_leaves_the_others_and_a_channel_goes_with_its_keys(
    database: Database, installation: Installation
) -> None:
    sealer = installation.sealer
    with database.write() as connection:
        secret = spec(name="other", proxy_url="socks5://u:p@127.0.0.1:1", header_set={"x-c": "1"})
        other = channels.add_channel(connection, sealer, secret, **WHO)
        channel_id = channels.add_channel(connection, sealer, spec(), **WHO)
        (key,) = channels.add_keys(connection, sealer, channel_id, ["one"], **WHO)
        assert len(channels.add_keys(connection, sealer, other, ["two", "three"], **WHO)) == 2
        before, loaded = channels.view_channels(connection, sealer), channels.load_channels(connection, sealer)
        assert [len(one.keys) for one in before] == [2, 1]
        assert [channels.view_channel(connection, sealer, one.id) for one in before] == before
        channels.set_enabled(connection, channel_id, False, **WHO)
        channels.replace_channel(connection, sealer, channel_id, spec(name="renamed", header_set={"x-d": "2"}), **WHO)
        channels.set_key_enabled(connection, key.id, False, reason="401", **WHO)
        view = channels.view_channels(connection, sealer)[1]
        assert (view.name, view.header_names, view.keys[0].reason) == ("renamed", ("x-d",), "401")
        told = [(entry.action, entry.subject) for entry in audit.newest(connection)][:3]
        done = ("key.disable", "edit", "disable")
        assert told == [(f"channel.{action}", f"channel:{channel_id}") for action in done]
        assert channels.remove_channel(connection, channel_id, **WHO)
        assert not channels.remove_channel(connection, channel_id, **WHO)
        assert channels.view_channels(connection, sealer) == before[:1]
        assert msgspec.json.encode(channels.load_channels(connection, sealer)) == msgspec.json.encode(loaded[:1])
        assert set(connection.execute(select(schema.channel_keys.c.channel_id)).scalars()) == {other}


def test_a_sealed_value_moved_to_another_row_does_not_open(database: Database, installation: Installation) -> None:
    sealer = installation.sealer
    with database.write() as connection:
        one = channels.add_channel(connection, sealer, spec(name="one"), **WHO)
        two = channels.add_channel(connection, sealer, spec(name="two"), **WHO)
        channels.add_keys(connection, sealer, one, ["secret of one"], **WHO)
        key_row = schema.channel_keys.c.channel_id == one
        connection.execute(schema.channel_keys.update().where(key_row).values(channel_id=two))
        loaded = {entry.channel.id: entry for entry in channels.load_channels(connection, sealer)}
    assert loaded[two].channel.keys == ()
    assert loaded[two].sealed_shut


@pytest.mark.parametrize(("taken", "put"), [("proxy", "proxy"), ("headers", "headers"), ("headers", "proxy")])
def test_a_proxy_or_header_sealed_for_another_channel_or_column_does_not_open(
    database: Database, installation: Installation, taken: str, put: str
) -> None:
    c, sealer = schema.channels.c, installation.sealer
    secret: dict[str, Any] = {"proxy_url": "http://127.0.0.1:1", "header_set": {"a": "b"}}
    with database.write() as connection:
        one = channels.add_channel(connection, sealer, spec(name="one", **secret), **WHO)
        two = channels.add_channel(connection, sealer, spec(name="two", **secret), **WHO)
        for channel_id in (one, two):
            channels.add_keys(connection, sealer, channel_id, ["secret"], **WHO)
        of = one if taken == put else two
        sealed = connection.execute(select(c[f"{taken}_sealed"]).where(c.id == of)).scalar_one()
        connection.execute(schema.channels.update().where(c.id == two).values({f"{put}_sealed": sealed}))
        first, second = channels.load_channels(connection, sealer)
    assert (len(first.channel.keys), first.sealed_shut) == (1, ())
    assert (second.channel.keys, second.sealed_shut) == ((), ("proxy or headers",))
    assert (second.channel.proxy_url, second.channel.header_set) == (None, {})


def test_a_key_sealed_for_another_row_of_its_channel_does_not_open(
    database: Database, installation: Installation
) -> None:
    c, sealer = schema.channel_keys.c, installation.sealer
    with database.write() as connection:
        channel_id = channels.add_channel(connection, sealer, spec(), **WHO)
        one, two = channels.add_keys(connection, sealer, channel_id, ["one", "two"], **WHO)
        sealed = connection.execute(select(c.sealed).where(c.id == one.id)).scalar_one()
        connection.execute(schema.channel_keys.update().where(c.id == two.id).values(sealed=sealed))
        (loaded,) = channels.load_channels(connection, sealer)
    assert [key.id for key in loaded.channel.keys] == [one.id]
    assert loaded.sealed_shut == (f"key {two.id}",)


def test_the_secret_of_a_hook_is_replaced_and_opens_under_its_name_and_key_alone(
    database: Database, installation: Installation
) -> None:
    c, sealer = schema.guards.c, installation.sealer

    def secrets_(by: Sealer = sealer) -> dict[str, str]:
        return {guard.name: guard.secret for guard in guards.all_guards(connection, by)}

    with database.write() as connection:
        for name, secret in (("b", "old"), ("a", "of a"), ("b", "of b")):
            before = versions.read(connection)
            guards.set_guard(connection, sealer, Guard(name=name, kind="hook", url="http://x", secret=secret), **WHO)
            assert versions.read(connection).routing > before.routing
        assert list(secrets_().items()) == [("a", "of a"), ("b", "of b")]
        assert secrets_(Sealer(bytes(32))) == {"a": "", "b": ""}
        sealed = connection.execute(select(c.secret_sealed).where(c.name == "a")).scalar_one()
        connection.execute(schema.guards.update().where(c.name == "b").values(secret_sealed=sealed))
        assert secrets_() == {"a": "of a", "b": ""}


def test_a_channel_whose_headers_do_not_open_is_left_without_keys(
    database: Database, installation: Installation
) -> None:
    with database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec(header_set={"a": "b"}), **WHO)
        channels.add_keys(connection, installation.sealer, channel_id, ["one"], **WHO)
        connection.execute(schema.channels.update().values(headers_sealed=Sealer(bytes(32)).seal(b"{}", b"")))
        loaded = channels.load_channels(connection, installation.sealer)[0]
        (view,) = channels.view_channels(connection, installation.sealer)
    assert loaded.channel.keys == ()
    assert view.header_names == ("(encrypted with another secret key)",)


def test_another_secret_key_is_refused_at_the_start(installation: Installation) -> None:
    settings = msgspec.structs.replace(installation.settings, secret_key="ab" * 32)
    with pytest.raises(SecretKeyError, match="another secret key"):
        open_installation(settings)


def test_a_lost_secret_key_is_told_and_no_new_one_is_made(installation: Installation) -> None:
    path = secret_key_path(installation.settings)
    path.unlink()
    with pytest.raises(SecretKeyError, match=f"a secret key that is missing; restore {path} or set ELKAPI_SECRET_KEY"):
        open_installation(installation.settings)
    assert not path.exists()


def test_a_secret_key_that_another_process_is_making_is_not_taken_for_lost(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ask = secret_key_path(installation.settings), secrets.is_bound_to
    made = path.read_bytes()
    path.unlink()

    def bound_meanwhile(connection: Connection, sealer: Sealer) -> bool | None:
        path.write_bytes(made)
        return ask(connection, sealer)

    monkeypatch.setattr(secrets, "is_bound_to", bound_meanwhile)
    with installation.database.read() as connection:
        assert secrets.lost_key(connection, installation.settings) is None


def test_prices_are_versions_and_the_highest_is_in_force(database: Database) -> None:
    with database.write() as connection:
        first = prices.add_version(
            connection, model="m", amounts=Amounts(input_nano_per_1m=5, cached_nano_per_1m=0), source="a", **WHO
        )
        second = prices.add_version(connection, model="m", amounts=Amounts(call_nano=9), source="b", **WHO)
        rows = {row.price.model: row for row in prices.in_force(connection)}
        assert rows["m"] == second
        assert rows["text-embedding-3-small"].price.input_nano_per_1m == 20_000_000
        assert prices.history(connection, "m") == [second, first]
        assert prices.get_price(connection, first.price.id) == first
    assert [first.price.version, second.price.version] == [1, 2]
    assert first.price.cached_nano_per_1m == 0
    assert second.price.cached_nano_per_1m is None


def test_a_withdrawn_price_is_a_version_after_which_the_model_has_none(
    database: Database, installation: Installation
) -> None:
    settings, sealer = installation.settings, installation.sealer
    with database.write() as connection:
        assert prices.withdraw(connection, model="m", source="t", **WHO) is None
        priced = prices.add_version(connection, model="m", amounts=Amounts(call_nano=9), source="t", **WHO)
        channel_id = channels.add_channel(connection, sealer, spec(config=channels.ChannelConfig(models=("m",))), **WHO)
        channels.add_keys(connection, sealer, channel_id, ["one"], **WHO)
        assert build_snapshot(connection, sealer, settings).models_for("live", "default") == ("m",)
        before = versions.read(connection)
        gone = prices.withdraw(connection, model="m", source="t", **WHO)
        assert gone is not None
        assert (gone.price.version, gone.withdrawn) == (2, True)
        assert versions.read(connection).routing > before.routing
        newest = audit.newest(connection, limit=1)[0]
        assert (newest.action, newest.subject) == ("price.withdraw", "price:m")
        version = versions.read(connection)
        assert prices.withdraw(connection, model="m", source="t", **WHO) is None
        assert versions.read(connection) == version
        assert "m" not in {row.price.model for row in prices.in_force(connection)}
        snapshot = build_snapshot(connection, sealer, settings, bundled=("m",))
        # What is bundled is free where no record of the operator's says otherwise.
        assert (snapshot.prices["m"].id, build_snapshot(connection, sealer, settings).prices.get("m")) == (0, None)
        assert build_snapshot(connection, sealer, settings).models_for("live", "default") == ()
        # Calls and holds name it.
        assert prices.history(connection, "m") == [gone, priced]
        assert prices.get_price(connection, priced.price.id) == priced
        again = prices.add_version(connection, model="m", amounts=Amounts(call_nano=7), source="t", **WHO)
        assert {row.price.model: row for row in prices.in_force(connection)}["m"] == again
        assert again.price.version == 3


RECORD = RequestRecord(
    id=bytes(16),
    key_id=1,
    owner_id=7,
    operation="openai.embeddings",
    model="m",
    group="default",
    created_ns=NOW_NS,
    duration_ms=1.5,
    status=200,
    outcome="ok",
    usage=Usage(input_tokens=3),
    price_id=1,
    price_version=1,
    ratio_micro=1_000_000,
    hold_nano=5,
    charge_nano=4,
    features={"mode": "pro"},
)


def keep_record(connection: Connection, record: RequestRecord) -> None:
    columns = ("id", "key_id", "owner_id", "model", "status", "charge_nano", "loss_nano", "created_ns")
    values = {name: getattr(record, name) for name in columns} | {"record": msgspec.json.encode(record)}
    connection.execute(schema.requests.insert(), values)


def test_cve_2026_30886_a_request_is_found_by_its_owner_only(database: Database) -> None:
    with database.write() as connection:
        keep_record(connection, RECORD)
        assert requests.get_request(connection, RECORD.id, 7) == RECORD
        assert requests.get_request(connection, RECORD.id, None) == RECORD
        for other in (8, 0):
            assert requests.get_request(connection, RECORD.id, other) is None
        assert requests.list_requests(connection, limit=2) == [RECORD]


def test_calls_are_listed_from_the_newest_page_by_page_of_all_keys_or_of_one(database: Database) -> None:
    def page(limit: int, **which: Any) -> list[int]:
        return [record.id[0] for record in requests.list_requests(connection, limit, **which)]

    with database.write() as connection:
        for number, key_id in ((2, 1), (1, 2), (4, 2), (3, 1)):
            keep_record(connection, msgspec.structs.replace(RECORD, id=bytes([number] * 16), key_id=key_id))
        assert (page(3), page(3, before=bytes([2] * 16))) == ([4, 3, 2], [1])
        assert (page(1, key_id=1), page(3, key_id=1), page(3, key_id=2)) == ([3], [3, 2], [4, 1])
        assert page(3, key_id=1, before=bytes([3] * 16)) == [2]
        assert page(3, key_id=3) == []


def test_changes_are_listed_from_the_newest_page_by_page(database: Database) -> None:
    with database.write() as connection:
        for number in range(4):
            audit.write(connection, **WHO, action="a.b", subject=f"a:{number}", detail={"n": number})
        first = audit.newest(connection, limit=3)
        assert [(row.subject, row.detail) for row in first] == [(f"a:{n}", f'{{"n":{n}}}') for n in (3, 2, 1)]
        assert [row.subject for row in audit.newest(connection, limit=1, before_id=first[-1].id)] == ["a:0"]


def test_an_operator_takes_over_a_key_that_the_gateway_had_switched_off(
    database: Database, installation: Installation
) -> None:
    with database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec(), **WHO)
        key = channels.add_keys(connection, installation.sealer, channel_id, ["sk-1"], **WHO)[0]
        automatic = {**WHO, "actor": channels.AUTOMATIC}
        channels.set_key_enabled(connection, key.id, False, reason="401", **automatic)
        taken = channels.set_key_enabled(connection, key.id, False, reason="leaked", **WHO)
        again = channels.set_key_enabled(connection, key.id, False, reason="401", **automatic)
    assert taken is not None
    assert (taken.disabled_by, taken.reason) == ("test", "leaked")
    assert again == taken


def test_variants_of_a_price_are_read_back(database: Database) -> None:
    pro = Variant(when={"mode": ("pro", "max"), "resolution": ("1080p",)}, video_second_nano=5, call_nano=1)
    amounts = Amounts(video_second_nano=2, image_nano=3, audio_second_nano=4, variants=(pro,))
    with database.write() as connection:
        added = prices.add_version(connection, model="v", amounts=amounts, source="a", **WHO)
    with database.read() as connection:
        assert prices.get_price(connection, added.price.id) == added
    assert added.price.variants == (pro,)
