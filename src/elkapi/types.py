"""The structs that travel with a request; they carry values and leave all behaviour to the other packages.

In order of appearance: Grant (who), Attempt (where), Quote (at most how much), HoldOrder (what is reserved), Usage and
AttemptRecord (what happened), RequestRecord and Settlement (what is stored). The request itself is a Request, which
`relay.read` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import msgspec

Scope = Literal["live", "test"]
FallbackReason = Literal["error", "context", "refusal"]
AssetKind = Literal["video", "image", "audio", "file"]
PiiKind = Literal["email", "phone", "iban", "card", "ip", "secret", "private_key"]
# Flag of a call that was answered from the response cache, without an upstream.
CACHED_FLAG = "cached"
# Flag of a call in which the upstream ran tools that its price does not cover: the operator bears their cost.
UNPRICED_FLAG = "unpriced_tools"
# The word that the built-in sandbox accepts as every provider's key; not a credential.
SANDBOX_KEY = "sk-sandbox"


class Guard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One guardrail as an operator defines it; policies list those that apply to their calls.

    `words` lists words, `pii` finds the kinds of `find`, `hook` asks `url`, which itself decides, so its `action` is
    unused. `secret` signs requests to a hook; `when_down` is what follows if the hook does not answer.
    """

    name: str
    kind: Literal["words", "pii", "hook"]
    direction: Literal["input", "output", "both"] = "both"
    action: Literal["block", "mask"] = "block"
    words: tuple[str, ...] = ()
    match: Literal["word", "substring"] = "word"
    find: tuple[PiiKind, ...] = ()
    regions: tuple[str, ...] = ()
    url: str = ""
    secret: str = ""
    deadline_s: float = 2.0
    when_down: Literal["open", "closed"] = "closed"


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's rules for a group's calls or for one key's; None leaves a field open. A key's value overrides its
    group's, field by field (`policy_of`).

    `aliases`: the caller's name -> the model. `fallbacks`: a model -> what is tried if it does not answer, "*" for
    every model without its own row, and `fallback_on` for which reasons (None: for all). Limits count per key; 0 is no
    limit even if the group has one. `cache`: answers are stored and repeated; False forbids it to callers as well.
    `cache_shared` shares them among the group's keys of one owner; a hit costs `cache_hit_ratio_micro` millionths of
    the call it saves. `guards` are names of guardrails, in order; `guard_streams` is how output guards check a stream:
    as a whole first, or through a window. `batch_ratio_micro` multiplies the price of a batch's lines, besides the
    group's ratio.
    """

    aliases: dict[str, str] | None = None
    fallbacks: dict[str, tuple[str, ...]] | None = None
    fallback_on: tuple[FallbackReason, ...] | None = None
    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    parallel_max: int | None = None
    cache: bool | None = None
    cache_age_max_s: int | None = None
    cache_shared: bool | None = None
    cache_hit_ratio_micro: int | None = None
    batch_ratio_micro: int | None = None
    guards: tuple[str, ...] | None = None
    guard_streams: Literal["buffer", "window"] | None = None


NO_POLICY = Policy()


def policy_of(group: Policy, key: Policy) -> Policy:
    """The policy of a key's calls: the key's values, else its group's."""
    if key == NO_POLICY:
        return group
    own = {name: value for name in Policy.__struct_fields__ if (value := getattr(key, name)) is not None}
    return msgspec.structs.replace(group, **own)


