"""What several test files share: a real Slurm cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from cluster import Cluster, packages


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real Slurm, for `make test-slurm-versions`."""
    for item in items:
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A stage that a test runs in this process listens to signals, which are to end the tests again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A cluster of two nodes for all tests of a run. Skipped where it cannot be had, but never in CI."""
    why = packages.install()
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    with Cluster(nodes=2, gpus=4) as cluster:
        yield cluster
