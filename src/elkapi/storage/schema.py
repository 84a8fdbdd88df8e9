"""Every table of the gateway as SQLAlchemy Core; migrations create them, repositories and the ledger use them.

A change here needs a migration that makes it; a test compares the two.

Money columns are nano-USD in 64-bit integers. They live in tables that no profile path writes (guarantee 7).
Ids of what callers make (requests, tasks, batches, answers) are 16 time-ordered bytes, with which those of transfers
begin (ledger/transfers.py); what operators make has an integer id.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    literal_column,
)

metadata = MetaData()

# SQLite only auto-increments INTEGER PRIMARY KEY; PostgreSQL wants a bigint.
_Id = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
    comment="config_version (raised by every change a process must see), routing_version, installation facts",
)

migrations = Table(
    "migrations",
    metadata,
    Column("name", String, primary_key=True),
    Column("applied_ns", BigInteger, nullable=False),
    comment="the halves of numbered migrations that ran here: 0001_initial.pre, 0001_initial.post, ...",
)

groups = Table(
    "groups",
    metadata,
    Column("name", String, primary_key=True),
    Column("ratio_micro", BigInteger, nullable=False),
    Column("description", String, nullable=False, default=""),
    Column("config", String, nullable=False, default="{}"),
    CheckConstraint("ratio_micro >= 0", name="groups_ratio_not_negative"),
    comment="config is JSON of types.Policy",
)

guards = Table(
    "guards",
    metadata,
    Column("name", String, primary_key=True),
    Column("config", String, nullable=False),
    Column("secret_sealed", LargeBinary),
    comment="guardrails; config is JSON of types.Guard without its secret",
)

owners = Table(
    "owners",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("created_ns", BigInteger, nullable=False),
    comment="who keys belong to; users and teams arrive here later",
)

keys = Table(
    "keys",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("hint", String, nullable=False),
    Column("name", String, nullable=False),
    Column("owner_id", _Id, ForeignKey("owners.id"), nullable=False),
    Column("group", String, ForeignKey("groups.name"), nullable=False),
    Column("scope", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("expires_at_ns", BigInteger),
    Column("models", String),
    Column("config", String, nullable=False, default="{}"),
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
    Column("version", BigInteger, nullable=False),
    Index("keys_by_version", "version"),
    Index("keys_by_name", "name"),
    comment="digest is sha256 of the whole key; models is a JSON array or NULL; config is JSON of types.Policy; "
    "version is config_version at a change",
)

# AUTOINCREMENT: ids of removed channels and keys are never reused, because tasks and records refer to them.
channels = Table(
    "channels",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("family", String, nullable=False),
    Column("base_url", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("allow_private", Boolean, nullable=False),
    Column("config", String, nullable=False),
    Column("proxy_sealed", LargeBinary),
    Column("headers_sealed", LargeBinary),
    Column("created_ns", BigInteger, nullable=False),
    CheckConstraint("weight >= 0", name="channels_weight_not_negative"),
    sqlite_autoincrement=True,
    comment="config is JSON: what types.Channel has beyond these columns; the proxy address and header_set are sealed",
)

channel_keys = Table(
    "channel_keys",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("channel_id", _Id, ForeignKey("channels.id", ondelete="CASCADE"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("hint", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("disabled_by", String, nullable=False, default=""),
    Column("changed_ns", BigInteger, nullable=False),
    UniqueConstraint("channel_id", "fingerprint", name="channel_keys_once"),
    sqlite_autoincrement=True,
    comment="sealed is the encrypted secret; fingerprint a keyed hash, so a bulk paste adds each key once",
)

prices = Table(
    "prices",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("model", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("record", String, nullable=False),
    Column("source", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    UniqueConstraint("model", "version", name="prices_version_once"),
    comment="immutable; the highest version of a model is in force; record is JSON of types.Price's amounts",
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("code", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("posted_nano", BigInteger, nullable=False, default=0),
    Column("held_nano", BigInteger, nullable=False, default=0),
    Column("credit_nano", BigInteger, nullable=False, default=0),
    CheckConstraint("held_nano >= 0", name="accounts_held_not_negative"),
    CheckConstraint("credit_nano >= 0", name="accounts_credit_not_negative"),
    CheckConstraint(
        "kind NOT IN ('customer', 'quota') OR posted_nano - held_nano + credit_nano >= 0", name="accounts_no_overdraft"
    ),
    comment="kind customer | quota | revenue | loss | funding | upstream | spent; posted and held cache the transfers",
)

# The 18-byte id is the request's id, a byte for the step and a byte for the leg, so a step can happen only once and
# a request's entries lie side by side; SQLite keeps the rows in that one B-tree (docs/adr/0010-ledger.md).
transfers = Table(
    "transfers",
    metadata,
    Column("id", LargeBinary, primary_key=True, nullable=False),
    Column("kind", String, nullable=False),
    Column("debit_account", _Id, nullable=False),
    Column("credit_account", _Id, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("owner", LargeBinary),
    Column("key_id", _Id),
    Column("price_id", _Id),
    Column("note", String),
    CheckConstraint("nano >= 0", name="transfers_not_negative"),
    sqlite_with_rowid=False,
    comment="append-only; see ledger/transfers.py for the kinds; owner, key_id, price_id and the model (note) on holds",
)

requests = Table(
    "requests",
    metadata,
    Column("id", LargeBinary, primary_key=True, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("model", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("charge_nano", BigInteger, nullable=False),
    Column("loss_nano", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    CheckConstraint("charge_nano >= 0 AND loss_nano >= 0", name="requests_not_negative"),
    comment="the usage row; record is JSON of types.RequestRecord",
)

unknown_outcomes = Table(
    "unknown_outcomes",
    metadata,
    Column("request_id", LargeBinary, primary_key=True),
    Column("key_id", _Id, nullable=False),
    Column("model", String, nullable=False),
    Column("held_nano", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    comment="calls whose fate at the upstream nobody saw; printed by `elkapi ledger unknown`",
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", _Id, primary_key=True),
    Column("operation", String, primary_key=True),
    Column("idempotency_key", String, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("request_id", LargeBinary, nullable=False),
    Column("owner", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    Column("reply_sealed", LargeBinary),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Index("idempotency_by_expiry", "expires_ns"),
    comment="state open | done | too_large | unknown; the reply is encrypted; owner is the worker that holds it open",
)
# Recovery looks up the open claims of one worker; the index excludes closed ones, which are nearly all.
Index(
    "idempotency_open",
    idempotency.c.owner,
    sqlite_where=idempotency.c.state == "open",
    postgresql_where=idempotency.c.state == "open",
)

workers = Table(
    "workers",
    metadata,
    Column("owner", LargeBinary, primary_key=True),
    Column("role", String, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("heartbeat_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger),
    Column("scan_from", LargeBinary, nullable=False),
    comment="a worker's boot owns holds, none older than scan_from; when its heartbeat stops, recovery resolves them",
)

message_batches = Table(
    "message_batches",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("status", String, nullable=False),
    Column("total", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("errored", Integer, nullable=False),
    Column("canceled", Integer, nullable=False),
    Column("expired", Integer, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("cancel_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("archived_ns", BigInteger),
    Column("is_done", Boolean, nullable=False),
    Column("headers", String, nullable=False),
    Column("idempotency_key", String),
    Column("fingerprint", LargeBinary),
    UniqueConstraint("key_id", "idempotency_key", name="message_batches_once"),
    Index("message_batches_by_key", "key_id", "id"),
    comment="status staging | in_progress | canceling | ended | deleted; is_done: nothing is left for a runner to do; "
    "headers is JSON, what of the caller's goes with each line",
)
# Runners look up open work and expired results; both indexes exclude everything else.
Index(
    "message_batches_open",
    message_batches.c.id,
    sqlite_where=message_batches.c.is_done.is_(False),
    postgresql_where=message_batches.c.is_done.is_(False),
)
Index(
    "message_batches_kept",
    message_batches.c.ended_ns,
    sqlite_where=message_batches.c.archived_ns.is_(None),
    postgresql_where=message_batches.c.archived_ns.is_(None),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", LargeBinary, primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("request_sealed", LargeBinary),
    Column("result_sealed", LargeBinary),
    Column("worker", LargeBinary),
    Column("request_id", LargeBinary),
    Column("tries", Integer, nullable=False),
    Column("not_before_ns", BigInteger, nullable=False),
    comment="state pending | running | succeeded | errored | canceled | expired; a worker runs it as request_id",
)
Index(
    "batch_lines_pending",
    batch_lines.c.batch_id,
    batch_lines.c.line,
    sqlite_where=batch_lines.c.state == "pending",
    postgresql_where=batch_lines.c.state == "pending",
)
Index(
    "batch_lines_running",
    batch_lines.c.worker,
    sqlite_where=batch_lines.c.state == "running",
    postgresql_where=batch_lines.c.state == "running",
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", String, nullable=False),
    UniqueConstraint("kind", "subject", name="alerts_once"),
    comment="what an operator must look at, each thing once; detail is JSON",
)

stored_objects = Table(
    "stored_objects",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("kind", String, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("model", String, nullable=False),
    Column("status", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("previous", LargeBinary),
    Column("worker", LargeBinary),
    Column("metadata", String),
    Column("sealed", LargeBinary, nullable=False),
    Index("stored_objects_by_key", "key_id", "kind", "id"),
    Index("stored_objects_by_expiry", "expires_ns"),
    comment="answers kept for their callers: kind response | chat, sealed is JSON of translate.kept.Kept; previous is "
    "the turn before; worker runs it while status is in_progress; metadata is JSON, what lists filter by",
)
# Recovery looks up the unfinished responses of one worker; the index excludes everything that ended.
Index(
    "stored_objects_running",
    stored_objects.c.worker,
    sqlite_where=stored_objects.c.status == "in_progress",
    postgresql_where=stored_objects.c.status == "in_progress",
)

stored_events = Table(
    "stored_events",
    metadata,
    Column("object_id", LargeBinary, primary_key=True),
    Column("first", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    comment="the stream of a background response, some frames a row; first is the number of the row's first frame",
)

stored_items = Table(
    "stored_items",
    metadata,
    Column("key_id", _Id, primary_key=True),
    Column("item_id", String, primary_key=True),
    Column("object_id", LargeBinary, nullable=False),
    Index("stored_items_by_object", "object_id"),
    comment="which stored response an output item is of, for inputs that refer to it",
)

# What lists of a caller's tasks ask for is in their indexes, so that the rows of those which a list leaves out, or only
# counts, are not read: with the request and the report a row is a page.
_TASKS_LISTED_BY = ("wire", "operation", "form", "model", "owner_id", "deleted_ns", "native_id")
# A task's id is that of its submit, by which its hold and its charge are found.
tasks = Table(
    "tasks",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("operation", String, nullable=False),
    Column("wire", String, nullable=False),
    Column("form", String, nullable=False),
    Column("model", String, nullable=False),
    Column("state", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("native_id", String),
    Column("channel_id", _Id),
    Column("channel_key_id", _Id),
    Column("worker", LargeBinary),
    Column("poller", LargeBinary),
    Column("poked", Boolean, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger),
    Column("finished_ns", BigInteger),
    Column("deleted_ns", BigInteger),
    Column("error_code", String),
    Column("asked_sealed", LargeBinary, nullable=False),
    Column("told_sealed", LargeBinary),
    Index("tasks_of_key", "key_id", "id", *_TASKS_LISTED_BY),
    # With the id, since SQLite would otherwise prefer the index above, where it finds all it asks for.
    Index("tasks_of_native_id", "key_id", "native_id", "id"),
    comment="state queued | running | succeeded | failed | cancelled | expired; worker submits it, poller owns it "
    "after; asked_sealed is JSON of tasks.record.Asked, told_sealed of Told; every step raises version by one",
)
# Literals, both in the index and in its queries: neither database uses a partial index for parameters.
task_is_open = tasks.c.state.in_([literal_column("'queued'"), literal_column("'running'")])
# Pollers look up tasks without an owner and their own; the index excludes ended tasks, which are nearly all.
Index("tasks_open", tasks.c.poller, sqlite_where=task_is_open, postgresql_where=task_is_open)
# Lists by end state. Open tasks are excluded, or SQLite would look for them here; and the two conditions differ, or it
# would look for a caller's tasks among everybody's.
task_has_ended = tasks.c.state.in_(
    [literal_column(f"'{end}'") for end in ("succeeded", "failed", "cancelled", "expired")]
)
task_made_nothing = tasks.c.state.in_([literal_column(f"'{end}'") for end in ("failed", "cancelled", "expired")])
Index(
    "tasks_ended_of_key",
    tasks.c.key_id,
    tasks.c.state,
    tasks.c.id,
    *(tasks.c[name] for name in _TASKS_LISTED_BY),
    sqlite_where=task_has_ended,
    postgresql_where=task_has_ended,
)
Index(
    "tasks_that_made_nothing",
    tasks.c.state,
    tasks.c.id,
    sqlite_where=task_made_nothing,
    postgresql_where=task_made_nothing,
)

task_refs = Table(
    "task_refs",
    metadata,
    Column("key_id", _Id, primary_key=True),
    Column("ref", String, primary_key=True),
    Column("task_id", LargeBinary, nullable=False),
    Index("task_refs_by_task", "task_id"),
    comment="names of a provider's for what a task made (a video's id, a file's), by which later calls refer to it",
)

notices = Table(
    "notices",
    metadata,
    Column("task_id", LargeBinary, primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key_id", _Id, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("host", String, nullable=False),
    Column("form", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("lease", LargeBinary),
    Column("created_ns", BigInteger, nullable=False),
    Column("due_ns", BigInteger, nullable=False),
    Column("until_ns", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("notices_by_key", "key_id", "created_ns"),
    Index("notices_in_order", "created_ns", "number", "task_id", "place"),
    comment="an event of a task for one of its addresses (place); state pending | delivered | given_up; a sender that "
    "has the lease owns it until due_ns; sealed is types.NoticeBody",
)
# Senders look up whether any notice is due, and those of each host; the indexes exclude delivered ones, nearly all.
Index(
    "notices_due",
    notices.c.due_ns,
    sqlite_where=notices.c.state == "pending",
    postgresql_where=notices.c.state == "pending",
)
Index(
    "notices_due_by_host",
    notices.c.host,
    notices.c.due_ns,
    sqlite_where=notices.c.state == "pending",
    postgresql_where=notices.c.state == "pending",
)
# Operators look up what was given up, among all that was delivered; only what is given up pays for the index.
Index(
    "notices_given_up",
    notices.c.created_ns,
    notices.c.number,
    notices.c.task_id,
    notices.c.place,
    sqlite_where=notices.c.state == "given_up",
    postgresql_where=notices.c.state == "given_up",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("task_id", LargeBinary, nullable=False),
    Column("place", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status", Integer),
    Column("error", String, nullable=False),
    Column("answer", String, nullable=False),
    Index("deliveries_by_notice", "task_id", "place", "number", "id"),
    comment="one try to deliver a notice: its status or the words for what went wrong, and how an answer begins",
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("key_id", _Id, primary_key=True, autoincrement=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("shown_ns", BigInteger),
    Column("previous_until_ns", BigInteger),
    Column("sealed", LargeBinary, nullable=False),
    Column("previous_sealed", LargeBinary),
    comment="what signs the notices of a key's tasks; until then the one before it signs them too",
)

assets = Table(
    "assets",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("task_id", LargeBinary, nullable=False),
    Column("number", Integer, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("kind", String, nullable=False),
    Column("content_type", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("duration_ms", BigInteger),
    Column("location", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Index("assets_by_task", "task_id", "number", unique=True),
    # The last three are in it so that a key's files are summed up without their rows, at each new one.
    Index("assets_of_key", "key_id", "created_ns", "id", "expires_ns", "size_bytes"),
    Index("assets_by_expiry", "expires_ns"),
    Index("assets_by_location", "location", unique=True),
    comment="one file that a task made, at location in the asset store; the file is written before its row and "
    "removed before it",
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", String, nullable=False),
    comment="every change made through the CLI or the admin API; never a secret",
)
