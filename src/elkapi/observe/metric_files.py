"""prometheus-client's files of values, with their disk blocks; importing this module puts them in the library's place.

The library makes its files sparse, so a value that needs a new page of a full disk would end its process by a signal,
and names them by the pid, which is the same in every container: here by a number that the process claims.
It has no public way to do otherwise; tests/unit/observe/test_metrics.py watches over this one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict

from elkapi.observe.blocks import reserve
from elkapi.observe.numbers import claim

# What a value takes beside its key at most: its number, its time, the key's length and the padding.
VALUE_BYTES_MAX = 32


class ReservedDict(MmapedDict):
    """Raises OSError where the disk has no room for a new value, and is as it was then."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            self._make(filename)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    @staticmethod
    def _make(filename: str) -> None:
        # It gets its name with its full size: whoever adds up all files, at any moment, cannot read an empty one.
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
