"""Trainings keep the number of their GPUs, whatever the size of a cluster's nodes."""

from __future__ import annotations

from typing import Any

import pytest

from launch.study.cluster import load_cluster
from launch.study.model import Training
from launch.study.placement import placed
from launch.study.plan import plan
from launch.study.presets import StudyError
from launch.study.schema import load_study


@pytest.mark.parametrize(
    ("nodes", "gpus", "of_node", "expected"),
    [
        (4, 8, None, (4, 8)), (4, 8, 8, (4, 8)), (4, 8, 4, (8, 4)), (4, 8, 16, (2, 16)), (4, 8, 64, (1, 32)),
        (1, 2, 8, (1, 2)), (1, 8, 1, (8, 1)), (4, 8, 6, (8, 4)), (1, 6, 4, (2, 3)), (1, 7, 4, (7, 1)),
        (2, 3, 4, (2, 3)),
    ],
)  # fmt: skip
def test_gpus_are_spread_over_nodes_of_the_clusters_size(
    nodes: int, gpus: int, of_node: int | None, expected: tuple[int, int]
) -> None:
    cluster = load_cluster("generic").model_copy(update={"gpus_per_node": of_node})
    found = placed(Training(learning_rate=1e-5, nodes=nodes, gpus_per_node=gpus, cpus=3), cluster)
    assert (found.nodes, found.gpus_per_node) == expected
    assert (found.tasks_per_node, found.cpus_per_task) == (found.gpus_per_node, cluster.cpus_per_gpu)
    assert found.world_size == nodes * gpus


@pytest.mark.parametrize(
    ("nodes", "gpus", "group", "of_node", "expected"),
    [(4, 8, 4, None, (4, 8)), (4, 8, 4, 4, (8, 4)), (4, 8, 4, 6, (8, 4)), (2, 6, 2, 6, (2, 6)),
     (2, 12, 4, 6, (6, 4)), (4, 8, 8, 4, None), (4, 8, 8, 64, (1, 32))],
)  # fmt: skip
def test_processes_that_share_blocks_are_on_one_node(
    nodes: int, gpus: int, group: int, of_node: int | None, expected: tuple[int, int] | None
) -> None:
    cluster = load_cluster("generic").model_copy(update={"gpus_per_node": of_node})
    how: dict[str, Any] = {"nodes": nodes, "gpus_per_node": gpus}
    if expected:
        found = placed(Training(learning_rate=1e-5, sequence_parallel=group, **how), cluster)
        assert (found.nodes, found.gpus_per_node) == expected
    else:
        with pytest.raises(StudyError, match=r"generic\.yaml: gpus_per_node: found 4, and 8 .* divisor of 4"):
            placed(Training(learning_rate=1e-5, sequence_parallel=group, **how), cluster)


@pytest.mark.parametrize("how", [{"gpus_per_node": 8}, {"tasks_per_node": 8}])
def test_groups_that_would_reach_over_nodes_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'sequence_parallel: 3', which does not divide the 8 (GPUs|tasks)"):
        Training(learning_rate=1e-5, sequence_parallel=3, nodes=3, **how)


def test_without_gpus_the_preset_says_it_all() -> None:
    cluster = load_cluster("generic").model_copy(update={"gpus_per_node": 4})
    found = placed(Training(learning_rate=1e-5, nodes=3, tasks_per_node=2, cpus=5), cluster)
    assert (found.nodes, found.tasks_per_node, found.gpus_per_node, found.cpus_per_task) == (3, 2, 0, 5)


@pytest.mark.parametrize("name", ["leonardo", "jean-zay", "perlmutter", "roihu"])
def test_the_papers_students_fit_nodes_of_four_gpus_and_keep_their_identities(name: str) -> None:
    study = load_study("scale-or-reason")
    usual, four = (
        [u for u in plan(study, load_cluster(cluster)) if u.stage == "train"] for cluster in ("generic", name)
    )
    assert [u.id for u in usual] == [u.id for u in four]
    assert {u.resources.gpus_per_node for u in four} == {4}
    assert [u.resources.gpus for u in usual] == [u.resources.gpus for u in four]
    assert max(u.resources.memory for u in four) < 256 * 1024  # no node of theirs with four GPUs has less
