"""The README's commands, run as they stand there, on an installation of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def _block(after: str) -> str:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"```sh\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found
    return found[1]


def _elkapi(environment: dict[str, str], *arguments: str) -> str:
    return subprocess.check_output([BIN / "elkapi", *arguments], env=environment, text=True)


def test_three_lines_add_an_upstream_a_price_and_a_key(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ELKAPI_")}
    environment |= {"ELKAPI_DATA_DIR": str(tmp_path), "PROVIDER_KEY": "sk-provider-0123456789abcdef"}
    script = _block("## With an upstream").replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\bsk-[A-Za-z0-9]{40,}", done.stdout)
    channels = json.loads(_elkapi(environment, "channel", "list", "--json"))
    assert "text-embedding-3-small" in json.dumps(channels)
    assert environment["PROVIDER_KEY"] not in json.dumps(channels)
    prices = json.loads(_elkapi(environment, "price", "list", "--json"))
    assert "text-embedding-3-small" in json.dumps(prices)
    assert "alice" in _elkapi(environment, "key", "list", "--json")


def test_the_documented_first_call_is_the_one_the_program_prints() -> None:
    from elkapi.app import SAMPLE_INPUT

    body = re.search(r"-d '(.*)'", _block("## Start"))
    assert body
    assert json.loads(body[1]) == {"model": "all-MiniLM-L6-v2", "input": SAMPLE_INPUT}
