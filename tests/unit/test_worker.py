"""What a worker looks after beside its calls."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import pytest

from elkapi.clock import ManualClock
from elkapi.observe.log import Log
from elkapi.worker import FilesWatch


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """All that may be open is open, since the limit is below what is."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_without_descriptors_says_so_once_a_minute_and_is_not_ready(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    log, clock = Log("worker"), ManualClock()
    files = FilesWatch(log, clock)
    files.look(connections=9)
    assert files.reason() is None
    with no_descriptor_left():
        for _ in range(100):
            files.look(connections=7)
            clock.advance(1)
        assert files.reason() == "no file descriptors left for new connections"
    files.look(connections=3)
    assert files.reason() is None
    log.close()
    lines = capfdbinary.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(b'"level":"error"' in line and b'"connections":7' in line for line in lines)
