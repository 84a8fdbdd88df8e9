"""The `elkapi` command in this process, on an installation of its own, and a channel to begin with."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# By its path: in the package, `main` is the function.
cli_main = importlib.import_module("elkapi.cli.main")
PLANTED = "sk-planted-provider-secret-0123456789"


@dataclass
class Outcome:
    """How one command ended; `note` is what the first one of a test says of the installation that it made."""

    status: int
    out: str
    err: str
    note: str = ""

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Elkapi = Callable[..., Outcome]


@pytest.fixture
def elkapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Elkapi:
    monkeypatch.setenv("ELKAPI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ELKAPI_DATABASE_URL", raising=False)
    monkeypatch.delenv("ELKAPI_SECRET_KEY", raising=False)

    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli_main.run(list(arguments))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        told = captured.err.splitlines(keepends=True)
        note = "".join(line for line in told if line.startswith("note: created a new installation"))
        return Outcome(status, captured.out, captured.err.replace(note, ""), note)

    return run


def add_channel(elkapi: Elkapi, *more: str) -> Any:
    needed = ("--family", "openai", "--base-url", "http://127.0.0.1:9/v1", "--allow-private", "--models", "a,b")
    return elkapi("channel", "add", *needed, "--key", PLANTED, *more, "--json").json
