"""Writes the figures of bench/gateway.py as a table in docs/performance.md and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WRITERS = {"gateway bench": "make bench", "litellm bench": "bench/beside_litellm.py"}
P99_MS_MIN = 0.1
HEADING = "# Performance\n\nWhat the gateway costs, measured on this project's own benches; every table says how.\n"


# The goals of one row each: (scenario, the figure, how its goal is named, at most this many times nginx's).
ROW_GOALS = (
    ("large", "cpu_ratio", "CPU of an embedding of 20 KB", 6.0),
    ("small", "cpu_ratio", "CPU of an embedding of 0.3 KB", 6.0),
    ("chat", "cpu_ratio", "CPU of a chat", 6.0),
    ("paced", "cpu_ratio", "CPU of a paced stream", 2.6),
    ("large", "added_p99_ratio", "added p99 of an embedding of 20 KB", 3.0),
    ("small", "added_p99_ratio", "added p99 of an embedding of 0.3 KB", 3.0),
)
GOAL_CONNECTIONS = 32
LEDGER_US_GOAL, WORKER_MB_GOAL, KEYS_GOAL = 40, 130, 1.10


def table(result: dict[str, Any]) -> str:
    """The block for docs/performance.md: the setup, the goals, then one row per reply size and concurrency."""
    machine = result["machine"]
    lines = [
        "## A relayed call beside nginx",
        "",
        f"Measured by `make bench` on {result['date']}, at version {machine['revision']}: {machine['cores']} cores "
        f"({machine['cpu']}), Python {machine['python']}, one worker, SQLite on disk with "
        f"`synchronous={result['synchronous']}`, the log in a file, and a priced model, so that every call holds and "
        "settles money.",
        "",
        "| goal | wanted | measured | held |",
        "|---|---|---|---|",
        *(
            f"| {name} | {wanted} | {measured} | {'yes' if held else '**no**'} |"
            for name, wanted, measured, held in goals(result)
        ),
        "",
        "How to read the table below:",
        "",
        f"- Each figure is the median of {result['rounds']} interleaved rounds of {result['duration_s']} s; square "
        "brackets have the lowest and the highest round.",
        "- CPU is the user and system time of the whole process tree, per call or per whole stream of 100 events.",
        "- Latency added is over the same call sent straight to the upstream. For paced streams it is that of each "
        "event between the upstream's send and the client, for streams at once that of their first event.",
        "- `(3.0x)` behind an added p99: this many times nginx's.",
        "",
        "| call | connections | nginx CPU us | gateway CPU us | ratio | nginx adds p50 / p99 ms | "
        "gateway adds p50 / p99 ms | gateway calls/s | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['reply']} | {row['connections']} | {_range(row['nginx']['cpu_us'])} | "
            f"{_range(row['gateway']['cpu_us'])} | **{row['cpu_ratio'][0]:.2f}** | "
            f"{row['nginx']['added_p50_ms'][0]:.2f} / {row['nginx']['added_p99_ms'][0]:.2f} | "
            f"{row['gateway']['added_p50_ms'][0]:.2f} / {row['gateway']['added_p99_ms'][0]:.2f}"
            f"{_times(row)} | {row['gateway']['rps'][0]:.0f} | {row['gateway']['errors'][2]:.0f} |"
        )
    lines += ["", "![CPU and added latency beside nginx](performance.png)", ""]
    if "crowd" in result:
        lines += [*_crowd(result["crowd"]), ""]
    if "ledger_us" in result:
        lines += [
            f"**Money.** A hold and its settlement take {_range(result['ledger_us'])} us of CPU a call: the difference "
            f"between a priced model and a free one, whose calls need no hold, at {GOAL_CONNECTIONS} connections.",
            "",
        ]
    memory = ", ".join(f"{role} {mb:.0f} MB" for role, mb in sorted(result["rss_mb"].items()))
    lines += [f"**Memory**, resident after the run: {memory}.", ""]
    if keys := result.get("keys"):
        lines += [
            f"**Keys.** A call costs {keys['ratio'][0]:.3f} [{keys['ratio'][1]:.3f}-{keys['ratio'][2]:.3f}] times as "
            f"much CPU with {keys['rows']:,} keys as with 100, at {keys['connections']} connections that use "
            f"{keys['used']:,} of them.",
            "",
        ]
    if found := result.get("profile"):
        rooms = ", ".join(f"{room} {share:.0%}" for room, share in found["rooms"] if share >= 0.01)
        lines += [
            f"**Where the time goes** in a worker, sampled at {GOAL_CONNECTIONS} connections. By room (package): "
            f"{rooms}. By function, its own time alone:",
            "",
        ]
        lines += ["| share | function |", "|---|---|"]
        lines += [f"| {share:.1%} | `{name}` |" for name, share in found["functions"]]
        lines += [""]
    return "\n".join(lines)


def goals(result: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(goal, wanted, measured, held) of every goal whose part of the bench ran."""
    rows = {row["scenario"]: row for row in result["rows"] if row["connections"] == GOAL_CONNECTIONS}
    found = []
    for scenario, field, name, most in ROW_GOALS:
        if (row := rows.get(scenario)) and field in row:
            times = row[field] if isinstance(row[field], float) else row[field][0]
            found.append((f"{name} beside nginx's", f"<= {most:g}x", f"{times:.2f}x", times <= most))
    if crowd := result.get("crowd"):
        run, late_ms = crowd["gateway"], crowd["late_ms"]
        held = run["errors"] == 0 and run["max_ms"] <= late_ms
        wanted, measured = f"none, <= {late_ms} ms", f"{run['errors']:.0f}, {run['max_ms']:.1f} ms"
        found.append((f"lost of {crowd['streams']} streams at once, latest event", wanted, measured, held))
    if cost := result.get("ledger_us"):
        measured = f"{round(cost[0])} us"
        found.append(("hold and settlement", f"<= {LEDGER_US_GOAL} us", measured, cost[0] <= LEDGER_US_GOAL))
    if worker_mb := result["rss_mb"].get("elk-worker"):
        found.append(("a worker", f"<= {WORKER_MB_GOAL} MB", f"{worker_mb:.0f} MB", worker_mb <= WORKER_MB_GOAL))
    if keys := result.get("keys"):
        times = keys["ratio"][0]
        name = f"CPU with {keys['rows']:,} keys beside 100"
        found.append((name, f"<= {KEYS_GOAL:.2f}x", f"{times:.3f}x", times <= KEYS_GOAL))
    return found


