"""docs/videos.md says where each provider of videos takes what, as its field map declares it."""

from __future__ import annotations

from elkapi.catalog.media import VIDEO_MAPS
from elkapi.control.library import docs_folder
from scripts import videos_page


def test_the_table_is_that_of_the_code() -> None:
    page = (docs_folder() / "videos.md").read_text("utf-8")
    assert page == videos_page.page_with(videos_page.table(), page), "run scripts/videos_page.py"


def test_the_table_names_every_field_of_every_map() -> None:
    rows = {field for fields in videos_page.ROWS.values() for field in fields}
    assert {field for plan in VIDEO_MAPS.values() for field in plan.fields} <= rows | {"model", "first_image"}
