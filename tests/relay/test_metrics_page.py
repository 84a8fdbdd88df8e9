"""`GET /metrics` over HTTP: who may read what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from elkapi.clock import ManualClock
from elkapi.observe.metrics import Metrics, MetricsPages
from tests.gateway import gateway


@pytest.mark.parametrize(
    ("token", "headers", "answer"),
    [
        ("", {}, (200, "public")),
        # Without a token nobody can be told from anybody, and a caller's key is none.
        ("", {"authorization": "Bearer x"}, (200, "public")),
        ("", {"authorization": "Bearer sk-customer"}, (200, "public")),
        ("operators", {}, (200, "public")),
        ("operators", {"authorization": "Bearer operators"}, (200, "whole")),
        ("operators", {"authorization": "Bearer operator"}, (401, "")),
        ("operators", {"authorization": "operators"}, (401, "")),
    ],
)
async def test_only_the_operators_token_shows_channels_and_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, headers: dict[str, str], answer: tuple[int, str]
) -> None:
    def page(*, for_operator: bool) -> bytes:
        return b"whole" if for_operator else b"public"

    monkeypatch.setattr(Metrics, "page", page)
    async with gateway(tmp_path, metrics_token=token) as gate:
        reply = await gate.http.get("/metrics", headers=headers)
    assert (reply.status_code, reply.text if reply.status_code == 200 else "") == answer


async def test_who_asks_within_a_second_gets_the_page_that_another_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []

    def page(*, for_operator: bool) -> bytes:
        made.append(for_operator)
        if len(made) == 1:
            raise OSError("a file of a process that ended")
        return b"page %d" % len(made)

    monkeypatch.setattr(Metrics, "page", page)
    clock = ManualClock()
    pages = MetricsPages(clock)

    async def asked(count: int, *, for_operator: bool = False) -> set[bytes]:
        return set(await asyncio.gather(*(pages.page(for_operator=for_operator) for _ in range(count))))

    with pytest.raises(OSError, match="ended"):
        await asked(1)
    assert await asked(20) == {b"page 2"}
    assert await asked(5, for_operator=True) == {b"page 3"}
    assert await asked(5) == {b"page 2"}
    clock.advance(1.5)
    leaving = asyncio.ensure_future(pages.page(for_operator=False))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await asked(5) == {b"page 4"}
    assert made == [False, False, True, False]
