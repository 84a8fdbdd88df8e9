"""The official openai package for Python, unmodified, sync and async, local and relayed and with a test key.

Each test body runs with both clients: `done` waits for what the async one answers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from tests.clients.client_stage import INPUTS, LOCAL, SEED_TEXT, SMALL, UNPRICED, UNSTEADY, Lane, Stage, done

pytestmark = pytest.mark.slow

SLOW_ANSWER_S = 0.5
# 600 vectors of 1536 numbers are more than the gateway holds back of one answer (reply_buffer_bytes_max).
LARGE_ITEMS = 600
BODY_MIB_MAX = 32

Client = openai.OpenAI | openai.AsyncOpenAI
Connect = Callable[..., Client]


@pytest.fixture
def requests() -> list[Any]:
    """Every HTTP request the clients of this test sent, retries included."""
    return []


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest, stage: Stage, requests: list[Any]) -> AsyncIterator[Connect]:
    """Make a client for a key, closed afterwards; keyword arguments are the client's own."""
    clients: list[Client] = []

    async def note(sent: Any) -> None:
        requests.append(sent)

    def make(key: str, **options: Any) -> Client:
        client: Client
        options = {"base_url": stage.base_url, "max_retries": 0, **options}
        if request.param == "sync":
            http = openai.DefaultHttpxClient(event_hooks={"request": [requests.append]})
            client = openai.OpenAI(api_key=key, http_client=http, **options)
        else:
            async_http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]})
            client = openai.AsyncOpenAI(api_key=key, http_client=async_http, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await done(client.close())


def floats_of(text: str) -> list[float]:
    """What a caller of encoding_format="base64" decodes: little-endian float32."""
    content = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(content) // 4}f", content))


def check_error(stage: Stage, error: openai.APIStatusError) -> None:
    """Every refusal has a request id, also in its message, and does not say who was asked."""
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert f"(request id: {error.request_id})" in error.message
    assert error.response.headers["content-type"] == "application/json"
    stage.check_hides_upstream(error.response.text + str(error.response.headers))


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
async def test_every_kind_of_input_is_embedded_and_both_encodings_carry_the_same_bits(
    connect: Connect, lane: Lane, given: Any
) -> None:
    client = connect(lane.key)
    # Without encoding_format the SDK asks for base64 and decodes it itself.
    decoded = await done(client.embeddings.create(model=lane.model, input=given))
    floats = await done(client.embeddings.create(model=lane.model, input=given, encoding_format="float"))
    encoded = await done(client.embeddings.create(model=lane.model, input=given, encoding_format="base64"))
    vectors = [entry.embedding for entry in floats.data]
    assert [entry.embedding for entry in decoded.data] == vectors
    assert [floats_of(entry.embedding) for entry in encoded.data] == vectors
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    for answer in (decoded, floats, encoded):
        assert answer.object == "list"
        assert answer.model == lane.model
        assert [entry.index for entry in answer.data] == list(range(count))
        assert {entry.object for entry in answer.data} == {"embedding"}
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == decoded.usage.prompt_tokens > 0
    assert {len(vector) for vector in vectors} == {lane.size}
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in vectors)


async def test_token_ids_mean_their_text_to_the_bundled_model(connect: Connect, stage: Stage) -> None:
    client = connect(stage.key)
    by_text = await done(client.embeddings.create(model=LOCAL, input=SEED_TEXT))
    by_ids = await done(client.embeddings.create(model=LOCAL, input=INPUTS["tokens"]))
    assert by_ids.data[0].embedding == by_text.data[0].embedding
    assert by_ids.usage == by_text.usage


async def test_the_bytes_of_the_sdk_arrive_at_the_upstream_unchanged(
    connect: Connect, relayed: Stage, requests: list[Any]
) -> None:
    client = connect(relayed.key, organization="org-of-the-caller", project="proj-of-the-caller")
    await done(
        client.embeddings.create(
            model=SMALL, input=["a", "b"], dimensions=7, user="customer-17", extra_body={"future_field": [1, 2.5, None]}
        )
    )
    (received,) = relayed.received()
    assert base64.b64decode(received.body_base64) == requests[0].content
    sent = json.loads(requests[0].content)
    assert sent["user"] == "customer-17"
    assert sent["encoding_format"] == "base64"
    assert sent["future_field"] == [1, 2.5, None]
    # Who the caller is stays here: neither their key nor their organisation nor their SDK travels on.
    headers = dict(received.headers)
    assert relayed.key not in str(headers)
    assert not [name for name in headers if name.startswith(("x-stainless", "openai-"))]


