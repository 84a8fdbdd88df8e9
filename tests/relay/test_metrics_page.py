"""`GET /metrics` over HTTP: who may read what."""

from __future__ import annotations

from pathlib import Path

import pytest

from elkapi.observe.metrics import Metrics
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
