"""What every process of ours does for itself: it ends with its supervisor, has a name in `ps`, runs its loop.

Starting processes is left to `supervisor`.
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
# Of a process's descriptors: for upstreams of calls under way, for files, and to tell further clients that it is full.
# Where none is left, libuv takes a connection only to close it.
DESCRIPTORS_KEPT = 64
PARENT_POLL_S = 1.0
TITLE_BYTES_MAX = 15  # The kernel cuts a longer thread name.

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_parent() -> None:
    """Kill this process as soon as its supervisor is gone. Call it first thing in a child.

    The supervisor's pid is taken from the environment (PARENT_VARIABLE, which is removed so that no grandchild mistakes
    it for its own); where there is none, nobody supervises this process and nothing happens.

    Without a supervisor nobody could drain in order, and a survivor would keep its socket or port from the next
    start, so it is a kill; what it held is resolved by recovery, as after any crash.

    Linux sends the signal when the *thread* that started the child ends, so a supervisor starts children from a thread
    that lives as long as itself. The kernel's promise covers only deaths after the call, and elsewhere there is none,
    so a change of parent is looked for as well: at once on Linux, every PARENT_POLL_S seconds by a thread elsewhere.
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
    """Show this process as `elk-<role>` in `ps -c`, `top` and the kernel's messages; does nothing off Linux."""
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
    """Let this process have as many files open as the system allows it; what is usual spares programs with `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "Unlimited" is more than some kernels give.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_for_clients() -> int:
    """What the number of a client's connection is below; the kernel gives each the lowest one that is free."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - DESCRIPTORS_KEPT


def has_descriptor_left() -> bool:
    """Whether this process can take one more client's connection."""
    try:
        os.close(descriptor := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return descriptor < descriptors_for_clients()


def stop_signal() -> asyncio.Event:
    """An event of the running loop that SIGTERM and SIGINT set, in the place of ending the process."""
    import asyncio

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    return stop


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run the process's one coroutine, on the quicker loop where there is one."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        asyncio.run(main)
    else:
        uvloop.run(main)


def usable_cores() -> int:
    """The cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes() -> int:
    """Memory of this process that is in RAM, in bytes; 0 where /proc does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a kernel file, read on every scrape
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
