"""Bytes reach SQLite as they are, and what is bound as bytes is read as bytes."""

from __future__ import annotations

import sqlite3

import pytest

from elkapi.storage import dialect


@pytest.mark.parametrize("value", [b"", b"\0" * 18, bytes(range(256)), b"text"])
def test_bytes_are_bound_as_they_are(value: bytes) -> None:
    assert dialect.SQLITE == "sqlite"  # the module that says how bytes are bound
    connection = sqlite3.connect(":memory:")
    try:
        assert connection.execute("SELECT ?, typeof(?), length(?)", (value, value, value)).fetchone() == (
            value,
            "blob",
            len(value),
        )
    finally:
        connection.close()
