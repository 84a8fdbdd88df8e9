"""Compares elkapi's local embeddings, over HTTP, with other engines on the same weights, side by side in one run.

    python bench/embeddings.py --st-python VENV/bin/python --infinity-python VENV/bin/python --out DIR
                               [--url http://127.0.0.1:8000/v1 --key sk-...] [--rounds 5] [--seconds 2]

Without --url it starts the model process and speaks to its socket; with it, to a running gateway. sentence-
transformers and CTranslate2 run in their own process at their best batch size, infinity and llama.cpp behind their
own servers at their best number of connections. The rounds are interleaved: every engine runs every scenario once
a round, so a slow spell of the machine meets all of them. Engines that are not installed are skipped and named.
It writes embeddings.json and embeddings.md into --out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import servers

MODEL = "all-MiniLM-L6-v2"
ENGINES = Path(__file__).with_name("embedding_engines.py")
SCENARIOS = ("short", "mix", "long", "single")
SEED = 20_261_122
# A multiply-add counts as two: six layers of 4 h*h + 2 h*4h matrices, and attention over the sequence.
FLOP_PER_TOKEN = 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
FLOP_PER_TOKEN_PAIR = 2 * 6 * 2 * 384
GOALS = (
    ("short", "st", 1.25),
    ("short", "infinity", 1.4),
    ("short", "llama", 2.0),
    ("mix", "st", 1.6),
    ("mix", "infinity", 1.6),
    ("mix", "ct2", 0.9),
    ("long", "st", 1.0),
    ("long", "ct2", 1.0),
    ("long", "infinity", 1.0),
    ("long", "llama", 1.0),
)
SGEMM_GOAL = 0.60
RSS_GOAL_MB = 400
LABELS = {
    "ours": "elkapi, HTTP",
    "st": "sentence-transformers, in process",
    "ct2": "CTranslate2 fp32, in process",
    "infinity": "infinity (torch), HTTP",
    "llama": "llama.cpp q8_0, HTTP",
}


class Child:
    """One engine's process and its best settings."""

    def __init__(self, python: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [python, str(ENGINES), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr if "ELKAPI_BENCH_LOUD" in os.environ else subprocess.DEVNULL,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        )
        self.hello = self._answer()
        self.servers: list[int] = []
        self.best: dict[str, Any] = {}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        # Libraries print notices on stdout; our answers are the lines that are JSON objects.
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"the engine ended with {self.process.wait()}")

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def rss_mb(self) -> float:
        """Resident memory of the engine: of its servers if it has some, else of its process."""
        return sum(_rss_mb(pid) for pid in self.servers or [self.process.pid])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    own = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(_rss_mb(int(child)) for child in children)


def make_texts(tokenizer: Any) -> dict[str, list[list[str]]]:
    """Arrays of texts cut from the GPL at seeded places; long ones fill the window without exceeding it."""
    words = Path("/usr/share/common-licenses/GPL-3").read_text("utf-8").split()
    draw = random.Random(SEED)

    def text(least: int, most: int) -> str:
        count = draw.randint(least, most)
        start = draw.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    def fitting(least: int, most: int) -> str:
        parts = text(least, most).split()
        while len(tokenizer.encode(" ".join(parts)).ids) > 256:
            parts.pop()
        return " ".join(parts)

    def mixed() -> list[str]:
        texts = [text(9, 15) for _ in range(63)] + [text(30, 60) for _ in range(32)]
        texts += [fitting(180, 220) for _ in range(5)]
        draw.shuffle(texts)
        return texts

    return {
        "short": [[text(9, 15) for _ in range(64)] for _ in range(16)],
        "mix": [mixed() for _ in range(8)],
        "long": [[fitting(215, 260) for _ in range(16)] for _ in range(4)],
        "single": [[text(9, 15) for _ in range(64)]],
    }


def flop_per_text(texts: list[str], tokenizer: Any) -> float:
    lengths = [len(tokenizer.encode(text).ids) for text in texts]
    return statistics.fmean(n * (FLOP_PER_TOKEN + FLOP_PER_TOKEN_PAIR * n) for n in lengths)


