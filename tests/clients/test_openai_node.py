"""The official openai package for Node, unmodified: node/openai.mjs makes the calls in one run, tests judge them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.client_stage import INPUTS, LOCAL, SMALL, UNPRICED, UNSTEADY, Lane, Stage

pytestmark = pytest.mark.slow

# name -> (key, model, what is embedded, the SDK's retries), and what must come of it: (class, status, code, requests)
CALLS: dict[str, tuple[tuple[str, str, str, int], tuple[str, int | None, str | None, int]]] = {
    "not a key": (("not-a-key", SMALL, "a", 2), ("AuthenticationError", 401, "invalid_api_key", 1)),
    "model not allowed": (("narrow", SMALL, "a", 2), ("PermissionDeniedError", 403, "model_not_allowed", 1)),
    "no money": (("poor", SMALL, "a", 2), ("PermissionDeniedError", 403, "insufficient_user_quota", 1)),
    "no price": (("rich", UNPRICED, "a", 2), ("InternalServerError", 503, "model_price_error", 1)),
    "refused": (("rich", UNSTEADY, "[sandbox: status=400, echo-secrets]", 2), ("BadRequestError", 400, None, 1)),
    "busy": (
        ("rich", UNSTEADY, "[sandbox: status=429, retry-after=10ms]", 1),
        ("RateLimitError", 429, "upstream_rate_limited", 2),
    ),
    "broken": (
        ("rich", UNSTEADY, "[sandbox: status=500, echo-secrets]", 0),
        ("InternalServerError", 502, "upstream_error", 1),
    ),
    "broken test": (
        ("test", SMALL, "[sandbox: status=500, echo-secrets]", 0),
        ("InternalServerError", 502, "upstream_error", 1),
    ),
    "busy once": (("rich", UNSTEADY, "node [sandbox: status=429, retry-after=1, times=1]", 1), ("", None, None, 2)),
}


@pytest.fixture(scope="module")
def results(stage: Stage, node_says: Callable[..., Any]) -> Any:
    """What the script printed."""
    keys = {
        "rich": stage.key,
        "poor": stage.poor_key,
        "narrow": stage.narrow_key,
        "test": stage.lanes["test key"].key,
    }
    plan = {
        "base_url": stage.base_url,
        "inputs": INPUTS,
        "lanes": [lane._asdict() for lane in stage.lanes.values()],
        "calls": {
            name: {"key": keys.get(key, key), "model": model, "input": text, "retries": retries}
            for name, ((key, model, text, retries), _) in CALLS.items()
        },
    }
    return node_says("openai.mjs", plan=plan)


def check_error(stage: Stage, found: dict[str, Any], kind: str, status: int, code: str | None) -> dict[str, Any]:
    """The SDK's class, our status and code, a request id, and nothing of the upstream."""
    error: dict[str, Any] = found["error"]
    assert kind in error["classes"]
    assert error["status"] == status
    if code is not None:
        assert error["code"] == code
    assert error["request_id"].startswith("req_")
    assert error["request_id"] in error["message"]
    stage.check_hides_upstream(error["body"] + str(error["headers"]))
    return error


@pytest.mark.parametrize("kind", INPUTS)
def test_node_every_kind_of_input_is_embedded_and_both_encodings_carry_the_same_bits(
    results: Any, lane: Lane, kind: str
) -> None:
    found = results["lanes"][lane.name]["inputs"][kind]
    vectors = [entry["embedding"] for entry in found["floats"]["data"]]
    # Without encoding_format this SDK asks for base64 too, and decodes it into float32 numbers.
    assert [entry["embedding"] for entry in found["decoded"]["data"]] == vectors
    encoded = [base64.b64decode(entry["embedding"]) for entry in found["encoded"]["data"]]
    assert [list(struct.unpack(f"<{lane.size}f", content)) for content in encoded] == vectors
    given = INPUTS[kind]
    assert len(vectors) == (len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1)
    for answer in found.values():
        assert answer["model"] == lane.model
        assert answer["usage"] == found["floats"]["usage"]
        assert answer["usage"]["prompt_tokens"] > 0


def test_node_a_raw_response_has_the_request_id_and_the_cost(results: Any, lane: Lane) -> None:
    raw = results["lanes"][lane.name]["raw"]
    assert raw["size"] == lane.size
    assert raw["headers"]["x-request-id"] == raw["request_id"]
    assert raw["headers"]["x-elkapi-cost-usd"] == ("0.00000008" if lane.name == "relayed" else "0.00")


def test_node_models_are_listed_and_retrieved(results: Any, stage: Stage, lane: Lane) -> None:
    found = results["lanes"][lane.name]
    assert lane.model in found["listed"]
    assert (LOCAL in found["listed"]) == (lane.name != "test key")
    assert (found["retrieved"]["id"], found["retrieved"]["object"]) == (lane.model, "model")
    check_error(stage, found["missing"], "NotFoundError", 404, "model_not_found")


def test_node_dimensions_shorten_where_the_model_can(results: Any, stage: Stage, lane: Lane) -> None:
    found = results["lanes"][lane.name]
    assert len(found["fitting"]["value"]["data"][0]["embedding"]) == (5 if lane.shortens else lane.size)
    assert check_error(stage, found["too_many_dimensions"], "BadRequestError", 400, None)["param"] == "dimensions"


def test_node_a_doubled_v1_is_served(results: Any, lane: Lane) -> None:
    assert len(results["lanes"][lane.name]["doubled"]["value"]["data"]) == 1


def test_node_an_empty_input_is_a_bad_request(results: Any, stage: Stage, lane: Lane) -> None:
    assert check_error(stage, results["lanes"][lane.name]["empty"], "BadRequestError", 400, None)["param"] == "input"


def test_node_an_unknown_model_is_asked_once(results: Any, stage: Stage, lane: Lane) -> None:
    found = results["lanes"][lane.name]
    error = check_error(stage, found["unknown"], "InternalServerError", 503, "model_not_found")
    assert error["headers"]["x-should-retry"] == "false"
    assert found["unknown_requests"] == 1


@pytest.mark.parametrize("name", CALLS)
def test_node_each_refusal_is_the_right_class_after_the_right_number_of_requests(
    results: Any, stage: Stage, name: str
) -> None:
    (_, model, _, _), (kind, status, code, requests) = CALLS[name]
    found = results["calls"][name]
    if status is None:
        assert found["value"]["model"] == model
    else:
        check_error(stage, found, kind, status, code)
    assert found["requests"] == requests
