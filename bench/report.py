"""Writes the figures of bench/gateway.py as a table in docs/performance.md and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WRITERS = {"gateway bench": "make bench", "litellm bench": "bench/beside_litellm.py"}
P99_MS_MIN = 0.1
HEADING = "# Performance\n\nWhat the gateway costs, measured on this project's own benches; every table says how.\n"


def table(result: dict[str, Any]) -> str:
    """The block for docs/performance.md: the setup, then one row per reply size and concurrency."""
    machine = result["machine"]
    lines = [
        "## A relayed call beside nginx",
        "",
        f"`make bench` on {result['date']}: {machine['cores']} cores ({machine['cpu']}), Python {machine['python']}, "
        f"one worker, SQLite on disk with `synchronous={result['synchronous']}`, log to a file, a priced model "
        f"(every call holds and settles money). {result['rounds']} interleaved rounds of {result['duration_s']} s; "
        "medians, with the lowest and highest round in brackets. The server has one core; the load (wrk, or a client "
        "that plays streams) and the C upstream share the other. CPU is user and system time of the whole process tree "
        "per call, or per whole stream of 100 events; latency added is over the same call sent straight to the "
        "upstream. For paced streams it is that of each event on its way from the upstream's send to the client, for "
        "streams at once that of their first event. In brackets: how many times nginx's p99.",
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
            f"Hold and settlement: {_range(result['ledger_us'])} us of CPU a call, the difference between a priced and "
            "a zero-priced model at 32 connections (a free call needs no hold; both write their usage row).",
            "",
        ]
    memory = ", ".join(f"{role} {mb:.0f} MB" for role, mb in sorted(result["rss_mb"].items()))
    lines += [f"Resident memory after the run: {memory}.", ""]
    if keys := result.get("keys"):
        lines += [
            f"Key table: {keys['rows']:,} keys cost {keys['ratio'][0]:.3f} [{keys['ratio'][1]:.3f}-"
            f"{keys['ratio'][2]:.3f}] times the CPU of 100 (calls spread over "
            f"{keys['used']:,} of them, at {keys['connections']} connections).",
            "",
        ]
    if found := result.get("profile"):
        rooms = ", ".join(f"{room} {share:.0%}" for room, share in found["rooms"] if share >= 0.01)
        lines += [
            f"Where a worker's time goes, sampled under 32 connections. By room: {rooms}. Own time by function:",
            "",
        ]
        lines += ["| share | function |", "|---|---|"]
        lines += [f"| {share:.1%} | `{name}` |" for name, share in found["functions"]]
        lines += [""]
    return "\n".join(lines)


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
        f"{found['streams']} streams at once, an event every 50 ms each, on one worker: lag of an event p50 / p99 / "
        f"worst {', '.join(parts)}. Wanted: none lost, none over {found['late_ms']} ms late."
    ]


def _range(figures: list[float]) -> str:
    median, low, high = figures
    return f"{median:.0f} [{low:.0f}-{high:.0f}]"


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
