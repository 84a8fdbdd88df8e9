"""Which provider a path belongs to, and what its parameters are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Answer, Request, json_answer
from elkapi.sandbox.providers.openai import PROVIDER as OPENAI
from elkapi.sandbox.routes import Provider, Route, match


def nothing(request: Request) -> Answer:
    return json_answer({})


def provider(name: str, *paths: str, **fields: Any) -> Provider:
    routes = tuple(Route("GET", path, nothing) for path in paths)
    return msgspec.structs.replace(OPENAI, name=name, routes=routes, **fields)


def test_a_claiming_header_decides_a_path_that_two_providers_know() -> None:
    both = (provider("plain", "/v1/models"), provider("claiming", "/v1/models", "/v1/own", claim=b"x-version"))
    assert match(both, "GET", "/v1/models").provider.name == "plain"
    assert match(both, "GET", "/v1/models", ((b"x-version", b"1"),)).provider.name == "claiming"
    assert match(both, "GET", "/v1/own").provider.name == "claiming"
    assert match(both, "GET", "/v1/unknown", ((b"x-version", b"1"),)).provider.name == "claiming"


@pytest.mark.parametrize(
    ("path", "model"),
    [("/m/a:go", "a"), ("/m/a%2Fb:go", "a/b"), ("/m/a:b:go", "a:b"), ("/m/:go", None), ("/m/a:gone", None)],
)
def test_a_segment_with_a_verb_gives_what_stands_before_it(path: str, model: str | None) -> None:
    found = match((provider("one", "/m/{model}:go"),), "GET", path)
    assert found.params.get("model") == model
    assert (found.route is None) == (model is None)


def test_a_query_parameter_is_decoded_and_absent_ones_are_none() -> None:
    request = Request("GET", "/a", (), b"", Faults(), "r", {}, "/a?key=a%2Bb&alt=")
    assert (request.query("key"), request.query("alt"), request.query("none")) == ("a+b", "", None)
