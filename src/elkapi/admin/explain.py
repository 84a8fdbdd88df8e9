"""A dry run of routing: where a call would go and what each failure would lead to, without calling an upstream.

It uses the relay's own steps: `candidates` plans, `verdict` judges, `Walk` continues. Health is that of a new worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import msgspec

from elkapi.admin import keys
from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput
from elkapi.catalog import CATALOG, Catalog, Facts, Match, Operation, Role
from elkapi.errors import OVERFLOW, GatewayError, NoChannel, OutcomeUnknown, UpstreamRejected
from elkapi.relay.candidates import Candidate, candidates
from elkapi.relay.placing import planned, priced
from elkapi.relay.read import Request, asked_of
from elkapi.relay.relay import nobody_answered
from elkapi.relay.video_chat import asked_in_chat, makes_videos
from elkapi.routing import fallback
from elkapi.routing.affinity import Affinity
from elkapi.routing.health import Health
from elkapi.routing.verdict import ACCEPT, Verdict, on_busy, on_failure, on_status, on_submit_status, on_unreadable
from elkapi.routing.walk import Walk
from elkapi.snapshot import Snapshot
from elkapi.snapshot.build import build_snapshot
from elkapi.storage.repos.keys import KeyRow
from elkapi.translate.media import read_messages
from elkapi.types import Attempt, Channel, FallbackReason, Grant, Policy, Usage

PATH = "/v1/chat/completions"
# The values of --fail besides a status.
FAULTS: dict[str, tuple[Verdict, FallbackReason | None]] = {
    "refused": (on_failure("upstream_connect_failed", sent=False), None),
    "timeout": (on_failure("upstream_header_timeout", sent=True), None),
    "cut": (on_failure("upstream_cut", sent=True), None),
    "garbage": (on_unreadable("unreadable_reply"), None),
    "silence": (on_failure("first_token_timeout", sent=True), None),
    "busy": (on_busy(1.0), None),
    "context": (on_status(400), "context"),
    "filtered": (on_status(400), "refusal"),
}
_SOME_CHAT = {"messages": [{"role": "user", "content": "a video"}]}
_TASK_NOTE = "a chat with this model is a task; one that continues an earlier video goes to the account that made it"
_NEXT = {
    "accept": "answers the call",
    "next": "the next attempt is tried",
    "fail": "the caller gets the error",
}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The call to explain: with `key` or `group`; `fail` maps a channel's name or id to a status or a key of FAULTS."""

    model: str
    key: str | None = None
    group: str | None = None
    path: str = PATH
    fail: Mapping[str, str] = {}
    seed: int = 0


class Step(msgspec.Struct, frozen=True):
    """One attempt: the reason for its position, its assumed outcome, and the consequence."""

    model: str
    channel_id: int
    channel: str
    key_id: int
    upstream_model: str
    why: str
    outcome: str
    then: str


class Explanation(msgspec.Struct, frozen=True):
    """All attempts. `answered_by` is None if none would answer; `told` is then the caller's error."""

    operation: str
    group: str
    scope: str
    asked: str
    models: tuple[str, ...]
    policy: Policy
    steps: tuple[Step, ...]
    answered_by: str | None = None
    told: str | None = None
    notes: tuple[str, ...] = ()


class _Places(msgspec.Struct):
    health: Health
    affinity: Affinity
    rng: Random
    catalog: Catalog


def explain(
    admin: Admin,
    question: Question,
    *,
    bundled: Iterable[str] = (),
    chat: Iterable[str] = (),
    sandbox: Iterable[str] = (),
) -> Explanation:
    """Explain a call. Raises InvalidInput for an invalid question, Missing for a key that does not exist."""
    with admin.database.read() as connection:
        snapshot = build_snapshot(connection, admin.sealer, admin.settings, bundled=bundled, chat=chat, sandbox=sandbox)
    found = _operation(question.path)
    row = keys.show_key(admin, question.key).row if question.key is not None else None
    grant = _grant(snapshot, question, row)
    faults = {_channel(snapshot, name): _fault(word) for name, word in question.fail.items()}
    policy = snapshot.policy_for(grant)
    return _walked(admin, snapshot, found, grant, policy, question, faults, _complaint(row, admin.clock.now_ns()))


