"""What a relayed call costs beside nginx: CPU per request, latency added, memory, money, and where the time goes.

    .venv/bin/python bench/gateway.py [--rounds 5] [--secs 2] [--keys 1000000] [--no-docs]

The method: nginx and a C upstream stand for the least a relay can cost. The measured server has core 0 to itself; the
load (wrk, or bench/streams.py for streams) and the upstream share core 1. Every round runs each server and each
scenario in turn, forwards and then backwards, so that drift of the machine falls on all alike; figures are medians of
the rounds with their range. Results go to bench/results/ (one file a run), docs/performance.json, docs/performance.md
and docs/performance.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import measure
import report
import servers

PROMPT = (
    "Summarise in two sentences why the quick brown fox jumps over the lazy dog, and what the dog thinks of it. " * 2
)
RESULTS, DOCS = servers.BENCH / "results", servers.ROOT / "docs"
# Scenario -> its name in the tables.
SCENARIOS = {
    "large": "embedding, 20 KB",
    "small": "embedding, 0.3 KB",
    "steady-large": "embedding, 20 KB, about 1,000 a second",
    "steady-small": "embedding, 0.3 KB, about 1,000 a second",
    "chat": "chat, 0.6 KB",
    "burst": "100-event stream, at once",
    "paced": "100-event stream, one every 10 ms",
}
# Below full load, where latency is not just CPU time: 32 connections that pause between calls.
STEADY_CONNECTIONS, STEADY_PAUSE_MS = 32, 30
STREAMS = frozenset({"burst", "paced", "crowd"})
CROWD_STREAMS, LATE_MS = 512, 250
PACED_CONNECTIONS_MIN = 32
PROFILE_S = 8
PROFILE_ROWS = 15
KEY_CONNECTIONS = 32

Figures = dict[str, float]


def _asked(kind: str) -> tuple[str, dict[str, Any]]:
    """(path, body) of a scenario's call."""
    model = servers.MODELS[kind]
    if not (kind in STREAMS or kind == "chat"):
        return "/v1/embeddings", {"model": model, "input": PROMPT, "encoding_format": "float"}
    system = {"role": "system", "content": "You are a helpful assistant."}
    body = {"model": model, "messages": [system, {"role": "user", "content": PROMPT}], "temperature": 0.7}
    if kind in STREAMS:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return "/v1/chat/completions", body


def _load(server: servers.Server, kind: str) -> measure.Load:
    path, asked = _asked(kind)
    body = json.dumps(asked, separators=(",", ":")).encode()
    stream, timed = kind in STREAMS, kind in STREAMS - {"burst"}
    pause_ms = STEADY_PAUSE_MS if kind.startswith("steady") else 0
    return measure.Load(
        server.url, path, body, server.headers, server.keys, servers.DRIVER_CORE, stream, timed, pause_ms
    )


def run_rounds(
    targets: dict[str, servers.Server], kinds: list[str], connections: list[int], rounds: int, secs: int
) -> dict[tuple[str, str, int], list[Figures]]:
    """Run every (server, scenario, connections) once per round; odd rounds run the list backwards."""
    plan = [(name, kind, c) for kind, c in cells(kinds, connections) for name in targets]
    taken: dict[tuple[str, str, int], list[Figures]] = {cell: [] for cell in plan}
    for kind in kinds:
        for server in targets.values():
            measure.run_load(_load(server, kind), 32, 1, [server.process.pid])  # warm up, uncounted
    for number in range(rounds):
        for name, kind, c in plan if number % 2 == 0 else reversed(plan):
            server = targets[name]
            taken[name, kind, c].append(measure.run_load(_load(server, kind), c, secs, [server.process.pid]))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return taken


def summarise(taken: dict[tuple[str, str, int], list[Figures]], kinds: list[str], connections: list[int]) -> list[Any]:
    """One row per scenario: the spread of every figure, what each server adds, and the ratio of their CPU."""
    rows = []
    for kind, c in cells(kinds, connections):
        direct = taken["direct", kind, c]
        row: dict[str, Any] = {"reply": SCENARIOS[kind], "scenario": kind, "connections": c}
        for name in ("direct", "nginx", "gateway"):
            runs = taken.get((name, kind, c), [])
            fields = sorted({field for run in runs for field in run})
            row[name] = {field: measure.spread(run.get(field, 0.0) for run in runs) for field in fields}
            for p in ("p50_ms", "p99_ms") if runs else ():
                added = (run[p] - base[p] for run, base in zip(runs, direct, strict=True))
                row[name][f"added_{p}"] = measure.spread(added)
        if row["gateway"] and row["nginx"]:
            pairs = zip(taken["gateway", kind, c], taken["nginx", kind, c], strict=True)
            row["cpu_ratio"] = measure.spread(g["cpu_us"] / max(n["cpu_us"], 0.1) for g, n in pairs)
            row["added_p99_ratio"] = round(
                row["gateway"]["added_p99_ms"][0] / max(row["nginx"]["added_p99_ms"][0], 0.01), 2
            )
        rows.append(row)
    return rows


