"""One loaded engine and the golden rows for the whole room's tests; loading takes half a second, so it is shared."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from elkapi.local.engine import Engine, Vectors
from elkapi.local.models import BUNDLED, locate

GOLDEN = Path(__file__).parents[2] / "golden" / "all-minilm-l6-v2.json"


class Golden(NamedTuple):
    """What sentence-transformers made of 200 texts on the same weights."""

    texts: list[str]
    tokens: list[int]
    vectors: Vectors


@pytest.fixture(scope="session")
def golden() -> Golden:
    rows = json.loads(GOLDEN.read_text("utf-8"))["rows"]
    vectors = [np.frombuffer(base64.b64decode(row["vector_f32le_base64"]), "<f4") for row in rows]
    return Golden([row["text"] for row in rows], [row["tokens"] for row in rows], np.stack(vectors))


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(locate(BUNDLED[0]))
