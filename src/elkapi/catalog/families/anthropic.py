"""Anthropic's wire format. Contract: anthropic.md section 1; rows: anthropic.yaml."""

from __future__ import annotations

from elkapi.catalog import text
from elkapi.catalog.operation import Body, Family, ModelSource, Operation, Role

_BATCHES = (
    ("create", "POST", ""),
    ("list", "GET", ""),
    ("get", "GET", "/{id}"),
    ("cancel", "POST", "/{id}/cancel"),
    ("delete", "DELETE", "/{id}"),
    ("results", "GET", "/{id}/results"),
)

FAMILY = Family(
    name="anthropic",
    dialect="anthropic",
    operations=(
        Operation(
            id="anthropic.messages",
            method="POST",
            path="/v1/messages",
            aliases=("/anthropic/v1/messages",),
            also=(("anthropic.messages-stream", "stream"),),
            family="anthropic",
            role=Role.RELAY,
            body=Body.JSON,
            model=ModelSource("body"),
            priced_by=("messages", "max_tokens", "stream"),
            wire="anthropic",
            dialect="anthropic",
            unit="token",
            read=text.read_messages,
        ),
        Operation(
            id="anthropic.count-tokens",
            method="POST",
            path="/v1/messages/count_tokens",
            aliases=("/anthropic/v1/messages/count_tokens",),
            family="anthropic",
            role=Role.GATEWAY,
            body=Body.JSON,
            model=ModelSource("body"),
            wire="anthropic-count",
            read=text.read_count,
        ),
        *(
            Operation(
                id=f"anthropic.batches-{name}",
                method=method,
                path=f"/v1/messages/batches{rest}",
                aliases=(f"/anthropic/v1/messages/batches{rest}",),
                family="anthropic",
                role=Role.GATEWAY,
                kind="file" if name == "results" else "task",
                body=Body.JSON if name == "create" else Body.NONE,
                # Each line is a message and costs the same as one.
                unit="token" if name == "create" else "free",
            )
            for name, method, rest in _BATCHES
        ),
    ),
)
