"""With the network cut after installation, everything a newcomer does first still works.

One run of inside.py in a network namespace whose only interface is loopback; the tests judge what it saw.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.isolation import without_network
from tests.text_calls import CLIENTS, is_whole, streamed_text, text_of

INSIDE = Path(__file__).parent / "inside.py"
RUN_S = 240
SEED_TEXT = "The food was delicious and the waiter..."

pytestmark = [pytest.mark.slow, pytest.mark.timeout(RUN_S + 30)]


@pytest.fixture(scope="module")
def found() -> Any:
    """What inside.py saw."""
    if shutil.which("curl") is None:
        reason = "curl is not installed (Debian: apt-get install curl)"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") == "true" else pytest.skip(reason)
    cut, why_not = without_network()
    if why_not is not None:
        pytest.skip(why_not)
    done = subprocess.run(
        [*cut, sys.executable, str(INSIDE)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_network_is_cut(found: Any) -> None:
    assert found["interfaces"] == ["lo"]
    assert found["outside"] == "Network is unreachable"


def test_the_printed_curl_returns_a_vector_of_the_bundled_model(found: Any) -> None:
    printed = shlex.split(found["printed"])
    assert json.loads(printed[printed.index("-d") + 1])["input"] == SEED_TEXT
    assert found["curl"]["status"] == 0, found["curl"]["complaint"]
    answer = json.loads(found["curl"]["answer"])
    (entry,) = answer["data"]
    assert len(entry["embedding"]) == 384
    assert sum(number * number for number in entry["embedding"]) == pytest.approx(1, abs=1e-4)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 8


def test_semantic_search_finds_the_right_pages(found: Any) -> None:
    assert found["search"]["status"] == 0, found["search"]["answer"] + found["search"]["complaint"]
    assert found["search"]["answer"].count("ok ") == 5


def test_the_command_embeds_the_same_vector(found: Any) -> None:
    by_command = json.loads(found["embed"])
    assert (by_command["model"], by_command["dimensions"]) == ("all-MiniLM-L6-v2", 384)
    assert by_command["embedding"] == pytest.approx(
        json.loads(found["curl"]["answer"])["data"][0]["embedding"], abs=1e-6
    )


def test_the_bundled_model_chats_in_every_dialect_streamed_and_not(found: Any) -> None:
    assert len(found["chats"]) == 2 * len(CLIENTS)
    for told in found["chats"]:
        client, answer = told["client"], told["answer"]
        if told["stream"]:
            assert is_whole(client, answer), answer
            assert streamed_text(client, answer)
        else:
            assert text_of(client, json.loads(answer))


def test_nothing_in_the_log_says_that_it_missed_the_network(found: Any) -> None:
    lowered = found["log"].lower()
    assert [word for word in ("unreachable", "name resolution", "resolve host", "traceback") if word in lowered] == []
