"""Sends an upstream a free request with each credential of a channel; the operator judges the answers."""

from __future__ import annotations

import time

import msgspec

from elkapi.admin import channels as admin_channels
from elkapi.admin.context import Admin
from elkapi.admin.errors import Missing
from elkapi.catalog.upstreams import UPSTREAM_FAMILIES, probe_path
from elkapi.control.prober import probed
from elkapi.storage.repos import channels
from elkapi.upstream import UpstreamClient

NOTHING_TO_ASK = "this family has no free endpoint to probe"


class ProbeResult(msgspec.Struct, frozen=True):
    """The result for one credential. `revived`: this probe re-enabled it. `detail`: why the request failed."""

    key_id: int
    hint: str
    works: bool
    outcome: str
    duration_ms: float
    revived: bool
    detail: str = ""


async def test_channel(admin: Admin, which: str) -> list[ProbeResult]:
    """Probe every credential of a channel, even a disabled one. Re-enables those that work and that the gateway
    disabled; those disabled by an operator stay so. Raises Missing.
    """
    view = admin_channels.show_channel(admin, which)
    with admin.database.read() as connection:
        loaded = {entry.channel.id: entry.channel for entry in channels.load_channels(connection, admin.sealer)}
    channel = loaded.get(view.id)
    if channel is None or channel.family not in UPSTREAM_FAMILIES:
        raise Missing(f"no channel {which!r} can be probed")
    secrets = {key.id: key for key in channel.keys}
    client = UpstreamClient()
    results = []
    try:
        for key in view.keys:
            if key.id not in secrets:
                results.append(
                    ProbeResult(key.id, key.hint, False, "cannot be decrypted with this secret key", 0.0, False)
                )
                continue
            started_s = time.perf_counter()
            outcome, works, detail = NOTHING_TO_ASK, False, ""
            if probe_path(channel):
                outcome, answered, detail = await probed(client.send, channel, secrets[key.id])
                works = bool(answered)
            duration_ms = round((time.perf_counter() - started_s) * 1000, 1)
            revived = works and not key.enabled and key.disabled_by == channels.AUTOMATIC
            if revived:
                admin_channels.set_channel_key_enabled(admin, key.id, True)
            results.append(ProbeResult(key.id, key.hint, works, outcome, duration_ms, revived, detail))
    finally:
        await client.aclose()
    return results