async def test_dimensions_shorten_where_the_model_can(connect: Connect, stage: Stage, lane: Lane) -> None:
    client = connect(lane.key)
    wanted = 5 if lane.shortens else lane.size
    answer = await done(client.embeddings.create(model=lane.model, input="a", dimensions=wanted))
    assert len(answer.data[0].embedding) == wanted
    for wrong in (lane.size + 1, 0) if lane.shortens else (lane.size - 1, lane.size + 1, 0):
        with pytest.raises(openai.BadRequestError) as caught:
            await done(client.embeddings.create(model=lane.model, input="a", dimensions=wrong))
        assert caught.value.param == "dimensions"
        check_error(stage, caught.value)


async def test_an_end_users_tag_is_accepted(connect: Connect, lane: Lane) -> None:
    answer = await done(connect(lane.key).embeddings.create(model=lane.model, input="a", user="customer-17"))
    assert len(answer.data) == 1


async def test_a_raw_response_has_the_request_id_and_the_cost(connect: Connect, lane: Lane) -> None:
    client = connect(lane.key)
    raw = await done(client.embeddings.with_raw_response.create(model=lane.model, input="one two three four"))
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.request_id.startswith("req_")
    # 4 words are 4 tokens to the sandbox, at 0.02 USD a million; bundled models and test keys are free.
    assert raw.headers["x-elkapi-cost-usd"] == ("0.00000008" if lane.name == "relayed" else "0.00")
    assert len(raw.parse().data[0].embedding) == lane.size


async def test_an_answer_carries_no_header_of_the_upstreams(connect: Connect, stage: Stage, lane: Lane) -> None:
    raw = await done(connect(lane.key).embeddings.with_raw_response.create(model=lane.model, input="a"))
    ours = {"x-request-id", "x-oneapi-request-id", "x-elkapi-cost-usd", "content-type", "content-length", "date"}
    assert set(raw.headers) == ours
    stage.check_hides_upstream(str(raw.headers) + raw.text)


@pytest.mark.parametrize("named", [False, True])
async def test_the_engines_path_answers_like_the_usual_one(connect: Connect, lane: Lane, named: bool) -> None:
    client = connect(lane.key)
    usual = await done(client.embeddings.create(model=lane.model, input="a", encoding_format="float"))
    body = {"input": "a", "encoding_format": "float"} | ({"model": lane.model} if named else {})
    path = f"/engines/{lane.model}/embeddings"
    by_engine = await done(client.post(path, cast_to=CreateEmbeddingResponse, body=body))
    assert by_engine == usual


async def test_a_repeated_idempotency_key_gets_the_first_answer_and_asks_nobody(
    connect: Connect, relayed: Stage, requests: list[Any]
) -> None:
    client = connect(relayed.key, max_retries=2)
    headers = {"Idempotency-Key": f"order-{type(client).__name__}"}
    raw = client.embeddings.with_raw_response
    first = await done(raw.create(model=SMALL, input="an order", extra_headers=headers))
    again = await done(raw.create(model=SMALL, input="an order", extra_headers=headers))
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(relayed.received()) == 1
    # The SDK would repeat a 409; this one says that it is no use.
    with pytest.raises(openai.ConflictError) as caught:
        await done(client.embeddings.create(model=SMALL, input="another order", extra_headers=headers))
    check_error(relayed, caught.value)
    assert len(requests) == 3
    assert len(relayed.received()) == 1


async def test_an_answer_too_large_to_hold_back_arrives_whole_and_is_charged(connect: Connect, stage: Stage) -> None:
    client = connect(stage.key)
    raw = await done(
        client.embeddings.with_raw_response.create(model=SMALL, input=[f"item {n}" for n in range(LARGE_ITEMS)])
    )
    answer = raw.parse()
    assert len(answer.data) == LARGE_ITEMS
    assert {len(entry.embedding) for entry in answer.data} == {1536}
    assert answer.usage.prompt_tokens == 2 * LARGE_ITEMS
    account = httpx.get(
        f"{stage.base_url}/requests/{raw.request_id}", headers={"authorization": f"Bearer {stage.key}"}
    ).json()
    assert account["cost_usd"] == "0.000024"


async def test_calls_side_by_side_get_their_own_vectors(stage: Stage, lane: Lane) -> None:
    texts = [f"text number {number}" for number in range(16)]
    async with openai.AsyncOpenAI(api_key=lane.key, base_url=stage.base_url, max_retries=0) as client:
        together = await client.embeddings.create(model=lane.model, input=texts)
        apart = await asyncio.gather(*(client.embeddings.create(model=lane.model, input=text) for text in texts))
    for one, entry in zip(apart, together.data, strict=True):
        assert one.data[0].embedding == pytest.approx(entry.embedding, abs=1e-5)
    assert sum(one.usage.prompt_tokens for one in apart) == together.usage.prompt_tokens


