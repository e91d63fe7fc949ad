"""The demo study under faults, a few of each kind; `make chaos` has more of them.

Needs root, for the networks and the disk that are taken away.
"""

from __future__ import annotations

import os

import pytest
from chaos.study import Work
from chaos.trial import Plan, trial
from cluster import network, packages

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_faults_cost_time_and_nothing_else() -> None:
    why = network.unavailable() or packages.install()
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    told: list[str] = []
    wrong = trial(Plan(seed=1, faults=9, work=Work(prompts=300, epochs=12, shares=(1,))), told.append)
    assert not wrong, "\n".join(told)
