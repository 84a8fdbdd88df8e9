"""Joins the fragments of changelog.d/ into CHANGELOG.md, under the version of the package, and removes them.

python scripts/changelog.py
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from elkapi import __version__

ROOT = Path(__file__).parents[1]
TITLE = "# Changelog\n"
FRAGMENT = re.compile(r"(- \S.*\n(  \S.*\n)*)+")


def fragments(root: Path) -> list[Path]:
    return sorted(path for path in (root / "changelog.d").glob("*.md") if path.name != "README.md")


def join(root: Path, version: str, today: date) -> str:
    """Join the fragments under a new heading, which is returned.

    Raises ValueError, and changes nothing, if a fragment is malformed or the version is already in the changelog.
    """
    page = root / "CHANGELOG.md"
    before = page.read_text("utf-8").removeprefix(TITLE) if page.exists() else ""
    if f"\n## {version} " in before:
        raise ValueError(f"{page.name} has {version} already: elkapi/__init__.py names the next version first")
    joined = fragments(root)
    for path in joined:
        if not FRAGMENT.fullmatch(path.read_text("utf-8")):
            raise ValueError(f"changelog.d/{path.name} is not a list as changelog.d/README.md describes it")
    heading = f"## {version} ({today})"
    page.write_text(f"{TITLE}\n{heading}\n\n{''.join(path.read_text('utf-8') for path in joined)}{before}", "utf-8")
    for path in joined:
        path.unlink()
    return heading


if __name__ == "__main__":
    try:
        print(join(ROOT, __version__, datetime.now(UTC).date()))
    except ValueError as error:
        sys.exit(str(error))
