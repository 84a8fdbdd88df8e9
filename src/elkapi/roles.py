"""The supervisor's orders to its children, as plain structs; both sides import it, so it imports almost nothing."""

from __future__ import annotations

from typing import Literal

import msgspec

from elkapi.settings import Settings

Role = Literal["worker", "ledger", "models", "chat", "control", "sandbox"]
ROLES: tuple[Role, ...] = ("worker", "ledger", "models", "chat", "control", "sandbox")


class BundledModel(msgspec.Struct, frozen=True):
    """What a worker needs of a local model: its name, the role that serves it, and facts for listings."""

    id: str
    facts: dict[str, object] = {}
    role: Literal["models", "chat"] = "models"


class WorkerOrder(msgspec.Struct, frozen=True):
    """The supervisor's order to a worker. `owner` is this boot's id (hex), `dead_owner` its crashed predecessor's."""

    settings: Settings
    bundled: tuple[BundledModel, ...] = ()
    sandbox_models: tuple[str, ...] = ()
    owner: str = ""
    dead_owner: str = ""
    ledger_in_process: bool = True
    wait_for_models: bool = False


class Preparation(msgspec.Struct, frozen=True):
    """What `app.prepare` found before the first process starts; `first_key` is shown once and stored nowhere.

    `problem`: why nothing can start; `no_chat`: why a chat model that is installed cannot run.
    """

    bundled: tuple[BundledModel, ...]
    sandbox_models: tuple[str, ...]
    first_key: str | None = None
    problem: str | None = None
    no_chat: str | None = None
