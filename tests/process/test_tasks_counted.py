"""What tasks are charged and lose is in the figures of the whole gateway, though its control process ends them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.cluster import Cluster, cluster, set_price, upstream
from tests.process.conftest import SETTINGS
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FRAME = {"model": "gen4_turbo", "promptImage": "https://pictures.example/a.png", "ratio": "1280:720", "duration": 5}
NANO = 250_000_000
REQUESTS = 'elkapi_requests_total{{operation="runway.image-to-video",status="{}"}}'


def figures(gate: Cluster) -> dict[str, float]:
    page = httpx.get(f"{gate.origin}/metrics", headers={"authorization": "Bearer operators"}, timeout=20).text
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_the_page_of_figures_has_what_tasks_cost_and_lost() -> None:
    settings: dict[str, Any] = {
        **SETTINGS,
        "workers": 2,
        "task_poll_every_s": 0.2,
        "asset_copy_tries_max": 1,
        "metrics_token": "operators",
    }
    with cluster("", **settings) as gate, upstream(gate.folder) as sandbox:
        gate.channel("runway", sandbox.base_url + "/runway", ("gen4_turbo",), family="runway", secrets=("key_r",))
        set_price(gate.admin, "gen4_turbo", per_second="0.05")
        gate.start()
        await gate.ready()
        headers = {"authorization": f"Bearer {gate.key('caller', 10**10)}"}
        async with httpx.AsyncClient(base_url=gate.origin, headers=headers, timeout=20) as http:
            for fault in ("", ", file-lost", ", task-fails"):
                body = {**FRAME, "promptText": f"[sandbox: task-queued=0s, task-takes=0s{fault}]"}
                assert (await http.post("/runwayml/v1/image_to_video", json=body)).status_code == 200
        wanted = {
            REQUESTS.format(200): 1,
            REQUESTS.format(502): 2,
            'elkapi_attempts_total{channel="runway",outcome="ok"}': 3,
            "elkapi_charged_nano_usd_total": NANO,
            "elkapi_operator_loss_nano_usd_total": NANO,
        }
        # Figure after figure is written, so a page may have one of an end and not yet the next.
        await until(lambda: wanted.items() <= figures(gate).items(), 60, "all have ended and are counted")
        report = gate.check()
        assert report.ok, "\n".join(report.lines())
        assert (report.charged_nano, report.loss_nano) == (NANO, NANO)
        # Each worker's page is up to a second old, so that of the other one may still lack the end.
        await until(lambda: wanted.items() <= figures(gate).items(), 60, "it stays so")
