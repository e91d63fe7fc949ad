"""What a cluster lets a user do, by its partitions, associations and QOS, without a Slurm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_status
import pytest
from made_projects import cluster_file

from jobs.core.causes import Cause
from jobs.core.unit import Resources, Unit
from jobs.store.rundir import StudyDir
from launch.slurm.levels import level
from launch.slurm.limits import (
    ASSOCIATION,
    QOS,
    SERVICES,
    Limits,
    Partition,
    Tres,
    parse_associations,
    parse_partitions,
    parse_qos,
)
from launch.slurm.parse import Config, NodeGroup, Place, parse_queue, places
from launch.slurm.text import SEPARATOR
from launch.state.states import State
from launch.study.cluster import load_cluster
from launch.study.plan import MARGIN
from launch.study.presets import StudyError
from launch.submit import limits
from launch.submit.arrays import Pool, Rules, plan_arrays
from launch.submit.fitting import NeverRuns, fitted
from launch.submit.limits import ClusterLimits, Refusal, in_words
from launch.submit.steps import with_time
from launch.submit.throttles import LATER

OPEN = "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL"
ENDLESS = "MaxNodes=UNLIMITED MaxTime=UNLIMITED"
# As scontrol writes them. The limits of `gh` are those that TACC documents for its queue of that name.
PARTITIONS = f"""\
PartitionName=gh {OPEN} Default=YES QoS=gh MaxNodes=64 MaxTime=2-00:00:00 State=UP TotalNodes=100
PartitionName=gh-dev {OPEN} Default=NO QoS=gh-dev MaxNodes=8 MaxTime=02:00:00 State=UP TotalNodes=8
PartitionName=medium {OPEN} Default=NO QoS=N/A MaxNodes=20 MaxTime=1-00:00:00 State=UP TotalNodes=20
PartitionName=small {OPEN} Default=NO QoS=N/A MaxNodes=1 MaxTime=01:00:00 State=UP TotalNodes=2
PartitionName=paid AllowAccounts=rich,dept DenyQos=long Default=NO {ENDLESS} State=UP TotalNodes=4
PartitionName=fast AllowGroups=ALL DenyAccounts=ours AllowQos=fast Default=NO {ENDLESS} State=UP TotalNodes=4
PartitionName=club AllowGroups=members AllowAccounts=ALL Default=NO {ENDLESS} State=UP TotalNodes=4
PartitionName=down {OPEN} Default=NO {ENDLESS} State=DOWN TotalNodes=4
PartitionName=drain {OPEN} Default=NO {ENDLESS} State=DRAIN TotalNodes=4
PartitionName=off {OPEN} Default=NO {ENDLESS} State=INACTIVE TotalNodes=4
"""


def lines(columns: Sequence[str], *rows: dict[str, str]) -> str:
    """What Slurm's programs print for some columns."""
    return "\n".join(SEPARATOR.join(row.get(column, "") for column in columns) for row in rows)


ROWS = lines(
    ASSOCIATION,
    {"ID": "7", "Account": "ours", "User": "ann", "MaxSubmit": "90", "MaxWall": "1-00:00:00"},
    {"ID": "8", "Account": "theirs", "User": "ann"},
    # By partition, as CSC and LUMI have them.
    {"ID": "9", "Account": "project", "User": "ann", "MaxSubmit": "210", "Partition": "medium"},
    {"ID": "10", "Account": "project", "User": "ann", "MaxSubmit": "2", "Partition": "small"},
    {"Account": "ours", "ParentName": "dept", "GrpTRES": "cpu=128,node=3"},
    {"Account": "dept", "ParentName": "root", "GrpSubmit": "200"},
    {"Account": "root"},
)
NORMAL = [{"ID": id, "QOS": "normal,long", "DefaultQOS": "normal"} for id in ("7", "8", "9", "10")]
KINDS = lines(
    QOS,
    {"Name": "normal"},
    {"Name": "gh", "MaxJobsPU": "20", "MaxSubmitPU": "40"},
    {"Name": "gh-dev", "MaxJobsPU": "1", "MaxSubmitPU": "3"},
    {"Name": "long", "MaxWall": "7-00:00:00", "Flags": "PartitionTimeLimit"},
    {"Name": "over", "MaxSubmitPU": "50", "Flags": "DenyOnLimit,OverPartQOS"},
    {"Name": "gpus", "MinTRES": "gres/gpu=1"},
    {"Name": "wide", "Flags": "PartitionMaxNodes"},
)


