"""What a snapshot holds, and how soon and how safely it changes, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection

from elkapi.clock import ManualClock
from elkapi.errors import Unavailable
from elkapi.ledger.accounts import create_account
from elkapi.settings import Settings
from elkapi.snapshot import BUNDLED_CHANNEL_ID, SANDBOX_CHANNEL_ID, Snapshot, SnapshotHolder, build_snapshot
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation
from elkapi.storage.repos import channels, groups, keys, owners, prices, versions
from elkapi.types import Amounts
from tests.waiting import until

WHO: dict[str, Any] = {"now_ns": 1, "actor": "test"}


def add(connection: Connection, installation: Installation, name: str, *, secrets: int = 1, **fields: Any) -> int:
    columns = {"enabled", "priority", "weight"} & fields.keys()
    spec = channels.ChannelSpec(
        name=name,
        family="openai",
        base_url="https://api.example.com",
        **{column: fields.pop(column) for column in columns},
        config=channels.ChannelConfig(**({"models": ("m",)} | fields)),
    )
    channel_id = channels.add_channel(connection, installation.sealer, spec, **WHO)
    channels.add_keys(connection, installation.sealer, channel_id, [f"secret {n}" for n in range(secrets)], **WHO)
    return channel_id


def build(installation: Installation, **models: Any) -> Snapshot:
    with installation.database.read() as connection:
        return build_snapshot(connection, installation.sealer, installation.settings, **models)


def names(snapshot: Snapshot, model: str = "m", group: str = "default") -> list[list[str]]:
    return [[channel.name for channel in tier] for tier in snapshot.tiers_for("live", group, model)]


def test_tiers_go_by_descending_priority(installation: Installation) -> None:
    with installation.database.write() as connection:
        for name, priority in (("low", -1), ("high", 5), ("also high", 5), ("middle", 0)):
            add(connection, installation, name, priority=priority)
    assert names(build(installation)) == [["high", "also high"], ["middle"], ["low"]]


def test_disabled_channels_and_channels_without_a_working_key_stay_out(installation: Installation) -> None:
    with installation.database.write() as connection:
        add(connection, installation, "off", enabled=False)
        add(connection, installation, "keyless", secrets=0)
        half = add(connection, installation, "half", secrets=2)
        dead = add(connection, installation, "dead")
        for key in (channels.view_keys(connection, half)[0], channels.view_keys(connection, dead)[0]):
            channels.set_key_enabled(connection, key.id, False, reason="401", **WHO)
    snapshot = build(installation)
    assert names(snapshot) == [["half"]]
    # Still known by id: a probe of its keys needs it.
    assert {channel.name for channel in snapshot.channels.values()} == {"keyless", "half", "dead"}


def test_groups_models_and_aliases_decide_who_is_served(installation: Installation) -> None:
    with installation.database.write() as connection:
        groups.set_group(connection, name="vip", ratio_micro=800_000, description=None, **WHO)
        add(connection, installation, "vip only", groups=("vip",), aliases={"nick": "m"})
    snapshot = build(installation)
    assert names(snapshot) == []
    assert names(snapshot, group="vip") == [["vip only"]]
    assert names(snapshot, "nick", "vip") == [["vip only"]]
    assert names(snapshot, "other", "vip") == []
    assert snapshot.groups == {"default": 1_000_000, "vip": 800_000}


def test_only_priced_models_are_listed(installation: Installation) -> None:
    with installation.database.write() as connection:
        add(connection, installation, "c", models=("z", "text-embedding-3-small", "a"), aliases={"b": "a"})
        for model in ("z", "b"):
            prices.add_version(connection, model=model, amounts=Amounts(), source="test", **WHO)
    snapshot = build(installation)
    assert snapshot.models_for("live", "default") == ("b", "text-embedding-3-small", "z")
    assert snapshot.price_for("live", "a") is None
    assert snapshot.models_for("live", "nobody") == ()


def test_the_bundled_models_are_a_free_channel_of_every_group_behind_the_operators(installation: Installation) -> None:
    with installation.database.write() as connection:
        groups.set_group(connection, name="vip", ratio_micro=1, description=None, **WHO)
        add(connection, installation, "own", models=("mini",), priority=-999)
    snapshot = build(installation, bundled=("mini", "midi"))
    assert names(snapshot, "mini") == [["own"], ["bundled"]]
    assert names(snapshot, "midi", "vip") == [["bundled"]]
    price = snapshot.price_for("live", "midi")
    assert price is not None
    assert price.is_zero
    bundled = snapshot.channels[BUNDLED_CHANNEL_ID]
    assert bundled.base_url == f"unix://{installation.settings.socket_path('models')}"
    assert bundled.family == "local"


def test_an_operators_price_for_a_bundled_model_wins(installation: Installation) -> None:
    with installation.database.write() as connection:
        prices.add_version(connection, model="mini", amounts=Amounts(call_nano=3), source="test", **WHO)
    price = build(installation, bundled=("mini",)).price_for("live", "mini")
    assert price is not None
    assert price.call_nano == 3


def test_test_keys_reach_the_sandbox_only_and_live_keys_never(installation: Installation) -> None:
    with installation.database.write() as connection:
        add(connection, installation, "own", models=("text-embedding-3-small",))
    snapshot = build(installation, sandbox=("text-embedding-3-small",))
    test_tiers = snapshot.tiers_for("test", "default", "text-embedding-3-small")
    assert [[channel.id for channel in tier] for tier in test_tiers] == [[SANDBOX_CHANNEL_ID]]
    assert names(snapshot, "text-embedding-3-small") == [["own"]]
    test_price, live_price = (snapshot.price_for(scope, "text-embedding-3-small") for scope in ("test", "live"))
    assert test_price is not None
    assert live_price is not None
    assert test_price.is_zero
    assert not live_price.is_zero
    assert snapshot.models_for("test", "default") == ("text-embedding-3-small",)


def test_a_channel_that_does_not_open_is_warned_of_and_left_out(installation: Installation) -> None:
    with installation.database.write() as connection:
        channel_id = add(connection, installation, "broken")
        add(connection, installation, "fine")
        row = schema.channel_keys.c.channel_id == channel_id
        connection.execute(schema.channel_keys.update().where(row).values(sealed=b"\x01damaged"))
    snapshot = build(installation)
    assert names(snapshot) == [["fine"]]
    assert len(snapshot.warnings) == 1
    assert "broken" in snapshot.warnings[0]


class Evictions:
    """Collects what a holder reports of changed keys."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[tuple[int, bytes]] | None]] = []

    def __call__(self, version: int, changed: list[tuple[int, bytes]] | None) -> None:
        self.seen.append((version, changed))


