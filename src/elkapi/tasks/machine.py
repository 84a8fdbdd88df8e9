"""Interprets a provider's answer about a task by the paths of its declaration; pure, and the only reader of such
answers.

A failure is recognised by its state, never by its text (guarantee 71). An undeclared state keeps the task running.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from elkapi.catalog.jsonpath import compiled, first, first_of, put
from elkapi.catalog.operation import Family
from elkapi.catalog.task import Made, TaskSpec
from elkapi.types import State

ERROR_CHARS_MAX = 1000
# Longest provider id: an index row of PostgreSQL holds 2,704 bytes.
ID_BYTES_MAX = 2000
NO_RESULT = "no_result"
NOTHING_MADE = "The provider finished the task without a result."
# The messages of ends for which the provider gives none.
SILENT_ENDS = {
    State.FAILED: "The provider could not complete the task and gave no reason.",
    State.CANCELLED: "The task was cancelled.",
    State.EXPIRED: "The provider did not finish the task in time.",
}


class Reading(msgspec.Struct, frozen=True):
    """One poll of a task. `known`: its state was declared. `progress` None: the answer has none. `made` are its
    files: the declaration and the address (or id) found there."""

    state: State
    word: str
    known: bool
    progress: int | None
    error: str = ""
    error_code: str = ""
    made: tuple[tuple[Made, str], ...] = ()
    refs: tuple[str, ...] = ()


def native_id(spec: TaskSpec, reply: Any) -> str:
    """The id of the task in a provider's answer to a submit; "" if there is none that can be stored."""
    found = first(spec.id, reply)
    is_id = isinstance(found, str | int) and not isinstance(found, bool)
    return str(found) if is_id and _can_be_kept(str(found)) else ""


def _can_be_kept(id_: str) -> bool:
    """Whether the database can store it: PostgreSQL accepts no text with a NUL."""
    return id_.isprintable() and len(id_.encode()) <= ID_BYTES_MAX


def read(spec: TaskSpec, reply: Any) -> Reading:
    """Interpret the answer to a fetch, after the family's `accept`."""
    word = _word(first(spec.state, reply)) if spec.state else ""
    state = spec.states.get(word)
    known = state is not None
    progress = _percent(first(spec.progress, reply)) if spec.progress else None
    if state is None or not state.is_end:
        return Reading(state or State.RUNNING, word, known, progress)
    text = first_of(spec.error, reply)
    if state is not State.SUCCEEDED:
        code = first(spec.error_code, reply) if spec.error_code else None
        error = (str(text) if text is not None else SILENT_ENDS[state])[:ERROR_CHARS_MAX]
        return Reading(state, word, True, progress, error, "" if code is None else _code(code))
    made = tuple((one, value) for one in spec.made for value in _addresses(one, reply))
    if all(one.optional for one, _ in made):
        return Reading(State.FAILED, word, True, progress, str(text or NOTHING_MADE)[:ERROR_CHARS_MAX], NO_RESULT)
    refs = tuple(ref for path in spec.refs for ref in map(str, compiled(path)(reply)) if _can_be_kept(ref))
    return Reading(State.SUCCEEDED, word, True, 100, made=made, refs=refs)


def _word(found: Any) -> str:
    """A state as the declarations spell it; JSON's true is `true`."""
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)


def _addresses(made: Made, reply: Any) -> list[str]:
    return [str(value) for value in compiled(made.path)(reply) if isinstance(value, str | int) and value != ""]


def _code(value: Any) -> str:
    """A provider's error code as stored with the task."""
    return "".join(filter(str.isprintable, str(value)[:100]))


def _percent(value: Any) -> int | None:
    """Whole percents of 37, 0.37, "37" and "37%"; None for anything else."""
    if isinstance(value, str):
        text = value.strip().removesuffix("%")
        try:
            number = float(text)
        except ValueError:
            return None
        # A string is always in percent.
        share = False
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number, share = float(value), isinstance(value, float) and value <= 1
    else:
        return None
    if not math.isfinite(number):
        return None
    return min(100, max(0, round(number * 100 if share else number)))


class Refused(msgspec.Struct, frozen=True):
    """An error that a provider reported inside a success: its message, its code, whether another channel may help,
    and whether that is because this one is overloaded."""

    message: str
    code: str
    elsewhere: bool
    busy: bool = False


def refused(family: Family, reply: Any, fetched: TaskSpec | None = None) -> Refused | None:
    """Apply a family's rule for in-band errors to the answer to a fetch or submit; None if there is no error.

    An answer without the rule's member is no error, unless it answers a fetch and has no state either.
    """
    rule = family.in_band
    if rule is None:
        return None
    value, tells = first(rule.path, reply), fetched is None or first(fetched.state, reply) is not None
    if tells and (value is None or (fetched is not None and not rule.fetched)):
        return None
    if not isinstance(value, bool) and (value == rule.good or (value is not None and value == rule.also_good)):
        return None
    message = str(first(rule.message, reply) or "The provider refused the request.")
    busy = any(value == one for one in rule.busy)
    return Refused(message, str(value), busy or any(value == one for one in rule.elsewhere), busy)


def reopened(spec: TaskSpec, reply: Any) -> Any:
    """Rewrite a submit's answer that reports the end as one that waits, without its files, which are not copied yet.

    `reply` is decoded, and modified.
    """
    open_ = [word for word, its in spec.states.items() if word and not its.is_end]
    if open_ and first(spec.state, reply) is not None:
        put(spec.state, reply, open_[0])
    if spec.done and first(spec.done, reply) is not None:
        put(spec.done, reply, False)
    for made in spec.made:
        if not made.via and compiled(made.path)(reply):
            put(made.path, reply, None)
    return reply
