"""Signed addresses: how long they are valid, when they change, and what is no signature."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from elkapi.assets.urls import STEP_S, AssetUrls
from elkapi.clock import ManualClock
from elkapi.storage.secrets import KEY_BYTES, Sealer
from elkapi.types import TaskAsset

ASSET = TaskAsset(id=bytes(16), kind="video", content_type="video/mp4", size_bytes=1, source="")


def signing(keep_s: float) -> tuple[AssetUrls, ManualClock]:
    clock = ManualClock()
    clock.advance(1_000_000.5)
    return AssetUrls(Sealer(bytes(KEY_BYTES)), clock, keep_s), clock


def query_of(urls: AssetUrls) -> str:
    return urlsplit(urls.url(ASSET, "http://x")).query


@pytest.mark.parametrize(("keep_s", "step_s"), [(0, 1), (10, 10), (7 * 86_400, STEP_S)])
def test_an_address_is_valid_for_as_long_as_promised_and_at_most_one_step_longer(keep_s: int, step_s: int) -> None:
    urls, clock = signing(keep_s)
    query = query_of(urls)
    clock.advance(keep_s)
    assert urls.is_signed(ASSET.id, query)
    clock.advance(step_s)
    assert not urls.is_signed(ASSET.id, query)


def test_an_address_ends_with_its_second() -> None:
    urls, clock = signing(0)
    query = query_of(urls)
    clock.advance(0.49)
    assert urls.is_signed(ASSET.id, query)
    clock.advance(0.02)
    assert not urls.is_signed(ASSET.id, query)


def test_an_address_stays_the_same_for_a_step() -> None:
    urls, clock = signing(86_400)
    clock.advance(STEP_S - clock.now_ns() / 1e9 % STEP_S)
    query = query_of(urls)
    clock.advance(STEP_S - 1)
    assert query_of(urls) == query
    clock.advance(1)
    assert query_of(urls) != query


def test_an_address_names_its_file_and_has_a_signature_that_nobody_guesses() -> None:
    urls, _ = signing(60)
    for content_type, suffix in (("video/mp4", "mp4"), ("audio/mpeg", "mp3"), ("text/html", "bin")):
        asset = msgspec.structs.replace(ASSET, id=bytes(range(16)), content_type=content_type)
        path, _, query = urls.url(asset, "http://x").partition("?")
        assert path == f"http://x/v1/assets/{asset.id.hex()}/video-0c0d0e0f.{suffix}"
        (signature,) = parse_qs(query)["signature"]
        assert len(bytes.fromhex(signature)) == 24


def test_what_is_no_signature_opens_nothing() -> None:
    urls, _ = signing(60)
    query = query_of(urls)
    assert urls.is_signed(ASSET.id, query)
    expires = query.partition("expires=")[2].partition("&")[0]
    digits = "".join(chr(ord(digit) - ord("0") + 0x660) for digit in expires)
    for other in (
        f"expires={expires}&signature=%C3%A9",
        query.replace(expires, digits),
        query.replace(expires, f"{expires}.0"),
        query.replace(expires, "9" * 5000),
        query.partition("&signature")[0],
        "",
    ):
        assert not urls.is_signed(ASSET.id, other)
    assert not urls.is_signed(b"\1" + ASSET.id[1:], query)
