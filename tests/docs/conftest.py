from collections.abc import Iterator

import pytest

from tests.live import LiveGateway, running_gateway


@pytest.fixture(scope="session")
def docs_gateway() -> Iterator[LiveGateway]:
    """A gateway for samples alone: they add channels and prices that other suites do not expect."""
    with running_gateway() as gateway:
        yield gateway
