"""Named crash points: off they do nothing, on they kill the process that reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elkapi.testing import crash

SCRIPT = """
from elkapi.testing.crash import point
for number in range(3):
    print(number, flush=True)
    point("ledger.before_commit")
    point("ledger.hold.after")
"""


def run(crash_at: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != crash.VARIABLE}
    if crash_at is not None:
        environment[crash.VARIABLE] = crash_at
    return subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("crash_at", "reached"), [("ledger.hold.after", "0\n"), ("ledger.before_commit:2", "0\n1\n")])
def test_the_armed_point_kills_at_its_count(crash_at: str, reached: str) -> None:
    done = run(crash_at)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, reached)


def test_an_order_in_a_file_is_carried_out_by_the_first_process_alone(tmp_path: Path) -> None:
    order = tmp_path / "order"
    assert run(f"@{order}").returncode == 0
    order.write_text("ledger.before_commit:2", "ascii")
    assert [run(f"@{order}").returncode for _ in range(2)] == [-signal.SIGKILL, 0]
    assert not order.exists()


def test_unarmed_points_do_nothing() -> None:
    for crash_at in (None, "", "ledger.settle.after"):
        assert run(crash_at).returncode == 0


@pytest.mark.parametrize("wrong", ["ledger.nowhere", "ledger.hold.after:x"])
def test_a_point_that_does_not_exist_is_an_error(wrong: str) -> None:
    assert "CrashPointError" in run(wrong).stderr


def test_every_point_is_reached_by_the_code_and_named() -> None:
    source = Path(crash.__file__).parents[1]
    used = {
        line.partition('point("')[2].partition('"')[0]
        for room in ("ledger", "relay", "tasks")
        for path in (source / room).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if 'point("' in line
    }
    assert used == set(crash.NAMES)
