"""The engines `bench/embeddings.py` compares, each run as a child process of the interpreter that has it installed.

It calls each engine in its fastest way; the parent chooses settings, orders the runs and reports. A child reads one
JSON command per line on stdin and answers one JSON line. Only the standard library is imported at the top.

    embedding_engines.py st MODEL_DIR | ct2 MODEL_DIR WORK_DIR | http URL MODEL [KEY] | llama GGUF PORT
    embedding_engines.py gguf MODEL_DIR FILE        (writes the q8_0 model llama.cpp is run with)
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import statistics
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WINDOW = 256


class SentenceTransformers:
    """In process; sorts by length itself. Setting: batch size."""

    settings = (16, 32, 64)

    def __init__(self, model_dir: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model_dir, device="cpu")
        self.model.max_seq_length = WINDOW

    def embed(self, texts: list[str], setting: Any) -> list[Any]:
        return list(self.model.encode(texts, batch_size=setting, normalize_embeddings=True, show_progress_bar=False))


class CTranslate2:
    """In process, fp32, length-sorted by us. Setting: [batch size, parallel replicas]."""

    settings = ((8, 1), (16, 1), (32, 1), (8, 2), (16, 2))

    def __init__(self, model_dir: str, work_dir: str) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
        from tokenizers import Tokenizer

        out = Path(work_dir) / "ct2"
        if not (out / "model.bin").exists():
            TransformersConverter(model_dir).convert(str(out), force=True)
        self.encoders = {
            replicas: ctranslate2.Encoder(
                str(out), device="cpu", compute_type="float32", inter_threads=replicas, intra_threads=2 // replicas
            )
            for replicas in (1, 2)
        }
        self.pool = ThreadPoolExecutor(2)
        self.tokenizer = Tokenizer.from_file(f"{model_dir}/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(WINDOW)

    def embed(self, texts: list[str], setting: Any) -> list[Any]:
        size, replicas = setting
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        out: list[Any] = [None] * len(ids)

        def run(batch: list[int]) -> None:
            for place, vector in zip(batch, self._forward([ids[i] for i in batch], replicas), strict=True):
                out[place] = vector

        list(self.pool.map(run, batches) if replicas > 1 else map(run, batches))
        return out

    def _forward(self, ids: list[list[int]], replicas: int) -> Any:
        import numpy as np

        hidden = np.array(self.encoders[replicas].forward_batch(ids).last_hidden_state)
        lengths = np.array([len(one) for one in ids])
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
        total = np.einsum("bsh,bs->bh", hidden, mask)
        return total / np.linalg.norm(total, axis=1, keepdims=True)


class Http:
    """Any server of the OpenAI dialect. Setting: parallel connections, each sending its next array when answered.

    `url` is http://host:port/v1 or unix:/path/of.sock. Vectors are in base64, the default of the official SDKs.
    """

    settings = (1, 2, 4)

    def __init__(self, url: str, model: str, key: str = "") -> None:
        self.url, self.model, self.key = url, model, key
        self.pool = ThreadPoolExecutor(max(self.settings))
        self.idle: list[tuple[float, http.client.HTTPConnection]] = []

    def _connection(self) -> http.client.HTTPConnection:
        """An idle connection, unless the server may have closed it (some do after 5 s), or a new one."""
        while self.idle:
            since, connection = self.idle.pop()
            if time.monotonic() - since < 2:
                return connection
            connection.close()
        return self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        if self.url.startswith("unix:"):
            connection = http.client.HTTPConnection("local")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.url.removeprefix("unix:"))
            return connection
        parts = urlsplit(self.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)

    def embed(self, texts: list[str], setting: Any) -> list[Any]:
        connection = self._connection()
        path = "/v1/embeddings" if self.url.startswith("unix:") else f"{urlsplit(self.url).path}/embeddings"
        body = json.dumps({"model": self.model, "input": texts, "encoding_format": "base64"})
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        connection.request("POST", path, body.encode(), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {content[:300]!r}")
        self.idle.append((time.monotonic(), connection))
        data = sorted(json.loads(content)["data"], key=lambda one: one["index"])
        return [self._vector(one["embedding"]) for one in data]

    @staticmethod
    def _vector(value: Any) -> Any:
        if isinstance(value, str):
            raw = base64.b64decode(value)
            return struct.unpack(f"<{len(raw) // 4}f", raw)
        return value


def run_scenario(engine: Any, arrays: list[list[str]], seconds: float, setting: Any) -> dict[str, Any]:
    """Embed arrays repeatedly for about `seconds`; returns texts per second."""
    parallel = setting if isinstance(engine, Http) else 1
    deadline = time.perf_counter() + seconds
    started = time.perf_counter()

    def client(number: int) -> int:
        done, turn = 0, number
        while time.perf_counter() < deadline or not done:
            texts = arrays[turn % len(arrays)]
            engine.embed(texts, setting)
            done, turn = done + len(texts), turn + parallel
        return done

    total = sum(engine.pool.map(client, range(parallel))) if parallel > 1 else client(0)
    return {"per_s": total / (time.perf_counter() - started)}


def run_single(engine: Any, texts: list[str], seconds: float, setting: Any) -> dict[str, Any]:
    """One text per call, one call at a time; returns the median in milliseconds."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < 10:
        started = time.perf_counter()
        engine.embed([texts[len(times) % len(texts)]], setting)
        times.append(time.perf_counter() - started)
    return {"p50_ms": statistics.median(times) * 1e3}


