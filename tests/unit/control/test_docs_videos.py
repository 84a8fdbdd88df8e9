"""docs/videos.md says where each provider of videos takes what, as its field map declares it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from elkapi.catalog.media import VIDEO_MAPS
from elkapi.control.library import docs_folder

SCRIPT = Path(__file__).parents[3] / "scripts" / "videos_page.py"


def script():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("videos_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_code() -> None:
    made = script()
    page = (docs_folder() / "videos.md").read_text("utf-8")
    assert page == made.page_with(made.table(), page), "run scripts/videos_page.py"


def test_the_table_names_every_field_of_every_map() -> None:
    rows = {field for fields in script().ROWS.values() for field in fields}
    assert {field for plan in VIDEO_MAPS.values() for field in plan.fields} <= rows | {"model", "first_image"}