def _operation(path: str) -> Match:
    try:
        found = CATALOG.match("POST", path.partition("?")[0])
    except GatewayError as error:
        raise InvalidInput(error.message, field="path") from None
    if found.operation.role is not Role.RELAY:
        raise InvalidInput(f"the gateway itself answers {path}", field="path")
    return found


def _grant(snapshot: Snapshot, question: Question, row: KeyRow | None) -> Grant:
    if row is not None:
        accounts = (row.account_id,)
        return Grant(
            row.id, row.name, row.owner_id, row.group, row.scope, accounts, _named(row), None, True, row.policy
        )
    group = question.group or "default"
    if group not in snapshot.groups:
        raise InvalidInput(f"the group {group!r} does not exist", field="group")
    return Grant(0, "", 0, group, "live", (), None, None, True)


def _named(row: KeyRow) -> frozenset[str] | None:
    return None if row.models is None else frozenset(row.models)


def _complaint(row: KeyRow | None, now_ns: int) -> str | None:
    """Why the key itself would be refused, or None."""
    if row is None:
        return None
    if row.revoked_ns is not None or not row.enabled:
        return "401: the API key is disabled"
    if row.expires_at_ns is not None and row.expires_at_ns <= now_ns:
        return "401: the API key has expired"
    return None


def _channel(snapshot: Snapshot, which: str) -> int:
    for channel in snapshot.channels.values():
        if which in (channel.name, str(channel.id)):
            return channel.id
    raise InvalidInput(f"no enabled channel is named {which!r}", field="fail")


def _fault(word: str) -> str:
    if word in FAULTS or (word.isascii() and word.isdecimal() and 100 <= int(word) <= 599):
        return word
    raise InvalidInput(f"{word!r} must be a status or one of {', '.join(FAULTS)}", field="fail")


def _walked(
    admin: Admin,
    snapshot: Snapshot,
    found: Match,
    grant: Grant,
    policy: Policy,
    question: Question,
    faults: Mapping[int, str],
    complaint: str | None,
) -> Explanation:
    settings = admin.settings
    request = _request(found.operation, policy, question.model)

    def result(models: tuple[str, ...] = (), steps: list[Step] | None = None, **end: str | None) -> Explanation:
        return Explanation(
            operation=(among[0].request if among else request).operation.id,
            group=grant.group,
            scope=grant.scope,
            asked=question.model,
            models=models or (request.model,),
            policy=policy,
            steps=tuple(steps or ()),
            answered_by=end.get("answered_by"),
            told=end.get("told"),
            notes=_notes(among),
        )

    among: tuple[Candidate, ...] = ()
    if complaint is not None:
        return result(told=complaint)
    health, rng = Health(settings.cooldown_s, settings.cooldown_max_s), Random(question.seed)  # noqa: S311
    places = _Places(health, Affinity(), rng, CATALOG)
    try:
        among = _among(places, snapshot, grant, policy, request)
    except GatewayError as refusal:
        return result(told=f"{refusal.status} {refusal.code}: {refusal.message}")
    models = tuple(candidate.request.model for candidate in among)
    steps: list[Step] = []
    first_error: GatewayError | None = None
    for number, candidate in enumerate(among):
        error, told = _tried(candidate, faults, settings.attempts_max, steps)
        if error is None:
            return result(models, steps, answered_by=candidate.request.model)
        first_error = first_error or error
        reason = fallback.reason_after(told, error.status)
        if number == 0 and not fallback.allows(policy, reason):
            break
    assert first_error is not None
    return result(models, steps, told=f"{first_error.status} {first_error.code}: {first_error.message}")


def _request(operation: Operation, policy: Policy, model: str) -> Request:
    body = msgspec.json.encode({"model": model})
    request = Request(
        operation, model, body, Facts(model=model, upper=Usage()), given=Facts(model=model, upper=Usage())
    )
    aliases = policy.aliases or {}
    return asked_of(request, aliases[model]) if model in aliases else request


