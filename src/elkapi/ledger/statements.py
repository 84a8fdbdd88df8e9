"""The writer's SQL, compiled once per dialect from SQLAlchemy Core to text with positional placeholders; `books` runs
it.

Inserts take many rows per statement: the driver releases the interpreter once per statement instead of once per row,
which is most of the cost beside a busy event loop (docs/adr/0010-ledger.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, bindparam, delete, func, literal_column, null, or_, select, update
from sqlalchemy.sql import ClauseElement

from elkapi.ledger.orders import NoticeRow
from elkapi.storage.dialect import insert_into, positional
from elkapi.storage.schema import (
    accounts,
    idempotency,
    notices,
    requests,
    stored_events,
    stored_items,
    stored_objects,
    task_refs,
    tasks,
    transfers,
    unknown_outcomes,
    workers,
)

# Row counts with a multi-row statement, descending: batches up to 16 are one statement, larger ones a few. Together
# they are fewer than either driver keeps prepared.
SIZES = (64, 48, 32, 24, *range(16, 0, -1))


class Rows:
    """Inserts of one shape: `insert` takes the values of any number of rows as one flat list."""

    def __init__(self, texts: dict[int, str], width: int) -> None:
        self._texts = [(size * width, texts[size]) for size in SIZES]
        self._whole = dict(self._texts)

    def insert(self, cursor: Any, flat: list[Any]) -> None:
        """Existing ids are left alone, or refused by the database (`is_taken`) if the rows are `new`."""
        if not flat:
            return  # Most batches have no unknown outcomes.
        if (whole := self._whole.get(len(flat))) is not None:
            cursor.execute(whole, flat)
            return
        at, end = 0, len(flat)
        for step, text in self._texts:
            while end - at >= step:
                cursor.execute(text, flat[at : at + step])
                at += step


def claim_is_over(now: Any) -> ColumnElement[bool]:
    """Whether the claim has expired and no live worker is still making its call, however long that takes."""
    c = idempotency.c
    alive = select(workers.c.owner).where(workers.c.ended_ns.is_(None))
    return and_(c.expires_ns <= now, or_(c.state != literal_column("'open'"), c.owner.not_in(alive)))


class Statements:
    """Every statement of the writer for one dialect ("sqlite" or "postgresql"); comments name the order of the
    placeholders."""

    def __init__(self, dialect: str) -> None:
        self.is_sqlite = dialect == "sqlite"
        self._dialect = positional(dialect)
        self.begin = "BEGIN IMMEDIATE" if self.is_sqlite else "BEGIN"
        self._accounts()
        self._entries()
        self._claims()
        self._stored()
        self._notices()
        self._tasks()
        self._workers()

    def execute_all(self, cursor: Any, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[int]:
        """Execute the statements, with one wait for a server; returns the number of rows that each found or changed."""
        if self.is_sqlite:
            return [cursor.execute(text, values).rowcount for text, values in statements]
        counts: list[int] = cursor.execute_all(statements)
        return counts

    def _accounts(self) -> None:
        c = accounts.c
        one = c.id == bindparam("account")
        self.account_kind = self._text(select(c.kind).where(one), "account")
        # nano spent, nano more held (may be negative), account, nano that must be available
        available = c.posted_nano - c.held_nano + c.credit_nano
        change = update(accounts).values(
            posted_nano=c.posted_nano - bindparam("spent"), held_nano=c.held_nano + bindparam("held")
        )
        self.account_change_if = self._text(
            change.where(one, available >= bindparam("needed")), "spent", "held", "account", "needed"
        )
        self.account_change = self._text(change.where(one), "spent", "held", "account")
        reading: Any = select(available, c.held_nano).where(one)
        self.account_available = self._text(reading if self.is_sqlite else reading.with_for_update(), "account")

    def _entries(self) -> None:
        self.holds = self._rows(
            transfers,
            ("id", "debit_account", "credit_account", "nano", "created_ns", "owner", "key_id", "price_id", "note"),
            new=True,
            kind="hold",
        )
        self.entries = self._rows(
            transfers, ("id", "kind", "debit_account", "credit_account", "nano", "created_ns"), new=True
        )
        names = tuple(column.name for column in requests.columns)
        self.usage_rows = self._rows(requests, names, new=True)
        t = transfers.c
        # the legs of a request's hold: its range of ids
        self.hold_legs = self._text(
            select(t.debit_account, t.nano).where(t.id.between(bindparam("low"), bindparam("high"))).order_by(t.id),
            "low",
            "high",
        )
        self.resolution = self._text(select(t.kind).where(t.id == bindparam("id")), "id")
        r = requests.c
        row: Any = select(r.charge_nano, r.loss_nano, r.record).where(r.id == bindparam("id"))
        self.usage_row = self._text(row if self.is_sqlite else row.with_for_update(), "id")
        change = update(requests).where(r.id == bindparam("id"))
        change = change.values(charge_nano=bindparam("charge"), loss_nano=bindparam("loss"), record=bindparam("record"))
        self.usage_row_change = self._text(change, "charge", "loss", "record", "id")
        # the entries of one kind in a range of ids
        self.entries_of = self._text(
            select(t.debit_account, t.credit_account, t.nano)
            .where(t.id.between(bindparam("low"), bindparam("high")), t.kind == bindparam("kind"))
            .order_by(t.id),
            "low",
            "high",
            "kind",
        )
        self.unknowns = self._rows(
            unknown_outcomes, tuple(column.name for column in unknown_outcomes.columns), key="request_id"
        )
        self.forget_unknown = self._text(
            delete(unknown_outcomes).where(unknown_outcomes.c.request_id == bindparam("id")), "id"
        )

    def _claims(self) -> None:
        c = idempotency.c
        mine = (
            c.key_id == bindparam("key"),
            c.operation == bindparam("op"),
            c.idempotency_key == bindparam("idem"),
        )
        names = tuple(column.name for column in idempotency.columns if column.name not in ("state", "reply_sealed"))
        self.claims = self._rows(idempotency, names, key="key_id operation idempotency_key", state="open")
        self.claim = self._text(
            select(c.fingerprint, c.request_id, c.state, c.reply_sealed).where(*mine), "key", "op", "idem"
        )
        self.claim_drop_expired = self._text(
            delete(idempotency).where(*mine, claim_is_over(bindparam("now"))), "key", "op", "idem", "now"
        )
        ours = (*mine, c.request_id == bindparam("request"))
        self.claim_end = self._text(
            update(idempotency).where(*ours).values(state=bindparam("end"), reply_sealed=bindparam("reply")),
            "end",
            "reply",
            "key",
            "op",
            "idem",
            "request",
        )
        self.claim_forget = self._text(delete(idempotency).where(*ours), "key", "op", "idem", "request")

    def _stored(self) -> None:
        c = stored_objects.c
        self.stored = self._rows(stored_objects, tuple(column.name for column in stored_objects.columns))
        self.stored_items = self._rows(stored_items, ("key_id", "item_id", "object_id"), key="key_id item_id")
        self.stored_events = self._rows(stored_events, ("object_id", "first", "sealed"), key="object_id first")
        # the end of a background call, unless it was cancelled, deleted or given up meanwhile
        finish = update(stored_objects).where(c.id == bindparam("id"), c.status == literal_column("'in_progress'"))
        finish = finish.values(status=bindparam("state"), expires_ns=bindparam("expires"), sealed=bindparam("body"))
        self.stored_finish = self._text(finish, "state", "expires", "body", "id")
        # whether it still exists; a deletion waits until what belongs to it is written
        there: Any = select(c.id).where(c.id == bindparam("id"))
        self.stored_lock = self._text(there if self.is_sqlite else there.with_for_update(), "id")

    def _notices(self) -> None:
        columns = NoticeRow.__struct_fields__
        self.notices = self._rows(notices, columns, key="task_id place number", state="pending", tries="0")

    def _tasks(self) -> None:
        c = tasks.c
        zero: ColumnElement[Any] = literal_column("0")
        self.tasks = self._rows(
            tasks,
            (
                *("id", "owner_id", "key_id", "operation", "wire", "form", "model", "worker", "poked"),
                *("created_ns", "updated_ns", "asked_sealed"),
            ),
            state="queued",
            version=zero,
            progress=zero,
        )
        self.task_refs = self._rows(task_refs, ("key_id", "ref", "task_id"), key="key_id ref")
        r = task_refs.c
        named = (r.key_id == bindparam("key"), r.ref == bindparam("ref"))
        self.task_ref = self._text(select(r.task_id).where(*named), "key", "ref")
        deleted = select(c.id).where(c.id == r.task_id, c.deleted_ns.is_not(None)).correlate(task_refs).exists()
        self.task_ref_drop_deleted = self._text(delete(task_refs).where(*named, deleted), "key", "ref")
        self.task_refs_forget = self._text(delete(task_refs).where(r.task_id == bindparam("task")), "task")
        known = ("native_id", "channel_id", "channel_key_id", "started_ns", "finished_ns", "deleted_ns", "error_code")
        change = update(tasks).where(c.id == bindparam("task"), c.version == bindparam("seen"))
        # The submitter's part ends with its step.
        change = change.values(
            {
                "state": bindparam("to_state"),
                "version": c.version + literal_column("1"),
                "progress": bindparam("to_progress"),
                "worker": null(),
                "updated_ns": bindparam("now"),
                **{name: func.coalesce(bindparam(f"to_{name}", type_=c[name].type), c[name]) for name in known},
                "told_sealed": func.coalesce(bindparam("told", type_=c.told_sealed.type), c.told_sealed),
            }
        )
        # in the order of the table's columns, as SQLAlchemy writes them
        order = [column.name for column in tasks.columns]
        places = {"state": "to_state", "progress": "to_progress", "updated_ns": "now", "told_sealed": "told"}
        places |= {name: f"to_{name}" for name in known}
        self.task_step_columns = tuple(name for name in order if name in places)
        self.task_step = self._text(change, *(places[name] for name in self.task_step_columns), "task", "seen")

    def _workers(self) -> None:
        insert: Any = insert_into(workers, self._dialect.name)
        statement = insert.values({column.name: bindparam(column.name) for column in workers.columns})
        statement = statement.on_conflict_do_update(
            index_elements=["owner"],
            # A worker declared dead while it was only cut off lives again from here on; its expired holds stay
            # released.
            set_={name: statement.excluded[name] for name in ("heartbeat_ns", "ended_ns", "scan_from")},
        )
        self.beat = self._text(statement, *(column.name for column in workers.columns))
        c = workers.c
        earlier = update(workers).where(c.owner == bindparam("of"), c.scan_from > bindparam("than"))
        self.scan_earlier = self._text(earlier.values(scan_from=bindparam("from")), "from", "of", "than")

    def _rows(
        self,
        table: Table,
        names: Sequence[str],
        key: str = "id",
        *,
        new: bool = False,
        **fixed: str | ColumnElement[Any],
    ) -> Rows:
        """SQLAlchemy compiles the one-row statement; larger ones repeat its group of values, since compiling them
        row by row would add a third of a second to every start."""
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        values |= {
            name: literal_column(f"'{given}'") if isinstance(given, str) else given for name, given in fixed.items()
        }
        insert: Any = insert_into(table, self._dialect.name)
        one = self._text(insert.values([values]).on_conflict_do_nothing(index_elements=key.split()), *names)
        head, opening, rest = one.partition("VALUES (")
        group, closing, tail = rest.partition(") ON CONFLICT")
        if not opening or not closing:
            raise AssertionError(f"no group of values in {one}")
        end = "" if new else f" ON CONFLICT{tail}"
        return Rows({size: f"{head}VALUES {', '.join([f'({group})'] * size)}{end}" for size in SIZES}, len(names))

    def _text(self, statement: ClauseElement, *places: str) -> str:
        compiled: Any = statement.compile(dialect=self._dialect)
        if tuple(compiled.positiontup or ()) != places:
            raise AssertionError(f"places are {compiled.positiontup}, not {places}: {compiled}")
        return str(compiled)


@cache
def for_dialect(dialect: str) -> Statements:
    """The statements of a dialect, compiled at most once per process."""
    return Statements(dialect)
