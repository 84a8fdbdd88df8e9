"""The official openai SDK, unmodified, sync and async, straight at the sandbox over loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from elkapi.sandbox.server import Running

from .exchanging import KEY

SMALL = "text-embedding-3-small"
INPUTS: list[Any] = ["red", ["red", "blue"], [1, 2, 3], [[1, 2], [3]]]


@pytest.fixture
def client(sandbox: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=sandbox.base_url + "/v1") as client:
        yield client


@pytest.mark.parametrize("given", INPUTS)
def test_the_sdk_embeds_every_kind_of_input(client: openai.OpenAI, given: Any) -> None:
    # Without encoding_format the SDK asks for base64 and decodes it itself.
    decoded = client.embeddings.create(model=SMALL, input=given)
    floats = client.embeddings.create(model=SMALL, input=given, encoding_format="float")
    assert [entry.embedding for entry in decoded.data] == [entry.embedding for entry in floats.data]
    assert all(len(entry.embedding) == 1536 for entry in decoded.data)
    assert decoded.usage.prompt_tokens == floats.usage.total_tokens >= 1


@pytest.mark.parametrize("given", INPUTS)
async def test_the_async_sdk_embeds_every_kind_of_input(sandbox: Running, given: Any) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=sandbox.base_url + "/v1") as client:
        answer = await client.embeddings.create(model="text-embedding-3-large", input=given, dimensions=5)
        assert all(len(entry.embedding) == 5 for entry in answer.data)
        assert answer.model == "text-embedding-3-large"


def test_the_sdk_lists_and_retrieves_models(client: openai.OpenAI) -> None:
    assert SMALL in [model.id for model in client.models.list()]
    assert client.models.retrieve(SMALL).owned_by == "system"


async def test_the_async_sdk_lists_and_retrieves_models(sandbox: Running) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=sandbox.base_url + "/v1") as client:
        assert SMALL in [model.id async for model in client.models.list()]
        assert (await client.models.retrieve(SMALL)).object == "model"


@pytest.mark.parametrize(
    ("raised", "text", "code"),
    [
        (openai.BadRequestError, "", None),
        (openai.NotFoundError, "a [sandbox: status=404, code=model_not_found]", "model_not_found"),
        (openai.PermissionDeniedError, "a [sandbox: status=403]", None),
        (openai.AuthenticationError, f"a [sandbox: refuse-key={KEY[-4:]}]", "invalid_api_key"),
        (openai.RateLimitError, "a [sandbox: status=429]", "rate_limit_exceeded"),
        (openai.RateLimitError, "a [sandbox: status=429, code=insufficient_quota]", "insufficient_quota"),
        (openai.InternalServerError, "a [sandbox: status=503]", None),
    ],
)
def test_the_sdk_raises_the_class_of_each_error(
    client: openai.OpenAI, raised: type[openai.APIStatusError], text: str, code: str | None
) -> None:
    with pytest.raises(raised) as caught:
        client.with_options(max_retries=0).embeddings.create(model=SMALL, input=text)
    assert caught.value.code == code
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_the_sdk_raises_for_a_wrong_key_and_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="a")


def test_the_sdk_retries_a_rate_limit_until_it_is_over(client: openai.OpenAI, sandbox: Running) -> None:
    text = "a [sandbox: status=429, retry-after=1ms, times=2]"
    assert client.embeddings.create(model=SMALL, input=text).data
    assert [received.status for received in sandbox.sandbox.recorder.shown()] == [429, 429, 200]
    assert sandbox.sandbox.bill.statement().lines_total == 1


async def test_the_async_sdk_gives_up_after_its_retries(sandbox: Running) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=sandbox.base_url + "/v1", max_retries=1) as client:
        with pytest.raises(openai.RateLimitError):
            await client.embeddings.create(model=SMALL, input="a [sandbox: status=429, retry-after=1ms]")
    assert [received.status for received in sandbox.sandbox.recorder.shown()] == [429, 429]


def test_the_sdk_sees_a_cut_answer_as_a_connection_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        client.with_options(max_retries=0).embeddings.create(model=SMALL, input="a [sandbox: cut-after=3]")
