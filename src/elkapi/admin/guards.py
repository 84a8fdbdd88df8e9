"""Guardrails: defined by name, validated when written, referenced by the policies of groups and keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import partial
from typing import Literal

import msgspec
from sqlalchemy import Connection

from elkapi.admin.context import Admin, check_name
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.guards.found import Blocked
from elkapi.guards.rules import found_in, rule_of
from elkapi.guards.text import plain
from elkapi.storage.repos import groups, guards, keys
from elkapi.types import Guard, PiiKind
from elkapi.upstream import Origin

WORDS_MAX = 50_000
WORD_CHARACTERS_MAX = 200
DEADLINE_S_MAX = 60.0
SECRET_PREFIX = "hook-"  # noqa: S105 - what a made secret begins with.


class GuardInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The definition of a guardrail: exactly one of `words`, `find` and `url` determines its kind."""

    name: str
    words: tuple[str, ...] | None = None
    find: tuple[PiiKind, ...] | None = None
    url: str | None = None
    direction: Literal["input", "output", "both"] = "both"
    action: Literal["block", "mask"] = "block"
    match: Literal["word", "substring"] = "word"
    regions: tuple[str, ...] = ()
    secret: str | None = None
    deadline_s: float = 2.0
    when_down: Literal["open", "closed"] = "closed"


def set_guard(admin: Admin, given: GuardInput) -> Guard:
    """Create or replace a guardrail; a hook without a secret keeps its previous one or gets a new one.

    Raises InvalidInput, Refused.
    """
    guard = _checked(given)
    with admin.change() as connection:
        if guard.kind == "hook" and not guard.secret:
            before = guards.get_guard(connection, admin.sealer, guard.name)
            kept = before.secret if before is not None else ""
            guard = msgspec.structs.replace(guard, secret=kept or SECRET_PREFIX + secrets.token_urlsafe(32))
        guards.set_guard(connection, admin.sealer, guard, **admin.who())
        if guards.get_guard(connection, admin.sealer, guard.name) != guard:
            raise Refused("the guardrail cannot be stored as given; nothing was changed")
    return guard


def _checked(given: GuardInput) -> Guard:
    name = check_name(given.name)
    kinds = [field for field in ("words", "find", "url") if getattr(given, field)]
    if len(kinds) != 1:
        raise InvalidInput("give words, kinds of personal data, or the URL of a hook", field="words")
    guard = partial(Guard, name=name, direction=given.direction)
    if given.url:
        return guard(
            kind="hook",
            url=_url(given.url),
            secret=given.secret or "",
            deadline_s=_deadline(given.deadline_s),
            when_down=given.when_down,
        )
    if given.secret is not None:
        raise InvalidInput("only a hook has one", field="secret")
    if given.words:
        return guard(kind="words", words=_words(given.words), match=given.match, action=given.action)
    assert given.find is not None
    for region in given.regions:
        if not _is_region(region):
            raise InvalidInput(f"{region[:20]!r} must be a country code, such as DE or GB", field="regions")
    found = tuple(dict.fromkeys(given.find))
    return guard(kind="pii", find=found, regions=given.regions, action=given.action)


def _is_region(region: str) -> bool:
    """Whether phone numbers of this region can be found; an unknown one such as `UK` would silently find none."""
    from phonenumbers import SUPPORTED_REGIONS

    return region in SUPPORTED_REGIONS


def _words(words: Iterable[str]) -> tuple[str, ...]:
    kept = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not 0 < len(kept) <= WORDS_MAX:
        raise InvalidInput(f"there are 1 to {WORDS_MAX}", field="words")
    for word in kept:
        if len(word) > WORD_CHARACTERS_MAX or not plain(word).text.strip():
            raise InvalidInput(f"a word must have 1 to {WORD_CHARACTERS_MAX} visible characters", field="words")
    return kept


def _url(url: str) -> str:
    try:
        Origin.parse(url, allow_private=True)
    except ValueError as error:
        raise InvalidInput(str(error), field="url") from None
    return url


def _deadline(deadline_s: float) -> float:
    if not 0 < deadline_s <= DEADLINE_S_MAX:
        raise InvalidInput(f"it must be above 0 and at most {DEADLINE_S_MAX:.0f} seconds", field="deadline_s")
    return deadline_s


def list_guards(admin: Admin) -> list[Guard]:
    """Every guardrail, by name."""
    with admin.database.read() as connection:
        return guards.all_guards(connection, admin.sealer)


def show_guard(admin: Admin, name: str) -> Guard:
    """Raises Missing."""
    with admin.database.read() as connection:
        guard = guards.get_guard(connection, admin.sealer, name)
    if guard is None:
        raise Missing(f"the guardrail {name!r} does not exist")
    return guard


def remove_guard(admin: Admin, name: str) -> None:
    """Remove a guardrail that no policy names. Raises Missing, Refused."""
    with admin.change() as connection:
        if guards.get_guard(connection, admin.sealer, name) is None:
            raise Missing(f"the guardrail {name!r} does not exist")
        if users := _users(connection, name):
            raise Refused(f"{name!r} is used by {users[0]}; remove it from that policy first")
        guards.remove_guard(connection, name, **admin.who())


def _users(connection: Connection, name: str) -> list[str]:
    named = [f"group {row.name!r}" for row in groups.all_groups(connection) if name in (row.policy.guards or ())]
    return named or [f"key {key!r}" for key in keys.names_with_guard(connection, name)]


def try_guard(admin: Admin, name: str, text: str) -> list[dict[str, object]]:
    """The findings of a word list or a search for personal data in a text, as rows.

    Raises Missing, InvalidInput, and Refused for a text that calls may not contain.
    """
    guard = show_guard(admin, name)
    if guard.kind == "hook":
        raise InvalidInput("a hook can only be tried by a call", field="name")
    try:
        hits = found_in([rule_of(guard)], text)
    except Blocked as blocked:
        raise Refused(blocked.reason) from None
    return [
        {"label": found.label, "start": found.start, "end": found.end, "text": text[found.start : found.end]}
        for _, found in hits
    ]
