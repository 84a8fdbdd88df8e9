"""What a call for a model that nothing serves is told, however many models there are."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
import pytest

from elkapi.catalog import CATALOG, Facts
from elkapi.relay import route
from elkapi.relay.read import Request
from elkapi.snapshot import Snapshot
from elkapi.types import Channel, ChannelKey, Grant, Usage

GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
CHAT = CATALOG.by_id["openai.chat"]
RERANK = CATALOG.by_id["openai.rerank"]


def snapshot_of(*models: str, family: str = "deepseek") -> Snapshot:
    served = Channel(
        id=1, name="c", family=family, base_url="https://a.example", keys=(ChannelKey(1, "k"),), models=models
    )
    return Snapshot(
        version=1,
        groups={"default": 1_000_000},
        prices={},
        test_prices={},
        channels={1: served},
        tiers={("live", "default", model): ((served,),) for model in models},
        models={("live", "default"): tuple(sorted(models))},
    )


def told(snapshot: Snapshot, model: str, operation: Any = CHAT, grant: Grant = GRANT) -> str:
    return str(route.no_channel(snapshot, grant, Request(operation, model, b"", Facts(model, Usage()))))


def test_a_model_that_nobody_has_is_compared_with_a_few_of_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, looked_at = [], []
    close, serves = difflib.get_close_matches, route.can_serve

    def noted(word: str, names: list[str], **given: Any) -> list[str]:
        compared.extend(names)
        return close(word, names, **given)

    def counted(*given: Any) -> bool:
        looked_at.append(given[-1])
        return serves(*given)

    monkeypatch.setattr(difflib, "get_close_matches", noted)
    monkeypatch.setattr(route, "can_serve", counted)
    many = snapshot_of(*(f"vendor-{number % 50}/model-{number}" for number in range(5_000)))
    for asked, meant in (("vendor-7/model-2357-chat", "vendor-7/model-2357"), ("a", "vendor-0/"), ("zz", "vendor-9/")):
        compared.clear()
        looked_at.clear()
        assert meant in told(many, asked)
        assert len(compared) == len(looked_at) == route.COMPARED_MAX


def test_the_names_of_a_small_group_are_all_compared() -> None:
    assert told(snapshot_of("zeta-large", "gpt-4o", "alpha"), "tgp-4o").endswith("Available: gpt-4o.")


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({}, True),
        ({"groups": ("vip",)}, False),
        ({"scope": "test"}, False),
        ({"models": ("n",)}, False),
        ({"keys": (ChannelKey(1, "k"),)}, False),
    ],
)
def test_a_model_whose_keys_are_all_out_of_service_is_said_to_be_that_within_its_own_group(
    change: dict[str, Any], is_told: bool
) -> None:
    idle = Channel(
        id=2, name="idle", family="deepseek", base_url="https://b.example",
        keys=(ChannelKey(1, "k", enabled=False),), models=("m",), groups=("default",),
    )  # fmt: skip
    snapshot = snapshot_of("o")
    snapshot.channels[2] = msgspec.structs.replace(idle, **change)
    assert ("no working upstream right now" in told(snapshot, "m")) is is_told


def test_a_group_without_any_model_is_told_so() -> None:
    assert "This group has no models" in told(snapshot_of(), "m")


def test_a_key_whose_models_nobody_serves_is_not_told_that_its_group_has_none() -> None:
    limited = msgspec.structs.replace(GRANT, models=frozenset({"m"}))
    assert told(snapshot_of("o"), "m", grant=limited).endswith("is served there; ask the operator.")


@pytest.mark.parametrize(("others", "more"), [(1, ", and no other model supports it."), (500, ".")])
def test_a_model_for_other_calls_is_said_to_be_that(others: int, more: str) -> None:
    snapshot = snapshot_of("m", *(f"n{number}" for number in range(others)))
    assert told(snapshot, "m", RERANK).endswith(f"the model supports other calls{more}")
