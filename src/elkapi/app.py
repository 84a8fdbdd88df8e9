"""The composition root: from `Settings` to running processes; the only module that knows every role.

`serve` is what the command calls. Each process is started as `python -m elkapi.app ROLE`, finds its order in the
environment, and imports only the rooms of its role.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from elkapi.errors import Unavailable, to_operator
from elkapi.local.listening import answers
from elkapi.observe import metrics
from elkapi.observe.process import PARENT_VARIABLE, allow_files, die_with_parent
from elkapi.roles import BundledModel, Preparation, Role, WorkerOrder
from elkapi.settings import SOCKET_PATH_BYTES_MAX, Settings, misspelt_variables
from elkapi.supervisor import ORDER_VARIABLE, Supervisor, listen, tell
from elkapi.types import SANDBOX_KEY

GC_ALLOCATIONS = 20_000
# Errors of the system itself: a disk that is full, broken or read-only, a folder of another user, ...
NOT_OURS = frozenset(
    {
        *(errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
SAMPLE_INPUT = "The food was delicious and the waiter..."


class StartError(Exception):
    """The gateway cannot start; the message says what to do."""


def serve(settings: Settings, role: Role | None = None) -> int:
    """Run the whole gateway, or one role alone, until a signal. Returns the exit status; raises StartError."""
    _check_data_dir(settings)
    # A signal during the start also ends it and its processes; the first process of a container would ignore it by
    # default.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if role is not None:
        return _serve_one(settings, role)
    # A request to replace workers would end the start, so it is ignored until there are workers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A second supervisor would take over the sockets of the first.
    taken = f"another elkapi is already running with the data directory {settings.data_path}"
    lock = _only_here(settings.data_path / "serve.lock", taken)
    with lock, contextlib.ExitStack() as alone, contextlib.ExitStack() as unless_ready:
        metrics.prepare(settings.metrics_path, fresh=True)
        found = _prepared(settings)
        unless_ready.callback(_tell_first_key, found)
        roles = tuple(name for name, wanted in _helpers(settings, found) if wanted)
        on_demand = tuple({model.role for model in found.bundled if model.role == "chat"})
        for name in (*roles, *on_demand):
            if name != "ledger":  # It waits for its turn by itself.
                alone.enter_context(_only_here(*_lock_of(settings, name)))

        def announce() -> None:
            unless_ready.pop_all()
            tell(sys.stdout, _welcome(settings, supervisor.port, found))

        try:
            supervisor = Supervisor(settings, roles, on_demand, found.bundled, found.sandbox_models, announce)
        except OSError as error:
            raise StartError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
        return supervisor.run()


def _check_data_dir(settings: Settings) -> None:
    """Create the data directory, unless its path is too long for the processes' sockets."""
    if settings.socket_path_bytes > SOCKET_PATH_BYTES_MAX:
        raise StartError(
            f"the path of the data directory {settings.data_path.absolute()} is too long: socket paths in it may have "
            f"at most {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter ELKAPI_DATA_DIR"
        )
    try:
        settings.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot create the data directory {settings.data_path}: {error.strerror}") from None


def _helpers(settings: Settings, found: Preparation) -> tuple[tuple[str, bool], ...]:
    return (
        # Several workers writing one SQLite file wait for each other; one writer process batches for all.
        ("ledger", settings.is_sqlite and settings.workers > 1),
        ("models", any(model.role == "models" for model in found.bundled)),
        ("control", True),
        ("sandbox", True),
    )