async def test_models_are_listed_and_retrieved(connect: Connect, stage: Stage, lane: Lane) -> None:
    client = connect(lane.key)
    listed = [model.id for model in (await done(client.models.list())).data]
    assert lane.model in listed
    # A test key reaches the sandbox only, a live one never reaches it.
    assert (LOCAL in listed) == (lane.name != "test key")
    assert UNPRICED not in listed
    model = await done(client.models.retrieve(lane.model))
    assert (model.id, model.object) == (lane.model, "model")
    assert isinstance(model.created, int)
    with pytest.raises(openai.NotFoundError) as caught:
        await done(client.models.retrieve("none/such:model v1"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    check_error(stage, caught.value)


@pytest.mark.parametrize("form", ["/v1", "/v1/", "/v1/v1"])
async def test_base_urls_of_beginners_work(connect: Connect, stage: Stage, lane: Lane, form: str) -> None:
    client = connect(lane.key, base_url=stage.origin + form)
    assert (await done(client.embeddings.create(model=lane.model, input="a"))).data
    assert (await done(client.models.list())).data


async def test_azures_client_and_its_newer_base_url_work(stage: Stage, lane: Lane) -> None:
    azure: dict[str, Any] = {"azure_endpoint": stage.origin, "api_version": "2024-10-21", "max_retries": 0}
    with openai.AzureOpenAI(api_key=lane.key, **azure) as client:
        reply = client.embeddings.create(model=lane.model, input=["a", "b"])
        assert (reply.model, len(reply.data[1].embedding)) == (lane.model, lane.size)
        assert lane.model in [model.id for model in client.models.list()]
    with openai.AzureOpenAI(azure_ad_token=lane.key, azure_deployment=lane.model, **azure) as client:
        assert client.embeddings.create(model="a word of the caller's", input="a").model == lane.model
    with openai.OpenAI(api_key=lane.key, base_url=f"{stage.origin}/openai/v1/", max_retries=0) as client:
        assert client.embeddings.create(model=lane.model, input="a").data
    with openai.AzureOpenAI(api_key="sk-" + "0" * 48, **azure) as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model=lane.model, input="a")


async def test_a_base_url_without_v1_is_an_unknown_address(connect: Connect, stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /embeddings\)") as caught:
        await done(connect(stage.key, base_url=stage.origin).embeddings.create(model=LOCAL, input="a"))
    check_error(stage, caught.value)


@pytest.mark.parametrize(
    ("key", "raised", "code"),
    [
        ("not-a-key", openai.AuthenticationError, "invalid_api_key"),
        ("sk-" + "0" * 48, openai.AuthenticationError, "invalid_api_key"),
        ("narrow_key", openai.PermissionDeniedError, "model_not_allowed"),
        ("poor_key", openai.PermissionDeniedError, "insufficient_user_quota"),
    ],
)
async def test_a_key_that_may_not_is_refused_once(
    connect: Connect, relayed: Stage, requests: list[Any], key: str, raised: type[openai.APIStatusError], code: str
) -> None:
    client = connect(getattr(relayed, key, key), max_retries=2)
    with pytest.raises(raised) as caught:
        await done(client.embeddings.create(model=SMALL, input="a"))
    assert caught.value.code == code
    check_error(relayed, caught.value)
    assert len(requests) == 1
    assert relayed.received() == []


async def test_a_key_without_money_still_reaches_free_models(connect: Connect, stage: Stage) -> None:
    assert (await done(connect(stage.poor_key).embeddings.create(model=LOCAL, input="a"))).data


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "user": 5}, "user"),
        ({"input": "a", "model": 5}, "model"),
    ],
)
async def test_a_wrong_field_is_a_bad_request_that_names_it(
    connect: Connect, relayed: Stage, lane: Lane, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await done(connect(lane.key).embeddings.create(**{"model": lane.model, **given}))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    check_error(relayed, caught.value)
    assert relayed.received() == []


async def test_a_text_beyond_the_bundled_models_window_is_refused_unless_it_may_be_cut(
    connect: Connect, stage: Stage
) -> None:
    client = connect(stage.key)
    with pytest.raises(openai.BadRequestError) as caught:
        await done(client.embeddings.create(model=LOCAL, input="word " * 400))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    check_error(stage, caught.value)
    cut = await done(client.embeddings.create(model=LOCAL, input="word " * 400, extra_body={"truncate": True}))
    assert cut.usage.prompt_tokens == 256


async def test_a_body_over_the_limit_is_refused_and_the_client_can_read_why(connect: Connect, relayed: Stage) -> None:
    client = connect(relayed.key)
    with pytest.raises(openai.APIStatusError) as caught:
        await done(client.embeddings.create(model=SMALL, input=["x" * (1 << 20)] * (BODY_MIB_MAX + 1)))
    assert (caught.value.status_code, caught.value.code) == (413, "read_request_body_failed")
    check_error(relayed, caught.value)
    assert relayed.received() == []
    assert (await done(client.embeddings.create(model=SMALL, input="a"))).data


@pytest.mark.parametrize(("model", "code"), [("no-such-model", "model_not_found"), (UNPRICED, "model_price_error")])
async def test_what_waiting_cannot_mend_is_asked_once(
    connect: Connect, relayed: Stage, requests: list[Any], model: str, code: str
) -> None:
    client = connect(relayed.key, max_retries=2)
    with pytest.raises(openai.InternalServerError) as caught:
        await done(client.embeddings.create(model=model, input="a"))
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (503, code, "model")
    assert caught.value.response.headers["x-should-retry"] == "false"
    check_error(relayed, caught.value)
    assert len(requests) == 1
    assert relayed.received() == []


async def test_an_unknown_model_is_answered_with_close_names(connect: Connect, stage: Stage, lane: Lane) -> None:
    with pytest.raises(openai.InternalServerError, match=lane.model) as caught:
        await done(connect(lane.key).embeddings.create(model=f"{lane.model}-x", input="a"))
    check_error(stage, caught.value)


@pytest.mark.parametrize("kind", ["live", "test"])
@pytest.mark.parametrize(
    ("directive", "raised", "status", "code"),
    [
        ("status=400", openai.BadRequestError, 400, None),
        ("status=400, echo-secrets", openai.BadRequestError, 400, None),
        ("status=422", openai.UnprocessableEntityError, 422, None),
        ("status=403, echo-secrets", openai.InternalServerError, 502, "upstream_error"),
        ("status=404, code=model_not_found", openai.InternalServerError, 503, "model_not_found"),
        ("status=429, code=insufficient_quota", openai.RateLimitError, 429, "upstream_rate_limited"),
        ("status=500, echo-secrets", openai.InternalServerError, 502, "upstream_error"),
        ("html", openai.InternalServerError, 502, "upstream_error"),
        ("invalid-json", openai.InternalServerError, 502, "upstream_error"),
        ("cut-after=3", openai.InternalServerError, 502, "upstream_error"),
        ("garbage", openai.InternalServerError, 502, "upstream_error"),
    ],
)
async def test_an_upstreams_fault_is_the_right_class_and_tells_nothing_of_it(
    connect: Connect,
    stage: Stage,
    kind: str,
    directive: str,
    raised: type[openai.APIStatusError],
    status: int,
    code: str | None,
) -> None:
    key, model = (stage.key, UNSTEADY) if kind == "live" else (stage.lanes["test key"].key, SMALL)
    with pytest.raises(raised) as caught:
        await done(connect(key).embeddings.create(model=model, input=f"a [sandbox: {directive}]"))
    assert caught.value.status_code == status
    if code is not None:
        assert caught.value.code == code
    check_error(stage, caught.value)


async def test_an_upstreams_parameter_error_names_the_model_as_the_caller_did(connect: Connect, stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError, match=f"dimensions must be .* for {UNSTEADY}") as caught:
        await done(connect(stage.key).embeddings.create(model=UNSTEADY, input="a", dimensions=5_000))
    assert caught.value.param == "dimensions"
    assert SMALL not in caught.value.response.text
    check_error(stage, caught.value)


async def test_the_sdk_waits_as_long_as_retry_after_says_and_then_succeeds(
    connect: Connect, relayed: Stage, requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(relayed.key, max_retries=1)
    text = f"{type(client).__name__} [sandbox: status=429, retry-after=1, times=1]"
    with caplog.at_level(logging.INFO, "openai"):
        answer = await done(client.embeddings.create(model=UNSTEADY, input=text))
    assert answer.model == UNSTEADY
    assert [line for line in caplog.messages if "Retrying request in 1.000000 seconds" in line]
    assert len(requests) == 2
    assert [received.status for received in relayed.received()] == [429, 200]


async def test_the_sdk_gives_up_when_the_upstream_stays_busy(
    connect: Connect, relayed: Stage, requests: list[Any]
) -> None:
    client = connect(relayed.key, max_retries=1)
    with pytest.raises(openai.RateLimitError) as caught:
        await done(client.embeddings.create(model=UNSTEADY, input="a [sandbox: status=429, retry-after=1]"))
    assert caught.value.response.headers["retry-after"] == "1"
    check_error(relayed, caught.value)
    assert len(requests) == 2


async def test_a_caller_who_stops_waiting_gets_a_timeout_and_the_gateway_goes_on(
    connect: Connect, stage: Stage
) -> None:
    client = connect(stage.key)
    with pytest.raises(openai.APITimeoutError):
        await done(client.embeddings.create(model=UNSTEADY, input="a [sandbox: delay=20s]", timeout=SLOW_ANSWER_S))
    assert (await done(client.embeddings.create(model=UNSTEADY, input="a"))).data
