"""What several test files share: a real Slurm cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from cluster import Cluster, packages
from hypothesis import Phase, settings
from small_study import TESTS, wait_for

from jobs.store import clock

# New examples each time: where CI is set, hypothesis would try the same ones again and again. A failure can
# be reproduced with the blob that is printed.
settings.register_profile(
    "new examples", settings.get_profile("default"), derandomize=False, print_blob=True, deadline=None
)
# For mutants.py, which wants to know whether a test fails and not the smallest example of it.
settings.register_profile(
    "mutants",
    settings.get_profile("new examples"),
    max_examples=30,
    phases=(Phase.explicit, Phase.generate),
    database=None,
)
settings.load_profile("new examples")

# Files that take minutes. They start first, so that the processes that share the tests end at the same time.
LONG = (
    "test_demo", "test_chaos", "test_newcomer", "test_slurm_study", "test_resume", "test_limits_slurm",
    "test_generate", "test_train", "test_submit_slurm", "test_again_slurm", "test_budget_trainings",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, and mark the tests that need a real Slurm, for `make test-slurm-versions`."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))
    for item in items:
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail in CI what is skipped, unless it is marked `optional`: nobody reads the reasons there."""
    report = yield
    if not item.get_closest_marker("optional"):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for files that are skipped whole."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A stage that a test runs in this process listens to signals, which are to end the tests again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _clock() -> None:
    """The file server's clock is not compared with the time that another test has stopped."""
    clock._found.clear()


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


@pytest.fixture
def on_the_cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Submit to the cluster, whose jobs find this code and its tests; its queue is empty afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}:{TESTS}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    slurm.run("scancel", "--me")
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "the queue to be empty", 120)
