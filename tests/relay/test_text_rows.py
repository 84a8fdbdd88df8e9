"""Every text row that `elkapi operations` lists is called: by each path and alias, and with each spelling of the key.

The rows come from the command, the paths from the catalog, the calls from `tests/text_rows.py`: a row without a case
fails. Contract: platform.md section 0 (where a key may stand).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from elkapi.catalog import CATALOG
from elkapi.sandbox.server import running
from tests.gateway import Gateway, served
from tests.text_calls import UPSTREAMS
from tests.text_rows import CASES, JSON, MODELS, Case, Needs, text_rows

OPERATIONS = {id_: one for one in CATALOG.operations for id_ in (one.id, *(other for other, _ in one.also))}


READY_S = 20.0


class Spelling(NamedTuple):
    """Where a key stands: on the paths that begin so."""

    paths: str
    headers: Callable[[str], dict[str, str]] = lambda key: {}
    query: Callable[[str], str] = lambda key: ""


SPELLINGS = {
    "bearer": Spelling("/", lambda key: {"authorization": f"Bearer {key}"}),
    "bearer in small letters": Spelling("/", lambda key: {"authorization": f"bearer {key}"}),
    "bare": Spelling("/", lambda key: {"authorization": key}),
    "api-key": Spelling("/", lambda key: {"api-key": key}),
    "x-api-key": Spelling("/v1/messages|/anthropic/|/v1/models|/v1/files", lambda key: {"x-api-key": key}),
    "x-goog-api-key": Spelling("/v1beta/|/v1/models", lambda key: {"x-goog-api-key": key}),
    "?key=": Spelling("/v1beta/|/v1/models", query=lambda key: f"key={key}"),
}


def paths(id_: str) -> tuple[str, ...]:
    """Every path of a row; one below /v1 also with /v1 doubled, as clients do that add it to a base URL with it.

    OpenAI's rows are also where Azure's clients ask for them.
    """
    own = (OPERATIONS[id_].path, *OPERATIONS[id_].aliases)
    above = ("/v1", "/openai") if id_.startswith("openai.") else ("/v1",)
    return (*own, *(prefix + path for path in own if path.startswith("/v1/") for prefix in above))


ROUTES = [(id_, path) for id_ in text_rows() for path in paths(id_)]
CALLS = [(id_, path, name) for id_, path in ROUTES for name, one in SPELLINGS.items() if re.match(one.paths, path)]
ELSEWHERE = [(id_, path, name) for id_, path in ROUTES for name in SPELLINGS if (id_, path, name) not in CALLS]


class Served(NamedTuple):
    """A client of the gateway, and a key with money."""

    http: httpx.Client
    key: str

    def _prepared(self, needs: Needs) -> str:
        """The id of what a case needs, once it is as it must be."""
        headers = SPELLINGS["bearer"].headers(self.key)
        made = self.call(needs.row, OPERATIONS[needs.row].path, headers, **needs.body)
        id_: str = made.json()["id"]
        deadline_s = time.monotonic() + READY_S
        while needs.poll:
            path = re.sub(r"\{\w+\}", id_, OPERATIONS[needs.poll].path)
            polled = self.http.get(path, headers={**CASES[needs.poll].headers, **headers})
            if needs.until(polled.json()):
                break
            assert time.monotonic() < deadline_s, polled.text
            time.sleep(0.02)
        return id_

    def call(self, id_: str, path: str, headers: dict[str, str], query: str = "", **more: Any) -> httpx.Response:
        """The call of a row's case; what it needs is made first."""
        case = CASES[id_]
        # A deployment is named like the model of its body.
        params = {"model": (case.body or {}).get("model"), **case.params}
        if case.needs is not None:
            named = dict.fromkeys(re.findall(r"\{(\w+)\}", path), self._prepared(case.needs))
            params = {**named, **params}
        queries = "&".join(filter(None, (case.query, query)))
        return self.http.request(
            OPERATIONS[id_].method,
            path.format(**params) + (f"?{queries}" if queries else ""),
            headers={**case.headers, **headers},
            json=None if case.body is None else {**case.body, **more},
        )


async def furnish(gate: Gateway, sandbox_url: str) -> tuple[str, str]:
    for family, models in MODELS.items():
        await gate.channel(sandbox_url, models, family=family, secrets=(UPSTREAMS[family][0],))
        for model in models:
            await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
    return gate.origin, await gate.key("1000")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("rows")
    with running() as sandbox, served(folder, partial(furnish, sandbox_url=sandbox.base_url)) as (origin, key):
        with httpx.Client(base_url=origin, timeout=20) as http:
            yield Served(http, key)


def shown(case: Case, reply: httpx.Response) -> object:
    return case.shows(reply.json() if case.media == JSON else reply.text)


@pytest.mark.parametrize(("id_", "path", "spelling"), CALLS)
def test_a_row_answers_on_each_path_to_each_spelling_of_the_key(
    gate: Served, id_: str, path: str, spelling: str
) -> None:
    case, one = CASES[id_], SPELLINGS[spelling]
    reply = gate.call(id_, path, one.headers(gate.key), one.query(gate.key))
    assert reply.status_code == 200, reply.text
    assert shown(case, reply) == case.expected, reply.text
    assert reply.headers["content-type"].startswith(case.media)
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("id_", "path", "spelling"), ELSEWHERE)
def test_a_key_that_stands_elsewhere_is_none(gate: Served, id_: str, path: str, spelling: str) -> None:
    one = SPELLINGS[spelling]
    reply = gate.call(id_, path, one.headers(gate.key), one.query(gate.key))
    assert reply.status_code == 401, reply.text


@pytest.mark.parametrize(("id_", "path"), ROUTES)
def test_a_row_wants_a_key(gate: Served, id_: str, path: str) -> None:
    reply = gate.call(id_, path, {})
    assert reply.status_code == 401, reply.text
    assert reply.json()["error"]["message"]