def sgemm_gflops(size: int = 1536, tries: int = 5) -> float:
    """GFLOP/s of a single-precision matrix product on all cores, best of a few, with numpy's OpenBLAS."""
    import numpy as np

    left = np.random.default_rng(1).random((size, size), np.float32)
    best = 1e9
    for _ in range(tries):
        started = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def start_engines(flags: argparse.Namespace, model_dir: Path, work: Path, stack: contextlib.ExitStack) -> Any:
    """The available engines by name, and why the others were skipped."""
    engines: dict[str, Child] = {}
    skipped: dict[str, str] = {}

    def start(name: str, make: Any) -> None:
        if flags.only and name not in flags.only.split(","):
            skipped[name] = "not asked for"
            return
        try:
            engines[name] = make()
            stack.callback(engines[name].close)
        except Exception as error:
            skipped[name] = str(error)
        print(f"{name}: {'started' if name in engines else 'skipped: ' + skipped[name]}", flush=True)

    start("ours", lambda: _ours(flags, work, stack))
    start("st", lambda: Child(flags.st_python, "st", str(model_dir)))
    start("ct2", lambda: Child(flags.st_python, "ct2", str(model_dir), str(work)))
    start("infinity", lambda: _infinity(flags, model_dir, stack))
    start("llama", lambda: _llama(flags, model_dir, work, stack))
    return engines, skipped


def _server(command: list[str], stack: contextlib.ExitStack, **options: Any) -> subprocess.Popen[Any]:
    process = subprocess.Popen(command, **options)
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    return process


def _ours(flags: argparse.Namespace, work: Path, stack: contextlib.ExitStack) -> Child:
    if flags.url:
        return Child(sys.executable, "http", flags.url, MODEL, flags.key)
    path = str(work / "model.sock")
    server = _server([sys.executable, "-m", "elkapi.local", "--socket", path], stack)
    while not Path(path).exists():
        time.sleep(0.05)
    child = Child(sys.executable, "http", f"unix:{path}", MODEL)
    child.servers = [server.pid]
    return child


