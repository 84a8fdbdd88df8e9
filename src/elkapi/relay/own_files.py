"""Maps addresses of our files, from which a caller continues, to the provider's address of the file.

A provider knows its own address of what it made, and only the account that made it may continue from it.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from elkapi.errors import BadRequest, NotFound
from elkapi.relay.plane import DataPlane
from elkapi.storage.repos import assets
from elkapi.storage.repos.tasks import task_id_text
from elkapi.tasks.record import Task
from elkapi.types import Grant

# A signed address, and the one for Google's clients.
_FILE = re.compile(r"/v1(?:/assets|beta/files)/([0-9a-f]{32})(?::download|/[^/]*)?$")


async def made_at(plane: DataPlane, grant: Grant, address: str, origin: str) -> tuple[Task, str] | None:
    """(the caller's task that made the file, the provider's address of it), or None for an address that is not ours.

    `origin` is how the caller addresses us. Raises NotFound for one of ours without a file of the caller's, BadRequest
    for a file without a provider's address, Unavailable.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    if (hit := _FILE.search(parts.path)) is not None:
        asset_id, now_ns = bytes.fromhex(hit[1]), plane.clock.now_ns()
        row = await plane.reader.run(lambda connection: assets.find(connection, grant, asset_id, now_ns))
        task = None if row is None else await plane.tasks.find_or_none(grant, task_id_text(row.task_id))
        if task is not None:
            source = next((one.source for one in task.told.assets if one.id == asset_id), "")
            if not source:
                message = "The provider of this video cannot extend or remix it; create a new video."
                raise BadRequest(message, code="not_supported", param="video")
            return task, source
    # It is an address of ours nevertheless: a file of the caller's would have been found above.
    if parts.netloc.lower() in {urlsplit(one).netloc.lower() for one in (plane.addresses.public_url, origin) if one}:
        raise NotFound(f"The file '{address[:100]}' does not exist.", code="task_not_exist", param="video")
    return None