@contextlib.contextmanager
def _only_here(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file of the data directory, which the kernel releases with the process. Raises StartError(taken)."""
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(taken) from None
        yield
    finally:
        os.close(file)


def _lock_of(settings: Settings, role: str) -> tuple[Path, str]:
    """The lock file of a role that has one process a data directory, and what to say where it is held."""
    taken = f"{role} is already running with the data directory {settings.data_path}"
    return settings.data_path / f"{role}.lock", taken


# Before the first process: schema, first key, what is installed


def _prepared(settings: Settings) -> Preparation:
    """Run `prepare` in a separate process, so that the supervisor never loads a database driver or a model library."""
    order = WorkerOrder(settings=settings)
    environment = os.environ | {
        ORDER_VARIABLE: msgspec.json.encode(order).decode(),
        PARENT_VARIABLE: str(os.getpid()),
    }
    # Its own process group, like the supervisor's children.
    done = subprocess.run(
        [sys.executable, "-m", "elkapi.app", "prepare"], env=environment, stdout=subprocess.PIPE, process_group=0
    )
    if done.returncode != 0:
        raise StartError("cannot prepare the installation; see the lines above")
    found = msgspec.json.decode(done.stdout, type=Preparation)
    if found.problem:
        raise StartError(found.problem)
    return found


def _tell_first_key(found: Preparation) -> None:
    """No later start can show it: only its digest is stored."""
    if found.first_key:
        tell(sys.stdout, f"Your first key: {found.first_key}\nIt is shown only once; store it now.\n")


def prepare(settings: Settings) -> Preparation:
    """Migrate, create the first key of a new installation, and find the installed local models."""
    from elkapi.admin.keys import ensure_first_key
    from elkapi.assets.store import StorageUrlError, open_store
    from elkapi.local.models import ModelUnusable
    from elkapi.sandbox.providers import SERVED_MODELS
    from elkapi.storage.dialect import DatabaseUrlError
    from elkapi.storage.installation import open_installation
    from elkapi.storage.migrations import MigrationError
    from elkapi.storage.secrets import SecretKeyError

    sandbox = SERVED_MODELS
    try:
        # An error that would fail a role at each restart stops the start instead, before anything is written.
        open_store(settings)
        if settings.log_file:
            Path(settings.log_file).open("ab").close()
        bundled, no_chat = installed_models(settings)
    except (StorageUrlError, ModelUnusable) as error:
        return Preparation((), sandbox, problem=str(error))
    except OSError as error:
        return Preparation((), sandbox, problem=f"ELKAPI_LOG_FILE {settings.log_file}: {error.strerror}")
    try:
        installation = open_installation(settings)
        with contextlib.closing(installation.database), installation.database.write() as connection:
            first_key = ensure_first_key(connection)
    except (DatabaseUrlError, MigrationError, SecretKeyError) as error:
        return Preparation(bundled, sandbox, problem=str(error))
    except Unavailable as error:
        return Preparation(bundled, sandbox, problem=to_operator(error))
    return Preparation(bundled, sandbox, first_key, no_chat=no_chat)


def installed_models(settings: Settings) -> tuple[tuple[BundledModel, ...], str | None]:
    """The local models that can run on this machine, and why an installed chat model cannot.

    Hashes of files are checked when they are loaded, the chat model's size already here: its process starts with the
    first call.
    """
    from elkapi.local.chat.rows import BUNDLED_CHAT, LibraryMissing, locate_chat
    from elkapi.local.models import ModelUnusable, WeightsRefused, locate, read_rows

    found, no_chat = [], None
    for row, folder in read_rows(settings.models_dir):
        with contextlib.suppress(ModelUnusable):
            locate(row, folder)
            facts = {"owned_by": row.owned_by, "dimensions": row.dimensions, "context_length": row.window}
            found.append(BundledModel(row.id, facts | {"bundled": True}))
    try:
        locate_chat()
    except (LibraryMissing, WeightsRefused) as error:
        no_chat = str(error)
    except ModelUnusable:
        pass  # Left out on purpose.
    else:
        chat = BUNDLED_CHAT
        window = chat.window(settings.chat_context_tokens)
        facts = {"owned_by": chat.owned_by, "context_length": window, "bundled": True}
        found.append(BundledModel(chat.id, facts, role="chat"))
    return tuple(found), no_chat


def _welcome(settings: Settings, port: int, found: Preparation) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    origin = f"http://{host}:{port}"
    lines = [f"elkapi is ready on {origin}  (docs: {origin}/docs)", ""]
    embedding, chat = (next((m.id for m in found.bundled if m.role == role), "") for role in ("models", "chat"))
    if embedding:
        body = msgspec.json.encode({"model": embedding, "input": SAMPLE_INPUT}).decode()
        lines += [
            f"curl {origin}/v1/embeddings \\",
            f'  -H "Authorization: Bearer {found.first_key or "$ELKAPI_KEY"}" \\',
            '  -H "Content-Type: application/json" \\',
            f"  -d '{body}'",
        ]
    else:
        lines += [
            "No local embedding model is installed: run `elkapi models install`, or add an upstream with "
            "`elkapi channel add`.",
            f"Your first key: {found.first_key}" if found.first_key else "",
        ]
    if chat:
        lines += ["", f"To chat, use the same key at {origin}/v1/chat/completions with the model {chat}."]
    elif found.no_chat:
        lines += ["", f"No local chat: {found.no_chat}."]
    if found.first_key:
        lines += ["", "The key is shown only once; store it now (export ELKAPI_KEY=...)."]
    elif found.bundled:
        lines += ["", "Set ELKAPI_KEY to your key; `elkapi key create --name NAME` creates another."]
    for name, meant in misspelt_variables().items():
        lines += ["", f"{name} is not a setting and has no effect; did you mean {meant}?"]
    return "\n".join(lines) + "\n"


# One role


def _serve_one(settings: Settings, role: Role) -> int:
    # There are many workers, and the ledger waits for its lock itself.
    if role in ("worker", "ledger"):
        return _serve_role(settings, role)
    # It would take over the socket and remove it at its end, even if the other process only finishes its calls and no
    # longer listens.
    lock, taken = _lock_of(settings, role)
    with _only_here(lock, taken):
        if answers(settings.socket_path(role)):  # What was begun otherwise.
            raise StartError(taken)
        return _serve_role(settings, role)


def _serve_role(settings: Settings, role: Role) -> int:
    found = _prepared(settings)
    _tell_first_key(found)
    order = WorkerOrder(settings=settings, bundled=found.bundled, sandbox_models=found.sandbox_models)
    listening = None
    if role == "worker":
        try:
            listening = listen(settings.host, settings.port)
        except OSError as error:
            raise StartError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    run_role(role, order, listening)
    return 0


def run_role(
    role: str, order: WorkerOrder, listening: socket.socket | None = None, ready_fd: int | None = None
) -> None:
    """Run one role until a signal; each branch imports only what that role needs."""
    settings = order.settings
    # Imported objects stay: with Python's default thresholds, scanning them repeatedly took a tenth of a start.
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    allow_files()
    if role == "worker":
        from elkapi import worker

        if listening is None:
            raise StartError("a worker needs a listening socket")
        worker.run(order, listening, ready_fd)
    elif role == "ledger":
        from elkapi.ledger.server import run as run_ledger
        from elkapi.observe.bridge import json_log

        with json_log(role, settings):
            run_ledger(settings)
    elif role == "models":
        from elkapi.local.server import run
        from elkapi.observe.bridge import json_log
        from elkapi.observe.process import set_title

        set_title("models")
        with json_log(role, settings):
            status = run(settings.socket_path("models"), settings.model_threads, settings.models_dir)
        sys.exit(status)
    elif role == "chat":
        sys.exit(_run_chat(settings, listening))
    elif role == "control":
        from elkapi import control

        control.run(order)
    elif role == "sandbox":
        from elkapi import sandbox
        from elkapi.observe.process import set_title
        from elkapi.sandbox.app import Options

        set_title("sandbox")
        # By name, without the check of a provider's key format.
        options = Options(keys=frozenset({SANDBOX_KEY}))
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            sandbox.run(port=None, unix_path=Path(settings.socket_path("sandbox")), options=options)
    else:
        raise StartError(f"there is no role {role!r}")


def _run_chat(settings: Settings, listening: socket.socket | None) -> int:
    from elkapi.local.chat.server import ChatLimits, run
    from elkapi.observe.bridge import json_log
    from elkapi.observe.process import set_title

    set_title("chat")
    limits = ChatLimits(
        window=settings.chat_context_tokens,
        slots=settings.chat_slots,
        queue_max=settings.chat_queue_max,
        threads=settings.chat_threads,
        memory_bytes_max=settings.chat_memory_bytes_max,
        # A process that was not started on demand would not be started again.
        idle_s=settings.chat_idle_s if listening is not None else 0.0,
    )
    with json_log("chat", settings):
        return run(settings.socket_path("chat"), settings.socket_path("engine"), limits, listening)


def main(arguments: list[str]) -> int:
    """`python -m elkapi.app ROLE [LISTENING_FD [READY_FD]]`, as the supervisor calls it."""
    # Before the heavy imports: a child whose supervisor is killed meanwhile would keep the port from the next one.
    die_with_parent()
    role = arguments[0]
    order = msgspec.json.decode(os.environ.pop(ORDER_VARIABLE), type=WorkerOrder)
    listening = socket.socket(fileno=int(arguments[1])) if len(arguments) > 1 else None
    if listening is not None:
        listening.setblocking(False)
    try:
        if role == "prepare":
            sys.stdout.buffer.write(msgspec.json.encode(prepare(order.settings)))
            return 0
        run_role(role, order, listening, int(arguments[2]) if len(arguments) > 2 else None)
    except (Unavailable, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_OURS:
            raise
        # Not our fault, and repeated at each try to start it, so on one line.
        tell(sys.stderr, f"elkapi: {role} cannot start: {to_operator(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
