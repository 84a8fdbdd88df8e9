"""The chat process under its supervisor: nobody pays for it before the first call, and it comes back when needed."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elkapi.local.chat.rows import BUNDLED_CHAT
from tests.live import LiveGateway, running_gateway
from tests.waiting import until_blocking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

IDLE_S = 2
WAIT_S = 60


@pytest.fixture(scope="module")
def live() -> Iterator[LiveGateway]:
    with running_gateway(ELKAPI_CHAT_IDLE_S=str(IDLE_S)) as gateway:
        yield gateway
        chat(gateway)
        assert gateway.stop() == 0
        assert list(gateway.data_dir.glob("*.sock")) == []


def children(live: LiveGateway) -> dict[str, int]:
    """Role -> pid of the supervisor's children, by the role each says it has."""
    assert live.process is not None
    found = {}
    for pid in Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"elkapi.app" in words:
            found[words[words.index(b"elkapi.app") + 1].decode()] = int(pid)
    return found


def chat(live: LiveGateway) -> Any:
    body = {"model": BUNDLED_CHAT.id, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    request = urllib.request.Request(
        f"{live.base_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {live.key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.load(answer)


def called(live: LiveGateway) -> dict[str, int]:
    """`children` after a call, the chat process among them, which ends again where the test stands still for IDLE_S."""
    while True:
        chat(live)
        if "chat" in (found := children(live)):
            return found


def test_the_first_call_starts_it_and_nobody_else_loads_its_runtime(live: LiveGateway) -> None:
    assert "chat" not in children(live)
    assert chat(live)["usage"]["completion_tokens"] == 2
    running = called(live)
    assert live.process is not None
    loaded = {
        role: "xllamacpp" in Path(f"/proc/{pid}/maps").read_text()
        for role, pid in (running | {"supervisor": live.process.pid}).items()
    }
    assert {role for role, has in loaded.items() if has} == {"chat"}
    assert {"worker", "models", "control", "sandbox", "supervisor"} < set(loaded)
    assert os.getpriority(os.PRIO_PROCESS, running["chat"]) > os.getpriority(os.PRIO_PROCESS, running["models"])


def test_without_calls_it_ends_quietly_and_the_next_call_brings_it_back(live: LiveGateway) -> None:
    chat(live)
    until_blocking(lambda: "chat" not in children(live))
    assert chat(live)["usage"]["completion_tokens"] == 2
    called(live)
    assert "elkapi: chat" not in live.log_path.read_text("utf-8")


def test_killed_it_comes_back_with_the_next_call(live: LiveGateway) -> None:
    killed = called(live)["chat"]
    os.kill(killed, signal.SIGKILL)
    until_blocking(lambda: f"chat {killed} exited with status -9" in live.log_path.read_text("utf-8"))
    assert chat(live)["usage"]["completion_tokens"] == 2
    assert called(live)["chat"] != killed
