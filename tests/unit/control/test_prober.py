"""Keys the gateway switched off come back when they work again, each at its own pace; an operator's stay off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from elkapi.clock import ManualClock
from elkapi.control.prober import (
    ANSWERED,
    FIRST_PROBE_AFTER_S,
    ON_TRIAL,
    PROBE_AFTER_S_MAX,
    STEADY_AFTER_S,
    Prober,
    probe_request,
    wait_s,
)
from elkapi.control.store import Store
from elkapi.sandbox.app import Options
from elkapi.sandbox.server import Running, running
from elkapi.storage import schema
from elkapi.storage.installation import Installation
from elkapi.storage.repos import audit, channels, versions
from elkapi.storage.repos.channels import DisabledKey
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import ConnectFailed, UpstreamClient, UpstreamReply, UpstreamRequest

CHANNEL = Channel(id=1, name="east", family="openai", base_url="https://upstream.example/v1", keys=(), models=("m",))


class ReplyOf(UpstreamReply):
    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    async def _pull(self) -> bytes:
        return b""

    def cancel(self) -> None:
        pass


class FakeStore:
    def __init__(self, *key_ids: int) -> None:
        self.off = [DisabledKey(CHANNEL, ChannelKey(key_id, f"secret-{key_id}", False), 7) for key_id in key_ids]
        self.enabled: list[int] = []
        self.reasons: list[str] = []
        self.changed_meanwhile = False

    async def disabled_keys(self) -> list[DisabledKey]:
        return list(self.off)

    async def enable(self, found: DisabledKey, reason: str) -> bool:
        if self.changed_meanwhile:
            return False
        self.enabled.append(found.key.id)
        self.reasons.append(reason)
        self.off.remove(found)
        return True


class FakeUpstream:
    def __init__(self) -> None:
        self.asked: list[UpstreamRequest] = []
        self.good: set[str] = set()
        self.status = 401
        self.fails = False

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        self.asked.append(request)
        if self.fails:
            raise ConnectFailed("refused", phase="connect", sent=False)
        secret = dict(request.headers)[b"authorization"].removeprefix(b"Bearer ").decode()
        return ReplyOf(200 if secret in self.good else self.status)


async def _scan(prober: Prober, clock: ManualClock, seconds: float) -> None:
    """Advance in the prober's own steps, as its loop would."""
    for _ in range(int(seconds / prober.period_s)):
        clock.advance(prober.period_s)
        await prober.run_once()


async def test_key_comes_back_when_its_probe_is_answered_even_when_all_are_off() -> None:
    store, upstream, clock = FakeStore(1, 2, 3), FakeUpstream(), ManualClock()
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    assert upstream.asked == []  # Not at once: the refusal that switched it off is fresh.
    upstream.good = {"secret-2"}
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert len(upstream.asked) == 3
    assert store.enabled == [2]


@pytest.mark.parametrize(("status", "comes_back"), [(200, True), (204, True), (302, False), (401, False), (503, False)])
async def test_only_a_success_brings_a_key_back(status: int, comes_back: bool) -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.status = status
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == ([1] if comes_back else [])


@pytest.mark.parametrize("fails", [False, True])
async def test_bad_key_is_asked_less_and_less_often(fails: bool) -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.fails = fails
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    expected = 0.0
    for tries in range(8):
        expected += wait_s(tries)
        await _scan(prober, clock, expected - clock.monotonic_s() - prober.period_s)
        assert len(upstream.asked) == tries
        await _scan(prober, clock, prober.period_s)
        assert len(upstream.asked) == tries + 1
    assert wait_s(7) == PROBE_AFTER_S_MAX


async def test_key_that_fails_again_soon_waits_longer_than_a_new_one() -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.good = {"secret-1"}
    prober = Prober(store, upstream.send, clock)
    off = store.off[0]
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == [1]
    await _scan(prober, clock, STEADY_AFTER_S)  # Nobody calls it for a while.
    store.off.append(off)  # It lists models, but its calls are refused: the gateway switched it off again.
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == [1]
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == [1, 1]


