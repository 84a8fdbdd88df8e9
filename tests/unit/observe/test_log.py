"""The log goes on whatever it is handed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from elkapi.observe.log import LINES_AT_ONCE, Log
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


def test_lines_are_written_while_the_log_is_open_however_many_there_are(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    for round_ in range(3):  # The thread has gone to sleep in between.
        for number in range(2 * LINES_AT_ONCE + 1):
            log.write("line", number=number)
        wanted = (round_ + 1) * (2 * LINES_AT_ONCE + 1)
        until_blocking(lambda wanted=wanted: file.read_bytes().count(b"\n") >= wanted)
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

    log._out = Full()  # type: ignore[assignment]
    for number in range(LINES_AT_ONCE + 5):
        log.write("line", number=number)
    until_blocking(lambda: file.read_bytes().count(b"\n") + log.dropped >= LINES_AT_ONCE + 5)
    log.close()
    assert 0 < log.dropped <= LINES_AT_ONCE
    assert msgspec.json.decode(file.read_bytes().splitlines()[-1])["number"] == LINES_AT_ONCE + 4


def test_a_disk_that_takes_a_part_costs_one_line_and_every_lost_one_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = Log("test", file=str(file))
    whole = log._out
    calls: list[int] = []

    class Fills:
        def write(self, text: bytes) -> int:
            calls.append(len(text))
            if len(calls) == 1:
                return whole.write(text[: text.index(b"\n") + 5])
            log._out = whole
            raise OSError("no space left")

        def flush(self) -> None: ...

    log._out = Fills()  # type: ignore[assignment]
    for number in range(3):
        log._lines.append((0, "info", "line", None, {"number": number}))
    log.write("line", number=3)
    until_blocking(lambda: not log._lines and calls)
    log.write("line", number=4)
    log.close()
    whole_lines = [line for line in file.read_bytes().splitlines() if line.endswith(b"}")]
    assert [msgspec.json.decode(line)["number"] for line in whole_lines] == [0, 4]
    assert log.dropped == 3


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
