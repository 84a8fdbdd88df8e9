"""The log goes on whatever it is handed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from elkapi.observe.log import Log


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