class Grant(msgspec.Struct, frozen=True):
    """What a caller's key may do. `accounts` are the ledger accounts that fund its calls, in account-id order.

    `policy` is the key's own; its group's is in the snapshot.
    """

    key_id: int
    key_name: str
    owner_id: int
    group: str
    scope: Scope
    accounts: tuple[int, ...]
    models: frozenset[str] | None
    expires_at_ns: int | None
    enabled: bool
    policy: Policy = NO_POLICY


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Disjoint classes of units, each >= 0. Their sum is what the upstream processed (guarantees 23, 25).

    Input: `input_tokens` are uncached text; `cached_tokens` were read from a cache (of any modality, except the
    `cached_audio_tokens` if the upstream reports them), the writes went into one; audio and image inputs are the
    uncached ones. Output: `output_tokens` are text, `reasoning_tokens` thinking. `searches` are web searches that the
    upstream bills; `calls` are answers per call. Of media: `video_ms` and `audio_ms` are the milliseconds made,
    `images` the images.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    cached_audio_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    searches: int = 0
    calls: int = 0
    video_ms: int = 0
    images: int = 0
    audio_ms: int = 0

    @property
    def input_total(self) -> int:
        """All input tokens."""
        return (
            self.input_tokens
            + self.cached_tokens
            + self.cached_audio_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
        )

    @property
    def cache_read_tokens(self) -> int:
        """All tokens read from a cache."""
        return self.cached_tokens + self.cached_audio_tokens

    @property
    def cache_write_tokens(self) -> int:
        """All tokens written to a cache, of any lifetime."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def output_total(self) -> int:
        """All output tokens."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens + self.image_output_tokens


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The price of each class of units: nano-USD per million tokens, per search, call, second made, image made.

    A class without its own rate costs what its parent does: cached audio as cached tokens, every other input as input,
    every other output as output.
    """

    input_nano_per_1m: int = 0
    cached_nano_per_1m: int | None = None
    cached_audio_nano_per_1m: int | None = None
    cache_write_5m_nano_per_1m: int | None = None
    cache_write_1h_nano_per_1m: int | None = None
    audio_input_nano_per_1m: int | None = None
    image_input_nano_per_1m: int | None = None
    output_nano_per_1m: int = 0
    reasoning_nano_per_1m: int | None = None
    audio_output_nano_per_1m: int | None = None
    image_output_nano_per_1m: int | None = None
    search_nano: int = 0
    call_nano: int = 0
    video_second_nano: int = 0
    image_nano: int = 0
    audio_second_nano: int = 0


class Tier(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rates of a whole call whose input is longer than `above_tokens`."""

    above_tokens: int


