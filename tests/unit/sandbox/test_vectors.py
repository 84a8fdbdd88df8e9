"""The vectors: unit length, the same everywhere, shortened by their head."""

from __future__ import annotations

import math
import struct

import pytest

from elkapi.sandbox.vectors import as_floats, seed, unit_vector


@pytest.mark.parametrize("dimensions", [1, 2, 3, 256, 1536, 3072])
def test_a_vector_has_its_dimensions_and_length_one(dimensions: int) -> None:
    floats = as_floats(unit_vector(seed("text-embedding-3-large", b"text:red"), dimensions))
    assert len(floats) == dimensions
    assert math.isclose(math.sqrt(math.fsum(number * number for number in floats)), 1.0, abs_tol=1e-6)


def test_a_vector_never_changes_between_versions() -> None:
    vector = unit_vector(seed("text-embedding-3-small", b"text:red"), 3)
    assert as_floats(vector) == [-0.0890374705195427, 0.14968182146549225, 0.984717071056366]


def test_vectors_differ_by_model_item_and_kind() -> None:
    seeds = {seed(model, item) for model in ("a", "b") for item in (b"text:1", b"text:2", b"tokens:1")}
    assert len({unit_vector(one, 64) for one in seeds}) == 6


def test_a_shorter_vector_is_the_renormalised_head_of_the_longer() -> None:
    one = seed("text-embedding-3-small", b"text:red")
    head, short = as_floats(unit_vector(one, 1536))[:256], as_floats(unit_vector(one, 256))
    length = math.sqrt(math.fsum(number * number for number in head))
    assert all(math.isclose(a / length, b, abs_tol=1e-6) for a, b in zip(head, short, strict=True))


def test_floats_are_the_same_bits_as_the_little_endian_bytes() -> None:
    vector = unit_vector(seed("text-embedding-3-small", b"text:red"), 512)
    assert struct.pack("<512f", *as_floats(vector)) == vector
