"""Replaces prometheus-client's value files by ones with reserved disk blocks; importing this patches the library.

The library creates sparse files, so a value on a new page of a full disk would kill the process, and names them by
pid, which is the same in every container; here it is a number that the process claims. There is no public API for
this; tests/unit/observe/test_metrics.py guards the patch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict

from elkapi.observe.blocks import reserve
from elkapi.observe.numbers import claim

# The most bytes of a value besides its key: number, time, key length and padding.
VALUE_BYTES_MAX = 32


class ReservedDict(MmapedDict):
    """Raises OSError, and stays unchanged, if the disk has no room for a new value."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            self._make(filename)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    @staticmethod
    def _make(filename: str) -> None:
        # Rename it when it has its full size, so that a concurrent reader of all files never finds an empty one.
        path, unready = Path(filename), Path(f"{filename}.unready")
        if path.exists():
            return
        try:
            with unready.open("wb") as file:
                reserve(file.fileno(), _INITIAL_MMAP_SIZE)
            unready.rename(path)
        finally:
            unready.unlink(missing_ok=True)

    def _init_value(self, key: str) -> None:
        own: Any = self
        if own._used + len(key.encode()) + VALUE_BYTES_MAX > own._capacity:
            reserve(own._f.fileno(), own._capacity * 2)
        super()._init_value(key)  # type: ignore[no-untyped-call]


values.MmapedDict = ReservedDict  # type: ignore[attr-defined]
if values.ValueClass._multiprocess:
    _number = claim(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    values.ValueClass = values.MultiProcessValue(lambda: _number)  # type: ignore[no-untyped-call]
