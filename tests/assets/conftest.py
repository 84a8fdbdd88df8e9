"""A store of each kind, asked by the same tests: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elkapi.assets.store import AssetStore, open_store
from elkapi.settings import Settings


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on loopback, in threads of this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket_url(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """ELKAPI_STORAGE_URL of a fresh prefix in a bucket that is there."""
    import httpx

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert httpx.put(f"{s3_endpoint}/bucket").status_code in (200, 409)
    return f"s3://bucket/{tmp_path.name}?endpoint={s3_endpoint}"


@pytest.fixture(params=["folder", "s3"])
def storage_url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "folder" else str(request.getfixturevalue("bucket_url"))


@pytest.fixture
def store(storage_url: str, tmp_path: Path) -> AssetStore:
    return open_store(Settings(data_dir=str(tmp_path), storage_url=storage_url))
