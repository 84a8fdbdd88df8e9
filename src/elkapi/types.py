"""The leaf structs that travel along the request's way; they carry values and leave all behaviour to the rooms.

Order of appearance on the way: Grant (who), Attempt (where), Quote (at most how much), HoldOrder (what is reserved),
Usage and AttemptRecord (what happened), RequestRecord and Settlement (what is kept). What is asked is a Request, which
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
# A call that was answered from the response cache: no upstream did anything for it.
CACHED_FLAG = "cached"
# Tools of the upstream ran in a call whose price has nothing for them: what they cost is the operator's.
UNPRICED_FLAG = "unpriced_tools"
# What the gateway shows its own sandbox, which takes it for every provider's; a word, not a credential.
SANDBOX_KEY = "sk-sandbox"


class Guard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One guardrail as an operator defines it; policies name those that stand before their calls.

    `words` lists words, `pii` finds the kinds of `find`, `hook` asks `url`, which decides itself, so its `action` says
    nothing. `secret` signs what a hook is sent; `when_down` is what a hook's silence means.
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
    """What an operator lays down for a group's calls or for one key's; None says nothing.

    A key's word goes before its group's, field by field (`policy_of`). `aliases`: the caller's name -> the model.
    `fallbacks`: a model -> what is tried when it does not answer, "*" for every model without a row of its own, and
    `fallback_on` for which reasons (None: for all). Limits count per key; 0 is no limit, where the group has one.
    `cache`: answers are kept and given again; False forbids it to callers too. `cache_shared` among the group's keys of
    one owner; a hit costs `cache_hit_ratio_micro` millionths of the call it saves. `guards` are names of guardrails, in
    their order; `guard_streams` is how those of the output see a stream: the whole of it first, or through a window.
    `batch_ratio_micro` multiplies the price of a batch's lines, beside the group's ratio.
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
    """The policy of a key's calls: the key's own word where it has one, else its group's."""
    if key == NO_POLICY:
        return group
    own = {name: value for name in Policy.__struct_fields__ if (value := getattr(key, name)) is not None}
    return msgspec.structs.replace(group, **own)


class Grant(msgspec.Struct, frozen=True):
    """What a presented key may do. `accounts` are the ledger accounts that fund its calls, in account-id order.

    `policy` is the key's own; its group's stands in the snapshot.
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
    """Disjoint classes of units; every count is >= 0. Their sum is what the upstream worked on (guarantees 23, 25).

    Input: `input_tokens` are uncached text, `cached_tokens` were read from a cache (of whatever modality, but for the
    `cached_audio_tokens` where the upstream tells them), the writes went into one; audio and image inputs are the
    uncached ones. Output: `output_tokens` are text, `reasoning_tokens` thinking. `searches` are web searches that the
    upstream ran; `calls` answers per call. Of media: `video_ms` and `audio_ms` are the milliseconds made, `images` the
    pictures.
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
        """Every token that went in."""
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
        """Every token that was read from a cache."""
        return self.cached_tokens + self.cached_audio_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Every token that was written to a cache, for however long."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def output_total(self) -> int:
        """Every token that came out."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens + self.image_output_tokens


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What each class of units costs: nano-USD per million tokens, per search, call, second made, picture made.

    A class without a rate of its own costs what its parent does: cached audio what is cached does, every other input
    what input costs, every other output what output costs.
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
    """The rates of calls with certain features: every one that `when` names has one of its words.

    `above_tokens`: and whose input is longer than this.
    """

    when: dict[str, tuple[str, ...]]
    above_tokens: int = 0


class Amounts(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a price record says; of `variants` the first that fits counts, else of `tiers` the highest exceeded.

    `tiers` stand by ascending `above_tokens`.
    """

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

    `wide`: the call may also be metered in audio, images and long-lived cache writes. `further_micro` are ratios that
    the amount is multiplied by too: that of a batch's line, that of an answer from the response cache. `features` are
    what the call may be asked with of those that its price has variants for, each with its words.
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
    """One credential of a channel, decrypted in memory only. `enabled` False carries the reason in the database."""

    id: int
    secret: str
    enabled: bool = True


class ChannelLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The deadlines of one channel, which fall back to the settings, and how much it is asked at once and a minute."""

    connect_s: float | None = None
    header_s: float | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None
    parallel_max: int | None = None
    requests_per_min: int | None = None


class Channel(msgspec.Struct, frozen=True):
    """An upstream as routing and relaying see it. Maps are client name -> upstream name."""

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
    """One try as it went; operators see all of it, customers see only `outcome`.

    `fate`: "none" when no upstream work can have been billed, "complete" when a whole answer came,
    "unknown" when the request left and no whole answer came back. `model` is set where it is not the caller's own word.
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
    """Which line of which message batch a call is (`msgbatch_...`, from 0), and what its price is multiplied by."""

    batch: str
    number: int
    ratio_micro: int


class RequestRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The usage row: one per call that reached a plan, kept with its settlement in one transaction.

    `charge_nano` is what the customer paid, `loss_nano` what the operator bore above it, both >= 0. `model` answered,
    or would have; `asked` is what the caller had named, where that is an alias or another model stood in for it.
    `guard` is the name of the guardrail that blocked the call. `features` chose the variant of the price.
    `hit_ratio_micro` is what an answer from the response cache costs of its call.
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
    """Where a task stands, whatever its provider's words; the last four are ends and never change."""

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
        """An end without what was to be made."""
        return self.is_end and self is not State.SUCCEEDED


class TaskAsset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file that a task made, in our store; `source` is the provider's address, which never leaves the gateway.

    `url` is ours, signed and expiring, filled in when an answer is rendered. The file is kept until `expires_ns`, 0 is
    for ever.
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


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is shown: all that the renderers of every form are given.

    `id` is our public id (`task_` and 32 characters), `native_id` the provider's, "" while there is none. `reply` is
    the provider's last answer as JSON bytes, b"" while there is none; `asked` the caller's request as it was decoded,
    `asked_ms` the length of each video that it asks for, 0 where it says none. `wire` is the form the provider speaks.
    `renamed`: the provider has another name for the model than its caller, whose word `model` is. `held_nano` is what
    it may cost its caller, `charged_nano` what it did, 0 until its end. Times are nanoseconds, 0 while not yet.
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

    The event is the `number`th of the task (its row's version), `place` says which of the task's addresses this is:
    together they make the event's id, so the same transition never gives two. `body` is JSON in `form`; `headers` go
    with it beside the signature. It is tried until `until_ns`.
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
    """What of a notice is sealed: where it goes, for addresses may hold a token, and what is sent."""

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
    """A reply kept for replay: body decrypted, headers as they were sent. `body` None means it was too large."""

    request_id: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None


class StoredObject(msgspec.Struct, frozen=True):
    """An answer to be kept for its caller (table `stored_objects`); `body` is sealed before it is written.

    `item_ids` are those of its output items by which a later input may refer to them. `finishes`: the row is there
    already, since its call runs in the background, and ends with this; `frames` is what of its stream is not kept yet,
    the number of its first frame before it.
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
    """A task as it begins, before its provider was asked; `asked`: JSON of tasks.record.Asked, sealed when written."""

    id: bytes
    owner_id: int
    key_id: int
    operation: str
    wire: str
    form: str
    model: str
    created_ns: int
    asked: bytes


class TaskStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a task from `version` on, made only if nobody made another meanwhile; None leaves things as they are.

    `told` is JSON of tasks.record.Told. `settlement` resolves its hold; a step without one leaves the money held.
    `refs` are the provider's names for what it made. `claim` is that of its submit, which ends with `reply`, is
    forgotten, or stands for an outcome that nobody knows. `notices` are sent once the step is made.
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


class HoldOrder(msgspec.Struct, frozen=True):
    """What `ledger.hold` is asked: reserve `nano` on every account of `accounts`, all or none, for this request id.

    `nano` 0 with a claim only records the claim. `task` is begun with it, which then owns the hold.
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
    """What `ledger.settle` is asked: resolve the hold of `record.id` to `record.charge_nano` and keep the record.

    `hold` is None for a call that needed none. `reply` is kept when the call carried a claim; `forget_claim` drops the
    claim instead (errors before the upstream are not stored). `stored` is the answer kept for later reading.
    """

    record: RequestRecord
    hold: HoldOrder | None
    reply: StoredReply | None = None
    forget_claim: bool = False
    stored: StoredObject | None = None
