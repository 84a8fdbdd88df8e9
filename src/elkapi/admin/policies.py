"""Policies of keys and groups, validated when written; `relay` and `routing` apply them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from elkapi.admin.context import check_model
from elkapi.admin.errors import InvalidInput
from elkapi.money import BATCH_RATIO_MAX_MICRO, RATIO_ONE_MICRO
from elkapi.storage.repos import guards
from elkapi.types import FallbackReason, Policy

ROWS_MAX = 1_000
FALLBACKS_MAX = 8
LIMIT_MAX = 1_000_000_000
GUARDS_MAX = 16
CACHE_AGE_MAX_S = 366 * 86_400
ANY_MODEL = "*"


class PolicyFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a policy: absent fields stay, null removes one."""

    aliases: dict[str, str] | UnsetType | None = UNSET
    fallbacks: dict[str, tuple[str, ...]] | UnsetType | None = UNSET
    fallback_on: tuple[FallbackReason, ...] | UnsetType | None = UNSET
    requests_per_min: int | UnsetType | None = UNSET
    tokens_per_min: int | UnsetType | None = UNSET
    parallel_max: int | UnsetType | None = UNSET
    cache: bool | UnsetType | None = UNSET
    cache_age_max_s: int | UnsetType | None = UNSET
    cache_shared: bool | UnsetType | None = UNSET
    cache_hit_ratio_micro: int | UnsetType | None = UNSET
    batch_ratio_micro: int | UnsetType | None = UNSET
    guards: tuple[str, ...] | UnsetType | None = UNSET
    guard_streams: Literal["buffer", "window"] | UnsetType | None = UNSET


def merged(before: Policy, fields: PolicyFields) -> Policy:
    """The policy with the given fields changed. Raises InvalidInput."""
    given: dict[str, Any] = {
        name: value for name in fields.__struct_fields__ if (value := getattr(fields, name)) is not UNSET
    }
    policy = msgspec.structs.replace(before, **given)
    _check_aliases(policy.aliases or {})
    _check_fallbacks(policy.fallbacks or {})
    for name in ("requests_per_min", "tokens_per_min", "parallel_max"):
        limit = getattr(policy, name)
        if limit is not None and not 0 <= limit <= LIMIT_MAX:
            raise InvalidInput(f"it must be between 0 (no limit) and {LIMIT_MAX}", field=name)
    if policy.cache_age_max_s is not None and not 1 <= policy.cache_age_max_s <= CACHE_AGE_MAX_S:
        raise InvalidInput(f"it must be between 1 and {CACHE_AGE_MAX_S} seconds", field="cache_age_max_s")
    ratio = policy.cache_hit_ratio_micro
    if ratio is not None and not 0 <= ratio <= RATIO_ONE_MICRO:
        raise InvalidInput(
            "it must be between 0 (free) and 1 (the price of the whole call)", field="cache_hit_ratio_micro"
        )
    if policy.batch_ratio_micro is not None and not 0 <= policy.batch_ratio_micro <= BATCH_RATIO_MAX_MICRO:
        raise InvalidInput("it must be between 0 (free) and 10 (ten times the price)", field="batch_ratio_micro")
    if policy.guards is not None and not len(set(policy.guards)) == len(policy.guards) <= GUARDS_MAX:
        raise InvalidInput(f"it must contain at most {GUARDS_MAX}, each once", field="guards")
    if policy.fallback_on is not None:
        policy = msgspec.structs.replace(policy, fallback_on=tuple(dict.fromkeys(policy.fallback_on)))
    return policy


def check_guards(connection: Connection, policy: Policy) -> None:
    """Raise InvalidInput for an undefined guardrail: a typo must not leave calls unguarded."""
    for name in sorted(set(policy.guards or ()) - guards.names(connection) if policy.guards else ()):
        raise InvalidInput(f"the guardrail {name!r} does not exist; define it with `elkapi guard set`", field="guards")


def _check_aliases(aliases: dict[str, str]) -> None:
    if len(aliases) > ROWS_MAX:
        raise InvalidInput(f"it must contain at most {ROWS_MAX}", field="aliases")
    for name, model in aliases.items():
        if check_model(name, "aliases") == check_model(model, "aliases"):
            raise InvalidInput(f"{name!r} must not be an alias of itself", field="aliases")
        if model in aliases:
            raise InvalidInput(f"{model!r} is itself an alias; give the model", field="aliases")


def _check_fallbacks(fallbacks: dict[str, tuple[str, ...]]) -> None:
    if len(fallbacks) > ROWS_MAX:
        raise InvalidInput(f"it must contain at most {ROWS_MAX}", field="fallbacks")
    for model, others in fallbacks.items():
        if not 0 < len(others) <= FALLBACKS_MAX or len(set(others)) < len(others):
            raise InvalidInput(f"{model!r} needs 1 to {FALLBACKS_MAX} models, each once", field="fallbacks")
        for other in (check_model(model, "fallbacks"), *others):
            check_model(other, "fallbacks")
        if model in others or ANY_MODEL in others:
            raise InvalidInput(f"{model!r} must fall back to models with other names", field="fallbacks")