def cells(kinds: list[str], connections: list[int]) -> list[tuple[str, int]]:
    """Every (scenario, connections); a few paced streams use less CPU than the kernel's clock resolves."""
    found = []
    for kind in kinds:
        if kind.startswith("steady"):
            found.append((kind, STEADY_CONNECTIONS))
        else:
            found += [(kind, c) for c in connections if kind != "paced" or c >= PACED_CONNECTIONS_MIN]
    return found


def ledger_cost(gateway: servers.Server, rounds: int, secs: int) -> measure.Spread:
    """CPU us per call of the ledger: a priced model minus a zero-priced one, alternating."""
    taken = run_rounds({"gateway": gateway}, ["small", "small-free"], [KEY_CONNECTIONS], rounds, secs)
    priced = taken["gateway", "small", KEY_CONNECTIONS]
    free = taken["gateway", "small-free", KEY_CONNECTIONS]
    return measure.spread(p["cpu_us"] - f["cpu_us"] for p, f in zip(priced, free, strict=True))


def keys_cost(directory: Path, upstream: servers.Server, options: argparse.Namespace) -> dict[str, Any]:
    """Run the same calls on a gateway with 100 keys and on one with `--keys`, alternating."""
    started: dict[str, servers.Server] = {}
    try:
        for name, count in (("few", 100), ("many", options.keys)):
            started[name] = servers.start_gateway(
                directory / name, upstream, workers=1, synchronous=options.synchronous, keys=count
            )
        taken = run_rounds(started, ["small"], [KEY_CONNECTIONS], options.rounds, options.secs)
        many = [run["cpu_us"] for run in taken["many", "small", KEY_CONNECTIONS]]
        few = [run["cpu_us"] for run in taken["few", "small", KEY_CONNECTIONS]]
        return {
            "rows": options.keys,
            "used": len(started["many"].keys),
            "connections": KEY_CONNECTIONS,
            "ratio": measure.spread(m / f for m, f in zip(many, few, strict=True)),
            "cpu_us": {"few": measure.spread(few), "many": measure.spread(many)},
            "errors": sum(run["errors"] for runs in taken.values() for run in runs),
            "rss_mb": measure.by_role(measure.tree([started["many"].process.pid]), "rss_mb"),
        }
    finally:
        for server in started.values():
            server.stop()


def crowd(targets: dict[str, servers.Server], secs: int) -> dict[str, Any]:
    """Run many paced streams at once through each server: the streams lost, and the lag of their events."""
    result: dict[str, Any] = {"streams": CROWD_STREAMS, "late_ms": LATE_MS}
    for name, server in targets.items():
        run = measure.run_load(_load(server, "crowd"), CROWD_STREAMS, secs, [server.process.pid])
        result[name] = {field: round(run[field], 3) for field in ("requests", "errors", "p50_ms", "p99_ms", "max_ms")}
    return result


def profile(gateway: servers.Server) -> dict[str, list[tuple[str, float]]]:
    """Where the busiest process spends its time under load, from py-spy's samples; {} if py-spy is not installed.

    Only threads that hold the GIL are counted: py-spy reports a thread that waits in a queue as busy. `rooms`: each
    sample counts for our innermost frame on its stack; `functions`: for the innermost frame.
    """
    spy = Path(sys.executable).parent / "py-spy"
    if not spy.exists():
        return {}
    busiest = max(measure.tree([gateway.process.pid]), key=lambda process: process.cpu_s)
    folded = gateway.directory / "profile.txt"
    command: list[str | Path] = [
        spy,
        "record",
        "--pid",
        str(busiest.pid),
        "--duration",
        str(PROFILE_S),
        "--rate",
        "200",
    ]
    with (gateway.directory / "py-spy.log").open("wb") as log:
        recording = subprocess.Popen([*command, "--gil", "--format", "raw", "--output", folded], stdout=log, stderr=log)
        measure.run_load(_load(gateway, "large"), 32, PROFILE_S, [gateway.process.pid])
        recording.wait(60)
    return shares(folded.read_text("utf-8")) if folded.exists() else {}