def _among(
    places: _Places, snapshot: Snapshot, grant: Grant, policy: Policy, request: Request
) -> tuple[Candidate, ...]:
    """The candidate models; for a chat with a video model, that one as its provider's submit."""
    try:
        return candidates(places, snapshot, grant, policy, request, _NoHeaders())
    except NoChannel:
        if not makes_videos(places.catalog, snapshot, grant, request):
            raise
    asked = asked_in_chat(places, request, read_messages(_SOME_CHAT, request.model))
    way, attempts, asked = planned(places, snapshot, grant, asked)
    _, bound = priced(asked, grant, way)
    return (Candidate(msgspec.structs.replace(request, operation=asked.operation), attempts, bound),)


class _NoHeaders:
    """A call without headers."""

    def header(self, name: bytes) -> bytes | None:
        return None


def _tried(
    candidate: Candidate, faults: Mapping[int, str], attempts_max: int, steps: list[Step]
) -> tuple[GatewayError | None, FallbackReason | None]:
    """One model's attempts, added to `steps`: (None, None) once one answers, else the caller's error and its reason."""
    walk, submits = Walk(candidate.attempts, attempts_max), candidate.request.operation.role is Role.SUBMIT
    while (attempt := walk.next()) is not None:
        verdict, reason = _met(attempt.channel, faults.get(attempt.channel.id), submits)
        walk.judged(attempt, verdict)
        steps.append(_step(candidate.request.model, attempt, verdict, reason))
        if verdict.action == "accept":
            return None, None
        if submits and verdict.fate == "unknown":
            return OutcomeUnknown("it is unknown whether the task has started"), None
        if verdict.action == "fail":
            status = int(verdict.outcome.removeprefix("status_"))
            message = "the upstream's own message, without its name"
            code = OVERFLOW if reason == "context" else None
            return UpstreamRejected(message, status=status, code=code), reason
    return nobody_answered(walk, candidate.request.model), None


def _met(channel: Channel, word: str | None, submits: bool) -> tuple[Verdict, FallbackReason | None]:
    if word is None:
        return ACCEPT, None
    if word in FAULTS:
        verdict, reason = FAULTS[word]
        if submits and verdict.fate == "unknown":
            verdict = msgspec.structs.replace(verdict, action="fail")
        return verdict, reason
    status = channel.status_map.get(int(word), int(word))
    return on_submit_status(status) if submits else on_status(status), None


def _step(model: str, attempt: Attempt, verdict: Verdict, reason: FallbackReason | None) -> Step:
    then = _NEXT[verdict.action]
    if verdict.disable_key:
        then += f"; the channel key is disabled: {verdict.disable_key}"
    elif verdict.cool:
        then += f"; the {verdict.cool} rests" + (" for this model" if verdict.model_only else "")
    if verdict.fate == "unknown":
        then += "; the upstream may have billed it"
    if reason:
        then += f"; a reason to fall back to another model ({reason})"
    channel = attempt.channel
    return Step(
        model, channel.id, channel.name, attempt.key.id, attempt.upstream_model, attempt.why, verdict.outcome, then
    )


def _notes(among: tuple[Candidate, ...]) -> tuple[str, ...]:
    """Notes about what a dry run cannot know, and limits that a real call may reach."""
    channels = {attempt.channel.id: attempt.channel for one in among for attempt in one.attempts}
    notes = [_TASK_NOTE] if among and among[0].request.operation.role is Role.SUBMIT else []
    notes += [f"channel {channel.name}: at most {what}" for channel in channels.values() for what in _limits(channel)]
    ties = {channel.priority for channel in channels.values()}
    if len(ties) < len(channels):
        notes.append("channels of one priority are drawn for every call by weight; use --seed to draw again")
    return tuple(notes)


def _limits(channel: Channel) -> list[str]:
    limits = channel.limits
    said = ((limits.parallel_max, "calls at once"), (limits.requests_per_min, "calls a minute"))
    return [f"{number} {what}" for number, what in said if number]
