"""Deterministic unit vectors: the same model, item and dimensions give the same bytes on every machine; no numpy."""

from __future__ import annotations

import functools
import hashlib
import math
import sys
from array import array

# 256 vectors of at most 3072 float32 are 3 MiB.
VECTORS_CACHED_MAX = 256


def seed(model: str, item: bytes) -> bytes:
    """The 32-byte seed of a vector; `item` includes its kind, so that text and tokens never share a seed."""
    return hashlib.sha256(model.encode() + b"\0" + item).digest()


@functools.lru_cache(maxsize=VECTORS_CACHED_MAX)
def unit_vector(seed_bytes: bytes, dimensions: int) -> bytes:
    """`dimensions` little-endian float32 of Euclidean length 1.

    A shorter vector is the renormalised prefix of a longer one, like the provider's own shortened embeddings.
    """
    numbers = array("h", hashlib.shake_256(seed_bytes).digest(2 * dimensions))
    if sys.byteorder == "big":
        numbers.byteswap()
    # An odd number is never zero, so the length is never zero even with one dimension.
    odd = [number | 1 for number in numbers]
    length = math.sqrt(sum([number * number for number in odd]))
    floats = array("f", [number / length for number in odd])
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def as_floats(vector: bytes) -> list[float]:
    """The float32 values as Python floats, which are exact: their text reads back to the same bits."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
