"""The engine against vectors made with sentence-transformers, whatever the texts share a batch with."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elkapi.local import engine as engine_module
from elkapi.local.engine import Engine, embed_texts
from elkapi.local.models import BUNDLED, ModelUnusable, locate
from tests.isolation import without_network

TOLERANCE = 1e-5


def _difference(found: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(found) - wanted).max())


def test_token_counts_equal_those_of_sentence_transformers(engine: Engine, golden: Any) -> None:
    assert [len(ids) for ids in engine.tokenize(golden.texts)] == golden.tokens
    assert [len(engine.tokenize([text])[0]) for text in golden.texts] == golden.tokens


def test_every_golden_text_alone_has_its_vector(engine: Engine, golden: Any) -> None:
    vectors = [engine.embed([ids])[0] for ids in engine.tokenize(golden.texts)]
    assert _difference(vectors, golden.vectors) <= TOLERANCE


def test_vectors_do_not_depend_on_batch_mates(engine: Engine, golden: Any) -> None:
    order = list(range(200))
    random.Random(1).shuffle(order)
    ids = engine.tokenize([golden.texts[place] for place in order])
    shares = [engine.embed(ids[start : start + 23]) for start in range(0, 200, 23)]
    assert _difference(np.concatenate(shares), golden.vectors[order]) <= TOLERANCE


def test_a_text_padded_to_the_whole_window_keeps_its_vector(engine: Engine) -> None:
    short, long = engine.tokenize(["a", "word " * 254])
    assert len(long) == 256
    assert _difference(engine.embed([short, long])[0], engine.embed([short])[0]) <= TOLERANCE
    assert _difference(engine.embed([short, long])[1], engine.embed([long])[0]) <= TOLERANCE


def test_vectors_have_length_one(engine: Engine, golden: Any) -> None:
    lengths = np.linalg.norm(engine.embed(engine.tokenize(golden.texts[:8])), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5


def test_the_shipped_truncation_at_128_is_off_and_ours_keeps_the_closing_token(engine: Engine) -> None:
    (ids,) = engine.tokenize(["word " * 400])
    assert len(ids) == 402
    cut = engine.truncate(ids)
    assert len(cut) == 256
    assert cut == [*ids[:255], ids[-1]]
    assert engine.truncate(cut) == cut


def test_one_text_and_many_are_tokenized_alike(engine: Engine) -> None:
    texts = ["", "  two  spaces ", "Ünïcødé 你好 \U0001f600", "\x00\x01", "a" * 500, "don't [MASK] this [SEP]"]
    assert engine.tokenize(texts) == [engine.tokenize([text])[0] for text in texts]


def test_embed_texts_gives_lists_and_refuses_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, golden: Any
) -> None:
    monkeypatch.setattr(engine_module, "Engine", lambda files: engine)
    vectors = embed_texts(golden.texts[:3])
    assert _difference(vectors, golden.vectors[:3]) <= TOLERANCE
    assert isinstance(vectors[0][0], float)
    with pytest.raises(ValueError, match="empty"):
        embed_texts([""])
    with pytest.raises(ValueError, match="402 tokens"):
        embed_texts(["word " * 400])
    with pytest.raises(ModelUnusable, match="no local model is called 'nope'"):
        embed_texts(["a"], model="nope")


def test_a_wide_batch_gives_the_vectors_of_a_narrow_one(engine: Engine) -> None:
    wide = Engine(locate(BUNDLED[0]), threads=2)
    batch = engine.tokenize(["a short text", "a longer text " * 40, "x"])
    assert float(abs(wide.embed(batch, wide=True) - engine.embed(batch)).max()) < 1e-6
    assert float(abs(wide.embed(batch) - engine.embed(batch)).max()) == 0.0


def test_the_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """It leaves the id under which it would report in the user's cache. Without a network, in case it does."""
    cut, why_not = without_network()
    script = (
        "from elkapi.local import engine; from onnxruntime.datasets import get_example;"
        "engine.ort.InferenceSession(get_example('mul_1.onnx'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [*(cut if why_not is None else ()), sys.executable, "-c", script],
        env=environment | {"HOME": str(tmp_path)},
        timeout=60,
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
