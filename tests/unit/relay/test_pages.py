"""Lists of models: what each is for is found out once, not for every caller who lists them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from elkapi.catalog import CATALOG
from elkapi.relay import pages
from elkapi.relay.route import can_serve
from elkapi.sandbox.providers import VIDEO_MODELS
from elkapi.snapshot import Snapshot
from elkapi.types import Channel, ChannelKey, Grant, Policy, Scope

GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
PLANE: Any = SimpleNamespace(catalog=CATALOG, model_facts={})


def test_a_second_list_of_the_models_looks_at_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(snapshot: Snapshot, grant: Grant, operation: Any, model: str) -> bool:
        asked.append(model)
        return can_serve(snapshot, grant, operation, model)

    monkeypatch.setattr(pages, "can_serve", counted)
    keys = (ChannelKey(1, "k"),)
    luma = Channel(id=1, name="l", family="luma", base_url="https://a.example", keys=keys, models=("ray-2",))
    chat = Channel(id=2, name="c", family="openai", base_url="https://b.example", keys=keys, models=("gpt-4o",))
    snapshot = Snapshot(
        version=1,
        groups={"default": 1_000_000},
        prices={},
        test_prices={},
        channels={1: luma, 2: chat},
        tiers={("live", "default", "ray-2"): ((luma,),), ("live", "default", "gpt-4o"): ((chat,),)},
        models={("live", "default"): ("gpt-4o", "ray-2")},
    )
    first = pages._openai_list(pages._models_of(PLANE, snapshot, GRANT))
    kinds = {model["id"]: model["supported_endpoint_types"] for model in first["data"]}
    assert kinds["gpt-4o"] == ["openai", "openai-response", "anthropic", "gemini"]
    assert kinds["ray-2"] == ["openai", "openai-video"]
    assert asked
    asked.clear()
    assert pages._openai_list(pages._models_of(PLANE, snapshot, GRANT)) == first
    assert asked == []
    # Another key may call something else by the same name.
    other = Grant(2, "o", 1, "default", "live", (2,), None, None, True, Policy(aliases={"gpt-4o": "ray-2"}))
    aliased = pages._models_of(PLANE, snapshot, other)
    assert (aliased.kind("gpt-4o"), pages._models_of(PLANE, snapshot, GRANT).kind("gpt-4o")) == ("video", "text")


NOT_NEUTRAL = ("eleven_multilingual_v2", "magnific_precision_upscaler_v2", "photon-1", "gen4_image", "kling-lip-sync")


def listing(scope: Scope, family: str, names: tuple[str, ...]) -> pages._Models:
    keys = (ChannelKey(1, "k"),)
    channel = Channel(id=1, name="c", family=family, base_url="https://a.example", keys=keys, models=names, scope=scope)
    snapshot = Snapshot(
        version=1,
        groups={"default": 1_000_000},
        prices={},
        test_prices={},
        channels={1: channel},
        tiers={(scope, "default", name): ((channel,),) for name in names},
        models={(scope, "default"): names},
    )
    return pages._models_of(PLANE, snapshot, msgspec.structs.replace(GRANT, scope=scope))


@pytest.mark.parametrize(
    ("scope", "family"), [("test", "sandbox"), ("live", "elkapi"), ("live", "runway"), ("live", "luma")]
)
def test_a_model_of_a_providers_own_routes_is_listed_as_neither_text_nor_video(scope: Scope, family: str) -> None:
    models = listing(scope, family, NOT_NEUTRAL)
    shown = {one["id"]: one["supported_endpoint_types"] for one in pages._openai_list(models)["data"]}
    assert shown == {name: [] for name in NOT_NEUTRAL}
    google: Any = pages._gemini_list(models, "")
    assert [one["supportedGenerationMethods"] for one in google["models"]] == [[]] * len(NOT_NEUTRAL)


def test_every_model_that_the_sandbox_lists_for_tasks_is_listed_for_them() -> None:
    models = listing("test", "sandbox", VIDEO_MODELS)
    assert {models.kind(name) for name in VIDEO_MODELS} == {"video", "task"}


@pytest.mark.parametrize(("family", "kind"), [("jina", "embedding"), ("cohere", "rerank"), ("openai", "text")])
def test_a_model_whose_name_says_nothing_is_for_what_its_channels_serve(family: str, kind: str) -> None:
    assert listing("live", family, ("ours-v2",)).kind("ours-v2") == kind


def test_an_alias_is_listed_as_the_model_that_it_names() -> None:
    models = listing("live", "openai", ("text-embedding-3-small", "bundled"))
    plane: Any = SimpleNamespace(catalog=CATALOG, model_facts={"bundled": {"dimensions": 384, "bundled": True}})
    aliases = {"vectors": "text-embedding-3-small", "b": "bundled"}
    aliased = msgspec.structs.replace(models, plane=plane, aliases=aliases)
    shown = {one["id"]: one for one in pages._openai_list(aliased)["data"]}
    for name in ("vectors", "text-embedding-3-small", "b", "bundled"):
        assert shown[name]["supported_endpoint_types"] == ["embeddings"], name
    assert shown["b"]["dimensions"] == 384