async def test_key_that_was_well_for_long_starts_anew() -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.good = {"secret-1"}
    prober = Prober(store, upstream.send, clock)
    off = store.off[0]
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    clock.advance(STEADY_AFTER_S + 1)
    await prober.run_once()
    store.off.append(off)
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == [1, 1]


async def test_key_that_somebody_changed_meanwhile_is_left_alone() -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.good = {"secret-1"}
    store.changed_meanwhile = True
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert len(upstream.asked) == 1
    assert store.enabled == []


@pytest.mark.parametrize(
    "base_url", ["https://upstream.example", "https://upstream.example/v1/", "https://upstream.example/v1"]
)
def test_probe_goes_where_and_how_a_call_would(base_url: str) -> None:
    channel = Channel(
        id=1,
        name="east",
        family="openai",
        base_url=base_url,
        keys=(),
        models=("m",),
        allow_private=True,
        proxy_url="http://proxy.example:3128",
        header_set={"OpenAI-Organization": "org"},
        header_remove=("Accept",),
    )
    request = probe_request(channel, ChannelKey(5, "s3cret"))
    assert request.method == b"GET"
    assert request.target == b"/v1/models"
    assert (request.origin.allow_private, request.origin.proxy_url) == (True, "http://proxy.example:3128")
    assert dict(request.headers) == {b"authorization": b"Bearer s3cret", b"openai-organization": b"org"}


@pytest.mark.parametrize(
    ("family", "options", "target", "version"),
    [
        ("anthropic", {}, b"/v1/models", {b"anthropic-version": b"2023-06-01"}),
        ("runway", {}, b"/v1/organization", {b"x-runway-version": b"2024-11-06"}),
        ("azure", {}, b"/openai/models?api-version=2024-10-21", {}),
        ("azure", {"api-version": "2025-01-01"}, b"/openai/models?api-version=2025-01-01", {}),
    ],
)
def test_a_probe_names_the_version_that_its_provider_wants(
    family: str, options: dict[str, str], target: bytes, version: dict[bytes, bytes]
) -> None:
    channel = Channel(1, "east", family, "https://upstream.example", keys=(), models=("m",), options=options)
    request = probe_request(channel, ChannelKey(5, "s3cret"))
    assert request.target == target
    assert version.items() <= dict(request.headers).items()


async def test_a_key_of_a_family_with_nothing_free_to_ask_comes_back_on_trial_ever_later() -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    seller = Channel(id=1, name="east", family="duomi", base_url="https://upstream.example", keys=(), models=("m",))
    off = [DisabledKey(seller, ChannelKey(1, "secret-1", False), 7)]
    store.off = [*off]
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert (upstream.asked, store.enabled) == ([], [1])
    # A call was refused with it at once.
    store.off = [*off]
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert store.enabled == [1]
    await _scan(prober, clock, 2 * FIRST_PROBE_AFTER_S)
    assert (upstream.asked, store.enabled) == ([], [1, 1])


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_key_of_an_upstream_without_a_list_of_models_comes_back_on_trial(status: int) -> None:
    store, upstream, clock = FakeStore(1), FakeUpstream(), ManualClock()
    upstream.status = status
    prober = Prober(store, upstream.send, clock)
    await prober.run_once()
    await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    assert (len(upstream.asked), store.enabled, store.reasons) == (1, [1], [ON_TRIAL])


async def test_go_2026_5652_probe_of_a_private_address_is_refused_by_the_dialer() -> None:
    store, clock = FakeStore(1), ManualClock()
    with running() as sandbox:
        private = Channel(id=1, name="east", family="openai", base_url=sandbox.base_url, keys=(), models=("m",))
        store.off = [DisabledKey(private, ChannelKey(1, "sk-any-key-of-the-sandbox", False), 7)]
        client = UpstreamClient()
        prober = Prober(store, client.send, clock)
        await prober.run_once()
        await _scan(prober, clock, FIRST_PROBE_AFTER_S)
        await client.aclose()
    assert store.enabled == []
    assert client.stats()["connects_total"] == 0


