"""Writes the tables of docs/dialects.md from the `losses` of each dialect's file; run it after a change there.

python scripts/dialects_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from elkapi.translate.dialects import UPSTREAM_DIALECTS
from elkapi.translate.ir import Loss

PAGE = Path(__file__).parents[1] / "docs" / "dialects.md"
HEADINGS = {
    "chat": "To a chat completions upstream",
    "responses": "To a responses upstream",
    "anthropic": "To an Anthropic upstream",
    "gemini": "To a Gemini upstream",
    "converse": "To Bedrock's Converse",
}


def tables() -> str:
    """One section per upstream dialect."""
    sections = []
    for name, heading in HEADINGS.items():
        losses = UPSTREAM_DIALECTS[name].losses
        rows = [_row(loss) for loss in sorted(losses, key=lambda loss: not loss.refused)]
        sections.append(f"## {heading}\n\n| what | what happens | why |\n|---|---|---|\n" + "".join(rows))
    return "\n".join(sections)


def _row(loss: Loss) -> str:
    return f"| {_cell(loss.field)} | {'**refused (400)**' if loss.refused else 'left out'} | {_cell(loss.why)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page_with(tables_text: str, page: str) -> str:
    """The page with everything from its first section on replaced. Raises ValueError if it has no section."""
    head, mark, _ = page.partition("\n## ")
    if not mark:
        raise ValueError("the page has no place for the tables")
    return f"{head}\n{tables_text}"


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(page_with(tables(), PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
