"""Plain numbers folded into prometheus files come out of the page as what was counted, over all processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from elkapi.observe.metrics import COUNTED_TOGETHER, CallCounts, Metrics
from elkapi.types import RequestRecord, Usage

DOCS = Path(__file__).parents[3] / "docs"
COUNT = """
import sys
from pathlib import Path
from elkapi.observe import metrics
metrics.prepare(Path(sys.argv[1]))
mine = metrics.Metrics()
for seconds in (0.0005, 0.001, 0.02, 99.0):
    mine.durations["op"].add(seconds)
mine.requests[("op", 200)] += 4
mine.charged_nano += 80
mine.lost_nano += 30
mine.alerts["batch_without_charge"] += 1
mine.attempts[("secret-upstream", "ok")] += 1
mine.fold({"connections": 3})
mine.durations["op"].add(0.3)
mine.fold({"connections": 2})
tasks = metrics.TaskMetrics()
tasks.fold({"polls": 3, "unknown_words": 1}, 7, 0.25)
tasks.fold({"polls": 2}, 5, 0.5)
metrics.telemetry_lost()
if sys.argv[2] != "count":
    sys.stdout.write(metrics.Metrics.page(for_operator=sys.argv[2] == "whole").decode())
"""


def page_of_two_processes(folder: Path, kind: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    for what in ("count", kind):
        done = subprocess.run(
            [sys.executable, "-c", COUNT, str(folder), what],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
    return done.stdout


def test_the_page_adds_up_what_every_process_folded(tmp_path: Path) -> None:
    page = page_of_two_processes(tmp_path, "whole")
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(lines['elkapi_attempts_total{channel="secret-upstream",outcome="ok"}']) == 2
    assert float(lines['elkapi_requests_total{operation="op",status="200"}']) == 8
    assert float(lines['elkapi_request_seconds_count{operation="op"}']) == 10
    assert float(lines['elkapi_request_seconds_bucket{le="0.001",operation="op"}']) == 4
    assert float(lines['elkapi_request_seconds_bucket{le="0.025",operation="op"}']) == 6
    assert float(lines['elkapi_request_seconds_bucket{le="+Inf",operation="op"}']) == 10
    assert float(lines["elkapi_charged_nano_usd_total"]) == 160
    assert float(lines['elkapi_alerts_total{kind="batch_without_charge"}']) == 2
    assert float(lines['elkapi_task_events_total{kind="polls"}']) == 10
    assert float(lines['elkapi_task_events_total{kind="unknown_words"}']) == 2
    assert float(lines["elkapi_operator_loss_nano_usd_total"]) == 60
    # The first process is gone, and its open tasks with it.
    assert float(lines["elkapi_tasks_open"]) == 5
    assert float(lines["elkapi_task_poll_late_seconds"]) == 0.5


def test_what_anybody_may_read_names_no_channel_and_no_money(tmp_path: Path) -> None:
    page = page_of_two_processes(tmp_path, "public")
    families = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    assert {"elkapi_requests_total", "elkapi_request_seconds", "elkapi_connections"} <= families
    assert "secret-upstream" not in page
    assert not any(word in page for word in ("channel", "nano", "tokens"))


def test_every_file_of_values_has_its_blocks(tmp_path: Path) -> None:
    # On a full disk a page without one ends the process that writes to it, with every call it answers.
    page_of_two_processes(tmp_path, "count")
    files = [path.stat() for path in tmp_path.iterdir()]
    assert files
    assert all(file.st_blocks * 512 >= file.st_size for file in files)


FILL = """
import resource, sys
from pathlib import Path
from elkapi.observe import metrics
metrics.prepare(Path(sys.argv[1]))
mine = metrics.Metrics()
mine.alerts["known"] += 1
mine.fold({})
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))  # room for the first size of a file and no more
for number in range(1000):
    mine.attempts[(f"channel-{number}", "ok")] += 1
    mine.tokens += 1
    mine.fold({})
mine.alerts["known"] += 1
mine.alerts["new"] += 1
mine.fold({})
mine.fold({})
sys.stdout.write(metrics.Metrics.page(for_operator=True).decode())
"""


def test_what_finds_no_room_is_not_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if not line.startswith("#"))
    counted = [name for name in lines if name.startswith("elkapi_attempts_total")]
    assert 100 < len(counted) < 1000
    assert all(float(lines[name]) == 1 for name in counted)
    assert "cannot record metrics" in done.stderr
    assert float(lines["elkapi_input_tokens_total"]) == 1000
    # Neither is what had room counted again with the next fold.
    assert float(lines['elkapi_alerts_total{kind="known"}']) == 2


FIRST_IN_ITS_CONTAINER = """
import os, sys
from pathlib import Path
os.getpid = lambda: 1
from elkapi.observe import metrics
metrics.prepare(Path(sys.argv[1]))
mine = metrics.Metrics()
for word in map(str.strip, sys.stdin):
    if word != "page":
        mine.requests[(word, 200)] += 1
    mine.fold({"connections": 1})
    print(metrics.Metrics.page(for_operator=True).decode() if word == "page" else "counted", flush=True)