def made(folder: Path, everywhere: bool = False, **sbatch: Any) -> ClusterLimits:
    """What the cluster above lets `ann` do, with these options of sbatch."""
    enforced = ("associations", "limits", "qos")
    config = Config("lab", "22.05", 1001, 10_000, 300, True, enforced, False, everywhere)
    tables = (
        parse_partitions(PARTITIONS),
        parse_associations(ROWS, lines(SERVICES, *NORMAL)),
        parse_qos(KINDS),
    )
    assert [table.malformed for table in tables] == [(), (), ()]
    partitions = tables[0].rows
    nodes = tuple(NodeGroup(p.name, p.nodes, 64, ()) for p in partitions)
    cluster = load_cluster(str(cluster_file(folder, sbatch=sbatch)))
    return ClusterLimits(cluster, config, partitions, nodes, tables[1].rows, tables[2].rows)


def unit(**needs: Any) -> Unit:
    return Unit("tokenize", "a", {}, resources=Resources(**{"hours": 0.5, **needs}))


def of_stage(stage: str) -> Unit:
    return Unit(stage, "a", {}, resources=Resources(hours=0.5))


KEEPER = of_stage("report")


def refusal(found: ClusterLimits, of: Unit) -> str:
    with pytest.raises(Refusal) as caught:
        found.admit([of])
    return str(caught.value).removeprefix("tokenize a: ")


PAID = {"partition": "paid", "account": "theirs"}


