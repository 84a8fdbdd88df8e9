"""Writes the table of docs/videos.md from the field maps of catalog/media.py; run it after a change there.

python scripts/videos_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from elkapi.catalog.media import MEANING, VIDEO_MAPS, VideoMap

PAGE = Path(__file__).parents[1] / "docs" / "videos.md"
MARK = "\n## What each provider accepts\n"
# Callers' fields -> the maps' fields that serve them; `size` also serves an aspect ratio and a resolution.
ROWS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "image": ("image",),
    "images (several)": ("references",),
    "last_image": ("last_image",),
    "video": ("video",),
    "seconds": ("seconds",),
    "size": ("size", "ratio", "resolution"),
    "aspect_ratio": ("ratio", "size"),
    "resolution": ("resolution", "size"),
    "audio": ("audio",),
    "n (several)": ("count",),
    "seed": ("seed",),
    "fps": ("fps",),
    "mode": ("mode",),
}


def table() -> str:
    """One row per field, one column per provider."""
    names = list(VIDEO_MAPS)
    head = f"| field | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}\n"
    rows = (
        f"| {said} | {' | '.join(_cell(fields, VIDEO_MAPS[name]) for name in names)} |\n"
        for said, fields in ROWS.items()
    )
    return head + "".join(rows)


def _cell(fields: tuple[str, ...], plan: VideoMap) -> str:
    found = next((plan.fields[field] for field in fields if field in plan.fields), None)
    if found is None:
        return "**400**" if fields[0] in MEANING else "left out"
    path = f"`{found.partition('|')[0].removesuffix('[+]')}`"
    return f"{path} (not with a picture)" if fields[0] in plan.by_image else path


def page_with(table_text: str, page: str) -> str:
    """The page with everything from its last section on replaced. Raises ValueError if it has no such section."""
    head, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError("the page has no place for the table")
    return f"{head}{mark}\n{table_text}"


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(page_with(table(), PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
