"""What each of our processes does for itself: ends with its supervisor, sets its name in `ps`, runs its loop.

`supervisor` starts processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

PARENT_VARIABLE = "ELKAPI_PARENT_PID"
# File descriptors reserved for upstreams of running calls, for files, and for refusing further clients with an answer.
# With none left, libuv accepts a connection only to close it.
DESCRIPTORS_KEPT = 64
PARENT_POLL_S = 1.0
TITLE_BYTES_MAX = 15  # The kernel truncates longer thread names.

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_parent() -> None:
    """Kill this process as soon as its supervisor is gone. Call it first in a child.

    The supervisor's pid comes from the environment (PARENT_VARIABLE, which is removed so that no grandchild uses it);
    without it, this process is not supervised and nothing happens.

    It is a kill because nobody could coordinate a drain, and a survivor would block its socket or port for the next
    start; recovery resolves its holds, as after any crash.

    Linux sends the signal when the *thread* that started the child ends, so a supervisor starts children from a thread
    that lives as long as itself. The kernel covers only deaths after the call, and other systems have no such signal,
    so a change of parent is checked as well: once on Linux, every PARENT_POLL_S seconds by a thread elsewhere.
    """
    from_environment = os.environ.pop(PARENT_VARIABLE, "")
    if not from_environment.isdecimal():
        return
    parent_pid = int(from_environment)
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_watch, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _watch(parent_pid: int, sleep: Callable[[float], None] = time.sleep) -> None:
    while os.getppid() == parent_pid:
        sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def set_title(role: str) -> None:
    """Show this process as `elk-<role>` in `ps -c`, `top` and kernel messages; does nothing except on Linux."""
    if sys.platform == "linux":
        name = f"elk-{role}".encode("ascii", "replace")[:TITLE_BYTES_MAX]
        _prctl(_PR_SET_NAME, ctypes.create_string_buffer(name))


def _prctl(option: int, argument: int | ctypes.Array[ctypes.c_char]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else argument
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def allow_files() -> None:
    """Raise the limit of open files to the maximum; the low default exists only for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "Unlimited" is more than some kernels give.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_for_clients() -> int:
    """The exclusive maximum of a client connection's descriptor; the kernel assigns the lowest free number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - DESCRIPTORS_KEPT


def has_descriptor_left() -> bool:
    """Whether this process can accept another client connection."""
    try:
        os.close(descriptor := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return descriptor < descriptors_for_clients()


def stop_signal() -> asyncio.Event:
    """An event of the running loop that SIGTERM and SIGINT set instead of ending the process."""
    import asyncio

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    return stop


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run the process's main coroutine, on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        asyncio.run(main)
    else:
        uvloop.run(main)


def usable_cores() -> int:
    """The number of cores that this process may use, possibly fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes() -> int:
    """The resident memory of this process in bytes; 0 without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a kernel file, read on every scrape
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
