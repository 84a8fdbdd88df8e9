"""Measures one server from outside: CPU and memory of its process tree, and the results of wrk or bench/streams.py.

To compare machines and days, use the ratio of `cpu_us` (user and system CPU of the whole process tree per request) to
that of nginx measured in the same hour; absolute figures are specific to the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# The script for wrk: one request repeatedly, or (with keys) the same body with a different key each time.
LUA = """wrk.method = "POST"
wrk.body = {body}
{headers}
local keys = {keys}
if #keys > 0 then
  local n = 0
  request = function()
    n = n % #keys + 1
    wrk.headers["Authorization"] = "Bearer " .. keys[n]
    return wrk.format()
  end
end
{delay}
done = function(s, l)
  io.write(string.format("@%d %d %d %f %f", s.requests, s.duration,
    s.errors.status + s.errors.timeout + s.errors.read + s.errors.connect, l:percentile(50), l:percentile(99)))
end
"""


class Process(NamedTuple):
    pid: int
    role: str
    cpu_s: float
    rss_mb: float


def _stat(pid: int) -> tuple[str, list[str]] | None:
    """(command name, the fields after it) of /proc/PID/stat; None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")
    return head.partition("(")[2], rest.split()


def tree(pids: Iterable[int]) -> list[Process]:
    """The given processes and all their descendants, each with its CPU time and resident memory."""
    running = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    stats = {pid: stat for pid in running if (stat := _stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, (_, fields) in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    found, todo = [], list(pids)
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        if pid in stats:
            role, fields = stats[pid]
            cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
            found.append(Process(pid, role, cpu_s, int(fields[21]) * PAGE_BYTES / 2**20))
    return found


def by_role(processes: Iterable[Process], value: str) -> dict[str, float]:
    """The sum of `value` ("cpu_s" or "rss_mb") for each process name."""
    sums: dict[str, float] = {}
    for process in processes:
        sums[process.role] = sums.get(process.role, 0.0) + getattr(process, value)
    return sums


class Load(NamedTuple):
    """The load to send, and the core to send it from. `stream`: use bench/streams.py, not wrk; `timed`: measure lags.

    `pause_ms`: the average pause of each connection between an answer and its next call.
    """

    url: str
    path: str
    body: bytes
    headers: dict[str, str]
    keys: tuple[str, ...] = ()
    core: int = 1
    stream: bool = False
    timed: bool = False
    pause_ms: int = 0


def run_load(load: Load, connections: int, duration_s: int, pids: Iterable[int]) -> dict[str, float]:
    """One run against `load.url`, measuring `pids` and their children.

    Returns requests (or whole streams), rps, errors, p50_ms, p99_ms, cpu_us (per request, whole tree) and cpu_us_ROLE
    for each process name. A stream's percentiles are of each event's lag if timed, else of its first event.
    """
    pids = list(pids)
    before = tree(pids)
    figures = (_run_streams if load.stream else _run_wrk)(load, connections, duration_s)
    after = tree(pids)
    start, end = by_role(before, "cpu_s"), by_role(after, "cpu_s")
    requests = max(figures["requests"], 1)
    spent_us = {role: (cpu_s - start.get(role, 0.0)) * 1e6 / requests for role, cpu_s in end.items()}
    figures["cpu_us"] = sum(spent_us.values())
    return figures | {f"cpu_us_{role}": value for role, value in spent_us.items()}


def _run_streams(load: Load, connections: int, duration_s: int) -> dict[str, float]:
    order: dict[str, Any] = {"url": load.url, "path": load.path, "body": load.body.decode(), "headers": load.headers}
    order |= {"connections": connections, "secs": duration_s, "timed": load.timed}
    command = ["taskset", "-c", str(load.core), sys.executable, str(Path(__file__).with_name("streams.py"))]
    run = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def _run_wrk(load: Load, connections: int, duration_s: int) -> dict[str, float]:
    headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in load.headers.items())
    keys = "{" + ",".join(json.dumps(key) for key in load.keys) + "}"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        # Random, since connections with equal pauses would all call at once.
        delay = f"delay = function() return math.random(0, {2 * load.pause_ms}) end" if load.pause_ms else ""
        script.write(LUA.format(body=json.dumps(load.body.decode()), headers=headers, keys=keys, delay=delay))
        script.flush()
        command = ["taskset", "-c", str(load.core), "wrk", "-t1", f"-c{connections}", f"-d{duration_s}s"]
        out = subprocess.run(
            [*command, "--timeout", "10s", "-s", script.name, load.url + load.path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    requests, duration_us, errors, p50_us, p99_us = map(float, out.rpartition("@")[2].split())
    figures = {"requests": requests, "rps": requests / duration_us * 1e6, "errors": errors}
    return figures | {"p50_ms": p50_us / 1e3, "p99_ms": p99_us / 1e3}


class Spread(NamedTuple):
    """The median of the rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(*(round(v, 3) for v in (statistics.median(ordered), ordered[0], ordered[-1])))