"""


def test_processes_of_one_pid_in_containers_of_their_own_share_no_file_and_a_later_one_goes_on_with_a_dead_ones(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", FIRST_IN_ITS_CONTAINER, str(tmp_path)]

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(process: subprocess.Popen[str], word: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "counted\n"

    with started() as one, started() as other:
        for word in ("some", "of", "them"):
            told(one, word)
            told(other, word + "-" * 30)
        one.kill()
        one.wait()
        with started() as later:
            told(later, "some")
            page, _ = later.communicate("page\n")
        other.kill()
    counts = dict(re.findall(r'elkapi_requests_total{operation="([a-z-]+)",status="200"} ([0-9.]+)', page))
    assert counts.pop("some") == "2.0"
    assert counts == dict.fromkeys(("of", "them", *(f"{word}{'-' * 30}" for word in ("some", "of", "them"))), "1.0")
    assert "elkapi_connections 2.0" in page
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


BESIDE_A_START = """
import sys
from pathlib import Path
from elkapi.observe import metrics
metrics.prepare(Path(sys.argv[1]))
from elkapi.observe import metric_files
reserve, pages = metric_files.reserve, []
def reserve_while_somebody_reads(file, size_bytes):
    pages.append(metrics.Metrics.page(for_operator=True))
    reserve(file, size_bytes)
    pages.append(metrics.Metrics.page(for_operator=True))
metric_files.reserve = reserve_while_somebody_reads
mine = metrics.Metrics()
mine.alerts["known"] += 1
mine.fold({})
assert len(pages) >= 4, pages
sys.stdout.write(metrics.Metrics.page(for_operator=True).decode())
"""


def test_the_page_is_read_while_a_process_makes_its_files(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", BESIDE_A_START, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert 'elkapi_alerts_total{kind="known"} 1.0' in run.stdout
    assert {path.suffix for path in tmp_path.iterdir()} == {".db", ".lock"}


def record_of(usage: Usage, id: bytes = bytes(16), duration_ms: float = 1.0) -> RequestRecord:
    """A finished call."""
    return RequestRecord(
        id=id,
        key_id=1,
        owner_id=1,
        operation="op",
        model="m",
        group="default",
        created_ns=0,
        duration_ms=duration_ms,
        status=200,
        outcome="ok",
        usage=usage,
        price_id=1,
        price_version=1,
        ratio_micro=1_000_000,
        hold_nano=0,
        charge_nano=0,
        loss_nano=0,
    )


def test_every_token_that_went_in_is_counted_whatever_its_class() -> None:
    usage = Usage(
        input_tokens=1,
        cached_tokens=2,
        cache_write_5m_tokens=4,
        cache_write_1h_tokens=8,
        audio_input_tokens=16,
        image_input_tokens=32,
        cached_audio_tokens=64,
    )
    record = record_of(usage)
    counts = CallCounts(CollectorRegistry())
    counts.add(record)
    assert counts.tokens == 127


def test_finished_calls_are_counted_together_and_before_the_numbers_are_moved() -> None:
    metrics = Metrics()
    for number in range(COUNTED_TOGETHER - 1):
        metrics.finished(record_of(Usage(input_tokens=2), bytes([number]) * 16, 20.0), timed=number > 0)
    assert (dict(metrics.requests), metrics.tokens) == ({}, 0)
    metrics.finished(record_of(Usage(input_tokens=2), b"last", 20.0), timed=True)
    assert (dict(metrics.requests), metrics.tokens) == ({("op", 200): COUNTED_TOGETHER}, 2 * COUNTED_TOGETHER)
    assert sum(metrics.durations["op"].counts) == COUNTED_TOGETHER - 1
    metrics.finished(record_of(Usage(), b"one more", 20.0), timed=False)
    metrics.fold({})
    assert (dict(metrics.requests), dict(metrics.durations)) == ({}, {})
    metrics.finished(record_of(Usage(), b"another", 20.0), timed=True)
    metrics.count()
    assert (dict(metrics.requests), sum(metrics.durations["op"].counts)) == ({("op", 200): 1}, 1)


def test_every_metric_that_the_documentation_names_is_one_of_the_page(tmp_path: Path) -> None:
    page = page_of_two_processes(tmp_path, "whole")
    shown = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    named = {name for path in DOCS.glob("*.md") for name in re.findall(r"`(elkapi_\w+)`", path.read_text("utf-8"))}
    assert len(named) >= 10
    assert named - shown == set()
