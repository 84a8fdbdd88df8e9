"""The shared table of limits: exact over processes, in any window, and free of the dead (guarantees 64 and 65)."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from elkapi.access import counters as table
from elkapi.access.counters import SECONDS, WINDOW_S, WORKERS_MAX, Caps, Counters, Over
from elkapi.access.limits import Limits
from elkapi.clock import ManualClock
from elkapi.errors import Unavailable
from elkapi.types import Policy

WORKERS = 4
# Takes as many places as it gets, says how many, and keeps them until its input ends.
WORKER = """
import sys
from pathlib import Path
from elkapi.access.counters import Caps, Counters, Over

counters = Counters(Path(sys.argv[1]))
caps = Caps(**{sys.argv[2]: int(sys.argv[3])})
got = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[4])):
    try:
        counters.take("key:1", caps)
    except Over:
        continue
    got += 1
print(got, flush=True)
sys.stdin.readline()
"""


@contextmanager
def workers(folder: Path, kind: str, cap: int, tries: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that begin together once they are told."""
    made = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), kind, str(cap), str(tries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    try:
        for one in made:
            assert said(one) == "ready"
        yield made
    finally:
        for one in made:
            one.kill()
            one.communicate()


def said(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    return one.stdout.readline().strip()


def tell(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("go\n")
    one.stdin.flush()


def test_g64_a_limit_of_requests_is_one_limit_over_all_workers(tmp_path: Path) -> None:
    with workers(tmp_path, "requests", 300, 200) as made:
        for one in made:
            tell(one)
        got = [int(said(one)) for one in made]
    assert sum(got) == 300


def test_g65_calls_at_once_are_never_more_than_the_limit_and_a_killed_workers_places_are_free_at_once(
    tmp_path: Path,
) -> None:
    with workers(tmp_path, "parallel", 10, 10) as made:
        for one in made:
            tell(one)
        got = [int(said(one)) for one in made]
        assert sum(got) == 10
        mine = Counters(tmp_path)
        with pytest.raises(Over):
            mine.take("key:1", Caps(parallel=10))
        victim = max(range(WORKERS), key=lambda number: got[number])
        os.kill(made[victim].pid, signal.SIGKILL)
        made[victim].wait()
        assert got[victim] > 0
        for _ in range(got[victim]):
            mine.take("key:1", Caps(parallel=10))
        with pytest.raises(Over):
            mine.take("key:1", Caps(parallel=10))
        mine.close()


def test_g64_no_sixty_seconds_hold_more_than_the_limit_wherever_they_begin(tmp_path: Path) -> None:
    clock, draw = ManualClock(), random.Random(7)
    clock.advance(1_000)
    counters = Counters(tmp_path, clock)
    taken: list[float] = []
    refused: list[int] = []
    for _ in range(2_000):
        clock.advance(draw.choice((0, 0.1, 1, 7)))
        try:
            counters.take("key:1", Caps(requests=9))
        except Over as over:
            refused.append(over.retry_after_s)
            clock.advance(over.retry_after_s)
            # What a refusal says is true: there is room then.
            counters.take("key:1", Caps(requests=9))
        taken.append(clock.monotonic_s())
    assert refused
    assert all(1 <= seconds <= SECONDS for seconds in refused)
    for first, at in enumerate(taken):
        assert sum(1 for later in taken[first:] if later < at + 60) <= 9
    counters.close()


def test_a_disk_that_was_full_for_many_calls_costs_no_workers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(table, "reserve", full)
    limits, policy = Limits(tmp_path), Policy(requests_per_min=5)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(WORKERS_MAX + 1):
        with pytest.raises(Unavailable):
            limits.key(1, policy, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    monkeypatch.undo()
    limits.key(1, policy, 0).release()
    limits.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_worker_that_makes_the_table_wipes_out_nothing_that_another_counted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps, counted, fstat = Caps(requests=5), 0, os.fstat

    def after_the_other(file: int) -> os.stat_result:
        nonlocal counted
        found = fstat(file)
        monkeypatch.setattr(os, "fstat", fstat)
        with suppress(Unavailable):
            Counters(tmp_path).take("key:1", caps)
            counted = 1
        return found

    # As where blocks are not reserved by the kernel: macOS.
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "fstat", after_the_other)
    counters = Counters(tmp_path)
    with suppress(Over):
        while counted <= 5:
            counters.take("key:1", caps)
            counted += 1
    assert counted == 5
    counters.close()


def test_tokens_are_counted_as_expected_and_corrected_at_the_end(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(1_000)
    counters = Counters(tmp_path, clock)
    caps = Caps(tokens=1_000)
    low = counters.take("key:1", caps, 600)
    with pytest.raises(Over):
        counters.take("key:1", caps, 600)
    counters.give_back(low, 100)
    high = counters.take("key:1", caps, 600)
    counters.give_back(high, 900)
    with pytest.raises(Over) as refused:
        counters.take("key:1", caps, 1)
    assert refused.value.kind == "tokens"
    clock.advance(SECONDS)
    counters.take("key:1", caps, 1_000)
    counters.take("key:2", caps, 1_000)
    counters.close()


def test_what_a_call_did_not_use_is_given_back_to_the_second_it_was_taken_in(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(1_000)
    counters = Counters(tmp_path, clock)
    caps = Caps(tokens=1_000)
    first = counters.take("key:1", caps, 600)
    clock.advance(10)
    counters.take("key:1", caps, 300)
    counters.give_back(first, 100)
    with pytest.raises(Over):
        counters.take("key:1", caps, 601)
    late = counters.take("key:1", caps, 600)
    clock.advance(SECONDS - 10)
    # Only the hundred of the first second have gone by.
    with pytest.raises(Over):
        counters.take("key:1", caps, 101)
    counters.take("key:1", caps, 100)
    clock.advance(10)
    counters.take("key:1", caps, 600)
    # Its second is over, so there is nothing of it to be given back to the one in its place.
    counters.give_back(late, 0)
    with pytest.raises(Over):
        counters.take("key:1", caps, 301)
    counters.take("key:1", caps, 300)
    counters.close()


def test_what_a_call_used_beyond_what_was_expected_counts_from_when_it_is_known(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(1_000)
    counters = Counters(tmp_path, clock)
    caps = Caps(tokens=1_000)
    first = counters.take("key:1", caps, 900)
    clock.advance(10)
    counters.give_back(first, 901)
    clock.advance(SECONDS - 10)
    with pytest.raises(Over):
        counters.take("key:1", caps, 1_000)
    counters.take("key:1", caps, 999)
    clock.advance(10)
    counters.take("key:1", caps, 1)
    counters.close()


def test_nothing_is_left_of_a_minute_however_long_ago_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    counters = Counters(tmp_path, clock)
    for pause_s in range(SECONDS, 4 * SECONDS):
        clock.advance(pause_s)
        counters.take("key:1", Caps(requests=1, tokens=5), 5)
    counters.close()


def test_a_worker_in_the_place_of_a_dead_one_begins_without_its_calls(tmp_path: Path) -> None:
    caps = Caps(parallel=2)
    dead = Counters(tmp_path)
    dead.take("key:1", caps)
    dead.take("key:1", caps)
    dead.close()  # As the kernel does it: nothing is given back.
    again = Counters(tmp_path)
    again.take("key:1", caps)
    again.take("key:1", caps)
    with pytest.raises(Over):
        again.take("key:1", caps)
    again.close()


def test_every_name_keeps_its_own_row_until_a_minute_after_its_last_call(tmp_path: Path) -> None:
    """Also right after the machine started, when the clock stands near zero."""
    clock = ManualClock()
    counters = Counters(tmp_path, clock)
    many = 2_500  # Twice as many have no room side by side.
    long = counters.take("long", Caps(parallel=1))
    for turn in range(2):
        names = [f"key:{turn * many + number}" for number in range(many)]
        for name in names:
            counters.take(name, Caps(requests=1))
        clock.advance(SECONDS - 1)
        for name in names:
            with pytest.raises(Over):
                counters.take(name, Caps(requests=1))
        clock.advance(SECONDS)
    with pytest.raises(Over):
        counters.take("long", Caps(parallel=1))
    counters.give_back(long, 0)
    counters.take("long", Caps(parallel=1))
    counters.close()


def test_the_table_is_its_owners_alone(tmp_path: Path) -> None:
    counters = Counters(tmp_path)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    counters.close()


def test_a_call_that_alone_is_more_than_a_minutes_limit_never_passes(tmp_path: Path) -> None:
    counters = Counters(tmp_path, ManualClock())
    for _ in range(2):
        with pytest.raises(Over) as refused:
            counters.take("key:1", Caps(tokens=100), 101)
        assert (refused.value.kind, refused.value.retry_after_s) == ("tokens", WINDOW_S)
    counters.take("key:1", Caps(tokens=100), 100)
    counters.close()


def test_nothing_counts_from_before_a_machine_was_restarted(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(10_000)
    before = Counters(tmp_path, clock)
    before.take("key:1", Caps(requests=1, tokens=5), 5)
    before.close()
    after = Counters(tmp_path, ManualClock())
    after.take("key:1", Caps(requests=1, tokens=5), 5)
    with pytest.raises(Over):
        after.take("key:1", Caps(requests=1))
    after.close()


def test_whoever_finds_no_place_in_the_table_lets_nobody_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "WORKERS_MAX", 1)
    monkeypatch.setattr(table, "PROBES_MAX", 1)
    monkeypatch.setattr(table, "ROWS", 1)
    first = Counters(tmp_path, ManualClock())
    with pytest.raises(Unavailable):
        Counters(tmp_path, ManualClock())
    taken = first.take("key:1", Caps(parallel=1))
    with pytest.raises(Unavailable):
        first.take("key:2", Caps(parallel=1))
    first.give_back(taken, 0)
    first.close()
