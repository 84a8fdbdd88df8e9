"""Reads float32 tensors from a memory-mapped safetensors file; independent of models."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from elkapi.errors import NOT_JSON
from elkapi.local.models import ModelUnusable, check_hash

HEADER_BYTES_MAX = 16 * 1024 * 1024

Tensors = dict[str, NDArray[np.float32]]


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class TensorFile:
    """A verified file; `tensors` are read-only float32 views into the mapping, by name."""

    def __init__(self, path: Path, pinned_sha256: str) -> None:
        """Raises WeightsRefused for another hash and ModelUnusable for a file that is not safetensors."""
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelUnusable(f"cannot read {path}: {error}") from None
        with memoryview(self._map) as content:
            check_hash(path, content, pinned_sha256)
        self.tensors: Tensors = _views(path, self._map)

    def forget_pages(self) -> None:
        """Release the mapped pages; later accesses read them again from the page cache.

        The encoder's weights are read once, when the session packs its own copy, so 40 MB need not stay resident.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _views(path: Path, content: mmap.mmap) -> Tensors:
    header_bytes = int.from_bytes(content[:8], "little")
    if not 0 < header_bytes <= min(HEADER_BYTES_MAX, len(content) - 8):
        raise ModelUnusable(f"{path} is not a safetensors file")
    try:
        header = msgspec.json.decode(content[8 : 8 + header_bytes], type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
    except NOT_JSON as error:
        raise ModelUnusable(f"{path} has a broken header: {error}") from None
    start = 8 + header_bytes
    return {name: _view(path, name, entry, content, start) for name, entry in entries.items() if entry.dtype == "F32"}


def _view(path: Path, name: str, entry: _Entry, content: mmap.mmap, start: int) -> NDArray[np.float32]:
    first, last = entry.data_offsets
    count = int(np.prod(entry.shape))
    if not (0 <= first <= last <= len(content) - start and last - first == 4 * count):
        raise ModelUnusable(f"{path}: the tensor {name} does not lie where the header says")
    return np.frombuffer(content, np.float32, count, start + first).reshape(entry.shape)
