"""What a cluster lets a user do, by its partitions, associations and QOS, without a Slurm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_sights
import pytest
from made_projects import cluster_file

from jobs.core.causes import Cause
from jobs.core.unit import Resources, Unit
from jobs.store.rundir import StudyDir
from launch.commands.submit import with_time
from launch.slurm.levels import level
from launch.slurm.limits import (
    ASSOCIATION,
    QOS,
    SERVICES,
    Limits,
    parse_associations,
    parse_partitions,
    parse_qos,
)
from launch.slurm.parse import PLACES, Config, NodeGroup, parse_places
from launch.slurm.text import SEPARATOR
from launch.state.states import State
from launch.study.cluster import load_cluster
from launch.submit import limits
from launch.submit.arrays import Pool, Rules, plan_arrays
from launch.submit.limits import Admission, Refusal

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
)


def made(folder: Path, everywhere: bool = False, **sbatch: Any) -> Admission:
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
    return Admission(cluster, config, partitions, nodes, tables[1].rows, tables[2].rows)


def unit(**needs: Any) -> Unit:
    return Unit("pack", "a", {}, resources=Resources(**{"hours": 0.5, **needs}))


def refusal(found: Admission, of: Unit) -> str:
    with pytest.raises(Refusal) as caught:
        found.admit([of])
    return str(caught.value).removeprefix("pack a: ")


@pytest.mark.parametrize(
    ("options", "needs", "words"),
    [
        ({"partition": "paid", "account": "theirs"}, {}, "partition paid does not take account theirs"),
        ({"partition": "paid", "account": "ours", "qos": "long"}, {}, "partition paid does not take QOS"),
        ({"partition": "fast", "account": "ours"}, {}, "partition fast does not take account ours: name"),
        ({"partition": "fast", "account": "theirs"}, {}, "partition fast does not take QOS normal"),
        ({"partition": "club"}, {}, "partition club is for the groups members only: ask for less"),
        ({"partition": "drain"}, {}, "partition drain is in state DRAIN and takes no jobs: name another one"),
        ({"partition": "off"}, {}, "partition off is in state INACTIVE and takes no jobs: name another one"),
        ({"partition": "gh,nodes"}, {}, "there is no partition 'nodes': there are gh, gh-dev,"),
        ({"account": "project"}, {}, "account project may use the partitions medium, small, not gh: name"),
        ({"account": "ours"}, {"cpus_per_task": 64, "nodes": 3}, "needs 192 cores, and your account may"),
        ({"account": "ours"}, {"nodes": 4}, "needs 4 nodes, and your account may use 3: ask for less"),
        ({"qos": "gpus"}, {}, "asks for 0 GPUs, and its QOS wants 1 or more"),
        ({"partition": "medium"}, {"nodes": 21}, "needs 21 nodes, and partition medium gives at most 20"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, needs: Any, words: str
) -> None:
    monkeypatch.setattr(limits, "_groups", lambda: frozenset({"users"}))
    assert refusal(made(tmp_path, **options), unit(**needs)).startswith(words)


@pytest.mark.parametrize(
    ("options", "hours", "allowed"),
    [
        ({"partition": "paid", "account": "ours"}, 20, 20),  # an account above is allowed
        ({"partition": "small,medium"}, 40, 24),  # one that fits is enough, and it is short for the other
        ({"partition": "small,medium"}, 1, 1),
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
    monkeypatch.setattr(limits, "_groups", lambda: frozenset({"users", "members"}))
    found = made(tmp_path, **options)
    [admitted] = found.admit([unit(hours=hours)])
    assert admitted.resources.hours == allowed


def test_where_all_partitions_of_a_list_have_to_fit_they_do(tmp_path: Path) -> None:
    found = made(tmp_path, everywhere=True, partition="small,medium")
    assert found.admit([unit(hours=2)])[0].resources.hours == 1
    assert refusal(found, unit(nodes=2)).startswith("needs 2 nodes, and partition small gives at most 1")


def test_a_partition_that_is_down_is_named(tmp_path: Path) -> None:
    assert made(tmp_path, partition="gh").notices(["pack"]) == []
    [notice] = made(tmp_path, partition="down").notices(["pack", "train"])
    assert notice.startswith("partition down is DOWN: jobs are taken, and start once")


TAKEN = lines(
    PLACES,
    dict(zip(PLACES, ("5_[0-9%2]", "PENDING", "gh", "theirs", "normal"), strict=True)),
    dict(zip(PLACES, ("6_0", "RUNNING", "gh", "ours", "normal"), strict=True)),
    dict(zip(PLACES, ("7", "PENDING", "gh-dev,medium", "project", "long"), strict=True)),
    dict(zip(PLACES, ("8", "COMPLETED", "gh", "ours", "normal"), strict=True)),
)


def rooms(found: Admission, *stages: str, keeper: str | None = None) -> dict[str, int]:
    taken = parse_places(TAKEN)
    assert taken.malformed == ()
    rules = found.rules(stages, taken.rows, keeper)
    assert rules.room == 10_000 - 12 - (keeper is not None)
    assert len({pool.name for pool in rules.pools}) == len(rules.pools)
    return {pool.name: pool.room for pool in rules.pools}


def test_each_limit_on_the_queue_counts_the_jobs_that_it_is_about(tmp_path: Path) -> None:
    ours = {"account dept": 200 - 1}  # also of `ours` alone
    assert rooms(made(tmp_path, account="ours", partition="gh"), "pack") == {"QOS gh": 40 - 11} | ours
    dev = made(tmp_path, account="ours", partition="gh-dev")
    assert rooms(dev, "pack") == {"QOS gh-dev": 3 - 1} | ours
    assert rooms(dev, "pack", keeper="report") == {"QOS gh-dev": 3 - 1 - 1, "account dept": 200 - 1 - 1}
    assert rooms(made(tmp_path, account="ours", qos="over"), "pack") == {"QOS over": 50} | ours
    assert rooms(made(tmp_path, account="ours", partition="down"), "pack") == {"account ours": 90 - 1} | ours
    medium, small = (
        {f"account project in partition {name}": n} for name, n in (("medium", 209), ("small", 2))
    )
    assert rooms(made(tmp_path, account="project", partition="medium"), "pack") == medium
    assert rooms(made(tmp_path, account="project", partition="small"), "pack") == small


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
    packs = [Unit("pack", f"p{i}", {"i": i}) for i in range(6)]
    trains = [Unit("train", f"t{i}", {"i": i}, (packs[i].as_input(),)) for i in range(6)]
    alone = [Unit("prepare", "x", {})]
    pools = (Pool("QOS gh-dev", 4, frozenset({"pack", "train"})), Pool("QOS gh", 40, frozenset({"train"})))
    units = [*alone, *packs, *trains]
    found = plan_arrays(units, {u.id for u in units}, {}, Rules(1001, None, None, None, pools))
    assert Counter(a.stage for a in found.arrays for _ in a.elements) == {"prepare": 1, "pack": 4}
    assert {why for u, why in found.held if u.stage == "pack"} == {
        "QOS gh-dev has room for 4 jobs of yours: the next 'sor submit' goes on"
    }


def test_a_unit_whose_time_was_too_short_gets_all_that_there_is(tmp_path: Path) -> None:
    root, needs = StudyDir(tmp_path), unit(hours=2)
    for cause, hours in ((Cause.TIME_LIMIT, 24), (Cause.NODE, 2), (None, 2)):
        written = {"cause": cause} if cause else None
        failed = made_sights.seen(root, needs, State.FAILED, reason="it ended", written=written)
        assert with_time(needs, failed, 24).resources.hours == hours
