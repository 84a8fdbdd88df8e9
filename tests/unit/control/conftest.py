"""An installation on SQLite, as the control process opens it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elkapi.settings import Settings
from elkapi.storage.installation import Installation, open_installation


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    opened = open_installation(Settings(data_dir=str(tmp_path)))
    yield opened
    opened.database.close()
