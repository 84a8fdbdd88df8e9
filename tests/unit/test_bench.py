"""The bench's own arithmetic: process trees, spreads, and that its block in a page leaves other people's text alone."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


def test_tree_counts_a_child_and_its_memory_with_its_parent() -> None:
    import measure

    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    assert child.stdin
    assert child.stdout
    with child.stdin, child.stdout:
        child.stdout.readline()
        found = {process.pid: process for process in measure.tree([os.getpid()])}
        assert {os.getpid(), child.pid} <= found.keys()
        assert child.pid not in {process.pid for process in measure.tree([])}
        assert found[child.pid].rss_mb > 1
    child.wait()
    assert child.pid not in {process.pid for process in measure.tree([os.getpid()])}


def test_by_role_adds_processes_of_one_name() -> None:
    import measure

    processes = [measure.Process(1, "worker", 1.0, 10.0), measure.Process(2, "worker", 2.0, 20.0)]
    processes.append(measure.Process(3, "ledger", 4.0, 5.0))
    assert measure.by_role(processes, "cpu_s") == {"worker": 3.0, "ledger": 4.0}
    assert measure.by_role(processes, "rss_mb") == {"worker": 30.0, "ledger": 5.0}


def test_spread_is_the_median_with_the_lowest_and_highest_round() -> None:
    import measure

    assert measure.spread([3.0, 1.0, 2.0, 9.0]) == (2.5, 1.0, 9.0)


def test_writing_the_block_twice_replaces_only_the_block(tmp_path: Path) -> None:
    import report

    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nbefore\n", "utf-8")
    report.write_block(page, "first")
    page.write_text(page.read_text("utf-8") + "\nafter\n", "utf-8")
    report.write_block(page, "another's", "litellm bench")
    report.write_block(page, "second")
    text = page.read_text("utf-8")
    assert "first" not in text
    assert text.index("before") < text.index("second") < text.index("after") < text.index("another's")
    assert text.count("gateway bench: begin") == text.count("gateway bench: end") == 1


def test_a_goal_is_held_up_to_its_figure_and_only_what_ran_is_judged() -> None:
    import report

    row = {"scenario": "small", "connections": 32, "cpu_ratio": [6.0, 5.0, 7.0], "added_p99_ratio": 3.01}
    alone = {"scenario": "chat", "connections": 1, "cpu_ratio": [17.0, 17.0, 17.0]}
    crowd = {"streams": 512, "late_ms": 250, "gateway": {"errors": 1, "max_ms": 9.0}}
    found = report.goals({"rows": [row, alone], "rss_mb": {"elk-worker": 130.4}, "crowd": crowd})
    assert [(measured, held) for _, _, measured, held in found] == [
        ("6.00x", True),
        ("3.01x", False),
        ("1, 9.0 ms", False),
        ("130 MB", False),
    ]


def test_rounds_are_paired_so_that_drift_cancels() -> None:
    import gateway

    runs = {"direct": (1.0, 10.0), "nginx": (2.0, 20.0), "gateway": (6.0, 60.0)}
    taken = {
        (name, "small", 1): [dict.fromkeys(("p50_ms", "p99_ms", "cpu_us"), value) for value in values]
        for name, values in runs.items()
    }
    (row,) = gateway.summarise(taken, ["small"], [1])
    assert row["cpu_ratio"] == (3.0, 3.0, 3.0)
    assert row["nginx"]["added_p99_ms"] == (5.5, 1.0, 10.0)


def test_profile_samples_count_for_our_innermost_room_and_for_the_leaf() -> None:
    import gateway

    found = gateway.shares(
        "run (asyncio/runners.py:118);serve (elkapi/relay/serve.py:30);loads (json/decoder.py:9) 3\n"
        "run (asyncio/runners.py:118) 1\n"
    )
    assert found["rooms"] == [("relay", 0.75), ("event loop", 0.25)]
    assert found["functions"] == [("loads (json/decoder.py)", 0.75), ("run (asyncio/runners.py)", 0.25)]


def test_a_few_paced_streams_are_not_measured() -> None:
    import gateway

    assert gateway.cells(["chat", "paced"], [1, 32]) == [("chat", 1), ("chat", 32), ("paced", 32)]


def test_every_scenario_has_a_model_and_a_call() -> None:
    import gateway
    import servers

    for kind in (*gateway.SCENARIOS, "crowd", "small-free"):
        path, body = gateway._asked(kind)
        assert body["model"] == servers.MODELS[kind]
        assert body.get("stream", False) is (kind in gateway.STREAMS)
        assert path.startswith("/v1/")


def test_a_player_counts_a_stream_as_whole_only_with_every_event() -> None:
    import asyncio

    import streams

    async def played(events: int, cut: int) -> tuple[int, int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            body = b"data: x\n\n" * events
            for start in range(0, len(body), cut):
                chunk = body[start : start + cut]
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            order = {"url": url, "path": "/", "body": "", "headers": {}, "connections": 1, "secs": 0, "timed": False}
            figures = await streams.play(order)
        return int(figures["requests"]), int(figures["errors"])

    assert asyncio.run(played(streams.EVENTS, 100_000)) == (1, 0)
    assert asyncio.run(played(streams.EVENTS, 97)) == (1, 0)
    assert asyncio.run(played(streams.EVENTS + 1, 97)) == (0, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.name)
def test_what_a_bench_takes_from_the_gateway_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "elkapi":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
