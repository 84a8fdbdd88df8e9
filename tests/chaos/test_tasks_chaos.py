"""kill -9 of gateways with tasks in flight; then every task's end, its money, its file and its webhooks are counted.

On PostgreSQL two whole gateways share the database, the key and the folder of files; on SQLite there is one.
`ELKAPI_CHAOS_TASKS` and `ELKAPI_CHAOS_KILLS` give the size of a run: `make chaos` takes 2,000 tasks and 20 kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from elkapi.admin import webhooks
from elkapi.ids import event_id_text, parse_event_id
from elkapi.ledger import ReconcileReport
from elkapi.ledger.transfers import RESOLUTIONS
from elkapi.sandbox import pictures
from elkapi.sandbox.videos import mp4
from tests.chaos.driver import SERVES_AGAIN_S, Chaos, seed_of_the_day
from tests.chaos.task_load import TaskLoad, configure
from tests.cluster import Cluster, cluster, upstream
from tests.receiver import OK, Received, Receiver, answer, receiving
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

CALLERS = 16
KEYS = 4
LARGE_NANO = 10**14
SUBMITTED_S = 900.0
ENDED_S = 600.0
TOLD_S = 300.0
# The share of events whose first delivery is answered with an error.
NOT_NOW_SHARE = 0.02
# (state, code) where it is no success; "" is any code.
LOST = ("failed", "result_unavailable")
END_OF_FAULT = {
    "task-fails": ("failed", ""),
    "task-moderated": ("failed", ""),
    "task-odd=3s,task-fails": ("failed", ""),
    "file-lost": LOST,
    "task-odd=3s,file-lost": LOST,
}
OPEN = "('queued', 'running')"

SETTINGS: dict[str, Any] = {
    "workers": 2,
    "heartbeat_s": 0.3,
    "heartbeat_lost_s": 5,
    "cooldown_s": 0.5,
    "cooldown_max_s": 2,
    "header_s": 5,
    "first_byte_s": 5,
    "idle_s": 5,
    "idempotency_wait_s": 10,
    "drain_s": 20,
    "task_poll_every_s": 1,
    # Tries after 4, 8 and 16 s: a file that comes late is there by then.
    "asset_copy_tries_max": 4,
    "webhook_allow_private": True,
    "webhook_host_parallel_max": 32,
}
WORKER_POINTS = tuple(
    f"tasks.{name}" for name in ("hold.before", "hold.after", "submit.before", "submit.after", "accepted.before",
                                 "accepted.after")
)  # fmt: skip
CONTROL_POINTS = tuple(f"tasks.{name}" for name in ("lease.after", "copied.after", "end.before", "end.after"))
# How many acts of a gateway's menu end all of its processes at once.
WHOLE = 8
LEDGER_POINTS = ("ledger.before_commit", "ledger.recover.before_commit", "ledger.after_commit_before_wake")


class TasksChaos(Chaos):
    """The violence against one gateway of a run."""

    passes_max = 3

    def _acts(self) -> list[str]:
        roles = ["worker", "control", "control", *(["ledger"] if self.cluster.has_ledger_process else [])]
        points = (*WORKER_POINTS, *CONTROL_POINTS, *LEDGER_POINTS)
        whole = ["supervisor"] * WHOLE
        return [*whole, *(f"kill {role}" for role in roles), *(f"point {name}" for name in points)]

    def _role_at(self, point: str) -> str:
        return "control" if point in CONTROL_POINTS else super()._role_at(point)

    async def _serves_again(self) -> None:
        await until(self.cluster.is_complete, SERVES_AGAIN_S, "every role is back")
        before = self.load.successes
        await until(lambda: self.load.successes > before, SERVES_AGAIN_S, "tasks are begun again")
        self.load.raise_failures()


class Hooks:
    """The callers' receiver: what came for each event, its signature checked at once."""

    def __init__(self, secrets: list[str], seed: int) -> None:
        self._checks = [Webhook(secret) for secret in secrets]
        self._random = random.Random(seed)
        self.bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        self.came: Counter[str] = Counter()
        self.challenges = 0
        self.unsigned: list[str] = []
        self.receiver: Receiver

    def url(self, key: int) -> str:
        return f"http://127.0.0.1:{self.receiver.port}/hook/{key}"

    def says(self, event: Received) -> bytes:
        if "webhook-id" not in event.headers:
            self.challenges += 1
            return answer(200, event.body)
        self.came[event.id] += 1
        self.bodies[event.id].add(event.body)
        try:
            self._checks[int(event.path.rpartition("/")[2])].verify(event.body, event.headers)
        except Exception as error:
            self.unsigned.append(f"{event.id}: {error!r}")
        return answer(500) if self.came[event.id] == 1 and self._random.random() < NOT_NOW_SHARE else OK


