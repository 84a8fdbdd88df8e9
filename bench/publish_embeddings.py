"""Puts the result of bench/embeddings.py into the docs: its tables into docs/performance.md, its figures as a picture.

.venv/bin/python bench/publish_embeddings.py OUT     # the folder given to bench/embeddings.py --out
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = (
    "<!-- embeddings bench: begin (written by bench/publish_embeddings.py) -->",
    "<!-- embeddings bench: end -->",
)
NAMES = {
    "ours": "elkapi, HTTP",
    "st": "sentence-transformers",
    "ct2": "CTranslate2 fp32",
    "infinity": "infinity, HTTP",
    "llama": "llama.cpp q8_0, HTTP",
}
PANELS = {
    "short": "arrays of 64 short texts, texts/s",
    "mix": "mixed lengths, texts/s",
    "long": "long texts, texts/s",
    "single": "one short text, p50 ms (less is better)",
}


def main() -> None:
    """Read OUT/embeddings.json and .md, write the picture, the JSON and the block between our markers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    result = json.loads((out / "embeddings.json").read_text("utf-8"))
    (DOCS / "performance-embeddings.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    plot(result, DOCS / "performance-embeddings.png")
    page = DOCS / "performance.md"
    text = page.read_text("utf-8")
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## The bundled model\n\n{BEGIN}\n{END}\n"
    picture = "![throughput of the bundled model beside other engines](performance-embeddings.png)"
    block = (out / "embeddings.md").read_text("utf-8").strip()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n\n{picture}\n\n{block}\n\n{END}{tail}", "utf-8")


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel a scenario, one bar an engine: the median with its range."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), dpi=110)
    for panel, (scenario, title) in zip(panels, PANELS.items(), strict=True):
        found = {name: runs for name in NAMES if (runs := result["figures"][scenario].get(name))}
        medians = [statistics.median(runs) for runs in found.values()]
        errors = [
            [max(median - min(runs), 0) for median, runs in zip(medians, found.values(), strict=True)],
            [max(max(runs) - median, 0) for median, runs in zip(medians, found.values(), strict=True)],
        ]
        colours = ["#1f6feb" if name == "ours" else "#9aa4ae" for name in found]
        panel.barh([NAMES[name] for name in found], medians, xerr=errors, color=colours, capsize=3)
        panel.invert_yaxis()
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8, labelleft=panel is panels[0])
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