def serve_llama(gguf: str, port: str) -> None:
    """Run llama.cpp's server until stdin closes: 16 slots of one window each."""
    import xllamacpp

    slots = 16
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_parallel, params.n_ctx = slots, slots * WINDOW
    params.n_batch = params.n_ubatch = slots * WINDOW
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    print(json.dumps({"ready": server.listening_address}), flush=True)
    sys.stdin.read()


def write_gguf(model_dir: str, file: str) -> None:
    """Write the same weights for llama.cpp: matrices as q8_0 (its fastest nearly exact type), the rest float32."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads(Path(model_dir, "config.json").read_text())
    words = Path(model_dir, "vocab.txt").read_text("utf-8").splitlines()
    out = gguf.GGUFWriter(file, "bert")
    out.add_name("all-MiniLM-L6-v2")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_eps(config["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    out.add_tokenizer_model("bert")
    out.add_tokenizer_pre("default")
    special = {word: number for number, word in enumerate(words) if word.startswith("[") and word.endswith("]")}
    # llama.cpp marks the start of a word where the vocabulary file marks its continuation.
    out.add_token_list([w if w in special else w[2:] if w.startswith("##") else "\u2581" + w for w in words])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    out.add_token_types([control if word in special else normal for word in words])
    out.add_token_type_count(config["type_vocab_size"])
    out.add_bos_token_id(special["[CLS]"])
    out.add_eos_token_id(special["[SEP]"])
    out.add_sep_token_id(special["[SEP]"])
    out.add_unk_token_id(special["[UNK]"])
    out.add_pad_token_id(special["[PAD]"])
    out.add_mask_token_id(special["[MASK]"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(f"{model_dir}/model.safetensors").items():
        if name.startswith("pooler") or name.endswith("position_ids"):
            continue
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        as_q8 = tensor.ndim == 2 and "position" not in name and "token_type" not in name
        kind = gguf.GGMLQuantizationType.Q8_0 if as_q8 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(tensor.astype(np.float32), kind)
        out.add_tensor(mapped, data, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main() -> None:
    kind, *args = sys.argv[1:]
    if kind == "gguf":
        write_gguf(*args)
        return
    if kind == "llama":
        serve_llama(*args)
        return
    engine: Any = {"st": SentenceTransformers, "ct2": CTranslate2, "http": Http}[kind](*args)
    print(json.dumps({"ready": True, "settings": engine.settings}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        run = {"arrays": run_scenario, "single": run_single, "vectors": None}[command.pop("do")]
        if run is None:
            vectors = engine.embed(command["texts"], command["setting"])
            answer: dict[str, Any] = {"vectors": [[float(x) for x in vector] for vector in vectors]}
        else:
            answer = run(engine, **command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