def _infinity(flags: argparse.Namespace, model_dir: Path, stack: contextlib.ExitStack) -> Child:
    port = servers.free_port()
    binary = str(Path(flags.infinity_python).with_name("infinity_emb"))
    command = [binary, "v2", "--model-id", str(model_dir), "--served-model-name", MODEL, "--engine", "torch"]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    # Without these it would try torch.compile and a transformers feature that newer releases dropped.
    command += ["--no-bettertransformer", "--no-compile", "--log-level", "error"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    quiet = subprocess.DEVNULL
    server = _server(command, stack, env=environment, stdout=quiet, stderr=quiet)
    _wait_for_port(port, server)
    child = Child(sys.executable, "http", f"http://127.0.0.1:{port}", MODEL)
    child.servers = [server.pid]
    return child


def _llama(flags: argparse.Namespace, model_dir: Path, work: Path, stack: contextlib.ExitStack) -> Child:
    gguf, port = work / "model-q8_0.gguf", servers.free_port()
    if not gguf.exists():
        subprocess.run([flags.st_python, str(ENGINES), "gguf", str(model_dir), str(gguf)], check=True)
    server = Child(flags.st_python, "llama", str(gguf), str(port))
    stack.callback(server.close)
    child = Child(sys.executable, "http", f"{server.hello['ready']}/v1", MODEL)
    child.servers = [server.process.pid]
    return child


def _wait_for_port(port: int, server: subprocess.Popen[Any]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError("the server did not listen within two minutes")


def calibrate(name: str, child: Child, texts: dict[str, list[list[str]]], seconds: float) -> None:
    """Choose the engine's best setting for each scenario; single texts are always sent alone."""
    settings = child.hello["settings"]
    for scenario in SCENARIOS[:3]:
        rates = {
            json.dumps(s): child.ask(do="arrays", arrays=texts[scenario], seconds=seconds, setting=s)["per_s"]
            for s in settings
        }
        child.best[scenario] = json.loads(max(rates, key=lambda s: rates[s]))
        print(f"{name} {scenario}: " + ", ".join(f"{s} {rate:.0f}/s" for s, rate in rates.items()), flush=True)
    child.best["single"] = settings[0]


def measure(engines: dict[str, Child], texts: dict[str, Any], rounds: int, seconds: float) -> dict[str, Any]:
    """`{scenario: {engine: [one figure per round]}}`, and the machine's sgemm for each round."""
    figures: dict[str, Any] = {scenario: {name: [] for name in engines} for scenario in SCENARIOS}
    figures["sgemm_gflops"] = []
    for turn in range(rounds):
        figures["sgemm_gflops"].append(sgemm_gflops())
        for scenario in SCENARIOS:
            for name, child in engines.items():
                common = {"seconds": seconds, "setting": child.best[scenario]}
                if scenario == "single":
                    figure = child.ask(do="single", texts=texts["single"][0], **common)["p50_ms"]
                else:
                    figure = child.ask(do="arrays", arrays=texts[scenario], **common)["per_s"]
                figures[scenario][name].append(figure)
        print(f"round {turn + 1} of {rounds} done", flush=True)
    return figures


def differences(engines: dict[str, Child], texts: list[str]) -> dict[str, float]:
    """The largest absolute difference of each engine's vectors from sentence-transformers'."""
    import numpy as np

    vectors = {
        name: np.array(child.ask(do="vectors", texts=texts, setting=child.best["mix"])["vectors"], np.float64)
        for name, child in engines.items()
    }
    reference = vectors.get("st")
    if reference is None:
        return {}
    return {name: float(abs(found - reference).max()) for name, found in vectors.items() if name != "st"}


def report(result: dict[str, Any]) -> str:
    """The table and the goals as markdown."""
    figures, names = result["figures"], list(result["rss_mb"])
    lines = [
        f"Measured on {result['date']}: {result['machine']}; {result['rounds']} interleaved rounds, medians with the "
        "lowest and highest round in brackets. Texts per second in arrays of short, mixed and long texts, and the "
        "median time of one short text alone."
    ]
    lines += ["", "| engine | short/s | mix/s | long/s | one short, p50 ms | RSS MB |", "|---|---|---|---|---|---|"]
    for name in names:
        cells = [_cell(figures[scenario][name]) for scenario in SCENARIOS]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} | {result['rss_mb'][name]:.0f} |")
    lines += [f"| {LABELS[name]} | skipped: {why} | | | | |" for name, why in result["skipped"].items()]
    lines += ["", "| goal | wanted | measured | held |", "|---|---|---|---|"]
    for goal, wanted, found, held in goals(result):
        lines.append(f"| {goal} | {wanted} | {found} | {'yes' if held else '**no**'} |")
    if result["differences"]:
        lines += ["", "The largest difference of an element to the vectors of sentence-transformers:", ""]
        lines += [f"- {LABELS[name]}: {value:.1e}" for name, value in result["differences"].items()]
    lines += [
        "",
        "Each engine ran with its best setting, found before the rounds: the number of requests at once over HTTP, the "
        "texts in a batch in process, and for CTranslate2 also the batches at once.",
    ]
    lines += ["", "| engine | short | mix | long |", "|---|---|---|---|"]
    for name, best in result["best"].items():
        lines.append(f"| {LABELS[name]} | {' | '.join(_setting(best[scenario]) for scenario in SCENARIOS[:3])} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += ["", f"Versions: {versions}."]
    return "\n".join(lines) + "\n"


def _setting(value: int | list[int]) -> str:
    """One number, or CTranslate2's pair of texts in a batch and batches at once."""
    return f"{value}" if isinstance(value, int) else " x ".join(map(str, value))


def _cell(values: list[float]) -> str:
    form = "{:.0f}" if min(values) >= 100 else "{:.1f}"
    return f"{form} [{form}-{form}]".format(statistics.median(values), min(values), max(values))


def goals(result: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Each goal with its result, for the engines that ran."""
    figures, out = result["figures"], []
    if "ours" not in figures["short"]:
        return []
    for scenario, other, ratio in GOALS:
        if values := figures[scenario].get(other):
            found = statistics.median(figures[scenario]["ours"]) / statistics.median(values)
            name = f"{scenario} texts beside {LABELS[other]}"
            out.append((name, f">= {ratio}x", f"{found:.2f}x", found >= ratio))
    if values := figures["single"].get("st"):
        found = statistics.median(figures["single"]["ours"]) / statistics.median(values)
        out.append((f"one short text, p50 beside {LABELS['st']}", "<= 0.5x", f"{found:.2f}x", found <= 0.5))
    peak = statistics.median(figures["sgemm_gflops"])
    share = statistics.median(figures["long"]["ours"]) * result["long_flop_per_text"] / 1e9 / peak
    name = f"long texts: share of the machine's sgemm peak, {peak:.0f} GFLOP/s"
    out.append((name, f">= {SGEMM_GOAL:.0%}", f"{share:.0%}", share >= SGEMM_GOAL))
    rss = result["rss_mb"]["ours"]
    out.append(("resident memory of the model process", f"<= {RSS_GOAL_MB} MB", f"{rss:.0f} MB", rss <= RSS_GOAL_MB))
    return out


def _versions(pythons: list[str]) -> dict[str, str]:
    wanted = ["sentence-transformers", "torch", "ctranslate2", "xllamacpp", "infinity-emb"]
    code = (
        "import importlib.metadata, json, sys\n"
        "there = {d.name: d.version for d in importlib.metadata.distributions()}\n"
        "print(json.dumps({n: there[n] for n in sys.argv[1:] if n in there}))"
    )
    found = {"onnxruntime": metadata.version("onnxruntime"), "tokenizers": metadata.version("tokenizers")}
    for number, python in enumerate(pythons):
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            seen = json.loads(
                subprocess.run([python, "-c", code, *wanted], capture_output=True, check=True, text=True).stdout
            )
            found |= {f"{name} (venv {number + 1})": version for name, version in seen.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--st-python", default="", help="interpreter with sentence-transformers, ctranslate2, xllamacpp, gguf"
    )
    parser.add_argument("--infinity-python", default="", help="interpreter with infinity-emb[server,torch]")
    parser.add_argument("--url", default="", help="a running gateway's base, ending in /v1")
    parser.add_argument("--key", default="")
    parser.add_argument("--only", default="", help="engines to run, by comma: ours,st,ct2,infinity,llama")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--work", default="", help="folder for converted weights, kept between runs")
    parser.add_argument("--out", default=".")
    flags = parser.parse_args()
    # A bench that is stopped early still stops the servers it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from tokenizers import Tokenizer

    from elkapi.local.models import BUNDLED, locate

    files = locate(BUNDLED[0])
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = make_texts(tokenizer)
    with contextlib.ExitStack() as stack:
        work = Path(flags.work or stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        engines, skipped = start_engines(flags, files.weights.parent, work, stack)
        for name, child in engines.items():
            calibrate(name, child, texts, min(1.0, flags.seconds))
        figures = measure(engines, texts, flags.rounds, flags.seconds)
        result = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "rounds": flags.rounds,
            "seconds": flags.seconds,
            "seed": SEED,
            "through": flags.url or "the model process's socket",
            "figures": figures,
            "rss_mb": {name: child.rss_mb() for name, child in engines.items()},
            "best": {name: child.best for name, child in engines.items()},
            "differences": differences(engines, texts["mix"][0]),
            "long_flop_per_text": flop_per_text([t for array in texts["long"] for t in array], tokenizer),
            "skipped": skipped,
            "versions": _versions([flags.st_python, flags.infinity_python]),
        }
    out = Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "embeddings.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "embeddings.md").write_text(report(result))
    print(report(result))
    return 0 if all(held for *_, held in goals(result)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
