"""Routes of OpenAI's stored responses and chat completions, answered from the gateway's own tables; see openai.yaml."""

from __future__ import annotations

from elkapi.catalog.operation import Body, Kind, Operation, Role


def _row(
    id_: str, method: str, path: str, body: Body = Body.NONE, also: tuple[tuple[str, Kind], ...] = ()
) -> Operation:
    return Operation(
        id=f"openai.{id_}", method=method, path=path, also=also, family="openai", role=Role.GATEWAY, body=body
    )


_RESPONSE, _CHAT = "/v1/responses/{id}", "/v1/chat/completions/{id}"

STORED: tuple[Operation, ...] = (
    _row("responses-get", "GET", _RESPONSE, also=(("openai.responses-get-stream", "stream"),)),
    _row("responses-cancel", "POST", f"{_RESPONSE}/cancel"),
    _row("responses-delete", "DELETE", _RESPONSE),
    _row("responses-input-items", "GET", f"{_RESPONSE}/input_items"),
    _row("chat-list", "GET", "/v1/chat/completions"),
    _row("chat-get", "GET", _CHAT),
    _row("chat-update", "POST", _CHAT, Body.JSON),
    _row("chat-delete", "DELETE", _CHAT),
    _row("chat-messages", "GET", f"{_CHAT}/messages"),
)
