"""Each test of the server runs on both event loops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """uvloop in production, asyncio's own without it; they differ in what a write to a lost connection does."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
