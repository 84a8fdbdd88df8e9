"""The sandbox as a process: where it listens, what it refuses, how it ends, and how much memory it takes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from elkapi.sandbox import run
from elkapi.sandbox.server import _unix, running

from .exchanging import KEY, embedding_body

RSS_KB_MAX = 45 * 1024


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A sandbox in a process of its own and the addresses it printed; it must end cleanly on SIGTERM."""
    command = [sys.executable, "-m", "elkapi.sandbox", *arguments]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        first = started.stdout.readline()
        yield started, first.strip().removeprefix("elkapi sandbox listens on ")
        started.send_signal(signal.SIGTERM)
        rest, errors = started.communicate(timeout=20)
        assert (started.returncode, rest, errors) == (0, "", "")
    finally:
        if started.poll() is None:
            started.kill()
            started.communicate()


def post(client: httpx.Client, text: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return client.post("/v1/embeddings", content=embedding_body(text, dimensions=1536), headers=headers)


def test_a_sandbox_with_nothing_under_way_ends_without_uvicorns_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand tests begin and end one each; its pauses are a tenth of a second and more."""
    paused: list[uvicorn.Server] = []

    async def pause(server: uvicorn.Server, sockets: object = None) -> None:
        paused.append(server)

    monkeypatch.setattr(uvicorn.Server, "shutdown", pause)
    with running() as served:
        kept_alive = httpx.Client(base_url=served.base_url)
        assert post(kept_alive, "hello").status_code == 200
    kept_alive.close()
    assert paused == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident size from /proc")
def test_a_process_bills_to_its_file_and_stays_small(tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    with process("--port", "0", "--bill", str(bill)) as (started, url), httpx.Client(base_url=url) as client:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        for number in range(300):
            assert post(client, f"text {number}").status_code == 200
        lines = [json.loads(line) for line in bill.read_text().splitlines()]
        assert sum(line["cost_nano_usd"] for line in lines) == 300 * 2 * 20
        status = Path(f"/proc/{started.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident is not None
        assert int(resident[1]) < RSS_KB_MAX


def test_a_process_serves_a_unix_socket_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.sock"
    with process("--socket", str(path), "--fault", "status=503") as (_, address):
        assert address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert post(client, "a").status_code == 503
            assert client.delete("/_sandbox/fault").status_code == 200
            assert post(client, "a").status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                post(client, "a [sandbox: reset-after=1]")
    assert not path.exists()


def test_a_process_ends_while_a_request_hangs() -> None:
    with process("--port", "0") as (_, url):
        target = httpx.URL(url)
        with socket.create_connection((target.host, target.port or 0)) as connection:
            body = embedding_body("[sandbox: hang-after-headers]")
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
            connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_remote_address_is_refused_unless_allowed() -> None:
    with pytest.raises(ValueError, match="loopback"):
        run("0.0.0.0", 0)
    with pytest.raises(ValueError, match="loopback"):
        run("example.invalid", 0)


def test_a_sandbox_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="port or a socket"):
        run(port=None)


@pytest.mark.parametrize("arguments", [("--fault", "nonsense"), ("--host", "0.0.0.0"), ("--bill", "/nowhere/bill")])
def test_a_wrong_command_line_is_one_line_on_stderr(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "elkapi.sandbox", "--port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("elkapi sandbox: ")
    assert ended.stderr.count("\n") == 1


def test_a_left_over_socket_is_replaced_and_a_used_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with _unix(path):
        with pytest.raises(FileExistsError, match="in use"), _unix(path):
            pass
        assert path.exists()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"), _unix(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious"
