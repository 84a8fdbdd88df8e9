"""The log goes on whatever it is handed."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.clock import ManualClock
from elkapi.observe.log import LINES_AT_ONCE, QUEUE_LINES_MAX, Log
from tests.pipes import full_pipe
from tests.waiting import until_blocking


def test_a_line_that_cannot_be_written_does_not_end_the_log(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    log.write("odd", value=object())
    log.write("unencodable", text="\ud800")
    log.write_later("broken", "info", lambda _, value: 1 // value, 0)
    log.write("fine", value=1)
    log.close()
    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [line["event"] for line in lines] == ["odd", "unencodable", "broken", "fine"]
    assert lines[3]["value"] == 1
    assert "ZeroDivisionError" in lines[2]["unwritable"]


def test_every_line_begins_alike_whatever_its_fields_are_named_and_lines_below_the_level_are_not_told(
    tmp_path: Path,
) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file), level="WARNING", clock=ManualClock(7))
    log.write("quiet")
    log.write("loud", "error", pid=0, level="none", n=1)
    log.close()
    begun = {"time_ns": 7, "level": "error", "role": "test", "pid": os.getpid(), "event": "loud"}
    assert list(msgspec.json.decode(file.read_bytes()).items()) == [*begun.items(), ("n", 1)]


def test_a_full_queue_drops_lines_and_counts_them(tmp_path: Path) -> None:
    log = Log("test", file=str(tmp_path / "log"))
    log._lines.extend([(0, "info", "waits", None, {})] * QUEUE_LINES_MAX)  # The thread sleeps until it is woken.
    log.write("more")
    assert (log.dropped, len(log._lines)) == (1, QUEUE_LINES_MAX)
    log._lines.clear()
    log.close()


def test_lines_are_written_while_the_log_is_open_however_many_there_are(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    for round_ in range(3):  # The thread has gone to sleep in between.
        for number in range(2 * LINES_AT_ONCE + 1):
            log.write("line", number=number)
        wanted = (round_ + 1) * (2 * LINES_AT_ONCE + 1)

        def is_written(wanted: int = wanted) -> bool:
            return file.read_bytes().count(b"\n") >= wanted

        until_blocking(is_written)
    log.close()
    numbers = [msgspec.json.decode(line)["number"] for line in file.read_bytes().splitlines()]
    assert numbers == list(range(2 * LINES_AT_ONCE + 1)) * 3


def test_a_line_of_another_thread_that_has_not_yet_woken_the_log_keeps_none_asleep(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    log._lines.append((0, "info", "theirs", None, {}))  # They were stopped between this and the look behind it.
    log.write("ours")
    until_blocking(lambda: file.read_bytes().count(b"\n") >= 2)
    log.close()


def test_what_could_not_be_written_is_counted_and_what_waits_behind_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    whole = log._out

    class Full:
        def write(self, text: bytes) -> int:
            log._out = whole
            raise OSError("no space left")

    full: Any = Full()
    log._out = full
    for number in range(LINES_AT_ONCE + 5):
        log.write("line", number=number)
    until_blocking(lambda: file.read_bytes().count(b"\n") + log.dropped >= LINES_AT_ONCE + 5)
    log.close()
    assert 0 < log.dropped <= LINES_AT_ONCE
    assert msgspec.json.decode(file.read_bytes().splitlines()[-1])["number"] == LINES_AT_ONCE + 4


@pytest.mark.parametrize("refused", [OSError("no space left"), None])
def test_a_disk_that_takes_a_part_costs_one_line_and_every_lost_one_is_counted(
    tmp_path: Path, refused: OSError | None
) -> None:
    lines = [b'{"number":%d}\n' % number for number in range(9)]
    texts = [b"".join(lines[at : at + 3]) for at in (0, 3, 6)]

    class Fills(BytesIO):
        room = 0

        def write(self, text: Any) -> Any:
            """What is left of its room, in two pieces; no more from then on."""
            taken, text = self.room, text[: (self.room + 1) // 2]
            if not taken and refused is not None:
                raise refused
            self.room -= len(text)
            return super().write(text) or None

    log = Log("test", file=str(tmp_path / "log"))
    whole = log._out
    for room in range(len(texts[0] + texts[1]) + 1):
        disk: Any = Fills()
        log._cut, log._out, disk.room = False, disk, room
        lost = log._put(texts[0]) + log._put(texts[1])
        seen = disk.getvalue()
        assert sum(line in lines for line in seen.splitlines(keepends=True)) + lost == 6, room
        disk.room = 1_000
        assert log._put(texts[2]) == 0
        end = b"" if seen.endswith(b"\n") or not seen else b"\n"
        assert disk.getvalue() == seen + end + texts[2]
        assert log._put(texts[2]) == 0
        assert disk.getvalue() == seen + end + texts[2] * 2
    log._out = whole
    log.close()


def test_a_full_disk_behind_standard_error_is_told_of_as_one_behind_a_file(tmp_path: Path) -> None:
    file, limit = tmp_path / "log", 10_000
    script = f"""
import resource
from elkapi.clock import ManualClock
from elkapi.observe.log import Log
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, most))
log = Log("test")
log._stop.wait = lambda _: True
for number in range(200):
    log.write("line", number=number)
while log._lines or not log.dropped:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log.write("line", number=200)
log.close()
print(log.dropped)
"""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with file.open("wb") as errors:
        run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=errors, env=environment)
    whole = [line for line in file.read_bytes().splitlines() if line.endswith(b"}")]
    assert int(run.stdout) + len(whole) == 201
    assert msgspec.json.decode(whole[-1])["number"] == 200


def test_a_pipe_whose_reader_stopped_does_not_keep_a_process_from_its_end() -> None:
    program = """
import time
from elkapi.observe import log

log.CLOSE_WAIT_S = 0.5
one = log.Log("test")
one.write("which does not return")
while one._lines:
    time.sleep(0.01)
one.write("which waits for that")
one.close()
"""
    reading, writing = full_pipe()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", program], stderr=writing, env=environment) as process:
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)


def test_a_file_that_was_renamed_is_left_to_who_renamed_it(tmp_path: Path) -> None:
    file, rotated = tmp_path / "log", tmp_path / "log.1"
    log = Log("test", file=str(file))
    log.write("before")
    until_blocking(file.read_bytes)
    file.rename(rotated)
    log.write("after")
    log.close()
    assert b'"before"' in rotated.read_bytes()
    assert b'"after"' in file.read_bytes()
    assert b'"after"' not in rotated.read_bytes()
