"""What is decided by the answers of a site whose plugins choose partitions and rename accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_clusters import GENERIC
from test_limits import made, of_stage, refusal, unit

from jobs.core.unit import Resources, Unit
from launch.slurm.answers import Answer, would
from launch.slurm.assumed import AssumedClient
from launch.slurm.client import SlurmClient
from launch.slurm.parse import NodeGroup
from launch.slurm.text import Table
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import load_cluster
from launch.submit.limits import ClusterLimits
from launch.submit.site import ask_site

# As Slurm 22.05 and sites' plugins print them.
RUNS = "sbatch: Job 7 to start at 2026-11-30T17:12:42 using 1 processors on nodes n1 in partition medium\n"
EXPLAINED = "sbatch: error: name no partition here\nallocation failure: Unspecified error\n"
ON_STDOUT = (
    "-----\n--> Verifying that quota...OK\n--> Please specify -A\nallocation failure: Unspecified error\n"
)
FULL = (
    "sbatch: error: AssocMaxSubmitJobLimit\nallocation failure: Job violates accounting/QOS policy (job "
    "submit limit, user's size and/or time limits)\n"
)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (f"Welcome to the cluster\n{RUNS}", Answer("medium")),
        (EXPLAINED, Answer(refused=("name no partition here",))),
        (ON_STDOUT, Answer(refused=("--> Please specify -A",))),
        (
            "allocation failure: Invalid account or account/partition combination specified\n",
            Answer(refused=("Invalid account or account/partition combination specified",)),
        ),
        ("allocation failure: Requested node configuration is not available\n", Answer()),
        ("allocation failure: Requested nodes are busy\n", Answer()),
        (FULL, Answer()),
        (
            "allocation failure: Requested time limit is invalid (missing or exceeds some limit)\n",
            Answer(too_long=True),
        ),
        ("sbatch: error: Unable to contact slurm controller (connect failure)\n", Answer()),
        ("", Answer()),
    ],
)
def test_an_answer(said: str, answer: Answer) -> None:
    assert would(said) == answer


@dataclass
class Site(SlurmClient):
    """A site that gives these answers in turn, then the last one again."""

    given: Sequence[Answer | SlurmUnavailable]
    scripts: list[str] = field(default_factory=list)

    def would(self, script: str) -> Answer:
        self.scripts.append(script)
        answer = self.given[min(len(self.scripts), len(self.given)) - 1]
        if isinstance(answer, SlurmUnavailable):
            raise answer
        return answer


def asked(found: ClusterLimits, units: Sequence[Unit], *given: Answer | SlurmUnavailable) -> ClusterLimits:
    return ask_site(found, units, Site(given), Path("/study"))


def filtered(folder: Path, **sbatch: Any) -> ClusterLimits:
    found = made(folder, **sbatch)
    return replace(found, config=replace(found.config, filtered=True))


def test_the_partition_that_the_site_chooses_has_the_limits(tmp_path: Path) -> None:
    """As at Jean Zay, whose default partition is another one than its constraint leads to."""
    wide, long = unit(nodes=20, hours=5), unit(nodes=1, hours=300)
    found = asked(filtered(tmp_path, account="project"), [wide, long], Answer("medium"))
    assert found.admit([wide]) == [wide]
    assert "allows 24 h per job" in refusal(found, long)
    assert [pool.name for pool in found.rules([wide], (), None).pools] == [
        "account project in partition medium"
    ]


@pytest.mark.parametrize("partition", [{}, {"partition": "gh"}])
def test_a_refusal_of_the_site_is_told_before_anything_is_submitted(
    partition: dict[str, str], tmp_path: Path
) -> None:
    found = asked(filtered(tmp_path, **partition), [unit()], Answer(refused=("name a QOS", "see the docs")))
    assert refusal(found, unit()) == "this cluster refuses such a job and says: name a QOS; see the docs"


@pytest.mark.parametrize("answer", [Answer(), SlurmUnavailable("busy")])
def test_without_an_answer_any_partition_that_fits_is_enough(tmp_path: Path, answer: Any) -> None:
    small, wide = unit(hours=5), unit(nodes=20, gpus_per_node=0, hours=40)
    found = asked(filtered(tmp_path, account="ours"), [small, wide], answer)
    assert found.admit([small]) == [small]  # as the default partition allows it
    narrow = replace(found, partitions=tuple(p for p in found.partitions if p.name in ("small", "medium")))
    assert narrow.admit([unit(nodes=2)]) == [unit(nodes=2)]
    assert "needs 30 nodes, and partition medium allows at most 20" in refusal(narrow, unit(nodes=30))


def test_only_what_is_open_is_asked_and_once_for_each_kind_of_job(tmp_path: Path) -> None:
    site = Site([Answer("gh")])
    units = [unit(hours=hours, memory=memory) for hours in (1, 2, 3) for memory in (100, 200)]
    assert ask_site(made(tmp_path), units, site, tmp_path).answers == {}  # its default partition is certain
    assert site.scripts == []
    config = replace(made(tmp_path).config, filtered=True, tracks_memory=True)
    counting = replace(made(tmp_path), config=config)
    found = ask_site(counting, [*units, unit(nodes=2), of_stage("train")], site, Path("/study"))
    assert len(site.scripts) == 3
    assert any("#SBATCH --time=180\n" in script and "--mem=200M" in script for script in site.scripts)
    assert set(found.answers.values()) == {Answer("gh")}
    assert len(found.answers) == 8 + 3  # and one for each kind


def test_where_the_largest_is_refused_each_is_asked_about(tmp_path: Path) -> None:
    no = Answer(refused=("too long for this QOS",))

    class ByTime(Site):
        def would(self, script: str) -> Answer:
            return no if "--time=540\n" in script else Answer("medium")

    found = ask_site(filtered(tmp_path), [unit(hours=1), unit(hours=9)], ByTime([]), tmp_path)
    assert [found.answers[found.request(unit(hours=h))] for h in (1, 9)] == [Answer("medium"), no]


def test_a_time_limit_that_is_too_long_is_asked_about_as_the_estimate(tmp_path: Path) -> None:
    site = Site([Answer(too_long=True), Answer("small")])
    found = ask_site(filtered(tmp_path), [unit(hours=1.5)], site, tmp_path)
    assert ["--time=90\n" in s for s in site.scripts] == [True, False]
    assert "--time=45\n" in site.scripts[1]
    assert found.admit([unit(hours=1.5)]) == [unit(hours=1)]  # what `small` allows


def test_an_account_that_is_not_listed_is_asked_about_and_warned_of_if_that_stays_open(
    tmp_path: Path,
) -> None:
    """As at NERSC (m1 is m1_g) and the Alliance (def-x is def-x_gpu): sites rename accounts."""
    known = made(tmp_path, partition="gh", account="OURS")
    assert (known.is_open(known.request(unit())), known.notices([unit()])) == (False, [])
    other = made(tmp_path, partition="gh", account="our")
    accepted = asked(other, [unit()], Answer("gh"))
    assert (accepted.admit([unit()]), accepted.notices([unit()])) == ([unit()], [])
    long = asked(other, [unit(hours=72)], Answer("gh"))
    fits = long.admit([unit(hours=72)])
    assert (fits, long.notices(fits)) == ([unit(hours=48)], [])  # though nothing was asked about 48 hours
    assert [pool.name for pool in long.rules(fits, (), None).pools] == ["QOS gh"]
    unsure = asked(other, [unit()], Answer())
    assert unsure.admit([unit()]) == [unit()]
    [notice] = unsure.notices([unit()])
    assert notice.startswith(
        "account 'our' is not one of yours (ours, project, theirs): Slurm refuses it, unl"
    )
    no = asked(other, [unit()], Answer(refused=("Invalid account",)))
    assert refusal(no, unit()) == (
        "this cluster refuses such a job and says: Invalid account; account 'our' is not one of yours (ours, "
        "project, theirs): set another one in the cluster file"
    )
    free = replace(other, config=replace(other.config, enforced=("limits",)))
    assert not free.is_open(free.request(unit()))


def test_a_renamed_account_has_the_limits_of_the_one_that_it_becomes(tmp_path: Path) -> None:
    found = made(tmp_path, partition="medium", account="proj")
    assert found.associations
    renamed = tuple(
        replace(row, account="proj_g") if row.account == "project" else row for row in found.associations
    )
    pools = replace(found, associations=renamed).rules([unit()], (), None).pools
    assert [(pool.name, pool.room) for pool in pools] == [("account proj_g in partition medium", 210)]


class WithoutGpus(AssumedClient):
    """As TACC's Vista: GPUs come with the nodes, and are no GRES."""

    def nodes(self) -> Table[NodeGroup]:
        return Table(tuple(replace(group, gpus=()) for group in super().nodes().rows))


def test_gpus_that_slurm_does_not_know_are_those_of_the_cluster_file(tmp_path: Path) -> None:
    one, two = (
        Unit("train", "a", {}, resources=Resources(gpus_per_node=n, tasks_per_node=n, hours=1))
        for n in (1, 2)
    )
    file = tmp_path / "vista.yaml"
    for option in ("gres=gpu:{gpus}", False):
        data = {**GENERIC, "gpus_per_node": 1, "slurm": {"gpu_option": option}}
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        found = ClusterLimits.ask(load_cluster(str(file)), WithoutGpus(["gh"]))
        assert refusal(found, two).startswith(
            "train a: needs 1 node with 2 cores and 2 GPUs, and partition gh"
        )
        if option:
            assert "does not have that many" in refusal(found, one)
        else:
            assert found.admit([one]) == [one]
