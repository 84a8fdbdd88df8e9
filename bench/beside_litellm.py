"""The same calls through LiteLLM's proxy, beside nginx and the gateway; writes a block of docs/performance.md.

    .venv/bin/python bench/beside_litellm.py VENV [--rounds 5] [--secs 3]

VENV is a virtual environment of its own that `pip install 'litellm[proxy]'` went into. The method is bench/gateway's:
one process answers the calls, on a core of its own. LiteLLM runs as it is told to in production: one worker, log level
ERROR; without a database it keeps no keys, no spend and no log of calls, while the gateway books and logs every call.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import gateway
import measure
import report
import servers

MARK = "litellm bench"
KINDS, CONNECTIONS = ["small", "large", "chat"], [1, 32]
KEY = "sk-bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("venv", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--secs", type=int, default=3, help="length of one run")
    parser.add_argument("--no-docs", action="store_true", help="print the block only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elkapi-bench-") as directory:
        Path(directory).chmod(0o755)
        block = table(measure_all(Path(directory), options), options)
    print(block)
    if not options.no_docs:
        report.write_block(gateway.DOCS / "performance.md", block, MARK)


def measure_all(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """{"rows": of each server and cell its CPU, latency and rate, "rss_mb": {server: MB}}."""
    started: list[servers.Server] = []
    try:
        upstream = servers.start_upstream(directory)
        started.append(upstream)
        for name in ("nginx", "litellm"):
            (directory / name).mkdir()
        targets = {"nginx": servers.start_nginx(directory / "nginx", upstream)}
        started.append(targets["nginx"])
        targets["elkapi"] = servers.start_gateway(directory / "gateway", upstream, workers=1, synchronous="NORMAL")
        started.append(targets["elkapi"])
        targets["litellm"] = start_litellm(directory / "litellm", options.venv, upstream)
        started.append(targets["litellm"])
        taken = gateway.run_rounds(targets, KINDS, CONNECTIONS, options.rounds, options.secs)
        rss_mb = {name: sum(p.rss_mb for p in measure.tree([server.process.pid])) for name, server in targets.items()}
        return {"taken": taken, "rss_mb": rss_mb}
    finally:
        for server in reversed(started):
            server.stop()


def start_litellm(directory: Path, venv: Path, upstream: servers.Server) -> servers.Server:
    """LiteLLM's proxy on the measured core, with the bench's models behind one master key."""
    upstreams = {"api_base": f"{upstream.url}/v1", "api_key": "sk-upstream"}
    priced = {
        "input_cost_per_token": float(servers.PRICE_USD_PER_1M) / 1e6,
        "output_cost_per_token": float(servers.OUTPUT_USD_PER_1M) / 1e6,
    }
    models = sorted({servers.MODELS[kind] for kind in KINDS})
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{name}"} | upstreams | priced} for name in models
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0, "set_verbose": False},
        "general_settings": {"master_key": KEY},
    }
    path, log, port = directory / "config.yaml", directory / "litellm.log", servers.free_port()
    path.write_text(json.dumps(config))  # JSON is YAML too
    command = [str(venv / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = servers.launch([*command, "--num_workers", "1", "--telemetry", "False"], servers.SERVER_CORE, log, env)
    url = f"http://127.0.0.1:{port}"
    servers.wait(f"{url}/health/readiness", process, log)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    return servers.Server(process, url, headers, directory)


def table(result: dict[str, Any], options: argparse.Namespace) -> str:
    """The block for docs/performance.md."""
    taken, machine = result["taken"], gateway.machine()
    version = subprocess.run(
        [options.venv / "bin" / "python", "-c", "import importlib.metadata as m; print(m.version('litellm'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    lines = [
        "## Beside LiteLLM's proxy",
        "",
        f"`bench/beside_litellm.py` on {time.strftime('%Y-%m-%d')}: {machine['cores']} cores ({machine['cpu']}), "
        f"Python {machine['python']}, LiteLLM {version}, each with one worker on the one core, {options.rounds} "
        f"interleaved rounds of {options.secs} s; medians, with the lowest and highest round in brackets. LiteLLM has "
        "no database here, so it keeps no spend and no record of a call; elkapi holds, settles and records each one.",
        "",
        "| call | connections | server | CPU us a call | calls/s | p50 / p99 ms | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, connections in gateway.cells(KINDS, CONNECTIONS):
        for name in ("nginx", "elkapi", "litellm"):
            runs = taken[name, kind, connections]
            figures = {
                field: measure.spread(run[field] for run in runs)
                for field in ("cpu_us", "rps", "p50_ms", "p99_ms", "errors")
            }
            cpu, p50, p99 = figures["cpu_us"], figures["p50_ms"], figures["p99_ms"]
            lines.append(
                f"| {gateway.SCENARIOS[kind]} | {connections} | {name} "
                f"| {cpu.median:.0f} [{cpu.low:.0f}-{cpu.high:.0f}] | {figures['rps'].median:.0f} "
                f"| {p50.median:.2f} / {p99.median:.2f} | {figures['errors'].high:.0f} |"
            )
    memory = ", ".join(f"{name} {mb:.0f} MB" for name, mb in result["rss_mb"].items())
    lines += ["", f"Resident memory of the process tree afterwards (elkapi's with its bundled models): {memory}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