class Run:
    """Gateways, their upstream, load and receiver, while a test has them."""

    def __init__(self, gates: list[Cluster], base_url: str, seed: int) -> None:
        self.gates = gates
        self.base_url = base_url
        self.random = random.Random(seed)
        self.peak = 0

    @property
    def gate(self) -> Cluster:
        return self.gates[0]

    def open_tasks(self) -> int:
        (row,) = self.gate.sql(f"select count(*) from tasks where state in {OPEN}")
        self.peak = max(self.peak, row[0])
        return int(row[0])


async def test_g69_every_task_ends_once_whatever_is_killed(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = seed_of_the_day()
    if "ELKAPI_CHAOS_TASKS" not in os.environ and not database_url.startswith("postgresql"):
        pytest.skip("one gateway on SQLite is for `make chaos`: two on PostgreSQL are the harder case")
    count = int(os.environ.get("ELKAPI_CHAOS_TASKS") or 40)
    kills = int(os.environ.get("ELKAPI_CHAOS_KILLS") or 2)
    with gateways(database_url) as gates, upstream(gates[0].folder) as sandbox:
        history: list[str] = []
        try:
            report = await violence(Run(gates, sandbox.base_url, seed), sandbox.bill, count, kills, seed, history)
        except BaseException:
            with capsys.disabled():
                print(f"\nELKAPI_CHAOS_SEED={seed}, failed after {history}\n")
                print("\n".join(still_open(gates[0])))
                print("\n".join(gate.log_tail() for gate in gates if gate.log_path.exists()))
            raise
        with capsys.disabled():
            print(f"\n{gates[0].admin.database.dialect}, {len(gates)} gateways, seed {seed}:\n{report}")


def still_open(gate: Cluster) -> list[str]:
    """The tasks that have not ended, with who owns them, and what the operator was alerted of."""
    columns = "native_id, operation, state, version, progress, worker, poller, poked, created_ns, updated_ns"
    rows = gate.sql(f"select {columns} from tasks where state in {OPEN} order by created_ns limit 20")
    rows += gate.sql("select kind, subject, detail, created_ns from alerts")
    return [", ".join(f"{name} {value}" for name, value in row._mapping.items()) for row in rows]


@contextlib.contextmanager
def gateways(database_url: str) -> Iterator[list[Cluster]]:
    """Two that share everything but their folders of data, where the database can be shared."""
    shared: dict[str, Any] = {"secret_key": os.urandom(32).hex()}
    with contextlib.ExitStack() as stack:
        gates: list[Cluster] = []
        for _ in range(1 if database_url.startswith("sqlite") else 2):
            gate = stack.enter_context(cluster(database_url, **SETTINGS, **shared))
            if not gates:
                shared["storage_url"] = f"file://{gate.folder}/files"
            gates.append(gate)
        for gate in gates:
            gate.environment["ELKAPI_STORAGE_URL"] = shared["storage_url"]
            gate.environment["ELKAPI_PUBLIC_URL"] = gate.origin
        yield gates


async def violence(run: Run, bill: Any, count: int, kills: int, seed: int, history: list[str]) -> str:
    """The whole run; the figures of it. Raises AssertionError."""
    gate = run.gate
    configure(gate, run.base_url)
    keys = [gate.key(f"caller-{number}", LARGE_NANO) for number in range(KEYS)]
    hooks = Hooks([webhooks.tell_secret(gate.admin, f"caller-{number}").secret for number in range(KEYS)], seed)
    for one in run.gates:
        one.start()
    for one in run.gates:
        await one.ready()
    # Long enough that all of the first tasks are in flight together.
    span_s = max(8.0, count / 8)
    async with receiving(hooks.says) as hooks.receiver, session() as http:
        load = TaskLoad(http, run.gates, keys, hooks.url, seed, lambda draw: draw.uniform(0.5, 1.2) * span_s)
        load.start(CALLERS)
        begun_s = time.monotonic()
        try:
            await until(lambda: run.open_tasks() >= count, SUBMITTED_S, "so many are in flight")
            submitted_s = time.monotonic() - begun_s
            load.takes_s = lambda draw: draw.uniform(0.2, 8.0)
            load.think_s = 2.0
            furies = [TasksChaos(one, load, seed + number) for number, one in enumerate(run.gates)]
            for number in range(kills):
                fury = furies[number % len(furies)]
                await fury.round()
                history.append(f"{number % len(furies)}: {fury.history[-1]}")
                run.open_tasks()
        finally:
            await load.stop()
        await until(lambda: not run.open_tasks(), ENDED_S + span_s, "every task has ended")
        await settled(gate)
        await everything_told(gate)
        downloads = await files(run, http, keys)
    for one in run.gates:
        assert one.stop() == 0
    found = assert_books(gate, bill())
    assert_ends(gate, load)
    assert_told(gate, load, hooks)
    return printed(run, load, hooks, found, downloads, submitted_s, history)


@contextlib.asynccontextmanager
async def session() -> Any:
    connector = aiohttp.TCPConnector(limit=64, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        yield http


async def settled(gate: Cluster) -> None:
    """Recovery has resolved what the dead left behind."""
    await until(lambda: not gate.check().open_holds, 60, "no hold stays open")


async def everything_told(gate: Cluster) -> None:
    """Every event is delivered; what a dead sender still leases is due at once, as if its lease were over."""
    with gate.admin.database.write() as connection:
        connection.execute(text("update notices set due_ns = 0 where state = 'pending' and lease is not null"))

    def waiting() -> int:
        return int(gate.sql("select count(*) from notices where state = 'pending'")[0][0])

    await until(lambda: not waiting(), TOLD_S, "every event is delivered")


async def files(run: Run, http: aiohttp.ClientSession, keys: list[str]) -> int:
    """Fetch what every task made, as its caller does, and hold it against what the provider made."""
    rows = run.gate.sql(
        "select t.id, t.key_id, t.native_id, a.width, a.height, a.duration_ms, a.sha256, a.kind, t.state"
        " from tasks t left join assets a on a.task_id = t.id where t.state = 'succeeded'"
    )
    names = {int(row.id): number for number, row in enumerate(sorted(key_rows(run.gate), key=lambda row: row.id))}
    gate_of = run.random
    limit = asyncio.Semaphore(8)

    async def one(row: Any) -> None:
        task_id, key_id, native, width, height, duration_ms, sha256, kind, _ = row
        assert sha256 is not None, f"{native} has succeeded and has no file"
        origin = gate_of.choice(run.gates).origin
        headers = {"authorization": f"Bearer {keys[names[key_id]]}"}
        async with limit:
            async with http.get(f"{origin}/v1/tasks/task_{bytes(task_id).hex()}", headers=headers) as reply:
                shown = await reply.json()
                assert reply.status == 200, shown
            (made,) = shown["output"]
            async with http.get(made["url"]) as reply:
                content = await reply.read()
                assert reply.status == 200, content[:300]
        wanted = pictures.png(native) if kind == "image" else mp4(native, width, height, duration_ms)
        assert hashlib.sha256(content).digest() == hashlib.sha256(wanted).digest() == bytes(sha256), native

    await asyncio.gather(*(one(row) for row in rows))
    return len(rows)


def key_rows(gate: Cluster) -> list[Any]:
    return gate.sql("select id, name from keys where name like 'caller-%'")


def assert_books(gate: Cluster, bill: list[dict[str, Any]]) -> ReconcileReport:
    """The invariants, and the bill line by line: charges, losses, printed unknown outcomes; nothing else."""
    report = gate.check()
    assert report.ok, "\n".join(report.lines())
    assert (report.open_holds, report.customers_held_nano, report.entries_sum_nano) == (0, 0, 0)
    lines = Counter(line["client_request_id"] for line in bill)
    assert not [name for name, number in lines.items() if number > 1], "a task was begun twice"
    found = gate.reconcile(bill)
    assert not found.unexplained, "\n".join(line.text() for line in found.unexplained)
    assert found.bill_nano == sum(int(line["cost_nano_usd"]) for line in bill)
    assert found.bill_nano == found.charged_nano + found.loss_nano + found.unknown_nano
    assert (found.charged_nano, found.loss_nano) == (report.charged_nano, report.loss_nano)
    listed = {bytes(request_id) for (request_id,) in gate.sql("select request_id from unknown_outcomes")}
    assert {line.request_id for line in found.unknown} <= listed
    return found


def assert_ends(gate: Cluster, load: TaskLoad) -> None:
    """Each task has one end and one resolution, and what callers were told of came to the end that was meant."""
    resolutions: Counter[bytes] = Counter()
    for entry, kind in gate.sql("select id, kind from transfers"):
        if kind in RESOLUTIONS:
            resolutions[bytes(entry)[:16]] += 1
    rows = {bytes(row.id): row for row in gate.sql("select * from tasks")}
    usage = {bytes(row.id): row.charge_nano for row in gate.sql("select id, charge_nano from requests")}
    assert {row.state for row in rows.values()} <= {"succeeded", "failed", "cancelled", "expired"}
    wrong = {task_id.hex(): resolutions[task_id] for task_id in rows if resolutions[task_id] != 1}
    assert not wrong, f"not resolved exactly once: {wrong}"
    for task_id, row in rows.items():
        assert (row.state == "succeeded") == bool(usage.get(task_id)), f"{task_id.hex()} {row.state}"
    named: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows.values():
        named[row.native_id].append(row)
    for begun in load.begun.values():
        assert len(named[begun.name]) == 1, f"{begun}: {len(named[begun.name])} tasks"
        (row,) = named[begun.name]
        state, code = END_OF_FAULT.get(begun.fault, ("succeeded", ""))
        assert (row.state, row.error_code if code else "") == (state, code), f"{begun}: {row.state} {row.error_code}"
    twice = {key: names for key, names in load.fresh.items() if len(names) > 1}
    assert not twice, f"one idempotency key, several tasks: {twice}"


def assert_told(gate: Cluster, load: TaskLoad, hooks: Hooks) -> None:
    """Every event came, under one id with one body and a good signature; every task's end is an event."""
    assert not hooks.unsigned, hooks.unsigned[:5]
    rows = {bytes(row.id): row for row in gate.sql("select id, native_id, version, state from tasks")}
    written = gate.sql("select task_id, place, number, state from notices")
    events = {event_id_text(bytes(row.task_id), row.place, row.number): row for row in written}
    assert {row.state for row in events.values()} <= {"delivered"}
    assert events.keys() <= hooks.came.keys(), f"never came: {sorted(events.keys() - hooks.came.keys())[:5]}"
    assert hooks.came.keys() <= events.keys(), "an event that nobody wrote"
    several = [event for event, bodies in hooks.bodies.items() if len(bodies) > 1]
    assert not several, f"one id, several bodies: {several[:5]}"
    ends = {(task_id, number) for task_id, _, number in map(parsed, events) if rows[task_id].version == number}
    wanted = {begun.name for begun in load.begun.values() if begun.callback}
    meant = [(task_id, row) for task_id, row in rows.items() if row.native_id in wanted]
    silent = [row.native_id for task_id, row in meant if (task_id, row.version) not in ends]
    assert not silent, f"their ends were not told: {silent[:5]}"


def parsed(event: str) -> tuple[bytes, int, int]:
    found = parse_event_id(event)
    assert found is not None, event
    return found


def printed(
    run: Run,
    load: TaskLoad,
    hooks: Hooks,
    found: ReconcileReport,
    downloads: int,
    submitted_s: float,
    history: list[str],
) -> str:
    """The run in figures."""
    gate = run.gate
    states = gate.sql("select state, coalesce(error_code, ''), count(*) from tasks group by 1, 2 order by 3 desc")
    (tasks,) = gate.sql("select count(*) from tasks")
    (odd,) = gate.sql("select count(*) from alerts where kind = 'task_unknown_word'")
    losses = "select count(*), sum(r.loss_nano) from tasks t join requests r on r.id = t.id where t.error_code = '{}'"
    (lost,) = gate.sql(losses.format(LOST[1]))
    lines = [
        f"{len(history)} kills: {'; '.join(history)}",
        f"{load.summary()}; most in flight {run.peak}, after {submitted_s:.0f} s",
        f"{tasks[0]} tasks: " + ", ".join(f"{n} {state} {code}".strip() for state, code, n in states),
        f"{downloads} files whole; {len(hooks.came)} events in {hooks.came.total()} deliveries, "
        f"{hooks.challenges} challenges",
        f"{odd[0]} kinds of tasks at odd words; files of {lost[0]} tasks never came, a loss of {lost[1] or 0} nano",
        f"bill {found.bill_nano} = charges {found.charged_nano} + losses {found.loss_nano} + unknown "
        f"{found.unknown_nano} nano in {len(found.unknown)} tasks",
        *(f"  {line.text()}" for line in found.unknown[:20]),
    ]
    return "\n".join(lines)