def _times(row: dict[str, Any]) -> str:
    """The ratio of the gateway's added p99 to nginx's; empty if a run was within the noise of a direct call."""
    least_ms = min(row["nginx"]["added_p99_ms"][0], row["gateway"]["added_p99_ms"][0])
    return f" ({row['added_p99_ratio']:.1f}x)" if least_ms >= P99_MS_MIN else ""


def _crowd(found: dict[str, Any]) -> list[str]:
    """One line for many streams at once."""
    parts = [
        f"{name} {run['p50_ms']:.2f} / {run['p99_ms']:.2f} / {run['max_ms']:.1f} ms ({run['errors']:.0f} lost)"
        for name, run in found.items()
        if isinstance(run, dict)
    ]
    return [
        f"**Many streams.** {found['streams']} at once, each with an event every 50 ms, through one worker; lag of an "
        f"event p50 / p99 / worst: {', '.join(parts)}."
    ]


def _range(figures: list[float]) -> str:
    median, low, high = figures
    return f"{round(median)} [{round(low)}-{round(high)}]"


def write_block(path: Path, block: str, mark: str = "gateway bench") -> None:
    """Put `block` between the markers of one of WRITERS in `path`; the rest of the file stays."""
    begin, end = f"<!-- {mark}: begin (written by {WRITERS[mark]}) -->", f"<!-- {mark}: end -->"
    text = path.read_text("utf-8") if path.exists() else HEADING
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    head, tail = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{head}{begin}\n\n{block}\n{end}{tail}", "utf-8")


def plot(result: dict[str, Any], path: Path) -> None:
    """Two panels: CPU per request, and added p99 at each number of connections, of nginx and the gateway."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    labels = [f"{row['scenario']}\nc={row['connections']}" for row in result["rows"]]
    figure, panels = plt.subplots(1, 2, figsize=(13, 4.4), dpi=110)
    for panel, (field, title) in zip(
        panels,
        [("cpu_us", "CPU per call or stream, us"), ("added_p99_ms", "p99 added to the upstream's own, ms")],
        strict=True,
    ):
        for offset, (name, colour) in enumerate([("nginx", "#7f8c8d"), ("gateway", "#1f6feb")]):
            figures = [row[name][field] for row in result["rows"]]
            medians = [f[0] for f in figures]
            # Rounding can put a median below its low; error bars cannot be negative.
            errors = [[max(f[0] - f[1], 0) for f in figures], [max(f[2] - f[0], 0) for f in figures]]
            places = [index + (offset - 0.5) * 0.38 for index in range(len(labels))]
            panel.bar(places, medians, width=0.36, color=colour, label=name, yerr=errors, capsize=3)
        panel.set_xticks(range(len(labels)), labels, fontsize=7)
        panel.set_yscale("symlog", linthresh=1 if field == "added_p99_ms" else 10)
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
