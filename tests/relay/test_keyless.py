"""Without a key nothing is served but what is meant for everybody: the whole catalog, every path, every method."""

from __future__ import annotations

import re

from elkapi.catalog import CATALOG
from elkapi.catalog.operation import Role
from tests.gateway import Gateway


async def test_cve_2026_12773_every_route_but_those_for_everybody_wants_a_key(gate: Gateway) -> None:
    for_everybody = [one for one in CATALOG.operations if one.role in (Role.OPEN, Role.CONTROL)]
    # Pages, health, and metrics, which show money only to the operator's own token: none of them reaches an upstream.
    assert {one.family for one in for_everybody} == {"platform"}
    for operation in CATALOG.operations:
        if operation not in for_everybody:
            for path in (operation.path, *operation.aliases):
                reply = await gate.http.request(operation.method, re.sub(r"\{[^}]*\}", "x", path), json={})
                assert reply.status_code == 401, (operation.id, path, reply.text)