# Against the real tables and a real upstream


def _add(installation: Installation, base_url: str, secrets: list[str]) -> list[int]:
    config = channels.ChannelConfig(models=("text-embedding-3-small",))
    spec = channels.ChannelSpec(name="east", family="openai", base_url=base_url, allow_private=True, config=config)
    with installation.database.write() as connection:
        channel_id = channels.add_channel(connection, installation.sealer, spec, now_ns=1, actor="test")
        added = channels.add_keys(connection, installation.sealer, channel_id, secrets, now_ns=1, actor="test")
    return [key.id for key in added]


def _switch_off(installation: Installation, key_id: int, by: str) -> None:
    table = schema.channel_keys
    with installation.database.write() as connection:
        changed = {"enabled": False, "disabled_by": by, "reason": "status 401", "changed_ns": 5}
        connection.execute(update(table).where(table.c.id == key_id).values(**changed))


@pytest.fixture
def sandbox() -> Iterator[Running]:
    with running(Options(keys=frozenset({"sk-good-key-of-this-test"}))) as served:
        yield served


async def test_probe_against_an_upstream_brings_back_the_key_that_works(
    installation: Installation, sandbox: Running
) -> None:
    good, bad, operators = _add(
        installation, sandbox.base_url, ["sk-good-key-of-this-test", "sk-bad-key-of-this-test", "sk-operators-key-x"]
    )
    _switch_off(installation, good, "auto")
    _switch_off(installation, bad, "auto")
    _switch_off(installation, operators, "cli")
    clock = ManualClock()
    store, client = Store(installation.settings, clock), UpstreamClient()
    try:
        assert {found.key.id for found in await store.disabled_keys()} == {good, bad}
        with installation.database.read() as connection:
            before = versions.read(connection)
        prober = Prober(store, client.send, clock)
        await prober.run_once()
        await _scan(prober, clock, FIRST_PROBE_AFTER_S)
    finally:
        await client.aclose()
        store.close()
    with installation.database.read() as connection:
        keys = {key.id: key for key in channels.view_keys(connection, 1)}
        after = versions.read(connection)
        newest = audit.newest(connection, limit=1)[0]
    assert [keys[key_id].enabled for key_id in (good, bad, operators)] == [True, False, False]
    assert keys[good].reason == ""
    assert keys[bad].reason == "status 401"
    assert after.routing > before.routing
    assert (newest.actor, newest.action) == ("prober", "channel.key.enable")


def test_enabling_gives_way_to_an_operator(installation: Installation) -> None:
    (key_id,) = _add(installation, "https://upstream.example", ["sk-key"])
    _switch_off(installation, key_id, "auto")
    with installation.database.read() as connection:
        (found,) = channels.disabled_keys(connection, installation.sealer)
    table = schema.channel_keys
    with installation.database.write() as connection:
        connection.execute(update(table).where(table.c.id == key_id).values(disabled_by="cli", changed_ns=6))
    with installation.database.write() as connection:
        assert channels.enable_key(connection, found, ANSWERED, now_ns=9, actor="prober") is False
    with installation.database.read() as connection:
        assert channels.view_keys(connection, 1)[0].disabled_by == "cli"


def test_keys_of_a_disabled_channel_are_not_asked(installation: Installation) -> None:
    (key_id,) = _add(installation, "https://upstream.example", ["sk-key"])
    _switch_off(installation, key_id, "auto")
    with installation.database.write() as connection:
        channels.set_enabled(connection, 1, False, now_ns=6, actor="test")
    with installation.database.read() as connection:
        assert channels.disabled_keys(connection, installation.sealer) == []
