"""Routes the gateway answers itself. Contract: platform.md section 2; rows: platform.yaml."""

from __future__ import annotations

from elkapi.catalog.operation import Body, Family, Kind, Operation, Role

# Pages of the control process that the contract names; docs/index.md lists all of them.
_CONTROL_ROWS: tuple[tuple[str, str, Kind], ...] = (
    ("platform.status", "/api/status", "sync"),
    ("platform.quick-start", "/docs/quick-start", "doc"),
    ("platform.errors", "/docs/errors", "doc"),
    ("platform.claude-code", "/docs/claude-code", "doc"),
    ("platform.retry", "/docs/retry", "doc"),
    ("platform.apps", "/docs/apps", "doc"),
    ("kling.callback", "/docs/kling-callback", "doc"),
    ("minimax.doc", "/docs/minimax", "doc"),
    ("runway.best-practices", "/docs/runway-best-practices", "doc"),
)

FAMILY = Family(
    name="platform",
    dialect="openai",
    operations=(
        Operation(
            id="platform.models",
            method="GET",
            path="/v1/models",
            aliases=("/v1beta/openai/models", "/anthropic/v1/models"),
            also=(("openai.models", "sync"), ("anthropic.models", "sync")),
            family="platform",
            role=Role.GATEWAY,
        ),
        Operation(
            id="platform.model",
            method="GET",
            path="/v1/models/{model}",
            aliases=("/anthropic/v1/models/{model}",),
            also=(("openai.model", "sync"), ("anthropic.model", "sync")),
            family="platform",
            role=Role.GATEWAY,
        ),
        Operation(
            id="platform.models-gemini",
            method="GET",
            path="/v1beta/models",
            also=(("gemini.models", "sync"),),
            family="platform",
            role=Role.GATEWAY,
        ),
        Operation(
            id="gemini.model",
            method="GET",
            path="/v1beta/models/{model}",
            family="platform",
            role=Role.GATEWAY,
        ),
        Operation(
            id="platform.request",
            method="GET",
            path="/v1/requests/{id}",
            family="platform",
            role=Role.GATEWAY,
        ),
        Operation(
            id="platform.quote",
            method="POST",
            path="/v1/quote",
            family="platform",
            role=Role.GATEWAY,
            body=Body.JSON,
        ),
        Operation(
            id="platform.asset",
            method="GET",
            path="/v1/assets/{id}/{name}",
            aliases=("/v1/assets/{id}",),
            family="platform",
            role=Role.OPEN,
            kind="file",
        ),
        *(
            Operation(id=id_, method="GET", path=path, family="platform", role=Role.CONTROL, kind=kind)
            for id_, path, kind in _CONTROL_ROWS
        ),
    ),
)
