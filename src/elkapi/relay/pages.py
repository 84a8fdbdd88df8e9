"""Operations that the gateway answers from memory or its own tables: model lists in three formats, and the account of
one request. Contract: platform.md section 2.

A customer sees what a call cost and why; the upstream's identity is for the operator alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from elkapi.catalog import Match
from elkapi.errors import BadRequest, NotFound
from elkapi.ids import parse_request_id, request_id_text
from elkapi.money import format_ratio, format_usd
from elkapi.pricing.price import arithmetic, priced_for
from elkapi.relay.account import RequestAccount, read_account
from elkapi.relay.call import Call, send_json
from elkapi.relay.plane import DataPlane
from elkapi.relay.query import number_in, query_of
from elkapi.relay.route import can_serve
from elkapi.relay.video_chat import CHAT, SUBMIT
from elkapi.snapshot import Snapshot
from elkapi.translate.profiles import Kind, kind_of
from elkapi.types import CACHED_FLAG, Grant

PAGE_MAX = 1000
INT32_MAX = 2**31 - 1
# How many models' kinds are remembered with one snapshot.
KINDS_MAX = 50_000
CREATED_UNIX_S = 1_700_000_000
_CREATED_TEXT = datetime.fromtimestamp(CREATED_UNIX_S, UTC).isoformat().replace("+00:00", "Z")


def _is_anthropic(call: Call) -> bool:
    return call.header(b"anthropic-version") is not None or call.path.startswith("/anthropic/")


def _is_gemini(call: Call) -> bool:
    return call.header(b"x-goog-api-key") is not None or call.query.startswith("key=") or "&key=" in call.query


# The endpoints of a model, in this family's terms and as Google's methods. A chat may make videos too.
_ENDPOINT_TYPES = {
    "text": ("openai", "openai-response", "anthropic", "gemini"),
    "embedding": ("embeddings",),
    "rerank": ("jina-rerank",),
    "moderation": ("moderations",),
    "video": ("openai", "openai-video"),
    "task": (),
}
_METHODS = {
    "text": ("generateContent", "streamGenerateContent", "countTokens"),
    "embedding": ("embedContent", "batchEmbedContents"),
    "rerank": (),
    "moderation": (),
    "video": (),
    "task": (),
}
_PREDICTION = "veo.predict"
# What a model is for whose channels take no chat with it, by the first of these that they serve.
_SERVED: tuple[tuple[str, Kind], ...] = (
    (SUBMIT, "video"),
    ("openai.embeddings", "embedding"),
    ("openai.rerank", "rerank"),
)


class _Models(msgspec.Struct, frozen=True):
    """The models of one key, and its aliases."""

    plane: DataPlane
    snapshot: Snapshot
    grant: Grant
    aliases: Mapping[str, str]

    def names(self) -> list[str]:
        listed = self.snapshot.models_for(self.grant.scope, self.grant.group)
        names = [name for name in listed if self.grant.models is None or name in self.grant.models]
        aliases = self.aliases
        return sorted({*names, *(alias for alias, model in aliases.items() if model in names)}) if aliases else names

    def facts(self, name: str) -> Mapping[str, Any]:
        return self.plane.model_facts.get(self._model(name), {})

    def kind(self, name: str) -> Kind:
        """The kind of a model: bundled models declare it, channels know which make videos, otherwise the name
        decides."""
        if "dimensions" in self.facts(name):
            return "embedding"
        # Lists have thousands of names; kinds are determined once for all keys of a group.
        model = self._model(name)
        known, asked = self.snapshot.kinds, (self.grant.scope, self.grant.group, model)
        if (kind := known.get(asked)) is None:
            kind = self._kind(model)
            if len(known) < KINDS_MAX:
                known[asked] = kind
        return kind

    def _kind(self, model: str) -> Kind:
        kind = kind_of(model)
        if kind != "text" or self._serves(CHAT, model):
            return kind
        return next((kind for operation, kind in _SERVED if self._serves(operation, model)), "task")

    def methods(self, name: str) -> tuple[str, ...]:
        """Google's names of its methods."""
        kind = self.kind(name)
        predicts = kind == "video" and self._serves(_PREDICTION, self._model(name))
        return ("predictLongRunning",) if predicts else _METHODS[kind]

    def _model(self, name: str) -> str:
        return self.aliases.get(name, name)

    def _serves(self, operation: str, model: str) -> bool:
        return can_serve(self.snapshot, self.grant, self.plane.catalog.by_id[operation], model)


def _models_of(plane: DataPlane, snapshot: Snapshot, grant: Grant) -> _Models:
    return _Models(plane, snapshot, grant, snapshot.policy_for(grant).aliases or {})


def _openai_model(models: _Models, name: str) -> dict[str, object]:
    facts = models.facts(name)
    return {
        "id": name,
        "object": "model",
        "created": CREATED_UNIX_S,
        "owned_by": facts.get("owned_by", "system"),
        "supported_endpoint_types": list(_ENDPOINT_TYPES[models.kind(name)]),
        **{name: facts[name] for name in ("dimensions", "context_length", "bundled") if name in facts},
    }


def _anthropic_model(models: _Models, name: str) -> dict[str, object]:
    facts = models.facts(name)
    window = {"max_input_tokens": facts["context_length"]} if "context_length" in facts else {}
    named = {"type": "model", "id": name, "display_name": name, "created_at": _CREATED_TEXT}
    return {**named, "lifecycle": "active", **window}


def _gemini_model(models: _Models, name: str) -> dict[str, object]:
    facts, methods = models.facts(name), list(models.methods(name))
    window = {"inputTokenLimit": facts["context_length"]} if "context_length" in facts else {}
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods, **window}