def shares(folded: str) -> dict[str, list[tuple[str, float]]]:
    """Folded stacks (`a (file:line);b (file:line) COUNT`) to shares by room and by function, largest first."""
    rooms: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rstrip(")").rpartition(":")[0] or frame for frame in stack.split(";")]
        files = [frame.rpartition("(")[2].split("/") for frame in frames]
        ours = [file[file.index("elkapi") + 1].removesuffix(".py") for file in files if "elkapi" in file[:-1]]
        rooms[ours[-1] if ours else "event loop"] += int(count)
        functions[f"{frames[-1]})"] += int(count)
    return {
        name: [(key, round(value / found.total(), 4)) for key, value in found.most_common(PROFILE_ROWS)]
        for name, found in (("rooms", rooms), ("functions", functions))
    }


def machine() -> dict[str, Any]:
    """The machine of the measurement."""
    told = dict(line.split("\t", 1) for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if "\t" in line)
    about = {name: value.strip(" \t:") for name, value in told.items()}
    cpu = about.get("model name", platform.machine())
    if "cpu family" in about:  # clouds shorten the name, and the ratio differs between CPU generations
        cpu = f"{cpu}, family {about['cpu family']} model {about.get('model', '?')}"
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=servers.ROOT, capture_output=True, text=True)
    return {
        "cores": os.cpu_count(), "cpu": cpu, "python": platform.python_version(),
        "kernel": platform.release(), "revision": revision.stdout.strip(),
    }  # fmt: skip


def measure_all(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    started: list[servers.Server] = []
    try:
        upstream = servers.start_upstream(directory)
        started.append(upstream)
        targets = {"direct": upstream}
        (directory / "nginx").mkdir()
        targets["nginx"] = servers.start_nginx(directory / "nginx", upstream)
        started.append(targets["nginx"])
        result: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"), "machine": machine(), "rounds": options.rounds,
            "duration_s": options.secs, "synchronous": options.synchronous,
        }  # fmt: skip
        if not options.floor_only:
            targets["gateway"] = servers.start_gateway(
                directory / "gateway", upstream, workers=options.workers, synchronous=options.synchronous
            )
            started.append(targets["gateway"])
            result["rss_start_mb"] = measure.by_role(measure.tree([targets["gateway"].process.pid]), "rss_mb")
        kinds, connections = options.scenarios.split(","), [int(c) for c in options.connections.split(",")]
        taken = run_rounds(targets, kinds, connections, options.rounds, options.secs)
        result["rows"] = summarise(taken, kinds, connections)
        if gateway := targets.get("gateway"):
            result["rss_mb"] = measure.by_role(measure.tree([gateway.process.pid]), "rss_mb")
            result["crowd"] = crowd(targets, options.secs)
            result["ledger_us"] = ledger_cost(gateway, options.rounds, options.secs)
            result["profile"] = profile(gateway)
            gateway.stop()
            started.remove(gateway)
            if options.keys:
                result["keys"] = keys_cost(directory / "keys", upstream, options)
        return result
    finally:
        for server in reversed(started):
            server.stop()


def compare(result: dict[str, Any], last_path: Path) -> None:
    """Print each row's CPU ratio next to the committed one of the last run."""
    rows = json.loads(last_path.read_text("utf-8"))["rows"] if last_path.exists() else []
    last = {(row["scenario"], row["connections"]): row.get("cpu_ratio") for row in rows}
    for row in result["rows"]:
        if "cpu_ratio" in row:
            before = last.get((row["scenario"], row["connections"]))
            then = f" (last run {before[0]:.2f})" if before else ""
            print(f"{row['reply']:>33} c={row['connections']:<4} CPU {row['cpu_ratio'][0]:.2f} x nginx{then}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--secs", type=int, default=2, help="length of one run")
    parser.add_argument("--connections", default="1,32,256")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--synchronous", default="NORMAL", help="SQLite's setting for the gateway's database")
    parser.add_argument("--keys", type=int, default=0, help="also compare 100 keys with this many")
    parser.add_argument("--floor-only", action="store_true", help="nginx and the upstream alone: is the machine quiet?")
    parser.add_argument("--no-docs", action="store_true", help="write bench/results/ only")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2 or not shutil.which("wrk"):
        parser.error("the bench needs two cores and wrk")
    with tempfile.TemporaryDirectory(prefix="elkapi-bench-") as directory:
        Path(directory).chmod(0o755)
        result = measure_all(Path(directory), options)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"gateway-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(text, "utf-8")
    if options.floor_only:
        print(text)
        return
    compare(result, DOCS / "performance.json")
    if not options.no_docs:
        (DOCS / "performance.json").write_text(text, "utf-8")
        report.plot(result, DOCS / "performance.png")
        report.write_block(DOCS / "performance.md", report.table(result))


if __name__ == "__main__":
    main()
