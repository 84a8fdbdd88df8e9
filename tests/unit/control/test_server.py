"""The control process as a process: its socket, its log lines, its end."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from elkapi.control.server import listening_socket
from elkapi.observe.bridge import json_log
from elkapi.observe.calls import SOCKET
from elkapi.roles import ROLES
from elkapi.settings import SOCKET_PATH_BYTES_MAX, SOCKETS, Settings


def test_socket_is_private_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with listening_socket(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_successor_keeps_its_socket_when_the_predecessor_ends(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with listening_socket(path):
        path.unlink()
        path.write_text("the successor's")
    assert path.exists()


def test_a_socket_whose_path_just_fits_is_made(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * (SOCKET_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - len("//control.sock")))
    folder.mkdir()
    path = folder / "control.sock"
    assert len(os.fsencode(path)) == SOCKET_PATH_BYTES_MAX
    with listening_socket(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert not list(folder.iterdir())


def test_the_start_looks_at_the_longest_of_all_sockets() -> None:
    settings = Settings(data_dir="/var/lib/elkapi")
    assert {*ROLES} - {"worker"} | {SOCKET} <= {*SOCKETS}
    assert settings.socket_path_bytes == max(len(settings.socket_path(name)) for name in SOCKETS)


def test_too_long_a_path_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="shorter data_dir"), listening_socket(tmp_path / ("x" * 120)):
        pass


def _lines_of(tmp_path: Path, *records: logging.LogRecord, level: str = "info") -> list[dict[str, Any]]:
    file = tmp_path / "log"
    with json_log("control", Settings(log_file=str(file), log_level=level)):
        for record in records:
            logging.getLogger(record.name).handle(record)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_log_line_is_json_with_extras_and_trace(tmp_path: Path) -> None:
    record = logging.LogRecord("elkapi.control", logging.ERROR, __file__, 1, "page_failed", None, None)
    record.path = "/docs"
    record.odd = object()
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    (fields,) = _lines_of(tmp_path, record)
    assert (fields["event"], fields["level"], fields["role"]) == ("page_failed", "error", "control")
    assert fields["path"] == "/docs"
    assert fields["odd"].startswith("<object")
    assert fields["trace"].endswith("ValueError: why\n")


def test_a_sentence_that_does_not_fit_its_values_is_a_line_and_no_error_of_who_says_it(tmp_path: Path) -> None:
    records = [
        logging.LogRecord("library", logging.WARNING, __file__, 1, "%d things", ("many",), None),
        logging.LogRecord("library", logging.WARNING, __file__, 1, "fine", None, None),
    ]
    records[1].__dict__ |= {"event": "theirs", "level": "theirs", "self": "theirs", "role": "theirs", "size": 5}
    unfit, fine = _lines_of(tmp_path, *records)
    assert (unfit["event"], unfit["message"]) == ("library", "%d things")
    assert (fine["event"], fine["level"], fine["role"], fine["size"]) == ("library", "warning", "control", 5)


def test_a_librarys_sentence_is_a_message(tmp_path: Path) -> None:
    record = logging.LogRecord("some.library", logging.WARNING, __file__, 1, "odd %s", ("thing",), None)
    (fields,) = _lines_of(tmp_path, record)
    assert (fields["event"], fields["message"]) == ("library", "odd thing")


def test_set_level_holds_for_our_events(tmp_path: Path) -> None:
    quiet = logging.LogRecord("elkapi.control", logging.INFO, __file__, 1, "quiet", None, None)
    loud = logging.LogRecord("elkapi.control", logging.WARNING, __file__, 1, "loud", None, None)
    assert [line["event"] for line in _lines_of(tmp_path, quiet, loud, level="warning")] == ["loud"]


def test_process_serves_on_its_socket_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    environment = {**os.environ, "ELKAPI_DATA_DIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "elkapi.control"], env=environment, stdout=subprocess.PIPE, stderr=log
        )
    assert child.stdout is not None
    try:
        _wait_for(path, child, tmp_path / "log")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://gateway/healthz").json() == {"status": "ok"}
            status = client.get("http://gateway/api/status").json()["data"]
            assert status["database"] == "ok"
            assert status["local_models_ready"] is False
            assert client.get("http://gateway/docs").status_code == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert child.stdout.read() == b""
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not path.exists()
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"].startswith("control_")] == [
        "control_started",
        "control_stopped",
    ]


def _wait_for(path: Path, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_parts_of_the_package_load_no_web_framework() -> None:
    code = (
        "import sys, elkapi.control.prober, elkapi.control.store; print(*{'litestar', 'uvicorn'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
