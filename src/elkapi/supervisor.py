"""`elkapi serve`: owns the listening socket, starts every role as a process of its own, restarts what dies, drains.

It imports none of the heavy rooms, opens no database while serving and answers no request, so there is little in it
that could fail. Children end with it (observe/process.py). Signals: SIGTERM or SIGINT stops in order (workers drain
first, the ledger goes last); SIGHUP replaces the workers one by one, each new one ready before its predecessor drains.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TextIO

import msgspec

from elkapi.clock import doubled_s
from elkapi.ids import new_id
from elkapi.local.listening import answers
from elkapi.local.listening import listen as listen_unix
from elkapi.observe.numbers import forget_ended
from elkapi.observe.process import PARENT_VARIABLE
from elkapi.roles import BundledModel, WorkerOrder
from elkapi.settings import Settings

BACKLOG = 2048
ON_DEMAND_BACKLOG = 128
# Pause between two looks at the children: the long one while only a signal or a caller, which end it, can bring news.
TICK_S = 0.1
QUIET_TICK_S = 1.0
RESTART_FIRST_S = 0.05
RESTART_MAX_S = 5.0
STEADY_AFTER_S = 10.0
STOP_GRACE_S = 5.0
READY_WAIT_S = 60.0
TELL_WAIT_S = 0.5
ORDER_VARIABLE = "ELKAPI_ORDER"

Announce = Callable[[], None]


class Child:
    """One role's process and its state.

    With a `listener` it is started when the first caller connects, may end when nobody calls, and is not awaited at the
    start.
    """

    def __init__(self, role: str, number: int = 0, listener: socket.socket | None = None) -> None:
        self.role = role
        self.number = number
        self.listener = listener
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = ""
        self.started_s = 0.0
        self.restart_at_s = 0.0
        self.failures = 0
        self.ready_fd: int | None = None
        self.ready = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts `roles` besides `settings.workers` workers, and `on_demand` roles when somebody connects to them.

    `announce` is called once, when everything is ready.
    """

    def __init__(
        self,
        settings: Settings,
        roles: tuple[str, ...],
        on_demand: tuple[str, ...],
        bundled: tuple[BundledModel, ...],
        sandbox_models: tuple[str, ...],
        announce: Announce,
    ) -> None:
        self._settings = settings
        self._bundled = bundled
        self._sandbox_models = sandbox_models
        self._announce = announce
        self._helpers = [Child(role) for role in roles]
        self._workers = [Child("worker", number) for number in range(settings.workers)]
        self._socket = listen(settings.host, settings.port)
        self._callable = [Child(role, listener=_listen_for(settings, role)) for role in on_demand]
        self._retiring: Child | None = None
        self._stopping = self._rolling = self._announced = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    @property
    def port(self) -> int:
        """The port in use, also if 0 was requested."""
        return int(self._socket.getsockname()[1])

    def run(self) -> int:
        """Supervise until told to stop; returns the exit status."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_roll)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            for child in (*self._helpers, *self._workers):
                self._start(child)
            while not self._stopping:
                self._look_after()
                if self._rolling:
                    self._roll()
                self._wait(QUIET_TICK_S if self._is_quiet() else TICK_S)
        finally:
            self._stop_all()
        return 0

    # Starting and restarting

    def _start(self, child: Child, predecessor: str = "") -> None:
        order = WorkerOrder(
            settings=msgspec.structs.replace(self._settings, port=self.port),
            bundled=self._bundled,
            sandbox_models=self._sandbox_models,
            owner=new_id().hex(),
            dead_owner=predecessor,
            ledger_in_process=all(helper.role != "ledger" for helper in self._helpers),
            wait_for_models=any(helper.role == "models" for helper in self._helpers),
        )
        environment = os.environ | {
            ORDER_VARIABLE: msgspec.json.encode(order).decode(),
            PARENT_VARIABLE: str(os.getpid()),
        }
        arguments = [sys.executable, "-m", "elkapi.app", child.role]
        fds: tuple[int, ...] = ()
        try:
            if child.listener is not None:
                fds = (child.listener.fileno(),)
            elif child.role == "worker":
                child.ready_fd, ready_write = os.pipe()
                os.set_blocking(child.ready_fd, False)
                fds = (self._socket.fileno(), ready_write)
            arguments += [str(fd) for fd in fds]
            # Its own process group: Ctrl-C in a terminal reaches only the supervisor, which then stops everything in
            # order.
            child.process = subprocess.Popen(
                arguments, env=environment, pass_fds=fds, stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            # A lack of processes, memory or descriptors right now is no reason to stop those that run.
            _say(f"{child.role} cannot be started: {error}")
            _retry_later(child)
            return
        finally:
            if len(fds) > 1:
                os.close(fds[1])
        child.owner = order.owner
        child.ready = False
        child.started_s = time.monotonic()

    def _look_after(self) -> None:
        now_s = time.monotonic()
        for child in (*self._helpers, *self._callable, *self._workers):
            if child.alive:
                if not child.ready:
                    self._check_ready(child)
                elif now_s - child.started_s > STEADY_AFTER_S:
                    child.failures = 0
            elif child.process is not None and child.listener is not None and child.process.returncode == 0:
                # It was idle for a while; the next caller starts it again.
                forget_ended(self._settings.metrics_path)
                child.process = None
            elif child.process is not None:
                _say(f"{child.role} {child.process.pid} exited with status {child.process.returncode}; restarting it")
                forget_ended(self._settings.metrics_path)
                child.process = None
                _retry_later(child)
                _turn_away(child)
            elif child.listener is not None and not _is_called(child.listener):
                continue
            elif now_s >= child.restart_at_s:
                # A worker's successor settles what its predecessor left, immediately instead of after the heartbeat.
                self._start(child, predecessor=child.owner)
        if not self._announced and all(child.ready for child in (*self._helpers, *self._workers)):
            self._announced = True
            self._announce()

    def _is_quiet(self) -> bool:
        """Whether no child is about to become ready, or to be started again after a pause."""
        now_s = time.monotonic()
        return all(child.process is not None and child.ready for child in (*self._helpers, *self._workers)) and all(
            child.process is not None or now_s >= child.restart_at_s for child in self._callable
        )

    def _check_ready(self, child: Child) -> None:
        if child.listener is not None:
            child.ready = True
            return
        if child.ready_fd is None:
            child.ready = answers(self._settings.socket_path(child.role))
            return
        with contextlib.suppress(BlockingIOError):
            child.ready = os.read(child.ready_fd, 1) == b"1"
            _close(child)

    def _roll(self) -> None:
        """Replace the workers one by one; if stopped in between, `_stop_all` handles the rest."""
        self._rolling = False
        replaced, wanted = 0, len(self._workers)
        for index in range(wanted):
            replaced += self._replace(index)
            if self._stopping:
                return
        _say("all workers were replaced" if replaced == wanted else f"{replaced} of {wanted} workers were replaced")

    def _replace(self, index: int) -> bool:
        """Start the new worker, wait until it is ready, then let the old one drain; returns whether that succeeded."""
        old, new = self._workers[index], Child("worker", self._workers[index].number)
        self._start(new)
        self._look_after_until(lambda: self._is_ready_or_dead(new), READY_WAIT_S)
        if not new.ready:
            _say("the new worker did not become ready; keeping the old one")
            _end(new, signal.SIGKILL)
            self._reap(new, STOP_GRACE_S)
            return False
        self._workers[index] = new
        self._retiring = old
        _end(old, signal.SIGTERM)
        self._look_after_until(lambda: not old.alive, self._settings.drain_s + STOP_GRACE_S)
        if not self._stopping:
            self._reap(old, 0.0)
            self._retiring = None
        return True

    def _is_ready_or_dead(self, child: Child) -> bool:
        if child.alive:
            self._check_ready(child)
        return child.ready or not child.alive

    def _look_after_until(self, done: Callable[[], bool], wait_s: float) -> None:
        """Wait as long as a drain may take, while processes that die are replaced as usual."""
        deadline_s = time.monotonic() + wait_s
        while not done() and not self._stopping and time.monotonic() < deadline_s:
            self._look_after()
            self._wait(TICK_S)

    # Stopping

    def _stop_all(self) -> None:
        """Workers drain first; then the helpers, the ledger last of all."""
        for group in (
            [*self._workers, *([self._retiring] if self._retiring else [])],
            [*(child for child in self._helpers if child.role != "ledger"), *self._callable],
            [child for child in self._helpers if child.role == "ledger"],
        ):
            for child in group:
                _end(child, signal.SIGTERM)
            deadline_s = time.monotonic() + self._settings.drain_s + STOP_GRACE_S
            for child in group:
                self._reap(child, max(0.0, deadline_s - time.monotonic()))
        for child in self._callable:
            if child.listener is not None:
                child.listener.close()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._settings.socket_path(child.role))  # noqa: PTH108 - pathlib is not needed here.
        self._socket.close()

    def _reap(self, child: Child, wait_s: float) -> None:
        if child.process is None:
            return
        try:
            child.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            _say(f"{child.role} {child.process.pid} did not stop in time; killing it")
            child.process.kill()
            child.process.wait()
        forget_ended(self._settings.metrics_path)
        _close(child)

    # Signals

    def _on_stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def _on_roll(self, signum: int, frame: object) -> None:
        self._rolling = True

    def _wait(self, seconds: float) -> None:
        """Sleep, but wake for a signal: a dead child is replaced at once."""
        with selectors.PollSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            now_s = time.monotonic()
            for child in self._callable:
                if child.process is None and child.listener is not None and now_s >= child.restart_at_s:
                    selector.register(child.listener, selectors.EVENT_READ)
            if any(key.fileobj == self._wake_read for key, _ in selector.select(seconds)):
                os.read(self._wake_read, 4096)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that outlives every worker. Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _listen_for(settings: Settings, role: str) -> socket.socket:
    """The socket of an on-demand role, which outlives its processes. Raises OSError."""
    made = listen_unix(settings.socket_path(role))
    made.listen(ON_DEMAND_BACKLOG)
    made.setblocking(False)
    return made


def _is_called(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    with selectors.PollSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        return bool(selector.select(0))


def _turn_away(child: Child) -> None:
    """Close connections that wait for a process that died: a failed attempt now is better than one after a timeout."""
    if child.listener is not None:
        with contextlib.suppress(OSError):
            while True:
                child.listener.accept()[0].close()


def _end(child: Child, signum: signal.Signals) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.send_signal(signum)


def _retry_later(child: Child) -> None:
    child.failures += 1
    child.restart_at_s = time.monotonic() + doubled_s(RESTART_FIRST_S, child.failures, RESTART_MAX_S)
    _close(child)


def _close(child: Child) -> None:
    if child.ready_fd is not None:
        os.close(child.ready_fd)
        child.ready_fd = None


def _say(text: str) -> None:
    tell(sys.stderr, f"elkapi: {text}\n")


def tell(stream: TextIO, text: str) -> None:
    """Write to standard output; if its disk is full, or nobody reads it for TELL_WAIT_S, the gateway continues.

    `text` is shorter than a pipe's atomic write, 4 KiB.
    """
    with contextlib.suppress(OSError), selectors.PollSelector() as selector:
        selector.register(stream, selectors.EVENT_WRITE)
        if selector.select(TELL_WAIT_S):
            stream.write(text)
            stream.flush()
