"""A migrated SQLite file; a copy of it costs a fraction of what migrating another does."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from elkapi.storage.db import Database
from elkapi.storage.dialect import create_sqlite_file
from elkapi.storage.migrations import migrate


def copy_migrated_sqlite(path: Path) -> None:
    """Put a fresh, migrated database where no file is yet."""
    create_sqlite_file(path)
    path.write_bytes(_migrated())


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="elk-") as folder:
        path = Path(folder) / "elkapi.sqlite3"
        database = Database.open(f"sqlite:///{path}")
        migrate(database)
        # The last to close a SQLite file folds its -wal back in.
        database.close()
        return path.read_bytes()
