"""The sealed parts of a task: the request, the price it was quoted at, and the provider's report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog.jsontexts import with_texts
from elkapi.storage.repos.tasks import TaskRow, asked_context, task_id_text, told_context
from elkapi.storage.secrets import Sealer
from elkapi.types import (
    AttemptRecord,
    HoldOrder,
    Price,
    State,
    TaskAsset,
    TaskStep,
    TaskView,
    Usage,
)

# Longer strings are base64 images, which are sent on but not stored; other strings are short.
TEXT_CHARS_KEPT_MAX = 4096


class Asked(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A submit as it was quoted, whose price stays that of this moment. `accounts` fund it; `held_nano` is reserved.

    `body` is the caller's request without what is too long to store; `path` is the provider's path of the submit;
    `mark` is our id there, "" if it takes none; `own_mark` is the caller's, which only we know. `places` are the
    channels and keys that it may have been sent to, in order. `price` is the whole record, from which `features`
    select. `origin` is how the caller addressed the gateway. `key_name` and `traceparent` are for the span of the
    task's end.
    """

    body: Mapping[str, Any]
    group: str
    price: Price
    ratio_micro: int
    held_nano: int
    accounts: tuple[int, ...]
    upper: Usage
    features: Mapping[str, str] = {}
    path: str = ""
    mark: str = ""
    own_mark: str = ""
    places: tuple[tuple[int, int], ...] = ()
    asked_model: str = ""
    callback_url: str = ""
    origin: str = ""
    key_name: str = ""
    traceparent: str = ""


class Told(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The provider's report on a task: the last answer, the attempts of its submit, a failure's message.

    `polled`: the answer is to a fetch, not to the submit. `upstream_model` is the provider's name of the model.
    `cancel_asked`: the provider may have been asked to cancel it, so it is over if the provider no longer knows it.
    `said` is the failure's own message without the provider's key, for the operator, if callers see another.
    `charged_nano` is what the caller paid.
    """

    reply: msgspec.Raw = msgspec.Raw(b"")
    attempts: tuple[AttemptRecord, ...] = ()
    error: str = ""
    said: str = ""
    assets: tuple[TaskAsset, ...] = ()
    upstream_model: str = ""
    polled: bool = False
    cancel_asked: bool = False
    charged_nano: int = 0


_asked = msgspec.json.Decoder(Asked)
_told = msgspec.json.Decoder(Told)
encode = msgspec.json.encode


def kept_body(value: Any) -> Any:
    """A decoded request for storage: overlong strings are cut to their beginning."""
    return with_texts(value, lambda text: text if len(text) <= TEXT_CHARS_KEPT_MAX else text[:64] + "...")


class Task(msgspec.Struct, frozen=True):
    """The current task, unsealed."""

    row: TaskRow
    asked: Asked
    told: Told

    @property
    def state(self) -> State:
        return State(self.row.state)

    @property
    def order(self) -> HoldOrder:
        """The hold that the task's end resolves."""
        row, asked = self.row, self.asked
        return HoldOrder(row.id, row.key_id, asked.accounts, asked.held_nano, row.model, asked.price.id)

    def step(self, now_ns: int) -> TaskStep:
        """A step from the current state, to be filled in by the caller."""
        row = self.row
        return TaskStep(
            id=row.id, version=row.version, key_id=row.key_id, state=self.state, progress=row.progress, now_ns=now_ns
        )

    def view(self) -> TaskView:
        """The input of renderers; addresses of files are still the provider's."""
        row, named = self.row, self.asked.asked_model or self.row.model
        return TaskView(
            id=task_id_text(row.id),
            native_id=row.native_id or "",
            operation=row.operation,
            wire=row.wire,
            model=named,
            state=self.state,
            progress=row.progress,
            created_ns=row.created_ns,
            started_ns=row.started_ns or 0,
            finished_ns=row.finished_ns or 0,
            error_code=row.error_code or "",
            error=self.told.error,
            assets=self.told.assets,
            reply=in_callers_words(self.asked, bytes(self.told.reply)),
            asked=self.asked.body,
            asked_ms=(self.asked.upper.video_ms + self.asked.upper.audio_ms) // max(self.asked.upper.calls, 1),
            renamed=self.told.upstream_model not in ("", named),
            held_nano=self.asked.held_nano,
            charged_nano=self.told.charged_nano,
        )


def in_callers_words(asked: Asked, reply: bytes) -> bytes:
    """A provider's answer with the caller's name of the task in place of ours."""
    return reply.replace(encode(asked.mark), encode(asked.own_mark)) if asked.own_mark else reply


def opened(sealer: Sealer, row: TaskRow) -> Task:
    """Unseal a row. Raises storage.secrets.SealError if it was sealed with another key."""
    asked = _asked.decode(sealer.open(row.asked_sealed, asked_context(row.id)))
    told = Told()
    if row.told_sealed is not None:
        told = _told.decode(sealer.open(row.told_sealed, told_context(row.id)))
    return Task(row, asked, told)
