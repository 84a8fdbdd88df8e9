"""The stores of kept answers: bounded in bytes, entries and age, sealed, and never a reason for a call to fail."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from elkapi.cache import Answers, Entry, files
from elkapi.cache.answers import FILE, PUTS_MAX, TELL_EVERY_S
from elkapi.cache.files import FileStore
from elkapi.cache.shared import RedisStore
from elkapi.cache.store import Bounds, Store, StoreDown
from elkapi.clock import SYSTEM_CLOCK, ManualClock
from elkapi.settings import Settings
from elkapi.storage.secrets import Sealer
from elkapi.types import Usage

SECOND_NS = 10**9
WAIT_S = 60.0  # No store is that slow, so what a busy machine makes wait is no miss.


def name(number: int) -> bytes:
    return b"%032d" % number


@pytest.fixture(params=["file", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    bounds = Bounds(bytes_max=1000, entries_max=5, age_s_max=100.0)
    made: Store
    if request.param == "file":
        made = FileStore(tmp_path / FILE, bounds, SYSTEM_CLOCK, WAIT_S)
    else:
        made = RedisStore(request.getfixturevalue("redis_url"), bounds, SYSTEM_CLOCK, WAIT_S)
        await made._redis.flushdb()
    yield made
    await made.aclose()


async def held(store: Store, numbers: range) -> list[int]:
    return [number for number in numbers if await store.get(name(number)) is not None]


async def test_the_oldest_go_when_there_are_too_many(store: Store) -> None:
    now_ns = SYSTEM_CLOCK.now_ns()
    for number in range(8):
        await store.put(name(number), now_ns + number * 1_000_000, b"x" * 10)
    assert await held(store, range(8)) == [3, 4, 5, 6, 7]


async def test_the_oldest_go_when_there_is_no_room(store: Store) -> None:
    now_ns = SYSTEM_CLOCK.now_ns()
    for number in range(4):
        await store.put(name(number), now_ns + number * 1_000_000, b"x" * 300)
    assert await held(store, range(4)) == [1, 2, 3]
    await store.put(name(4), now_ns + 4_000_000, b"x" * 900)
    assert await held(store, range(5)) == [4]
    await store.put(name(5), now_ns + 5_000_000, b"x" * 1001)
    assert await held(store, range(6)) == [4]


async def test_a_newer_answer_takes_the_place_of_the_older_and_its_room(store: Store) -> None:
    now_ns = SYSTEM_CLOCK.now_ns()
    for number in range(20):
        await store.put(name(1), now_ns + number * 1_000_000, b"%0400d" % number)
    assert await store.get(name(1)) == b"%0400d" % 19
    await store.put(name(2), now_ns + SECOND_NS, b"x" * 600)
    assert await held(store, range(3)) == [1, 2]


async def test_answers_past_their_age_go_with_the_next_one_kept(store: Store) -> None:
    now_ns = SYSTEM_CLOCK.now_ns()
    await store.put(name(1), now_ns - 200 * SECOND_NS, b"old")
    await store.put(name(2), now_ns, b"new")
    assert await held(store, range(3)) == [2]


async def test_any_number_may_look_at_once(store: Store) -> None:
    await store.put(name(1), SYSTEM_CLOCK.now_ns(), b"kept")
    assert await asyncio.gather(*(store.get(name(1)) for _ in range(500))) == [b"kept"] * 500


async def test_a_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(os.urandom(8192))
    store = FileStore(tmp_path / FILE, Bounds(1000, 5, 100.0), SYSTEM_CLOCK, WAIT_S)
    assert await store.get(name(1)) is None
    await store.put(name(1), SYSTEM_CLOCK.now_ns(), b"kept")
    assert await store.get(name(1)) == b"kept"
    await store.aclose()


async def test_a_file_of_no_use_is_taken_away_once_however_many_find_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(os.urandom(8192))
    await all_keep_one_each(tmp_path)


async def test_workers_that_begin_at_once_make_one_file(tmp_path: Path) -> None:
    for number in range(10):
        await all_keep_one_each(tmp_path / str(number))


async def all_keep_one_each(folder: Path) -> None:
    stores = [FileStore(folder / FILE, Bounds(1000, 6, 100.0), SYSTEM_CLOCK, WAIT_S) for _ in range(6)]
    now_ns = SYSTEM_CLOCK.now_ns()
    await asyncio.gather(*(store.put(name(n), now_ns + n, b"x") for n, store in enumerate(stores)))
    for store in stores:
        assert await held(store, range(6)) == list(range(6))
        await store.aclose()


async def test_a_file_is_opened_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = files._opened

    def while_another_tries(path: Path) -> sqlite3.Connection:
        with path.with_name(f"{path.name}.lock").open("ab") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return opened(path)

    monkeypatch.setattr(files, "_opened", while_another_tries)
    store = FileStore(tmp_path / FILE, Bounds(1000, 5, 100.0), SYSTEM_CLOCK, WAIT_S)
    assert await store.get(name(1)) is None
    await store.aclose()


async def test_a_file_that_is_damaged_while_it_is_used_is_begun_anew_by_all(tmp_path: Path) -> None:
    bounds = Bounds(1_000_000, 1000, 100.0)
    one, other, third = [FileStore(tmp_path / FILE, bounds, SYSTEM_CLOCK, WAIT_S) for _ in range(3)]
    now_ns = SYSTEM_CLOCK.now_ns()
    for number in range(50):
        await one.put(name(number), now_ns, b"x" * 3000)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        (page_bytes,) = connection.execute("pragma page_size").fetchone()
    assert await other.get(name(50)) is None
    with (tmp_path / FILE).open("r+b") as file:
        # The first ones, which are looked at when it is opened, are whole.
        file.seek(8 * page_bytes)
        file.write(os.urandom(30 * page_bytes))
    with pytest.raises(StoreDown, match="malformed"):
        await held(third, range(50))
    await one.put(name(50), now_ns, b"anew")
    for store in (one, other, third):
        assert await held(store, range(51)) == [50]
        await store.aclose()
    assert {path.name for path in tmp_path.iterdir()} == {FILE, f"{FILE}.lock"}


@pytest.mark.parametrize("totals", ["entries = 99", "bytes = 1000000", "entries = 99, bytes = 99"])
async def test_sums_that_are_wrong_are_set_right_by_the_next_answer_kept(tmp_path: Path, totals: str) -> None:
    store = FileStore(tmp_path / FILE, Bounds(bytes_max=1000, entries_max=5, age_s_max=100.0), SYSTEM_CLOCK, WAIT_S)
    now_ns = SYSTEM_CLOCK.now_ns()
    await store.put(name(0), now_ns, b"x" * 10)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute(f"update totals set {totals}")
    connection.close()
    for number in range(1, 4):
        await store.put(name(number), now_ns + number, b"x" * 10)
    assert await held(store, range(4)) == [2, 3]
    await store.aclose()


async def test_two_workers_of_a_host_share_one_file(tmp_path: Path) -> None:
    one, other = [FileStore(tmp_path / FILE, Bounds(1000, 5, 100.0), SYSTEM_CLOCK, WAIT_S) for _ in range(2)]
    now_ns = SYSTEM_CLOCK.now_ns()
    await asyncio.gather(*(store.put(name(n), now_ns + n, b"x") for n in range(4) for store in (one, other)))
    assert await held(one, range(4)) == await held(other, range(4)) == [0, 1, 2, 3]
    await one.aclose()
    await other.aclose()


def entry(body: bytes = b"{}") -> Entry:
    return Entry(SYSTEM_CLOCK.now_ns(), body, Usage(input_tokens=1), stream=True, include_usage=True)


@pytest.mark.parametrize("size", [2, 300_000])
async def test_an_entry_comes_back_whole_and_opens_with_its_own_key_and_name_only(tmp_path: Path, size: int) -> None:
    answers = Answers(Settings(data_dir=str(tmp_path)), Sealer(b"k" * 32))
    given = entry(b"x" * size)
    answers.put(name(1), lambda: given)
    answers.put(name(2), lambda: None)
    await answers.idle()
    assert await answers.get(name(1), 60) == given
    assert await answers.get(name(2), 60) is None
    assert await answers.get(name(1), 0) is None
    await answers.aclose()
    stranger = Answers(Settings(data_dir=str(tmp_path)), Sealer(b"l" * 32))
    assert await stranger.get(name(1), 60) is None
    await stranger.aclose()


async def test_an_answer_from_before_the_clock_was_set_back_is_none(tmp_path: Path) -> None:
    clock = ManualClock()
    answers = Answers(Settings(data_dir=str(tmp_path)), Sealer(b"k" * 32), clock)
    given = Entry(clock.now_ns(), b"{}", Usage(input_tokens=1))
    answers.put(name(1), lambda: given)
    await answers.idle()
    assert await answers.get(name(1), 60) == given
    clock.advance(-3 * 3600)
    assert await answers.get(name(1), 60) is None
    await answers.aclose()


async def test_a_store_that_cannot_be_used_costs_misses_and_a_flood_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    answers = Answers(Settings(data_dir=str(tmp_path)), Sealer(b"k" * 32))
    assert await answers.get(name(1), 60) is None
    for number in range(PUTS_MAX + 5):
        answers.put(name(number), entry)
    assert answers.dropped == 5
    await answers.idle()
    assert answers.dropped == PUTS_MAX + 5
    await answers.aclose()


async def test_a_redis_keeps_answers_whatever_it_forgets_and_for_who_may_load_nothing(redis_url: str) -> None:
    """As another server does that takes over, and a proxy that sends what is loaded to one of several."""
    bounds = Bounds(bytes_max=1000, entries_max=5, age_s_max=100.0)
    theirs = RedisStore(redis_url, bounds, SYSTEM_CLOCK, WAIT_S)
    ours = RedisStore(redis_url.replace("redis://", "redis://plain:any@"), bounds, SYSTEM_CLOCK, WAIT_S)
    server: Any = theirs._redis
    await server.flushdb()
    await server.execute_command("ACL", "SETUSER", "plain", "on", "nopass", "~*", "+@all", "-script")
    try:
        for number in range(2):
            await server.script_flush()
            await ours.put(name(number), SYSTEM_CLOCK.now_ns(), b"x")
        assert await held(theirs, range(2)) == [0, 1]
    finally:
        await ours.aclose()
        await server.execute_command("ACL", "DELUSER", "plain")
        await theirs.aclose()


async def test_a_redis_that_cannot_be_used_is_told_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    settings = Settings(data_dir=str(tmp_path), redis_url=f"unix://{tmp_path}/nobody.sock")
    answers = Answers(settings, Sealer(b"k" * 32), clock)
    clock.advance(1)
    for _ in range(3):
        assert await answers.get(name(1), 10) is None
    assert caplog.text.count("the response cache failed for a call") == 1
    assert "nobody.sock" in caplog.text
    clock.advance(TELL_EVERY_S)
    assert await answers.get(name(1), 10) is None
    assert caplog.text.count("the response cache failed for a call") == 2
    await answers.aclose()