def _anthropic_list(models: _Models, query: str) -> dict[str, object]:
    """All models, or `limit` of them after or before one. Raises BadRequest."""
    names, asked = models.names(), query_of(query)
    size, after, before = number_in(asked, "limit", 1, PAGE_MAX), asked.get("after_id"), asked.get("before_id")
    if after and before:
        raise BadRequest("Send either `before_id` or `after_id`, not both.", param="before_id")
    # Names are sorted, so a cursor is valid even if its model disappears between two pages.
    if before:
        names = names[: bisect_left(names, before)]
        page = names[-size:] if size else names
    else:
        names = names[bisect_right(names, after) :] if after else names
        page = names[:size] if size else names
    ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
    return {"data": [_anthropic_model(models, name) for name in page], "has_more": len(page) < len(names), **ends}


def _gemini_list(models: _Models, query: str) -> dict[str, object]:
    """All models, or `pageSize` of them; the page token is the last name of the previous page."""
    names, asked = models.names(), query_of(query)
    # Google accepts any number, and a page contains what there is.
    size, token = number_in(asked, "pageSize", 0, INT32_MAX), asked.get("pageToken")
    names = names[bisect_right(names, token) :] if token else names
    page = names[:size] if size else names
    more = page[-1] if len(page) < len(names) else None
    return {"models": [_gemini_model(models, name) for name in page], "nextPageToken": more}


def _openai_list(models: _Models) -> dict[str, Any]:
    return {"object": "list", "success": True, "data": [_openai_model(models, name) for name in models.names()]}


async def list_models(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """One path with three formats, chosen by the request's headers and not by where the key was; and OpenAI's own
    path."""
    models = _models_of(plane, snapshot, grant)
    if call.path.startswith("/v1beta/openai/"):
        send_json(call, _openai_list(models))
    elif _is_anthropic(call):
        send_json(call, _anthropic_list(models, call.query))
    elif _is_gemini(call):
        send_json(call, _gemini_list(models, call.query))
    else:
        send_json(call, _openai_list(models))


async def list_gemini_models(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1beta/models`: Google's list."""
    send_json(call, _gemini_list(_models_of(plane, snapshot, grant), call.query))


async def get_gemini_model(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1beta/models/{model}`: one model in Google's form. Raises NotFound."""
    models = _models_of(plane, snapshot, grant)
    send_json(call, _gemini_model(models, _known(models, match)))


async def get_model(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """One model the key may use. Raises NotFound with code `model_not_found`."""
    models = _models_of(plane, snapshot, grant)
    name = _known(models, match)
    if _is_anthropic(call):
        send_json(call, _anthropic_model(models, name))
    else:
        send_json(call, _gemini_model(models, name) if _is_gemini(call) else _openai_model(models, name))


def _known(models: _Models, match: Match) -> str:
    name = match.params["model"].removeprefix("models/")
    if name not in models.names():
        raise NotFound(
            f"The model {name!r} does not exist, or this API key may not use it.", code="model_not_found", param="model"
        )
    return name


async def show_request(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/requests/{id}`: attempts, price rule, token classes, arithmetic and entries of one call of this key."""
    request_id = parse_request_id(match.params["id"])
    found = None
    if request_id is not None:
        found = await plane.reader.run(lambda connection: read_account(connection, request_id, grant.owner_id))
    # All keys have one owner, the operator, until customers have accounts, so the key is compared as well.
    if found is None or found.record.key_id != grant.key_id:
        raise NotFound("No request of yours has this id.", code="request_not_found", param="id")
    send_json(call, _account(found))


def _account(found: RequestAccount) -> dict[str, object]:
    record, price = found.record, found.price
    return {
        "id": request_id_text(record.id),
        "object": "request",
        "operation": record.operation,
        "model": record.model,
        **({"asked_model": record.asked} if record.asked else {}),
        **({"batch": {"id": record.line.batch, "line": record.line.number}} if record.line else {}),
        "group": record.group,
        "created_at": record.created_ns // 1_000_000_000,
        "duration_ms": record.duration_ms,
        "status": record.status,
        "outcome": record.outcome,
        "error_code": record.error_code,
        **({"guard": record.guard} if record.guard else {}),
        "flags": record.flags,
        "cached": CACHED_FLAG in record.flags,
        "attempts": [
            {
                "number": n,
                "outcome": a.outcome,
                "duration_ms": a.duration_ms,
                **({"model": a.model} if a.model else {}),
            }
            for n, a in enumerate(record.attempts, 1)
        ],
        "usage": record.usage,
        **({"features": record.features} if record.features else {}),
        "price": {
            "id": record.price_id,
            "version": record.price_version,
            "group_ratio": format_ratio(record.ratio_micro),
            **({"batch_ratio": format_ratio(record.line.ratio_micro)} if record.line else {}),
            **({"hit_ratio": format_ratio(record.hit_ratio_micro)} if record.hit_ratio_micro is not None else {}),
            "arithmetic": arithmetic(
                priced_for(price, record.features, record.usage.input_total), record.usage, record.ratio_micro
            )
            if price
            else [],
        },
        "held_usd": format_usd(record.hold_nano),
        "cost_usd": format_usd(record.charge_nano),
        "ledger": [
            {"kind": entry.kind, "amount_usd": format_usd(entry.nano), "created_at": entry.created_ns // 1_000_000_000}
            for entry in found.entries
        ],
    }


PAGES = {
    "platform.models": list_models,
    "gemini.model": get_gemini_model,
    "platform.model": get_model,
    "platform.models-gemini": list_gemini_models,
    "platform.request": show_request,
}
