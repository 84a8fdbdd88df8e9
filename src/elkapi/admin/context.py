"""`Admin`: the actor, installation and clock that every admin function takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar

import msgspec
from sqlalchemy import Connection

from elkapi.admin.errors import InvalidInput
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import versions
from elkapi.storage.secrets import Sealer

T = TypeVar("T")
_PLACE = re.compile(r"`\$\.([\w.\[\]]+)`")
NAME_CHARACTERS_MAX = 128


class Who(TypedDict):
    """The keyword arguments of every change in a repository."""

    now_ns: int
    actor: str


class Admin:
    """An opened installation and the actor for audit rows; a context manager that closes the database."""

    def __init__(self, installation: Installation, actor: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.installation = installation
        self.actor = actor
        self.clock = clock

    @classmethod
    def open(cls, settings: Settings, actor: str, clock: Clock = SYSTEM_CLOCK) -> Admin:
        """Raises what storage.installation.open_installation raises."""
        return cls(open_installation(settings, clock=clock), actor, clock)

    @property
    def settings(self) -> Settings:
        return self.installation.settings

    @property
    def database(self) -> Database:
        return self.installation.database

    @property
    def sealer(self) -> Sealer:
        return self.installation.sealer

    def who(self) -> Who:
        """The time and actor for a change's audit row."""
        return {"now_ns": self.clock.now_ns(), "actor": self.actor}

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One write transaction, serialized with other operators' changes."""
        with self.database.write() as connection:
            versions.take_turns(connection)
            yield connection

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()


def read_input(kind: type[T], values: Mapping[str, Any]) -> T:
    """A validated input struct from plain values. Unknown fields and wrong types raise InvalidInput."""
    fields = getattr(kind, "__struct_fields__", ())
    if unknown := sorted(set(values) - set(fields)):
        raise InvalidInput("the field does not exist", field=unknown[0])
    try:
        return msgspec.convert(dict(values), kind, str_keys=True)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        message = str(error).partition(" - at `")[0]
        raise InvalidInput(message, field="input" if place is None else place[1]) from None


def check_name(name: str, field: str = "name") -> str:
    """The stripped name: printable, not blank, not too long. Raises InvalidInput."""
    stripped = name.strip()
    if not stripped or len(stripped) > NAME_CHARACTERS_MAX or not stripped.isprintable():
        raise InvalidInput(f"it must have 1 to {NAME_CHARACTERS_MAX} printable characters", field=field)
    return stripped


def check_model(model: str, field: str = "models") -> str:
    """The model name: printable, without spaces. Raises InvalidInput."""
    if not model or len(model) > 256 or not model.isprintable() or " " in model:
        raise InvalidInput(f"{model[:80]!r} is not a model name", field=field)
    return model
