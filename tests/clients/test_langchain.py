"""LangChain's OpenAIEmbeddings, unmodified: it splits texts by tiktoken and sends arrays of token ids.

tiktoken would fetch its vocabulary from the network; here its cache is filled from an installed package beforehand.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import openai
import pytest
import tiktoken
import tiktoken_ext.openai_public
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from tests.clients.client_stage import LOCAL, SMALL, Lane, Stage

pytestmark = pytest.mark.slow

VOCABULARY = "cl100k_base"
TEXTS = [
    "The food was delicious and the waiter...",
    "An invoice is due within thirty days.",
    "Ünïcödé, 日本語 and 🙂 are cut inside their letters by this vocabulary.",
]


class _Asked(Exception):
    """tiktoken asked for a vocabulary: its address and its hash."""


def _wanted(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """(address, sha256) of the vocabulary as the installed tiktoken asks for it."""

    def ask(address: str, expected_hash: str) -> None:
        raise _Asked(address, expected_hash)

    with monkeypatch.context() as patched:
        patched.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", ask)
        with pytest.raises(_Asked) as asked:
            tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[VOCABULARY]()
    address, sha256 = asked.value.args
    return address, sha256


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    """tiktoken's own encoding, from a cache that holds the published file."""
    address, sha256 = _wanted(monkeypatch)
    # Importing the package itself would load every vocabulary it has.
    packed = metadata.distribution("bpe-openai").locate_file(f"bpe_openai/data/{VOCABULARY}.tiktoken.gz")
    content = gzip.decompress(Path(str(packed)).read_bytes())
    assert hashlib.sha256(content).hexdigest() == sha256
    cached = tmp_path / hashlib.sha1(address.encode()).hexdigest()
    cached.write_bytes(content)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    # tiktoken keeps encodings for the process's life; this one shall come from the cache above.
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    encoding = tiktoken.get_encoding(VOCABULARY)
    # A file with another hash would have been removed and fetched anew.
    assert [path.name for path in tmp_path.iterdir()] == [cached.name]
    return encoding


@pytest.fixture
def bodies() -> list[Any]:
    """The bodies LangChain sent."""
    return []


@pytest.fixture
def embeddings(
    stage: Stage, lane: Lane, vocabulary: tiktoken.Encoding, bodies: list[Any]
) -> Iterator[OpenAIEmbeddings]:
    def note(sent: Any) -> None:
        bodies.append(json.loads(sent.content))

    async def note_async(sent: Any) -> None:
        bodies.append(json.loads(sent.content))

    with openai.DefaultHttpxClient(event_hooks={"request": [note]}) as http:
        yield OpenAIEmbeddings(
            model=lane.model,
            base_url=stage.base_url,
            api_key=SecretStr(lane.key),
            check_embedding_ctx_length=True,
            http_client=http,
            http_async_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [note_async]}),
        )


async def direct(stage: Stage, lane: Lane, given: list[Any]) -> list[list[float]]:
    """The same vectors by the official client."""
    async with openai.AsyncOpenAI(api_key=lane.key, base_url=stage.base_url) as client:
        return [entry.embedding for entry in (await client.embeddings.create(model=lane.model, input=given)).data]


async def test_documents_go_as_token_ids_and_come_back_as_their_vectors(
    stage: Stage, lane: Lane, embeddings: OpenAIEmbeddings, vocabulary: tiktoken.Encoding, bodies: list[Any]
) -> None:
    ids = [vocabulary.encode(text) for text in TEXTS]
    expected = await direct(stage, lane, ids)
    assert embeddings.embed_documents(TEXTS) == expected
    assert await embeddings.aembed_documents(TEXTS) == expected
    assert [body["input"] for body in bodies] == [ids, ids]
    assert embeddings.http_async_client is not None
    await embeddings.http_async_client.aclose()


async def test_a_query_goes_as_token_ids_and_comes_back_as_its_vector(
    stage: Stage, lane: Lane, embeddings: OpenAIEmbeddings, vocabulary: tiktoken.Encoding, bodies: list[Any]
) -> None:
    ids = [vocabulary.encode(TEXTS[0])]
    (expected,) = await direct(stage, lane, ids)
    assert embeddings.embed_query(TEXTS[0]) == expected
    assert await embeddings.aembed_query(TEXTS[0]) == expected
    assert [body["input"] for body in bodies] == [ids, ids]
    assert len(expected) == lane.size
    assert embeddings.http_async_client is not None
    await embeddings.http_async_client.aclose()


async def test_the_bundled_model_reads_token_ids_as_the_text_they_stand_for(
    stage: Stage, vocabulary: tiktoken.Encoding
) -> None:
    lane = stage.lanes["local"]
    by_ids = await direct(stage, lane, [vocabulary.encode(text) for text in TEXTS])
    assert by_ids == await direct(stage, lane, TEXTS)
    assert lane.model == LOCAL


async def test_the_upstream_receives_the_token_ids_byte_for_byte(relayed: Stage, vocabulary: tiktoken.Encoding) -> None:
    embeddings = OpenAIEmbeddings(model=SMALL, base_url=relayed.base_url, api_key=SecretStr(relayed.key), dimensions=9)
    assert {len(vector) for vector in embeddings.embed_documents(TEXTS)} == {9}
    (received,) = relayed.received()
    sent = json.loads(base64.b64decode(received.body_base64))
    assert sent["input"] == [vocabulary.encode(text) for text in TEXTS]
    assert sent["dimensions"] == 9


@pytest.mark.usefixtures("vocabulary")
def test_more_documents_than_a_chunk_keep_their_order(stage: Stage) -> None:
    embeddings = OpenAIEmbeddings(model=LOCAL, base_url=stage.base_url, api_key=SecretStr(stage.key), chunk_size=2)
    texts = [*TEXTS, *reversed(TEXTS)]
    vectors = embeddings.embed_documents(texts)
    assert vectors[0] == pytest.approx(vectors[5], abs=1e-5)
    assert vectors[2] == pytest.approx(vectors[3], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)


def test_text_instead_of_tokens_works_too(stage: Stage) -> None:
    """`check_embedding_ctx_length=False` is what LangChain advises for servers that know no token ids."""
    embeddings = OpenAIEmbeddings(
        model=LOCAL, base_url=stage.base_url, api_key=SecretStr(stage.key), check_embedding_ctx_length=False
    )
    assert len(embeddings.embed_query(TEXTS[0])) == 384


@pytest.mark.usefixtures("vocabulary")
def test_a_refusal_reaches_the_caller_as_the_sdks_error(stage: Stage) -> None:
    embeddings = OpenAIEmbeddings(model="no-such-model", base_url=stage.base_url, api_key=SecretStr(stage.key))
    with pytest.raises(openai.InternalServerError, match="No channel serves the model") as caught:
        embeddings.embed_query("a")
    assert caught.value.code == "model_not_found"
    stage.check_hides_upstream(caught.value.response.text)
