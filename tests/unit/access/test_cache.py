"""What the cache of keys keeps and for how long, without a database."""

from __future__ import annotations

import pytest

from elkapi.access import cache as module
from elkapi.access.cache import NEGATIVE_S, KeyCache
from elkapi.types import Grant


def grant(key_id: int) -> Grant:
    return Grant(key_id, "k", 1, "default", "live", (), None, None, True)


def test_the_key_that_was_used_or_read_longest_ago_is_dropped_first() -> None:
    cache = KeyCache(3)
    for key_id, digest in enumerate((b"a", b"b", b"c")):
        cache.put(digest, grant(key_id), 0, 0.0)
    cache.get(b"a")
    cache.put(b"b", grant(1), 0, 0.0)
    cache.put(b"d", grant(3), 0, 0.0)
    assert [cache.get(digest) is not None for digest in (b"a", b"b", b"c", b"d")] == [True, True, False, True]
    assert cache.get(b"b") == grant(1)


def test_a_key_has_one_secret_here_and_a_change_drops_it_whichever_it_is() -> None:
    cache = KeyCache(9)
    for former, newer in ((b"a", b"b"), (b"d", b"c")):
        cache.put(former, grant(1), 1, 0.0)
        cache.put(newer, grant(1), 1, 0.0)
        assert (cache.get(former), cache.get(newer), len(cache)) == (None, grant(1), 1)
    # The secret was replaced by one that was not read yet.
    cache.evict(2, [(1, b"e")])
    assert len(cache) == 0
    cache.put(b"e", grant(1), 2, 0.0)
    cache.evict(3, [(2, b"f")])
    assert cache.get(b"e") == grant(1)


def test_an_unknown_key_is_known_to_be_that_for_a_moment_and_no_longer_than_it_is_one() -> None:
    cache = KeyCache(1)
    cache.put(b"a", None, 0, 100.0)
    assert cache.is_unknown(b"a", 100.0 + NEGATIVE_S - 0.1)
    assert not cache.is_unknown(b"a", 100.0 + NEGATIVE_S)
    # Created meanwhile, and dropped for another key: it is looked up again.
    cache.put(b"a", grant(1), 0, 101.0)
    cache.put(b"b", grant(2), 0, 101.0)
    assert cache.get(b"a") is None
    assert not cache.is_unknown(b"a", 101.0)


def test_so_many_unknown_keys_are_remembered_and_the_newest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEGATIVE_MAX", 2)
    cache = KeyCache(1)
    for digest in (b"a", b"b", b"a", b"c"):
        cache.put(digest, None, 0, 0.0)
    assert [cache.is_unknown(digest, 0.0) for digest in (b"a", b"b", b"c")] == [True, False, True]


def test_only_what_changed_is_dropped_and_an_answer_from_before_is_not_kept() -> None:
    cache = KeyCache(9)
    for key_id, digest in ((1, b"a"), (2, b"b")):
        cache.put(digest, grant(key_id), 1, 0.0)
    cache.put(b"c", None, 1, 0.0)
    cache.evict(2, [(1, b"a")])
    assert (cache.get(b"a"), cache.get(b"b"), cache.is_unknown(b"c", 0.0)) == (None, grant(2), True)
    cache.put(b"a", grant(1), 1, 0.0)
    assert cache.get(b"a") is None
    cache.put(b"a", grant(1), 2, 0.0)
    assert cache.get(b"a") == grant(1)
    cache.evict(1, None)  # As after a restore.
    assert (len(cache), cache.is_unknown(b"c", 0.0)) == (0, False)
    cache.put(b"a", grant(3), 1, 0.0)
    assert cache.get(b"a") == grant(3)