class Variant(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rates of calls with certain features: every feature in `when` has one of its values. `above_tokens`: and
    whose input is longer than this."""

    when: dict[str, tuple[str, ...]]
    above_tokens: int = 0


class Amounts(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The content of a price record: the first matching one of `variants` counts, else the highest exceeded of
    `tiers`, which are in ascending order of `above_tokens`."""

    tiers: tuple[Tier, ...] = ()
    variants: tuple[Variant, ...] = ()


class Price(Amounts, frozen=True, kw_only=True):
    """One immutable version of a model's price."""

    id: int
    model: str
    version: int

    @property
    def is_zero(self) -> bool:
        return not any(_is_priced(rates) for rates in (self, *self.tiers, *self.variants))


def _is_priced(rates: Rates) -> bool:
    return any(getattr(rates, name) for name in Rates.__struct_fields__)


class Quote(msgspec.Struct, frozen=True):
    """The most a call may cost: `upper` units at `price` times the group's ratio. `nano` 0 needs no hold.

    `wide`: the call may also be metered in audio, images and long-lived cache writes. `further_micro` are further
    ratios that multiply the amount: that of a batch's line, that of an answer from the response cache. `features` are
    those price features that the call may be asked with, each with its values.
    """

    price: Price
    group: str
    ratio_micro: int
    upper: Usage
    nano: int
    wide: bool = False
    further_micro: tuple[int, ...] = ()
    features: dict[str, tuple[str, ...]] = {}


class ChannelKey(msgspec.Struct, frozen=True):
    """One credential of a channel, decrypted only in memory. The reason for `enabled` False is in the database."""

    id: int
    secret: str
    enabled: bool = True


class ChannelLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The deadlines of one channel, which default to the settings, and its limits of concurrent calls and calls per
    minute."""

    connect_s: float | None = None
    header_s: float | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None
    parallel_max: int | None = None
    requests_per_min: int | None = None


class Channel(msgspec.Struct, frozen=True):
    """An upstream as routing and relaying use it. Maps are client name -> upstream name."""

    id: int
    name: str
    family: str
    base_url: str
    keys: tuple[ChannelKey, ...]
    models: tuple[str, ...]
    groups: tuple[str, ...] = ("default",)
    priority: int = 0
    weight: int = 1
    allow_private: bool = False
    http2: bool = False
    scope: Scope = "live"
    model_map: dict[str, str] = {}
    aliases: dict[str, str] = {}
    param_set: dict[str, msgspec.Raw] = {}
    param_default: dict[str, msgspec.Raw] = {}
    param_remove: tuple[str, ...] = ()
    header_set: dict[str, str] = {}
    header_remove: tuple[str, ...] = ()
    forward_headers: tuple[str, ...] = ()
    options: dict[str, str] = {}
    status_map: dict[int, int] = {}
    proxy_url: str | None = None
    system_prompt: str | None = None
    tags: tuple[str, ...] = ()
    limits: ChannelLimits = ChannelLimits()


class Attempt(msgspec.Struct, frozen=True):
    """One planned try: this channel, with this key, asking for this upstream model."""

    channel: Channel
    key: ChannelKey
    upstream_model: str
    why: str


class AttemptRecord(msgspec.Struct, omit_defaults=True):
    """The result of one try; operators see all of it, customers only `outcome`.

    `fate`: "none" if no upstream work can have been billed, "complete" if a whole answer came, "unknown" if the request
    was sent and no whole answer came back. `model` is set if it differs from the caller's.
    """

    channel_id: int
    channel_name: str
    channel_key_id: int
    why: str
    outcome: str
    fate: Literal["none", "complete", "unknown"]
    status: int | None = None
    upstream_request_id: str | None = None
    upstream_model: str | None = None
    error: str | None = None
    duration_ms: float = 0.0
    model: str | None = None


class BatchLine(msgspec.Struct, frozen=True):
    """The line and message batch of a call (`msgbatch_...`, from 0), and its price ratio."""

    batch: str
    number: int
    ratio_micro: int


class RequestRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The usage row: one per call that reached a plan, stored with its settlement in one transaction.

    `charge_nano` is what the customer paid, `loss_nano` what the operator bore above it, both >= 0. `model` answered,
    or would have; `asked` is the caller's model if it was an alias or another model stood in. `guard` is the name of
    the guardrail that blocked the call. `features` selected the variant of the price. `hit_ratio_micro` is the part of
    its call's price that an answer from the response cache costs.
    """

    id: bytes
    key_id: int
    owner_id: int
    operation: str
    model: str
    group: str
    created_ns: int
    duration_ms: float
    status: int
    outcome: str
    usage: Usage
    price_id: int
    price_version: int
    ratio_micro: int
    hold_nano: int
    charge_nano: int
    loss_nano: int = 0
    flags: tuple[str, ...] = ()
    channel_id: int | None = None
    channel_name: str | None = None
    upstream_request_id: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    error_code: str | None = None
    asked: str | None = None
    line: BatchLine | None = None
    guard: str | None = None
    features: dict[str, str] = {}
    hit_ratio_micro: int | None = None


class State(Enum):
    """The state of a task, whatever its provider calls it; the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_end(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)

    @property
    def is_failure(self) -> bool:
        """Whether the task ended without a result."""
        return self.is_end and self is not State.SUCCEEDED


class TaskAsset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a task in our store; `source` is the provider's address, which never leaves the gateway.

    `url` is ours, signed and expiring, filled in when an answer is rendered. The file is kept until `expires_ns`, 0 for
    ever. `beside`: it came beside the result, such as a poster, and is not billed.
    """

    id: bytes
    kind: AssetKind
    content_type: str
    size_bytes: int
    source: str = ""
    url: str = ""
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None
    expires_ns: int = 0
    beside: bool = False


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the renderers of every form get it.

    `id` is our public id (`task_` and 32 characters), `native_id` the provider's, "" until known. `reply` is the
    provider's last answer as JSON bytes, b"" until there is one; `asked` is the caller's decoded request, `asked_ms`
    the requested length of each video, 0 if none. `wire` is the provider's form. `renamed`: the provider's name of the
    model differs from the caller's, which `model` is. `held_nano` is what the task may cost its caller, `charged_nano`
    what it did, 0 until its end. Times are in nanoseconds, 0 until they occur.
    """

    id: str
    native_id: str
    operation: str
    wire: str
    model: str
    state: State
    progress: int
    created_ns: int
    started_ns: int = 0
    finished_ns: int = 0
    error_code: str = ""
    error: str = ""
    assets: tuple[TaskAsset, ...] = ()
    reply: bytes = b""
    asked: Mapping[str, Any] = {}
    asked_ms: int = 0
    renamed: bool = False
    held_nano: int = 0
    charged_nano: int = 0


NoticeForm = Literal["standard", "kling", "minimax", "runway", "luma", "ark", "duomi", "sora", "guide"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a task for one address, written in the transaction that makes it true.

    The event is the `number`th of the task (its row's version), and `place` tells which of the task's addresses this
    is: together they form the event's id, so one transition never produces two. `body` is JSON in `form`; `headers` are
    sent with it besides the signature. It is tried until `until_ns`.
    """

    task_id: bytes
    number: int
    key_id: int
    owner_id: int
    url: str
    form: NoticeForm
    body: bytes
    created_ns: int
    until_ns: int
    place: int = 0
    headers: tuple[tuple[str, str], ...] = ()


class NoticeBody(msgspec.Struct, frozen=True):
    """The sealed part of a notice: its address, which may contain a token, and its content."""

    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class IdempotencyClaim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An `Idempotency-Key` as claimed in the hold's transaction; `fingerprint` is the sha256 of operation and body."""

    key_id: int
    operation: str
    idempotency_key: str
    fingerprint: bytes


class StoredReply(msgspec.Struct, frozen=True):
    """A reply stored for replay: body decrypted, headers as they were sent. `body` None means that it was too large."""

    request_id: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None


class StoredObject(msgspec.Struct, frozen=True):
    """An answer to be stored for its caller (table `stored_objects`); `body` is sealed when written.

    `item_ids` are those of its output items that a later input may refer to. `finishes`: the row already exists,
    because its call runs in the background, and ends with this; `frames` is the unstored part of its stream, preceded
    by the number of its first frame.
    """

    id: bytes
    kind: Literal["response", "chat"]
    owner_id: int
    key_id: int
    model: str
    status: str
    created_ns: int
    expires_ns: int
    body: bytes
    previous: bytes | None = None
    worker: bytes | None = None
    metadata: str | None = None
    item_ids: tuple[str, ...] = ()
    finishes: bool = False
    frames: tuple[int, bytes] | None = None


class NewTask(msgspec.Struct, frozen=True):
    """A new task before its provider was asked; `asked`: JSON of tasks.record.Asked, sealed when written.

    `own_mark` is the caller's own name of it, "" for none; no other task of the key may have it.
    """

    id: bytes
    owner_id: int
    key_id: int
    operation: str
    wire: str
    form: str
    model: str
    created_ns: int
    asked: bytes
    own_mark: str = ""


class TaskStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a task from `version` on, written only if nobody wrote another meanwhile; None leaves a field
    unchanged.

    `told` is JSON of tasks.record.Told. `settlement` resolves its hold; without one the money stays held. `refs` are
    the provider's names for what it made. `claim` is that of its submit, which ends with `reply`, is forgotten, or
    records an unknown outcome. `unnamed` frees the caller's own name of a task that never began. `notices` are sent
    once the step is written.
    """

    id: bytes
    version: int
    key_id: int
    state: State
    progress: int
    now_ns: int
    native_id: str | None = None
    channel_id: int | None = None
    channel_key_id: int | None = None
    started_ns: int | None = None
    finished_ns: int | None = None
    deleted_ns: int | None = None
    error_code: str | None = None
    told: bytes | None = None
    settlement: Settlement | None = None
    refs: tuple[str, ...] = ()
    claim: IdempotencyClaim | None = None
    claim_end: Literal["reply", "forget", "unknown"] = "reply"
    reply: StoredReply | None = None
    notices: tuple[Notice, ...] = ()
    unnamed: bool = False


class HoldOrder(msgspec.Struct, frozen=True):
    """The argument of `ledger.hold`: reserve `nano` on every account of `accounts`, all or none, for this request id.

    `nano` 0 with a claim only records the claim. `task` is created with it, and then owns the hold.
    """

    request_id: bytes
    key_id: int
    accounts: tuple[int, ...]
    nano: int
    model: str
    price_id: int
    claim: IdempotencyClaim | None = None
    task: NewTask | None = None


class Settlement(msgspec.Struct, frozen=True):
    """The argument of `ledger.settle`: resolve the hold of `record.id` to `record.charge_nano` and store the record.

    `hold` is None for a call that needed none. `reply` is stored if the call has a claim; `forget_claim` drops the
    claim instead (errors before the upstream are not stored). `stored` is the answer kept for later reading.
    """

    record: RequestRecord
    hold: HoldOrder | None
    reply: StoredReply | None = None
    forget_claim: bool = False
    stored: StoredObject | None = None
