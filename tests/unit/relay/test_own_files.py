"""Which address of a file is ours, and what its provider calls it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from elkapi.clock import ManualClock
from elkapi.errors import BadRequest, NotFound
from elkapi.relay.own_files import made_at
from elkapi.types import Grant, TaskAsset

GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
FILM, POSTER, OTHER = (number * 16 for number in (b"\1", b"\2", b"\3"))
FILES = tuple(
    TaskAsset(id=id_, kind="video", content_type="video/mp4", size_bytes=1, source=source)
    for id_, source in ((POSTER, ""), (FILM, "https://provider.example/film"))
)
TASK: Any = SimpleNamespace(told=SimpleNamespace(assets=FILES))


async def found(address: str, *, is_there: bool = True) -> tuple[Any, str] | None:
    async def run(_work: Any) -> Any:
        return SimpleNamespace(task_id=bytes(16)) if is_there else None

    async def find(grant: Grant, text: str) -> Any:
        assert (grant, text) == (GRANT, f"task_{'0' * 32}")
        return TASK

    plane: Any = SimpleNamespace(
        clock=ManualClock(),
        reader=SimpleNamespace(run=run),
        tasks=SimpleNamespace(find_or_none=find),
        addresses=SimpleNamespace(public_url="https://Gateway.example/below"),
    )
    return await made_at(plane, GRANT, address, "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "path", [f"/v1/assets/{FILM.hex()}/film.mp4?expires=1", f"/v1beta/files/{FILM.hex()}:download?alt=media"]
)
async def test_a_file_has_the_address_that_its_provider_gave_for_it(path: str) -> None:
    assert await found(f"https://gateway.example{path}") == (TASK, "https://provider.example/film")


async def test_a_file_that_its_provider_has_no_address_for_continues_nothing() -> None:
    for id_ in (POSTER, OTHER):
        with pytest.raises(BadRequest) as refused:
            await found(f"https://gateway.example/v1/assets/{id_.hex()}/x.mp4")
        assert (refused.value.code, refused.value.param) == ("not_supported", "video")


async def test_an_address_of_ours_without_a_file_is_not_found_and_any_other_is_its_providers() -> None:
    path = f"/v1/assets/{FILM.hex()}/film.mp4"
    for host in ("https://GATEWAY.example", "http://127.0.0.1:8000"):
        for rest in (path, "/v1/videos"):
            with pytest.raises(NotFound):
                await found(host + rest, is_there=False)
    for address in (f"https://other.example{path}", "https://[", "gs://bucket/film.mp4", "http://127.0.0.1:8001/x"):
        assert await found(address, is_there=False) is None
