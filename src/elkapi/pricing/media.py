"""What a task of media may cost and what it comes to, in units: so far one call each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elkapi.catalog.task import Meter
from elkapi.types import TaskAsset, Usage


def bound(meter: Meter, body: Mapping[str, Any]) -> tuple[Usage, dict[str, str]]:
    """(the most units, features) of a submit."""
    return Usage(calls=1), {}


def measured(
    meter: Meter, upper: Usage, features: Mapping[str, str], assets: tuple[TaskAsset, ...]
) -> tuple[Usage, dict[str, str]]:
    """(units, features) of what was made."""
    return upper, dict(features)
