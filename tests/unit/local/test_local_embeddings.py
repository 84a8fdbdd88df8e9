"""The dialect: what a request may say, what is refused with which field, and the bytes of an answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from elkapi.errors import BadRequest, NotFound
from elkapi.local import embeddings, vocabulary
from elkapi.local.engine import Engine

MODEL = "all-MiniLM-L6-v2"


def _read(engine: Engine, **fields: Any) -> list[list[int]]:
    body = json.dumps({"model": MODEL} | fields).encode()
    return embeddings.read_tokens(engine, embeddings.read_embeddings(body))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b'{"model":"m","input":"\xff"}', None),
        (b'{"model":"m","input":"\\ud800"}', None),
        (b"[" * 100_000, None),
        (b'{"model":"m","input":"a","x":' + b"[" * 500_000 + b"]" * 500_000 + b"}", None),
        (b"[1]", None),
        (b'{"input":"a"}', "model"),
        (b'{"model":7,"input":"a"}', "model"),
        (b'{"model":"m"}', "input"),
        (b'{"model":"m","input":null}', "input"),
        (b'{"model":"m","input":5}', "input"),
        (b'{"model":"m","input":{"a":"b"}}', "input"),
        (b'{"model":"m","input":[true]}', "input"),
        (b'{"model":"m","input":[1.5]}', "input"),
        (b'{"model":"m","input":[["a"]]}', "input"),
        (b'{"model":"m","input":"a","encoding_format":"hex"}', "encoding_format"),
        (b'{"model":"m","input":"a","dimensions":"384"}', "dimensions"),
        (b'{"model":"m","input":"a","truncate":1}', "truncate"),
        (b'{"model":"m","input":"a","truncate":"MIDDLE"}', "truncate"),
        (b'{"model":"m","input":"a","output_dtype":"int8"}', "output_dtype"),
    ],
)
def test_a_malformed_body_is_a_400_naming_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        embeddings.read_embeddings(body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "value",
    [
        "",
        [],
        ["a", ""],
        [[]],
        [[1], []],
        ["a", 1],
        [1, [1]],
        [100256],
        [[0], [-1]],
        [2**70],
        ["a"] * 2049,
        [[1]] * 2049,
    ],
)
def test_an_input_that_cannot_be_embedded_is_a_400_on_input(engine: Engine, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        _read(engine, input=value)
    assert refused.value.param == "input"


def test_2048_items_are_taken_and_so_is_one_long_array_of_ids(engine: Engine) -> None:
    assert len(_read(engine, input=["a"] * 2048)) == 2048
    assert len(_read(engine, input=[64] * 3000, truncate=True)) == 1


def test_unknown_fields_and_user_are_ignored(engine: Engine) -> None:
    assert _read(engine, input="a", user="u-1", surprise={"x": 1}) == engine.tokenize(["a"])


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
def test_only_the_models_own_dimensions_are_accepted(engine: Engine, name: str) -> None:
    assert _read(engine, input="a", **{name: 384})
    for other in (1, 383, 385, 0, -384):
        with pytest.raises(BadRequest, match="must be 384 for") as refused:
            _read(engine, input="a", **{name: other})
        assert refused.value.param == name


def test_a_text_beyond_the_window_names_index_tokens_and_window(engine: Engine) -> None:
    fits, long = "word " * 254, "word " * 255
    assert len(_read(engine, input=fits)[0]) == 256
    with pytest.raises(BadRequest, match=r"`input\[1\]` has 257 tokens; all-MiniLM-L6-v2 reads at most 256") as refused:
        _read(engine, input=["a", long])
    assert refused.value.param == "input"
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(BadRequest, match=r"^`input` has 257 tokens"):
        _read(engine, input=long)
    with pytest.raises(BadRequest):
        _read(engine, input=long, truncate=False)
    cut = _read(engine, input=["a", long], truncate=True)
    assert [len(ids) for ids in cut] == [3, 256]


def test_a_text_is_cut_at_the_end_that_other_apis_words_name(engine: Engine) -> None:
    long, longer = "first " + "word " * 300 + "last", "first " + "word " * 40_000 + "last"
    [[start, first, last, end]] = engine.tokenize(["first last"])
    for text in (long, longer):
        at_end = _read(engine, input=text, truncate="END")
        assert at_end == _read(engine, input=text, truncate=True)
        [at_start] = _read(engine, input=text, truncate="START")
        assert (at_end[0][:2], at_end[0][-1]) == ([start, first], end)
        assert (at_start[0], at_start[-2:]) == (start, [last, end])
        assert len(at_start) == len(at_end[0]) == 256
        with pytest.raises(BadRequest, match="at most 256"):
            _read(engine, input=text, truncate="NONE")
    assert _read(engine, input="a", truncate="START") == _read(engine, input="a", truncate="NONE")


class _Weighing:
    """A tokenizer that notes how many characters it was ever given at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def encode(self, text: str) -> Any:
        self.characters = max(self.characters, len(text))
        return self._tokenizer.encode(text)

    def encode_batch_fast(self, texts: list[str]) -> Any:
        self.characters = max(self.characters, sum(map(len, texts)))
        return self._tokenizer.encode_batch_fast(texts)