@pytest.mark.parametrize(
    ("options", "needs", "words"),
    [
        (PAID, {}, "partition paid does not take account theirs, only rich, dept:"),
        ({"partition": "paid", "account": "ours", "qos": "long"}, {}, "partition paid does not take QOS"),
        ({"partition": "fast", "account": "ours"}, {}, "partition fast does not take account ours: name"),
        ({"partition": "fast", "account": "theirs"}, {}, "partition fast does not take QOS normal"),
        ({"partition": "club"}, {}, "partition club is for the groups members only: request less"),
        ({"partition": "drain"}, {}, "partition drain is in state DRAIN and accepts no jobs: name"),
        ({"partition": "off"}, {}, "partition off is in state INACTIVE and accepts no jobs: name"),
        ({"partition": "gh,nodes"}, {}, "no partition 'nodes'; available: gh, gh-dev,"),
        ({"account": "project"}, {}, "account project may use the partitions medium, small, not gh: name"),
        ({"account": "ours"}, {"cpus_per_task": 64, "nodes": 3}, "needs 192 cores, and your account may"),
        ({"account": "ours"}, {"nodes": 4}, "needs 4 nodes, and your account may use 3: request less"),
        ({"qos": "gpus"}, {}, "requests 0 GPUs, and its QOS requires at least 1"),
        ({"partition": "medium"}, {"nodes": 21}, "needs 21 nodes, and partition medium allows at most 20"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, needs: Any, words: str
) -> None:
    monkeypatch.setattr(limits, "user_groups", lambda: frozenset({"users"}))
    assert refusal(made(tmp_path, **options), unit(**needs)).startswith(words)


def test_a_partition_refuses_the_qos_of_a_stage_where_the_cluster_enforces_qos(tmp_path: Path) -> None:
    found, sbatch = made(tmp_path), {"partition": "paid", "account": "ours"}
    file = cluster_file(tmp_path, sbatch=sbatch, stages={"tokenize": {"qos": "long"}})
    found = replace(found, cluster=load_cluster(str(file)))
    assert refusal(found, unit()).startswith("partition paid does not take QOS long: name another")
    other = Unit("collate", "a", {}, resources=Resources(hours=0.5))  # whose QOS is that of the account
    assert found.admit([other]) == [other]
    free = replace(found, config=replace(found.config, enforced=("associations", "limits")))
    assert free.admit([unit()]) == [unit()]


@pytest.mark.parametrize(
    ("options", "hours", "allowed"),
    [
        ({"partition": "paid", "account": "ours"}, 20, 20),  # an account above is allowed
        ({"partition": "small,medium"}, 40, 24),  # one that fits is enough, and it is short for the other
        ({"partition": "small,medium"}, 1, 1),
        ({"partition": "small,medium"}, 2, 2),
        ({"partition": "gh", "account": "ours"}, 40, 24),  # of the association
        (
            {"partition": "gh", "account": "ours", "qos": "long"},
            200,
            168,
        ),  # of the QOS, which goes before both
        ({"partition": "gh", "account": "OURS"}, 1, 1),  # Slurm takes either
        ({"partition": "down"}, 1, 1),
        ({"partition": "club"}, 1, 1),
    ],
)
def test_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, hours: float, allowed: float
) -> None:
    monkeypatch.setattr(limits, "user_groups", lambda: frozenset({"users", "members"}))
    found = made(tmp_path, **options)
    [admitted] = found.admit([unit(hours=hours)])
    assert admitted.resources.hours == allowed


def test_a_qos_may_set_the_nodes_of_a_partition_aside(tmp_path: Path) -> None:
    wide = made(tmp_path, partition="gh", account="theirs", qos="wide")
    assert wide.admit([unit(nodes=100)]) == [unit(nodes=100)]
    assert refusal(wide, unit(nodes=101)).startswith("needs 101 nodes, and partition gh allows at most 100")
    narrow = made(tmp_path, partition="gh", account="theirs")
    assert refusal(narrow, unit(nodes=65)).startswith("needs 65 nodes, and partition gh allows at most 64")


def test_a_full_queue_has_no_room(tmp_path: Path) -> None:
    taken = (Place("1", tuple(range(10_001)), ("gh",), "ours", "normal"),)
    rules = made(tmp_path, partition="gh", account="ours").rules([unit()], taken, KEEPER)
    assert {rules.room, *(pool.room for pool in rules.pools)} == {0}


def test_where_all_partitions_of_a_list_have_to_fit_they_do(tmp_path: Path) -> None:
    found = made(tmp_path, everywhere=True, partition="small,medium")
    assert found.admit([unit(hours=2)])[0].resources.hours == 1
    assert refusal(found, unit(nodes=2)).startswith("needs 2 nodes, and partition small allows at most 1")


def test_who_has_no_account_for_a_partition_is_told_of_those_that_there_are(tmp_path: Path) -> None:
    found = made(tmp_path, partition="gh")
    assert found.associations
    project = tuple(row for row in found.associations if row.account == "project")
    two = made(tmp_path, partition="gh,medium", account="project")
    assert two.admit([unit(nodes=20)]) == [unit(nodes=20)]
    neither = refusal(made(tmp_path, partition="gh,down", account="project"), unit())
    assert neither.count("; account project may use the partitions medium, small, not down: ") == 1
    only = "your accounts (project) may use the partitions medium, small, not gh: name another partition"
    assert refusal(replace(found, associations=project), unit()).startswith(only)
    with pytest.raises(Refusal, match=r"^jobs of stage tokenize: your accounts \(project\) may use"):
        replace(found, associations=project).rules([unit()], (), None)
    accounts = tuple(row for row in found.associations if not row.user)
    none = replace(found, associations=accounts)
    assert refusal(none, unit()).startswith("you have no account on this cluster, which refuses jobs without")
    free = replace(none, config=replace(found.config, enforced=()))
    assert free.admit([unit()]) == [unit()]
    assert replace(found, associations=None).admit([unit(nodes=4)]) == [unit(nodes=4)]
    unlimited = replace(found, config=replace(found.config, enforced=("associations",)))
    assert unlimited.admit([unit(nodes=4)]) == [unit(nodes=4)]


@pytest.mark.parametrize("enforced", ["associations", "limits", "qos", "safe"])
def test_limits_count_where_the_cluster_enforces_them(tmp_path: Path, enforced: str) -> None:
    found = made(tmp_path, partition="gh", account="ours")
    found = replace(found, config=replace(found.config, enforced=(enforced,)))
    if enforced == "associations":
        assert found.admit([unit(nodes=4)]) == [unit(nodes=4)]
    else:
        assert refusal(found, unit(nodes=4)).startswith("needs 4 nodes, and your account may use 3")


def test_without_a_default_partition_any_that_fits_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(tmp_path)
    found = replace(found, partitions=tuple(p for p in found.partitions if not p.default))
    assert found.admit([unit(nodes=20)]) == [unit(nodes=20)]
    assert "needs 30 nodes, and partition medium allows at most 20" in refusal(found, unit(nodes=30))
    monkeypatch.setenv("SBATCH_PARTITION", "small")
    found = replace(made(tmp_path), partitions=found.partitions)
    assert refusal(found, unit(nodes=20)).startswith("needs 20 nodes, and partition small allows at most 1")


def test_all_reasons_are_told_at_once_and_each_once(tmp_path: Path) -> None:
    found = made(tmp_path, partition="small,medium")
    units = [
        Unit("tokenize", name, {"name": name}, resources=Resources(nodes=n))
        for name, n in zip("abc", (30, 1, 30), strict=True)
    ]
    with pytest.raises(Refusal) as caught:
        found.admit([*units, Unit("train", "d", {}, resources=Resources(nodes=40))])
    first, second = str(caught.value).splitlines()
    assert first.startswith("tokenize a and 1 more: needs 30 nodes, and partition small allows at most 1: ")
    assert "; needs 30 nodes, and partition medium allows at most 20: " in first
    assert second.startswith("train d: needs 40 nodes, ")


def test_memory_is_asked_for_where_the_cluster_counts_it(tmp_path: Path) -> None:
    uncounted = made(tmp_path)
    found = replace(uncounted, config=replace(uncounted.config, tracks_memory=True))
    [asks] = found.admit([unit(memory=1000)])
    assert (asks.resources.memory, asks.resources.raised) == (1000, 2000)
    own = replace(found, cluster=load_cluster(str(cluster_file(tmp_path, sbatch={"mem": "4G"}))))
    for without in (uncounted, own):
        assert without.admit([unit(memory=1000)]) == [unit()]


def test_memory_that_comes_with_cores_is_had_by_requesting_cores(tmp_path: Path) -> None:
    """As at Jean Zay and MareNostrum 5, where jobs must not request memory."""
    found = made(tmp_path)
    found = replace(found, config=replace(found.config, tracks_memory=True))
    file = cluster_file(tmp_path, memory="cores", core_memory=4)
    found = replace(found, cluster=load_cluster(str(file)))
    for needs, cores in (
        ({"memory": 4096}, 1),
        ({"memory": 4097}, 2),
        ({"memory": 3000, "raised": 90_000}, 22),
    ):
        [asks] = found.admit([unit(**needs)])
        assert asks.resources.cpus_per_task == cores
        assert asks.resources.memory == max(needs.values())  # what an attempt is recorded to have had
        assert found.cluster.memory_option("tokenize", asks.resources) == {}
    [asks] = found.admit([unit(memory=40_000, tasks_per_node=2, cpus_per_task=3)])
    assert asks.resources.cpus_per_task == 5
    assert "needs 1 node with 65 cores" in refusal(found, unit(memory=65 * 4096))
    own = load_cluster(str(cluster_file(tmp_path, memory="cores", core_memory=4, sbatch={"mem": "9G"})))
    assert replace(found, cluster=own).admit([unit(memory=9000)])[0].resources.cpus_per_task == 1
    for wrong in ({"memory": "cores"}, {"core_memory": 4}):
        with pytest.raises(StudyError, match="'memory: cores' and 'core_memory', in GiB, are given together"):
            load_cluster(str(cluster_file(tmp_path, **wrong)))


def test_jobs_with_other_options_by_their_time_are_in_other_arrays(tmp_path: Path) -> None:
    """One array has one time limit, by which all of its jobs would have the options of the longest."""
    short, long = (
        Unit("tokenize", n, {"name": n}, resources=Resources(hours=h)) for n, h in (("s", 3), ("l", 6))
    )
    units, found = [short, long], made(tmp_path)
    for when, arrays in (([], 1), ([{"hours": "<=4", "set": {"partition": "medium"}}], 2)):
        file = cluster_file(tmp_path, sbatch={"partition": "gh"}, when=when)
        rules = replace(found, cluster=load_cluster(str(file))).rules(units, (), None)
        planned = plan_arrays(units, {u.id for u in units}, {}, rules).arrays
        assert len(planned) == arrays
    assert {array.resources.hours for array in planned} == {3, 6}


def test_limits_in_words() -> None:
    limits = Limits(3, 4, Tres(5, 6, 7), Tres(8, 9, 10), 5400)
    assert in_words(limits) == (
        "at most 4 jobs in the queue, 3 jobs running, 5 GPUs in use, 6 cores in use, 7 nodes in use, "
        "8 GPUs per job, 9 cores per job, 10 nodes per job, 1.5 h per job"
    )
    assert in_words(Limits()) == "no limits"
    assert in_words(Limits(jobs=0)) == "at most 0 jobs running"


def test_a_partition_that_is_down_is_named(tmp_path: Path) -> None:
    assert made(tmp_path, partition="gh").notices([unit()]) == []
    [notice] = made(tmp_path, partition="down").notices([unit(), of_stage("train")])
    assert notice.startswith("partition down is DOWN: it accepts jobs, which start once")


@pytest.mark.parametrize(
    ("kind", "number", "words"), [("gpus", 6, "6 GPUs"), ("cpus", 32, "32 cores"), ("nodes", 2, "2 nodes")]
)
def test_amounts_up_to_each_limit_are_allowed(kind: str, number: int, words: str) -> None:
    needs = Resources(nodes=2, tasks_per_node=2, cpus_per_task=8, gpus_per_node=3)
    main = Partition("main", True, "UP", 2, None, None)
    nodes = (NodeGroup("main", 1, 16, (("h100", 2), ("a100", 1))), NodeGroup("main", 1, 16, (("h100", 4),)))

    def of(count: int | None) -> Tres:
        return Tres(**{kind: count})

    def allowed(of_job: int | None, held: int | None, least: int | None = None) -> bool:
        assert fitted(needs, main, nodes, Limits(held=of(held), job=of(of_job)), of(least)) == needs
        return True

    assert allowed(None, None)
    assert allowed(number, None)
    assert allowed(None, number)
    assert allowed(number, number + 1, number)
    for of_job, held in ((number - 1, None), (None, number - 1), (number + 1, number - 1)):
        with pytest.raises(NeverRuns, match=f"^needs {words}, and your account may use {number - 1}: "):
            allowed(of_job, held)
    with pytest.raises(NeverRuns, match=f"^requests {words}, and its QOS requires at least {number + 1}: "):
        allowed(None, None, number + 1)


@pytest.mark.parametrize("limits", [Limits(jobs=0), Limits(submitted=0)])
def test_who_may_run_no_job_is_told(limits: Limits) -> None:
    main, nodes = Partition("main", True, "UP", 1, None, None), (NodeGroup("main", 1, 1, ()),)
    assert fitted(Resources(), main, nodes, Limits(jobs=1, submitted=1)) == Resources()
    with pytest.raises(NeverRuns, match="your account may not run any job: "):
        fitted(Resources(), main, nodes, limits)


def test_nodes_have_to_have_all_of_what_is_asked_for_in_the_partition() -> None:
    main = Partition("main", True, "UP", 9, 5, 3600)
    nodes = (
        NodeGroup("main", 2, 8, (("h100", 1), ("a100", 1))), NodeGroup("main", 3, 4, ()),
        NodeGroup("other", 9, 64, (("h100", 8),)),
    )  # fmt: skip

    def fits(hours: float = 1, **needs: int) -> float:
        return fitted(Resources(hours=hours, **needs), main, nodes, Limits()).hours

    assert fits(nodes=5, cpus_per_task=2, tasks_per_node=2) == 1
    assert fits(nodes=2, cpus_per_task=8, gpus_per_node=2) == 1
    for words, needs in {
        "6 nodes, and partition main allows at most 5: ": {"nodes": 6},
        "3 nodes with 5 cores, and partition main does not have that many: ": {
            "nodes": 3,
            "cpus_per_task": 5,
        },
        "1 node with 9 cores, and": {"cpus_per_task": 9},
        "1 node with 1 core and 3 GPUs, and partition main .* many: set 'gpus_per_node: 2' in": {
            "gpus_per_node": 3
        },
        "1 node with 4 cores and 4 GPUs, and .* many: set 'gpus_per_node: 2' in the cluster file, request": {
            "gpus_per_node": 4,
            "tasks_per_node": 4,
        },
        "3 nodes with 1 core and 1 GPU, and": {"nodes": 3, "gpus_per_node": 1},
    }.items():
        with pytest.raises(NeverRuns, match=f"^needs {words}"):
            fits(**needs)
    assert (fits(hours=0.5), fits(hours=0.9999)) == (0.5, 0.9999)
    assert fits(hours=MARGIN) == 1  # it is expected to take an hour
    with pytest.raises(
        NeverRuns, match=r"take 1\.1 h, and partition main or your account allows 1 h per job: "
    ):
        fits(hours=1.1 * MARGIN)


GPUS = "gres/gpu=8"


@pytest.mark.parametrize(
    ("mine", "account", "service"),
    [
        ({"MaxTRES": GPUS}, {}, {}),
        ({}, {"GrpTRES": GPUS}, {}),
        ({}, {}, {"MaxTRES": GPUS}),
        ({}, {}, {"MaxTRESPU": GPUS}),
        ({}, {}, {"MaxTRESPA": GPUS}),
        ({}, {}, {"GrpTRES": GPUS}),
        ({"MaxTRES": "gres/gpu=4"}, {}, {"MaxTRES": GPUS}),  # the QOS replaces it
        ({"MaxTRES": "gres/gpu=12"}, {"GrpTRES": GPUS}, {"MaxTRESPU": "gres/gpu=16"}),
    ],
)
def test_gpus_are_limited_by_user_account_and_qos(
    tmp_path: Path, mine: dict[str, str], account: dict[str, str], service: dict[str, str]
) -> None:
    rows = lines(
        ASSOCIATION,
        {"ID": "7", "Account": "ours", "User": "ann", **mine},
        {"Account": "ours", "ParentName": "root", **account},
    )
    served = lines(SERVICES, {"ID": "7", "QOS": "normal", "DefaultQOS": "normal"})
    found = replace(
        made(tmp_path),
        nodes=(NodeGroup("medium", 20, 64, (("h100", 4),)),),
        cluster=load_cluster(str(cluster_file(tmp_path, sbatch={"partition": "medium"}))),
        associations=parse_associations(rows, served).rows,
        qos=parse_qos(lines(QOS, {"Name": "normal", **service})).rows,
    )
    two, three = (unit(nodes=n, gpus_per_node=4) for n in (2, 3))
    assert found.admit([two]) == [two]
    assert refusal(found, three).startswith("needs 12 GPUs, and your account may use 8: ")


def test_each_stage_has_its_own_options(tmp_path: Path) -> None:
    stages = {
        "train": {"partition": "small", "account": "project"}, "report": {"partition": "down"},
        "evaluate": {"partition": "fast", "account": "theirs", "qos": "fast"}, "collate": {"qos": "over"},
    }  # fmt: skip
    found = made(tmp_path)
    file = cluster_file(
        tmp_path, sbatch={"partition": "gh", "account": "ours"}, stages=stages, max_jobs=7, max_gpus=8
    )
    found = replace(found, cluster=load_cluster(str(file)))
    rules = found.rules([of_stage("train")], (), None)
    assert (rules.max_array_size, rules.max_jobs, rules.max_gpus) == (1001, 7, 8)
    two_hours = Resources(hours=2)
    train, evaluation = (Unit(stage, "u", {}, resources=two_hours) for stage in ("train", "evaluate"))
    assert [u.resources.hours for u in found.admit([train, evaluation])] == [1, 2]
    assert rooms(found, "train") == {"account project in partition small": 2}
    assert ("QOS gh" in rooms(found, "tokenize"), "QOS over" in rooms(found, "collate")) == (True, True)
    train, pack, report = (of_stage(stage) for stage in ("train", "tokenize", "report"))
    assert {pool.name: pool.units for pool in found.rules([train, pack], (), None).pools} == {
        "account project in partition small": {train.id}, "QOS gh": {pack.id}, "account dept": {pack.id},
    }  # fmt: skip
    assert (found.notices([pack, train]), len(found.notices([train, report]))) == ([], 1)


TAKEN = "\n".join(
    SEPARATOR.join((id, state, "None", "N/A", "", partition, account, qos, "name"))
    for id, state, partition, account, qos in (
        ("5_[0-9%2]", "PENDING", "gh", "theirs", "normal"),
        ("6_0", "RUNNING", "gh", "ours", "normal"),
        ("7", "PENDING", "gh-dev,medium", "project", "long"),
        ("8", "COMPLETED", "gh", "ours", "normal"),
        ("9", "PENDING", "medium", "theirs", "over"),
    )
)


def rooms(found: ClusterLimits, *stages: str, keeper: Unit | None = None) -> dict[str, int]:
    rules = found.rules([of_stage(stage) for stage in stages], places(parse_queue(TAKEN)), keeper)
    assert rules.room == 10_000 - 13 - (keeper is not None)
    assert len({pool.name for pool in rules.pools}) == len(rules.pools)
    return {pool.name: pool.room for pool in rules.pools}


def test_each_limit_on_the_queue_counts_the_jobs_that_it_is_about(tmp_path: Path) -> None:
    ours = {"account dept": 200 - 1}  # also of `ours` alone
    assert rooms(made(tmp_path, account="ours", partition="gh"), "tokenize") == {"QOS gh": 40 - 11} | ours
    dev = made(tmp_path, account="ours", partition="gh-dev")
    assert rooms(dev, "tokenize") == {"QOS gh-dev": 3 - 1} | ours
    assert rooms(dev, "tokenize", keeper=KEEPER) == {"QOS gh-dev": 3 - 1 - 1, "account dept": 200 - 1 - 1}
    assert rooms(made(tmp_path, account="ours", qos="over"), "tokenize") == {"QOS over": 50 - 1} | ours
    assert (
        rooms(made(tmp_path, account="ours", partition="down"), "tokenize") == {"account ours": 90 - 1} | ours
    )
    medium, small = (
        {f"account project in partition {name}": n} for name, n in (("medium", 209), ("small", 2))
    )
    assert rooms(made(tmp_path, account="project", partition="medium"), "tokenize") == medium
    assert rooms(made(tmp_path, account="project", partition="small"), "tokenize") == small


def test_the_limit_of_an_account_is_not_about_partitions_with_a_limit_of_their_own(tmp_path: Path) -> None:
    mine = {"Account": "mixed", "User": "ann"}
    rows = lines(
        ASSOCIATION,
        {"ID": "7", "MaxSubmit": "50", **mine},
        {"ID": "8", "MaxSubmit": "5", "Partition": "small", **mine},
    )
    taken = (Place("1", None, ("small",), "mixed", "x"), Place("2", (0, 1), ("medium",), "mixed", "x"))
    for partition, quota in (
        ("medium", ("account mixed", 50 - 2)), ("small", ("account mixed in partition small", 5 - 1))
    ):  # fmt: skip
        found = replace(made(tmp_path, partition=partition), associations=parse_associations(rows, "").rows)
        assert [(pool.name, pool.room) for pool in found.rules([unit()], taken, None).pools] == [quota]


def test_a_qos_replaces_the_limits_of_the_association_but_not_those_above(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert found.associations is not None
    ours = next(row for row in found.associations if row.account == "ours" and row.user)
    gh = next(p for p in found.partitions if p.name == "gh")

    def limits(qos: str | None) -> Limits:
        return level(ours, found.associations or (), found.qos, qos, gh).limits

    assert (limits(None).jobs, limits(None).submitted, limits(None).job_seconds) == (20, 40, 24 * 3600)
    assert (limits("long").submitted, limits("long").job_seconds) == (40, 7 * 24 * 3600)
    assert limits("over").submitted == 50
    assert limits("over").held == (None, 128, 3)


def test_stages_in_one_pool_share_its_room_and_others_go_on() -> None:
    packs = [Unit("tokenize", f"p{i}", {"i": i}) for i in range(6)]
    trains = [Unit("train", f"t{i}", {"i": i}, (packs[i].as_input(),)) for i in range(6)]
    alone = [Unit("prepare", "x", {})]
    of_trains = frozenset(u.id for u in trains)
    both = Pool("QOS gh-dev", 4, of_trains | {u.id for u in packs})
    pools = (both, Pool("QOS gh", 40, of_trains))
    units = [*alone, *packs, *trains]
    found = plan_arrays(units, {u.id for u in units}, {}, Rules(1001, None, None, None, pools))
    assert Counter(a.stage for a in found.arrays for _ in a.elements) == {"prepare": 1, "tokenize": 4}
    assert {why for u, why in found.held if u.stage == "tokenize"} == {
        f"QOS gh-dev has room for 4 more of your jobs: {LATER}"
    }


def test_a_unit_whose_time_was_too_short_gets_all_that_there_is(tmp_path: Path) -> None:
    root, needs = StudyDir(tmp_path), unit(hours=2)
    for cause, hours in ((Cause.TIME_LIMIT, 24), (Cause.NODE, 2), (None, 2)):
        written = {"cause": cause} if cause else None
        failed = made_status.seen(root, needs, State.FAILED, reason="it ended", written=written)
        assert with_time(needs, failed, 24).resources.hours == hours