async def test_a_change_of_routing_swaps_the_snapshot_whole(installation: Installation) -> None:
    holder = SnapshotHolder(installation.database, installation.sealer, installation.settings)
    await holder.start()
    try:
        before = holder.current
        with installation.database.write() as connection:
            add(connection, installation, "new")
        await until(lambda: holder.current is not before)
        assert names(holder.current) == [["new"]]
        assert names(before) == []
    finally:
        await holder.stop()


async def test_a_change_of_a_key_evicts_it_and_keeps_the_snapshot(installation: Installation) -> None:
    evictions = Evictions()
    holder = SnapshotHolder(
        installation.database, installation.sealer, installation.settings, on_keys_changed=evictions
    )
    await holder.start()
    try:
        before = holder.current
        with installation.database.write() as connection:
            account_id = create_account(connection, "test")
            owner_id = owners.operator_id(connection)
            fields: dict[str, Any] = {"name": "k", "owner_id": owner_id, "group": "default", "scope": "live"}
            row, plaintext = keys.create_key(
                connection, **fields, account_id=account_id, models=None, expires_at_ns=None, **WHO
            )
            version = versions.read(connection).config
        await until(lambda: bool(evictions.seen) and evictions.seen[-1][0] == version)
        from elkapi.storage import apikey

        assert evictions.seen[-1] == (version, [(row.id, apikey.digest(plaintext))])
        assert holder.current is before
    finally:
        await holder.stop()


async def test_a_version_that_fell_back_forgets_every_key(installation: Installation) -> None:
    evictions = Evictions()
    with installation.database.write() as connection:
        versions.raise_to(connection, 50)
    holder = SnapshotHolder(
        installation.database, installation.sealer, installation.settings, on_keys_changed=evictions
    )
    await holder.start()
    try:
        with installation.database.write() as connection:
            versions.raise_to(connection, 9)
        await until(lambda: bool(evictions.seen) and evictions.seen[-1] == (9, None))
    finally:
        await holder.stop()


async def test_g78_a_lost_database_makes_the_snapshot_older_and_nothing_else(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    holder = SnapshotHolder(installation.database, installation.sealer, installation.settings, clock=clock)
    await holder.start()
    try:
        before, asked = holder.current, 0

        def lost(*_: object) -> None:
            nonlocal asked
            asked += 1
            unavailable = Unavailable("lost")
            unavailable.add_note("too many clients already")
            raise unavailable

        with monkeypatch.context() as patch:
            patch.setattr(Database, "look", lost)
            await until(lambda: asked >= 2)
            clock.advance(30)
            assert holder.current is before
            assert holder.age_s == 30
            assert "too many clients already" in caplog.text
        await until(lambda: holder.age_s == 0)
    finally:
        await holder.stop()


async def test_a_poll_without_news_begins_no_transaction(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    holder = SnapshotHolder(installation.database, installation.sealer, installation.settings, clock=clock)
    await holder.start()
    try:
        monkeypatch.delattr(Database, "read")
        clock.advance(30)
        await until(lambda: holder.age_s == 0)
    finally:
        await holder.stop()


async def test_without_a_first_snapshot_the_answer_is_unavailable(database_url: str, tmp_path: Any) -> None:
    database = Database.open(database_url)
    from elkapi.storage.secrets import Sealer

    holder = SnapshotHolder(database, Sealer(bytes(32)), Settings(data_dir=str(tmp_path)))
    with pytest.raises(Unavailable):
        _ = holder.current
    database.close()
