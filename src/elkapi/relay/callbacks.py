"""Callbacks of providers about tasks: they only make the poller poll at once.

The address itself is the proof: it is signed, and given to one provider for one task. The body is not read, except for
MiniMax's challenge.
"""

from __future__ import annotations

import msgspec

from elkapi.errors import NOT_JSON, NotFound
from elkapi.relay.call import JSON, Call, send_json
from elkapi.relay.plane import DataPlane
from elkapi.storage.repos import tasks
from elkapi.tasks.addresses import CALLBACKS


class _Challenge(msgspec.Struct):
    challenge: str | None = None


_challenge = msgspec.json.Decoder(_Challenge)


async def called_back(plane: DataPlane, call: Call) -> None:
    """Answer a provider. Raises NotFound for an invalid address, Unavailable."""
    task_id = plane.addresses.task_of(call.path.removeprefix(CALLBACKS))
    if task_id is None:
        raise NotFound("Nothing is served at this URL.", code="unknown_url")
    body = await call.body()
    try:
        asked = _challenge.decode(body).challenge
    except NOT_JSON:
        asked = None
    if asked is not None:
        send_json(call, {"challenge": asked[:1024]})
        return
    await plane.tasks.write(lambda connection: tasks.poke(connection, task_id))
    call.reply.send(200, JSON, b"{}")
