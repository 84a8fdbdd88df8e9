"""A real gateway with all its processes, its upstream and its administration, for the chaos and process suites.

Everything runs as for users: a supervisor started by its command, each role in its own process, and the sandbox as
upstream in another process with its bill in a file. Processes are found by the supervisor's pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import text

from elkapi.admin import channels, keys, prices
from elkapi.admin.channels import ChannelFields
from elkapi.admin.context import Admin
from elkapi.admin.keys import KeyInput
from elkapi.ids import parse_request_id
from elkapi.ledger import CheckReport, ReconcileReport, check, reconcile
from elkapi.settings import load_settings
from tests.live import free_port

START_S = 60.0
STOP_S = 60.0
# No call may take longer than this, whatever is killed meanwhile: a hang is a failure. A call during a restart waits
# for it, which takes most of a minute if three of these suites share two slow cores.
HANG_S = 180.0
# Longer than HANG_S, so that an answer that the gateway never sends is seen as a hang. Otherwise the edge would close
# the connection as idle, which looks like the effect of a kill.
IDLE_S = 2 * HANG_S
POLL_S = 0.05

# The bundled model, which is free.
BUNDLED = "all-MiniLM-L6-v2"
PER_TOKEN = "text-embedding-3-small"
PER_TOKEN_DEAR = "text-embedding-3-large"
PER_CALL = "text-embedding-ada-002"
# The sandbox's own prices, so that the bill and the charges must agree line by line. Each call of PER_CALL has
# PER_CALL_WORDS words, and the sandbox bills 100 nano-USD per word.
PER_CALL_WORDS = 7
PER_CALL_NANO = 700
NANO_PER_TOKEN = {PER_TOKEN: 20, PER_TOKEN_DEAR: 130}


def usd(nano: int) -> str:
    """Nano-dollars as decimal dollars, the format of commands."""
    return f"{nano // 10**9}.{nano % 10**9:09d}"


def words(count: int, mark: str) -> str:
    """A text that the sandbox counts as `count` tokens; `mark` makes it unique."""
    return " ".join([f"w{mark}", *("word" for _ in range(count - 1))])


class Upstream:
    """`elkapi sandbox` as an upstream, with its bill in a file that outlives it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.bill_path = folder / "bill.jsonl"
        self._command = [sys.executable, "-m", "elkapi.sandbox", "--port", "0", "--record", "0"]
        self._command += ["--bill", str(self.bill_path), *arguments]
        self.base_url = ""

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.base_url = line.split()[-1]
        assert self.base_url.startswith("http://"), line

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def bill(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self.bill_path.exists():
            return []
        return [json.loads(line) for line in self.bill_path.read_text("ascii").splitlines()]


class Cluster:
    """A gateway of `workers` workers and its installation."""

    def __init__(self, folder: Path, database_url: str = "", **settings: Any) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.crash_order = folder / "crash"
        self.port = free_port()
        values = {
            "data_dir": str(self.data_dir),
            "database_url": database_url,
            "port": self.port,
            "log_file": str(folder / "requests.log"),
            "keepalive_idle_s": IDLE_S,
            **settings,
        }
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ELKAPI_")}
        self.environment |= {f"ELKAPI_{name.upper()}": str(value) for name, value in values.items()}
        self.environment["ELKAPI_CRASH_AT"] = f"@{self.crash_order}"
        self.settings = load_settings(environ=self.environment)
        self.origin = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "supervisor.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.admin: Admin
        self._events_read_bytes = 0
        self._ready_workers: set[int] = set()

    # Processes

    def start(self) -> None:
        """Start the supervisor and return at once; `ready` waits."""
        self._log = self._log or self.log_path.open("ab")
        self.process = subprocess.Popen(
            serve_command(), env=self.environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def children(self, role: str | None = None) -> dict[int, str]:
        """The live processes of the roles: pid -> role."""
        return {pid: name for pid, name in children_of(self.pid).items() if role in (None, name)}

    async def ready(self) -> None:
        """Wait until /readyz succeeds and every role's processes are ready. Fails the test if they never are."""
        deadline_s = time.monotonic() + START_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while True:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    pytest.fail(f"the gateway did not become ready:\n{self.log_tail()}", pytrace=False)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"{self.origin}/readyz") as answer:
                        if answer.status == 200 and self.is_complete():
                            return
                await asyncio.sleep(POLL_S)

    @property
    def has_ledger_process(self) -> bool:
        """Whether the ledger has its own process; if not, each worker writes it in a thread."""
        return self.settings.is_sqlite and self.settings.workers > 1

    def is_complete(self) -> bool:
        """Whether every role has its processes, each worker has logged that it is ready and each socket accepts."""
        roles = list(self.children().values())
        self._read_events()
        helpers = ["models", "control", "sandbox"]
        if self.has_ledger_process:
            helpers.append("ledger")
        return (
            roles.count("worker") == self.settings.workers
            and self._ready_workers.issuperset(self.children("worker"))
            and all(roles.count(role) == 1 for role in helpers)
            and all(accepts(self.settings.socket_path(role)) for role in helpers)
        )

    def _read_events(self) -> None:
        """Collect the workers that have logged that they are ready."""
        self._ready_workers |= {event["pid"] for event in self.new_events("worker_ready")}

    def new_events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of this name since the last call, for any name."""
        path = Path(self.settings.log_file)
        if not path.exists():
            return []
        marked = f'"event":"{name}"'.encode()
        found = []
        with path.open("rb") as log:
            log.seek(self._events_read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._events_read_bytes += len(line)
                if marked in line:
                    found.append(json.loads(line))
        return found

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """Kill the supervisor with SIGKILL, and reap it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status; kills the supervisor if it does not exit within STOP_S."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return status

    def close(self) -> None:
        if self.process is not None:
            self.stop()
        if self._log is not None:
            self._log.close()

    def log_tail(self) -> str:
        return self.log_path.read_text("utf-8", "replace")[-6_000:]

    # The operator

    def key(self, name: str, nano: int = 0) -> str:
        _, plaintext = keys.create_key(self.admin, KeyInput(name=name, balance=usd(nano)))
        return plaintext

    def channel(
        self,
        name: str,
        base_url: str,
        models: tuple[str, ...],
        *,
        family: str = "openai",
        secrets: tuple[str, ...] = ("sk-upstream",),
        **fields: Any,
    ) -> None:
        given = ChannelFields(name=name, family=family, base_url=base_url, models=models, allow_private=True, **fields)
        channels.add_channel(self.admin, given, secrets)

    def sandbox_prices(self) -> None:
        """Set the sandbox's own prices, so that the charge of a call equals the upstream's bill for it."""
        for model, nano in NANO_PER_TOKEN.items():
            set_price(self.admin, model, input_per_1m=usd(nano * 1_000_000))
        set_price(self.admin, PER_CALL, per_call=usd(PER_CALL_NANO))

    def check(self) -> CheckReport:
        with self.admin.database.read() as connection:
            return check(connection)

    def reconcile(self, bill: list[dict[str, Any]]) -> ReconcileReport:
        lines = []
        for line in bill:
            request_id = parse_request_id(line["client_request_id"] or "")
            assert request_id is not None, line
            lines.append((request_id, int(line["cost_nano_usd"])))
        with self.admin.database.read() as connection:
            return reconcile(connection, lines)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.admin.database.read() as connection:
            return list(connection.execute(text(statement), values))


def set_price(admin: Admin, model: str, **amounts: Any) -> None:
    """Add a version of a model's price; amounts are decimal US dollars."""
    prices.set_price(admin, prices.PriceInput(model=model, **amounts))


def serve_command(role: str | None = None) -> list[str]:
    """The command of `elkapi serve`, for all roles or one; the settings come from the environment."""
    return [str(Path(sys.executable).parent / "elkapi"), "serve", *(["--role", role] if role else [])]


@contextmanager
def cluster(database_url: str = "", **settings: Any) -> Iterator[Cluster]:
    """A gateway that is set up but not started. Keyword arguments are fields of Settings."""
    # Not in pytest's folders, whose names are long: a Unix socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="elk-"))
    made = Cluster(folder, "" if database_url.startswith("sqlite") else database_url, **settings)
    made.data_dir.mkdir(mode=0o700)
    try:
        with Admin.open(made.settings, "test") as made.admin:
            try:
                yield made
            finally:
                made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def upstream(folder: Path, *arguments: str) -> Iterator[Upstream]:
    """A running sandbox with its bill in `folder`."""
    made = Upstream(folder, *arguments)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Answer(msgspec.Struct, frozen=True):
    """The answer to one call."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> bytes:
        found = parse_request_id(self.headers.get("x-request-id", ""))
        assert found is not None, self
        return found

    @property
    def code(self) -> str:
        """The error's code."""
        return str(json.loads(self.body)["error"]["code"])

    @property
    def cost_nano(self) -> int:
        whole, _, part = self.headers["x-elkapi-cost-usd"].partition(".")
        return int(whole) * 10**9 + int(part.ljust(9, "0"))


@contextlib.asynccontextmanager
async def answered_in_time(call: str) -> AsyncIterator[None]:
    """Fail the test if the call inside has no answer after HANG_S."""
    try:
        async with asyncio.timeout(HANG_S):
            yield
    except TimeoutError:
        told = f"no answer in {HANG_S:g} s: it hangs, or its answer was made and never sent (an idle connection is"
        pytest.fail(f"{told} closed after {IDLE_S:g} s only): {call}", pytrace=False)


class Client:
    """A client of one gateway: every call must end within HANG_S, or the test fails."""

    def __init__(self, origin: str, http: aiohttp.ClientSession) -> None:
        self.origin = origin
        self.http = http

    async def embed(self, key: str, model: str, content: Any, **headers: str) -> Answer:
        """POST /v1/embeddings. Raises aiohttp.ClientError if the connection breaks; fails the test on a hang."""
        body = msgspec.json.encode({"model": model, "input": content, "encoding_format": "base64"})
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
        async with answered_in_time(f"{model}, {str(content)[-80:]}, {headers}"):
            async with self.http.post(f"{self.origin}/v1/embeddings", data=body, headers=sent) as reply:
                read = await reply.read()
        named = {name.lower(): value for name, value in reply.headers.items()}
        return Answer(reply.status, named, read)


@contextlib.asynccontextmanager
async def client(origin: str, connections: int = 64, *, reuse: bool = True) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=connections, force_close=not reuse)
    # No timeout here: Client detects a hang itself, so that it is not counted as a broken connection.
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        yield Client(origin, http)


# The machine

# The second is raised if a process ends while its file is being read.
GONE = (FileNotFoundError, ProcessLookupError)


def children_of(parent: int) -> dict[int, str]:
    """Live children of `parent` that run a role: pid -> role."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            status = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except GONE:
            continue
        state, ppid, *_ = status.rpartition(")")[2].split()
        if int(ppid) == parent and state != "Z" and b"elkapi.app" in command:
            found[int(entry.name)] = command[command.index(b"elkapi.app") + 1].decode()
    return found


def lives(pid: int) -> bool:
    """Whether a process is running (a zombie is not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except GONE:
        return False


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
