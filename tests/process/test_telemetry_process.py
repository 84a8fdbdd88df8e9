"""Telemetry through the real processes: workers, control process, collector; the last calls are told at the end."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.collector import collecting, values
from tests.live import LiveGateway

CALLS = 5


def test_every_call_of_a_gateway_is_told_by_the_time_it_has_stopped(tmp_path: Path) -> None:
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "ELKAPI_OTLP_METRICS_S": "60",
            "ELKAPI_METRICS_TOKEN": "operators",
        }
        live = LiveGateway(tmp_path, environment)
        live.start()
        try:
            headers = {"authorization": f"Bearer {live.make_key('test', '--test')}"}
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
            asked = []
            for _ in range(CALLS):
                reply = httpx.post(f"{live.base_url}/v1/chat/completions", json=body, headers=headers, timeout=20)
                assert reply.status_code == 200, reply.text
                asked.append(reply.headers["x-request-id"])
            operator = {"authorization": "Bearer operators"}
            figures = httpx.get(f"{live.base_url}/metrics", headers=operator, timeout=20).text
            public = httpx.get(f"{live.base_url}/metrics", timeout=20).text
        finally:
            status = live.stop()
    assert status == 0, live.log_tail()
    assert sorted(values(span.attributes)["elkapi.request_id"] for span in collector.spans) == sorted(asked)
    assert "gen_ai.client.operation.duration" in collector.metrics
    assert "elkapi_telemetry_calls_dropped 0.0" in figures
    assert "elkapi_usage_rows_dropped 0.0" in figures
    assert "elkapi_telemetry_spans_lost_total 0.0" in figures
    assert "telemetry" not in public
