"""A complete gateway as users run it: `elkapi serve` in its own directory, with its output in a file there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

START_S = 90.0
STOP_S = 45.0
COMMAND_S = 60.0
LOG_CHARS_SHOWN = 6_000
_dice = random.SystemRandom()
_READY = re.compile(r"ready on (http://\S+)")


class LiveGateway:
    """A running gateway: `base_url` has no trailing slash, `key` is a customer's; `run` runs commands on its data."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log_path = folder / "log"
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("ELKAPI_")}
        self.environment |= {"ELKAPI_DATA_DIR": str(self.data_dir), **environment}
        self.environment["PATH"] = f"{command().parent}{os.pathsep}{self.environment.get('PATH', '')}"
        self.base_url = ""
        self.key = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready. Fails the test, with the log, if it never is."""
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [str(command()), "serve", "--port", "0"],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline_s = time.monotonic() + START_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                pytest.fail(f"the gateway did not become ready:\n{self.log_tail()}", pytrace=False)
            time.sleep(0.05)
        self.key = self.make_key("live")

    def stop(self) -> int:
        """Stop it and its children; returns its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if self._log is not None:
            self._log.close()
        return status

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `elkapi` command on the data of this running gateway."""
        done = subprocess.run(
            [str(command()), *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        if check and done.returncode != 0:
            pytest.fail(f"elkapi {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}", pytrace=False)
        return done

    def run_json(self, *arguments: str) -> Any:
        """The parsed output of a command with --json."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def make_key(self, name: str, *arguments: str) -> str:
        """Create a key of a new customer; further arguments are those of `elkapi key create`."""
        made: str = self.run_json("key", "create", "--name", name, *arguments)["key"]
        return made

    def log_tail(self) -> str:
        """The end of its output."""
        try:
            return self.log_path.read_text("utf-8", "replace")[-LOG_CHARS_SHOWN:]
        except FileNotFoundError:
            return "(it wrote nothing)"

    def _is_ready(self) -> bool:
        if not self.base_url:
            found = _READY.search(self.log_path.read_text("utf-8", "replace"))
            if found is None:
                return False
            self.base_url = found[1]
        try:
            with urllib.request.urlopen(f"{self.base_url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port() -> int:
    """A free TCP port on loopback, outside the range that the kernel assigns from.

    A process takes seconds to start, and parallel tests ask the kernel for hundreds of ports meanwhile.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := _dice.randrange(20_000, 32_000)))
            return port


def command() -> Path:
    """The path of the `elkapi` command in the tests' environment."""
    return Path(sys.executable).parent / "elkapi"


@contextmanager
def running_gateway(**environment: str) -> Iterator[LiveGateway]:
    """A new gateway; `environment` are settings such as ELKAPI_WORKERS="4"."""
    # Not in pytest's folders, whose names are long: a Unix socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="elk-"))
    gateway = LiveGateway(folder, environment)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()
        shutil.rmtree(folder, ignore_errors=True)
