"""One loaded model: text to tokens and token batches to vectors. `batcher` and `lanes` do queueing and threads.

Under load every call runs on the calling thread only: parallelism comes from several callers, which is faster than
splitting each matrix product if the cores are shared (84 against 63 GFLOP/s measured). A single batch may run wide
instead, on all threads: one short text then takes 3.8 ms instead of 6.7.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Nothing phones home: ONNX Runtime reports to its maker unless told before it is loaded, and leaves an id of this
# machine in the user's cache. The tokenizers package may neither contact a hub nor start threads besides the lanes.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from elkapi.local.bert import INPUT_IDS, MASK, VECTORS, Graph
from elkapi.local.models import ModelFiles, ModelRow, ModelUnusable, check_hash, locate, read_rows
from elkapi.local.safetensors import TensorFile

Vectors = NDArray[np.float32]
ONNX_ERRORS_ONLY = 3
# Longer texts are refused before tokenizing, which takes up to 1 KB of memory per character.
CHARACTERS_PER_TOKEN_MAX = 256


class Engine:
    """A model ready to run. Its methods are thread-safe."""

    def __init__(self, files: ModelFiles, threads: int = 1) -> None:
        """Check both files against the row's hashes and build the sessions; raises ModelUnusable, WeightsRefused.

        `threads` is how many threads a wide batch may use; with 1 there is only one session.
        """
        self.row: ModelRow = files.row
        self._tokenizer = _load_tokenizer(files.tokenizer, files.row.tokenizer_sha256)
        self._last_token: int = self._tokenizer.encode("").ids[-1]
        self._file = TensorFile(files.weights, files.row.weights_sha256)
        self._graph = Graph(files.row, self._file.tensors)
        self._session = _session(self._graph, 1)
        self._wide = _session(self._graph, threads) if threads > 1 else self._session
        self._file.forget_pages()

    @property
    def characters_max(self) -> int:
        """Any text of more characters exceeds the window."""
        return self.row.window * CHARACTERS_PER_TOKEN_MAX

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, never truncated; shape [len(texts)][tokens]."""
        return list(self.tokens(texts))

    def tokens(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Like `tokenize`, one by one: holds the tokenizer's output for only a few texts at a time."""
        if len(texts) == 1:
            yield self._tokenizer.encode(texts[0]).ids
            return
        group: list[str] = []
        room = self.characters_max
        for text in texts:
            if group and len(text) > room:
                yield from (encoding.ids for encoding in self._tokenizer.encode_batch_fast(group))
                group, room = [], self.characters_max
            group.append(text)
            room -= len(text)
        yield from (encoding.ids for encoding in self._tokenizer.encode_batch_fast(group))

    def truncate(self, ids: list[int], *, start: bool = False) -> list[int]:
        """At most `row.window` ids, still framed by the special tokens, as sentence-transformers truncates.

        `start`: cut the text's start, not its end.
        """
        kept = self.row.window - 1
        if len(ids) <= self.row.window:
            return ids
        return [ids[0], *ids[-kept:]] if start else [*ids[:kept], self._last_token]

    def embed(self, batch: Sequence[Sequence[int]], wide: bool = False) -> Vectors:
        """Unit vectors of token sequences, shape [len(batch), dimensions]. Each sequence has 1 to `window` ids."""
        width = max(map(len, batch))
        ids = np.zeros((len(batch), width), np.int32)
        mask = np.zeros((len(batch), width), np.int32)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        session = self._wide if wide else self._session
        vectors: Vectors = session.run([VECTORS], {INPUT_IDS: ids, MASK: mask})[0]
        return vectors


def _load_tokenizer(path: Path, pinned_sha256: str) -> Tokenizer:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelUnusable(f"cannot read {path}: {error}") from None
    check_hash(path, content, pinned_sha256)
    tokenizer = Tokenizer.from_buffer(content)
    # The shipped file truncates and pads to 128 tokens; the model's window is the row's.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _session(graph: Graph, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between texts would take CPU time from the gateway.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    options.log_severity_level = ONNX_ERRORS_ONLY
    # The graph is fused by hand where that is faster; the optimizer would fuse the rest into slower operators.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    large = graph.large_arrays()
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in large.values()]
    options.add_external_initializers(list(large), values)
    try:
        return ort.InferenceSession(graph.message, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime has an exception class for every kind of broken graph; all mean the same here.
        raise ModelUnusable(f"ONNX Runtime refuses the graph: {error}") from error


def load_engines(
    models_dir: str | Path | None = None, threads: int = 1
) -> tuple[dict[str, Engine], list[ModelUnusable]]:
    """Every usable model by id, and the errors of the others; raises ModelUnusable for an unreadable row file."""
    engines: dict[str, Engine] = {}
    refused: list[ModelUnusable] = []
    for row, folder in read_rows(models_dir):
        try:
            engines[row.id] = Engine(locate(row, folder), threads)
        except ModelUnusable as error:
            refused.append(error)
    return engines, refused


def embed_texts(texts: Sequence[str], model: str = "", models_dir: str | Path | None = None) -> list[list[float]]:
    """Vectors of texts in this process, for `elkapi embed`; shape [len(texts)][dimensions].

    Raises ModelUnusable if the model cannot be loaded and ValueError for a text that is empty or too long.
    """
    rows = {row.id: (row, folder) for row, folder in read_rows(models_dir)}
    wanted = model or next(iter(rows))
    if wanted not in rows:
        raise ModelUnusable(f"no local model is called {wanted!r}; there are {', '.join(rows)}")
    engine = Engine(locate(*rows[wanted]))
    vectors: list[list[float]] = []
    for text, ids in zip(texts, engine.tokenize(texts), strict=True):
        if not text:
            raise ValueError("the text is empty")
        if len(ids) > engine.row.window:
            raise ValueError(f"the text has {len(ids)} tokens; {wanted} reads at most {engine.row.window}")
        vectors.append(engine.embed([ids])[0].tolist())
    return vectors
