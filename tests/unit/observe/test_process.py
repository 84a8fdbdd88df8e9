"""Children end with their parent: checked on real processes, since the promise is the kernel's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elkapi.observe import process

CHILD = """
import os, sys, time
from elkapi.observe.process import PARENT_VARIABLE, die_with_parent, set_title
set_title("control")
os.environ[PARENT_VARIABLE] = sys.argv[1]
die_with_parent()
print(os.getpid(), open("/proc/self/comm").read().strip(), flush=True)
time.sleep(60)
"""

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
time.sleep(60)
"""


def _is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_child_dies_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pid, title = parent.stdout.readline().split()
        assert title == "elk-control"
        assert Path(f"/proc/{pid}").exists()
        os.kill(parent.pid, signal.SIGKILL)
        assert _is_gone(int(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_child_that_lost_its_parent_before_the_call_dies_at_once() -> None:
    # Its parent is this process, not pid 999999: as if the supervisor had died between fork and the call.
    child = subprocess.run([sys.executable, "-c", CHILD, "999999"], capture_output=True, text=True, timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert child.stdout == ""


def test_watcher_signals_when_the_parent_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7, 1])
    slept: list[float] = []
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append((pid, signum)))
    process._watch(7, slept.append)
    assert slept == [process.PARENT_POLL_S] * 2
    assert killed == [(os.getpid(), signal.SIGKILL)]


LIMITED = """
import contextlib, resource
from elkapi.app import StartError, run_role
from elkapi.roles import WorkerOrder
from elkapi.settings import Settings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
with contextlib.suppress(StartError):
    run_role("none", WorkerOrder(Settings()))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_every_role_may_open_as_many_files_as_the_system_allows() -> None:
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["512", "512"]


def test_resident_bytes_counts_this_process() -> None:
    if sys.platform == "linux":
        assert process.resident_bytes() > 5_000_000


def test_parent_comes_from_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(process, "_prctl", lambda option, argument: calls.append(option))
    monkeypatch.setenv(process.PARENT_VARIABLE, str(os.getppid()))
    process.die_with_parent()
    process.die_with_parent()
    expected = 1 if sys.platform == "linux" else 0
    assert len(calls) == expected
    assert process.PARENT_VARIABLE not in os.environ
