"""One gateway, one sandbox behind it, and the three ways a model is reached through it, for every client's suite.

`local` is the bundled model, `relayed` an OpenAI-type channel to a sandbox of our own (whose record shows the bytes
that arrived), `test key` the gateway's built-in sandbox.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import httpx
import pytest

from elkapi.sandbox.messages import OWN_ACCOUNT
from elkapi.sandbox.server import Running, running
from tests.live import LiveGateway, running_gateway

LOCAL = "all-MiniLM-L6-v2"
LOCAL_CHAT = "smollm2-135m-instruct"
SMALL = "text-embedding-3-small"
# Answers as SMALL does, through a channel of its own, so that its cooldowns touch no other test.
UNSTEADY = "unsteady-embedding"
UNPRICED = "unpriced-embedding"
UPSTREAM_KEY = "sk-upstream-credential-0123456789"
CHANNEL_NAME = "backstage"
CHANNEL_WAIT_S = 30.0
SEED_TEXT = "The food was delicious and the waiter..."
# The token ids are cl100k's: "The food was delicious and the waiter..." and "red".
INPUTS: dict[str, Any] = {
    "text": SEED_TEXT,
    "texts": ["red", SEED_TEXT, "日本語 and ünïcödé"],
    "tokens": [791, 3691, 574, 18406, 323, 279, 68269, 1131],
    "token arrays": [[1171], [791, 3691, 574, 18406, 323, 279, 68269, 1131]],
}
NODE_PACKAGES = Path(__file__).parent / "node/node_modules"
NODE_RUN_S = 90


async def done(answer: Any) -> Any:
    """What an SDK's client gave, whether it is the one that blocks or the one to await."""
    return await answer if inspect.isawaitable(answer) else answer


class Lane(NamedTuple):
    """One way to a model: `key` may use `model`, whose vectors have `size` numbers; `shortens`: takes `dimensions`."""

    name: str
    key: str
    model: str
    size: int
    shortens: bool


class Stage(NamedTuple):
    """The gateway under test, the sandbox it relays to, and keys: rich, without money, and for LOCAL only."""

    gateway: LiveGateway
    sandbox: Running
    lanes: dict[str, Lane]
    key: str
    poor_key: str
    narrow_key: str

    @property
    def origin(self) -> str:
        return self.gateway.base_url

    @property
    def base_url(self) -> str:
        return f"{self.gateway.base_url}/v1"

    def received(self) -> list[Any]:
        """What the upstream was sent, oldest first."""
        return self.sandbox.sandbox.recorder.shown()

    def check_hides_upstream(self, text: str) -> None:
        """Fail when an answer names the upstream: its address, our credential there, its account, its request ids."""
        ids = [received.upstream_request_id for received in self.received()]
        host, _, port = self.sandbox.base_url.partition("://")[2].partition(":")
        words = [f"{host}:{port}", f":{port}", UPSTREAM_KEY[-8:], "sk-sandbox", OWN_ACCOUNT, CHANNEL_NAME, *ids]
        words += [str(self.gateway.data_dir), ".sock", "unix:", "Traceback"]
        assert [word for word in words if word and word in text] == []


def required(program: str, hint: str) -> NoReturn:
    """Skip with the reason, or fail where every suite is to run."""
    reason = f"{program} is not installed ({hint})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def from_npm(place: str, program: str) -> Path:
    """What `make test` puts at this place of node_modules; without it see `required`."""
    found = NODE_PACKAGES / place
    if not found.exists():
        required(program, "make test, or: cd tests/clients/node && ../../../scripts/npm ci")
    return found


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with running() as sandbox, running_gateway() as gateway:
        upstream = ["--family", "openai", "--base-url", f"{sandbox.base_url}/v1", "--key", UPSTREAM_KEY]
        add = ["channel", "add", "--allow-private", *upstream]
        gateway.run(*add, "--name", CHANNEL_NAME, "--models", SMALL)
        renamed = ["--map", f"{UNSTEADY}={SMALL}", "--map", f"{UNPRICED}={SMALL}"]
        gateway.run(*add, "--name", f"{CHANNEL_NAME}-2", "--models", f"{UNSTEADY},{UNPRICED}", *renamed)
        gateway.run("price", "set", "--model", UNSTEADY, "--input-per-1m", "0.02")
        key = gateway.make_key("clients", "--balance", "5")
        test_key = gateway.make_key("clients-test", "--test")
        _wait_for_model(gateway, key, UNSTEADY)
        yield Stage(
            gateway=gateway,
            sandbox=sandbox,
            lanes={
                "local": Lane("local", key, LOCAL, 384, False),
                "relayed": Lane("relayed", key, SMALL, 1536, True),
                "test key": Lane("test key", test_key, SMALL, 1536, True),
            },
            key=key,
            poor_key=gateway.make_key("clients-poor"),
            narrow_key=gateway.make_key("clients-narrow", "--balance", "5", "--models", LOCAL),
        )


@pytest.fixture(params=["local", "relayed", "test key"])
def lane(request: pytest.FixtureRequest, stage: Stage) -> Lane:
    return stage.lanes[request.param]


@pytest.fixture
def relayed(stage: Stage) -> Stage:
    """The stage with an empty record of what the upstream received."""
    stage.sandbox.sandbox.recorder.reset()
    return stage


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The folder with the official Node SDKs that `make test` installs."""
    from_npm("openai/index.mjs", "openai for Node")
    return NODE_PACKAGES


@pytest.fixture(scope="session")
def node_says(node: Path, node_packages: Path) -> Callable[..., Any]:
    """Run a script of node/ with these arguments and a plan for it to read: the JSON that it prints.

    `quietly`: it must have nothing to say on standard error, such as an SDK's warning.
    """

    def run(script: str, *arguments: str, plan: Any = None, quietly: bool = True) -> Any:
        done = subprocess.run(
            [node, node_packages.parent / script, *arguments],
            input=json.dumps(plan),
            capture_output=True,
            encoding="utf-8",
            timeout=NODE_RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not (quietly and done.stderr), done.stderr
        return json.loads(done.stdout)

    return run


def _wait_for_model(gateway: LiveGateway, key: str, model: str) -> None:
    """A change from the command line is in force within a second; a loaded machine may be slower."""
    deadline_s = time.monotonic() + CHANNEL_WAIT_S
    while True:
        answer = httpx.get(f"{gateway.base_url}/v1/models/{model}", headers={"authorization": f"Bearer {key}"})
        if answer.status_code == 200:
            return
        if time.monotonic() > deadline_s:
            pytest.fail(f"{model} did not appear: {answer.text}\n{gateway.log_tail()}", pytrace=False)
        time.sleep(0.05)