def test_the_largest_bodies_are_never_tokenized_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    weighing = _Weighing(engine._tokenizer)
    monkeypatch.setattr(engine, "_tokenizer", weighing)
    huge, window = "a " * 1_000_000, engine.row.window
    with pytest.raises(BadRequest, match=r"`input\[1\]` has 2000000 characters; .* at most 256 tokens") as refused:
        _read(engine, input=["a", huge])
    assert refused.value.code == "context_length_exceeded"
    assert [len(ids) for ids in _read(engine, input=huge, truncate=True)] == [window]
    many = ["word " * 2_000] * 30
    with pytest.raises(BadRequest, match=r"`input\[0\]` has 2002 tokens"):
        _read(engine, input=many)
    cut = _read(engine, input=[*many, "a"], truncate=True)
    assert [len(ids) for ids in cut] == [window] * 30 + [3]
    assert cut[0] == engine.truncate(engine.tokenize(many[:1])[0])
    assert 0 < weighing.characters <= engine.characters_max


def test_token_ids_become_the_same_tokens_as_their_text(engine: Engine, golden: Any) -> None:
    encoder = vocabulary._encoder("cl100k_base")
    ids = [encoder.encode(text) for text in golden.texts]
    assert _read(engine, input=ids) == engine.tokenize(golden.texts)
    assert _read(engine, input=ids[0]) == engine.tokenize(golden.texts[:1])


def test_an_unknown_token_id_is_named_with_its_place(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=r"`input\[1\]` has 100256 at position 2"):
        _read(engine, input=[[1], [5, 6, 100256]])


def test_floats_and_base64_are_the_same_float32_to_the_bit(golden: Any) -> None:
    vectors = np.array(golden.vectors[:40])
    vectors[0, :8] = [1e-42, -0.0, 0.1, 1 / 3, 3.4e38, -1e-30, 16777217, 1.1754944e-38]
    as_float = json.loads(embeddings.write_embeddings(MODEL, vectors, 9, "float"))
    as_base64 = json.loads(embeddings.write_embeddings(MODEL, vectors, 9, "base64"))
    for row, one, other in zip(vectors, as_float["data"], as_base64["data"], strict=True):
        raw = base64.b64decode(other["embedding"])
        assert raw == row.astype("<f4").tobytes()
        assert np.array(one["embedding"], np.float32).tobytes() == row.tobytes()
        assert one["embedding"] == np.frombuffer(raw, "<f4").tolist()


def test_an_answer_has_the_dialects_shape(golden: Any) -> None:
    answer = json.loads(embeddings.write_embeddings(MODEL, golden.vectors[:2], 24, None))
    assert [(one["object"], one["index"], len(one["embedding"])) for one in answer["data"]] == [
        ("embedding", 0, 384),
        ("embedding", 1, 384),
    ]
    assert {key: answer[key] for key in ("object", "model", "usage")} == {
        "object": "list",
        "model": MODEL,
        "usage": {"prompt_tokens": 24, "total_tokens": 24},
    }


def test_an_unknown_model_is_named(engine: Engine) -> None:
    with pytest.raises(
        NotFound, match="local model 'text-embedding-3-large' does not exist; use all-MiniLM-L6-v2"
    ) as refused:
        embeddings.pick({MODEL: engine}, "text-embedding-3-large")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def _count(engine: Engine, **fields: Any) -> list[int]:
    request = embeddings.read_count(json.dumps(fields).encode())
    found: list[int] = json.loads(embeddings.write_count(embeddings.count_tokens({MODEL: engine}, request)))["tokens"]
    return found


def test_counts_by_a_model_equal_what_embedding_would_charge(engine: Engine, golden: Any) -> None:
    assert _count(engine, model=MODEL, input=golden.texts) == golden.tokens
    assert _count(engine, model=MODEL, input="word " * 300) == [302]
    assert _count(engine, model=MODEL, input="word " * 300, truncate=True) == [256]


def test_counts_by_a_vocabulary_count_text_exactly_and_ids_by_number(engine: Engine) -> None:
    assert _count(engine, vocabulary="cl100k_base", input=["hello world", "a"]) == [2, 1]
    assert _count(engine, vocabulary="o200k_base", input="hello world") == [2]
    assert _count(engine, vocabulary="o200k_base", input=[199_000, 5]) == [2]
    assert _count(engine, vocabulary="cl100k_base", input=[[1, 2, 3], [4]]) == [3, 1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "a"}, "model"),
        ({"input": "a", "model": MODEL, "vocabulary": "cl100k_base"}, "model"),
        ({"input": "a", "vocabulary": "p50k"}, "vocabulary"),
        ({"input": "", "vocabulary": "cl100k_base"}, "input"),
        ({"input": [1, [2]], "vocabulary": "cl100k_base"}, "input"),
        ({"model": MODEL}, "input"),
    ],
)
def test_a_count_request_is_checked_too(engine: Engine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        _count(engine, **fields)
    assert refused.value.param == param
