"""What Slurm says, read right: captured text with its rare lines, and all of it again on a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import pytest
from cluster import SCRATCH, Cluster, ClusterError, config, remove_abandoned
from cluster.__main__ import down, up
from hypothesis import given
from hypothesis import strategies as st
from small_study import TESTS, lives, sor, wait_for

from launch.slurm.client import SlurmClient
from launch.slurm.levels import level
from launch.slurm.limits import parse_associations, parse_partitions, parse_qos
from launch.slurm.parse import (
    ENDED,
    QUEUED,
    NoAccounting,
    NotSetUp,
    PastJob,
    Place,
    QueuedJob,
    expand,
    latest,
    live_state,
    parse_config,
    parse_history,
    parse_nodes,
    parse_queue,
    places,
)
from launch.slurm.text import SEPARATOR, parse_duration
from launch.state.errors import SlurmUnavailable
from launch.state.states import State
from launch.submit.limits import in_words

T = TypeVar("T")

# Captured from Slurm 22.05.8; "¦" stands for the separator, which cannot be seen.
QUEUE = """\
12¦COMPLETED¦None¦1795397658¦n[1-4]¦main¦ours¦normal¦wrap
3_2¦FAILED¦NonZeroExitCode¦1795397630¦n1¦main¦ours¦normal¦wrap
1¦PENDING¦PartitionNodeLimit¦N/A¦¦small,big¦ours¦normal¦wrap
2_[3-11%3]¦PENDING¦JobHeldUser¦N/A¦¦main¦ours¦normal¦odd|name¦x "q"
4¦PENDING¦Priority¦1795398000¦¦main¦ours¦normal¦two
lines
"""
HISTORY = """\
1¦PENDING¦0:0¦1795397628¦odd|name¦x
4¦FAILED¦9:0¦1795397628¦wrap
5¦FAILED¦0:9¦1795397628¦wrap
3_4¦FAILED¦137:0¦1795397628¦wrap
8¦CANCELLED by 0¦0:15¦1795397628¦wrap
9¦CANCELLED+¦0:0¦1795397628¦wrap
"""
PARTITIONS = """\
PartitionName=main AllowGroups=ALL Default=YES QoS=N/A MaxNodes=UNLIMITED MaxTime=7-00:00:00 MinNodes=0 \
Nodes=n[1-4] PreemptMode=OFF State=UP TotalCPUs=32 TotalNodes=4 TRES=cpu=32,mem=32000M,gres/gpu=32
PartitionName=debug Default=NO MaxNodes=2 MaxTime=00:30:00 MaxMemPerNode=8000 State=DRAIN TotalNodes=2 \
Nodes=n[1-2]
PartitionName=cut Default=NO
"""
NODES = """\
main¦4¦8¦32000¦gpu:h100:8
main¦2¦128¦512000¦gpu:a100:4(S:0-1),gpu:a100_1g.5gb:7(S:0)
old¦1¦16¦1¦gpu:2,craynetwork:4
cpu¦300¦64¦257000¦(null)
"""
ASSOCIATIONS = """\
7¦ours¦ann¦¦20¦150¦¦¦¦cpu=64,gres/gpu=8¦2-00:00:00¦
3¦ours¦¦dept¦20¦150¦¦900¦cpu=999,gres/gpu=16¦¦¦
2¦dept¦¦root¦¦¦30¦500¦¦¦¦
1¦root¦¦¦¦¦¦¦¦¦¦
"""
SERVICES = "7¦normal,long¦normal\n8¦¦\n"
QOS = "normal¦7¦¦gres/gpu=12,gres/gpu:h100=10¦¦¦¦¦¦¦¦12:00:00¦¦\nlong¦2¦4¦¦¦¦¦¦¦¦¦7-00:00:00¦¦DenyOnLimit\n"
CONFIG = """\
Configuration data as of 2026-11-23T01:33:48
AccountingStorageEnforce = associations,limits,qos
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = lab
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
SelectTypeParameters    = CR_CPU_MEMORY
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at host is UP
"""


def real(text: str) -> str:
    return text.replace("¦", SEPARATOR)


def test_the_queue() -> None:
    table = parse_queue(real(QUEUE))
    assert table.malformed == ("lines",)
    jobs = {id: job for job in table.rows for id in job.ids}
    assert list(jobs) == ["12", "3_2", "1", *(f"2_{i}" for i in range(3, 12)), "4"]
    assert jobs["12"] == QueuedJob(
        "12", None, "COMPLETED", None, 1795397658, "n[1-4]", "main", "ours", "normal", "wrap"
    )
    assert (jobs["1"].reason, jobs["1"].partition) == ("PartitionNodeLimit", "small,big")
    assert jobs["1"].start is None
    assert jobs["1"].nodes is None
    assert jobs["2_3"].name == real('odd|name¦x "q"')
    assert jobs["4"].start == 1795398000


def test_the_places_in_the_queue_are_those_of_live_jobs_and_of_lines_that_make_no_sense() -> None:
    found = places(parse_queue(real(QUEUE)))
    assert [(place.array, list(place.elements or ())) for place in found] == [
        ("1", []), ("2", list(range(3, 12))), ("4", []), ("", []),
    ]  # fmt: skip
    assert found[0] == Place("1", None, ("small", "big"), "ours", "normal")


def test_the_history() -> None:
    table = parse_history(real(HISTORY))
    assert table.malformed == ()
    jobs = {job.id: job for job in table.rows}
    assert jobs["1"] == PastJob("1", "PENDING", None, 0, 0, 1795397628, real("odd|name¦x"))
    assert [(jobs[i].exit_code, jobs[i].signal) for i in ("4", "5", "3_4")] == [(9, 0), (0, 9), (137, 0)]
    assert (jobs["8"].state, jobs["8"].cancelled_by, jobs["8"].signal) == ("CANCELLED", 0, 15)
    assert (jobs["9"].state, jobs["9"].cancelled_by) == ("CANCELLED", None)


@pytest.mark.parametrize(
    "line",
    [
        "", "17", "CLUSTER: other", "17¦RUNNING¦None¦1¦n1",
        "x¦RUNNING¦None¦1¦n1¦main¦ours¦normal¦name", "17¦RUNNING¦None¦soon¦n1¦main¦ours¦normal¦name",
        "17_[1,3,...43...]¦PENDING¦None¦1¦¦main¦ours¦normal¦name",
        "17_[]¦PENDING¦None¦1¦¦main¦ours¦normal¦name",
    ],
)  # fmt: skip
def test_a_line_that_is_no_job_is_handed_back_and_its_neighbours_are_read(line: str) -> None:
    good = "18_3¦RUNNING¦None¦1¦n1¦main¦ours¦normal¦name"
    table = parse_queue(real(f"{good}\n{line}\n{good}\n"))
    assert [job.ids for job in table.rows] == [["18_3"], ["18_3"]]
    assert table.malformed == ((real(line),) if line else ())


@pytest.mark.parametrize("code", ["", "1", "1:2:3", "a:b"])
def test_an_exit_code_that_is_none_is_handed_back(code: str) -> None:
    assert len(parse_history(real(f"5¦FAILED¦{code}¦1¦wrap")).malformed) == 1


def test_of_a_requeued_job_the_last_run_counts() -> None:
    rows = [
        f"7¦{state}¦0:0¦{time}¦wrap"
        for state, time in (("PREEMPTED", 5), ("NODE_FAIL", 9), ("RUNNING", 12), ("REQUEUED", 7))
    ]
    table = parse_history(real("\n".join(rows)))
    assert len(table.rows) == 4
    assert latest(table.rows)["7"].state == "RUNNING"


def test_ids() -> None:
    assert expand("18") == ["18"]
    assert expand("18_4") == ["18_4"]
    assert expand("18+1") == ["18+1"]
    assert expand("18_[3-11:4%3]") == ["18_3", "18_7", "18_11"]
    assert expand("18_[0,2-4,9]") == ["18_0", "18_2", "18_3", "18_4", "18_9"]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 50)), min_size=1, max_size=20))
def test_any_list_of_ranges_is_expanded_to_its_elements(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    elements = [i for first, more in ranges for i in range(first, first + more + 1)]
    assert expand(f"9_[{text}%4]") == [f"9_{i}" for i in elements]


def test_durations() -> None:
    texts = ("7-00:00:00", "01:00:00", "00:30:00", "UNLIMITED", "")
    assert [parse_duration(t) for t in texts] == [604800, 3600, 1800, None, None]
    with pytest.raises(ValueError, match="'soon' is no duration"):
        parse_duration("soon")


def test_partitions() -> None:
    table = parse_partitions(PARTITIONS)
    main, debug = table.rows
    assert (main.name, main.default, main.state, main.nodes, main.max_nodes) == ("main", True, "UP", 4, None)
    assert main.max_seconds == 7 * 24 * 3600
    assert (debug.default, debug.state, debug.max_nodes, debug.max_seconds) == (False, "DRAIN", 2, 1800)
    assert (main.max_memory, debug.max_memory) == (None, 8000)
    assert table.malformed == ("PartitionName=cut Default=NO",)


def test_nodes() -> None:
    groups = parse_nodes(real(NODES)).rows
    assert [g.gpus for g in groups] == [
        (("h100", 8),), (("a100", 4), ("a100_1g.5gb", 7)), (("gpu", 2),), (),
    ]  # fmt: skip
    assert (groups[1].count, groups[1].cpus) == (2, 128)
    assert [g.memory for g in groups] == [32000, 512000, 1, 257000]


def test_config() -> None:
    found = parse_config(CONFIG)
    assert (found.cluster, found.version, found.min_job_age) == ("lab", "22.05.8", 300)
    assert (found.max_array_size, found.max_jobs) == (1001, 10000)
    assert found.accounting
    assert found.enforced == ("associations", "limits", "qos")
    assert found.tracks_memory
    assert not parse_config(CONFIG.replace("CR_CPU_MEMORY", "CR_CPU")).tracks_memory
    without = CONFIG.replace("slurmdbd", "none").replace("associations,limits,qos", "none")
    assert not parse_config(without).accounting
    assert parse_config(without).enforced == ()
    with pytest.raises(SlurmUnavailable, match="MaxArraySize"):
        parse_config(CONFIG.replace("MaxArraySize", "Other"))


def test_of_all_levels_of_limits_the_smallest_counts() -> None:
    rows, qos = parse_associations(real(ASSOCIATIONS), real(SERVICES)), parse_qos(real(QOS))
    assert rows.malformed == qos.malformed == ()
    assert [(row.qos, row.default_qos) for row in rows.rows] == [
        (("normal", "long"), "normal"),
        *[((), None)] * 3,
    ]
    found = level(rows.rows[0], rows.rows, qos.rows).limits
    assert (found.submitted, found.jobs) == (150, 7)  # of the association; of the QOS
    assert (found.held.gpus, found.job.gpus) == (10, 8)  # of the QOS, which the account's 16 exceed
    assert found.job_seconds == 12 * 3600
    assert in_words(found).startswith(
        "at most 150 jobs in the queue, 7 jobs running, 10 GPUs in use, 999 cores in use"
    )
    tight = real(ASSOCIATIONS.replace("¦30¦500¦", "¦3¦50¦"))
    above = parse_associations(tight, "").rows
    assert level(rows.rows[0], above, qos.rows).limits.submitted == 50  # of the account above
    free = parse_associations(real("7¦ours¦ann¦¦¦¦¦¦¦¦¦"), real("7¦¦"))
    assert in_words(level(free.rows[0], [], []).limits) == "no limits"
    assert parse_associations("ours", "7").malformed == ("7", "ours")


def test_states() -> None:
    assert not ENDED & QUEUED
    assert {live_state(s) for s in ENDED} == {None}
    assert live_state("PENDING") == State.QUEUED
    assert live_state("COMPLETING") == State.RUNNING
    assert live_state("SUSPENDED") == State.PREEMPTED
    assert live_state("OF_A_LATER_VERSION") == State.RUNNING


# On a real Slurm


@pytest.fixture
def controller(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmClient]:
    """The cluster's controller; the test's jobs are ended after it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")  # a person's habits must not matter
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    yield SlurmClient()
    slurm.run("scancel", "--me", "--full", "--signal=KILL")
    slurm.run("scancel", "--me")
    eventually(lambda: all(live_state(job.state) is None for job in SlurmClient().queue().rows))


def eventually(ask: Callable[[], T | Literal[False] | None], seconds: float = 60.0) -> T:
    """The first answer that is true; fails if there is none in time."""
    until = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < until, f"waited {seconds} s in vain; last answer: {answer!r}"
        time.sleep(0.2)
    return answer


def sbatch(slurm: Cluster, script: str, *options: str) -> str:
    """Submit one line of shell; returns the job's id."""
    return slurm.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")


def job(controller: SlurmClient, id: str) -> QueuedJob | None:
    table = controller.queue()
    assert table.malformed == ()
    return next((job for job in table.rows if id in job.ids), None)


def state(controller: SlurmClient, id: str) -> str:
    found = job(controller, id)
    return found.state if found else "forgotten"


def runs(controller: SlurmClient, id: str) -> list[PastJob]:
    """What the accounts say of a job, in the order of its runs."""
    table = controller.history(int(time.time()) - 3600)
    assert table.malformed == ()
    return sorted((j for j in table.rows if j.id == id), key=lambda j: j.submitted or 0)


def test_settings_partitions_and_nodes_of_a_real_cluster(slurm: Cluster, controller: SlurmClient) -> None:
    found = controller.config()
    assert re.fullmatch(r"\d\d\.\d\d\.\d+", found.version)
    assert (found.cluster, found.max_array_size, found.accounting) == (config.NAME, 100001, True)
    partitions, nodes = controller.partitions(), controller.nodes()
    assert partitions.malformed == nodes.malformed == ()
    assert [p.name for p in partitions.rows if p.default] == ["main"]
    assert {p.name for p in partitions.rows} == {"main", "low", "lowgrace", "lowcancel", "high"}
    mine = [group for group in nodes.rows if group.partition == "main"]
    assert sum(group.count for group in mine) == slurm.shape.nodes
    assert {group.gpus for group in mine} == {((config.GPU, slurm.shape.gpus),)}


def test_limits_of_a_real_cluster(slurm: Cluster, controller: SlurmClient) -> None:
    set_limits = ("sacctmgr", "--immediate", "--quiet", "modify")
    account, qos = ("account", config.ACCOUNT, "set"), ("qos", "normal", "set")
    try:
        slurm.run(*set_limits, *account, "MaxSubmitJobs=3", "GrpTRES=gres/gpu=16")
        slurm.run(*set_limits, *qos, "MaxJobsPerUser=2", "MaxWall=2:00:00")
        rows, services = controller.associations(config.NAME), controller.qos()
        assert rows.malformed == services.malformed == ()
        own = next(row for row in rows.rows if row.user and row.account == config.ACCOUNT)
        words = in_words(level(own, rows.rows, services.rows).limits)
        assert words == "at most 3 jobs in the queue, 2 jobs running, 16 GPUs in use, 2 h per job"
        eventually(lambda: refused(slurm, "--hold", "--array=0-3"))  # the controller hears of it a bit later
    finally:
        slurm.run(*set_limits, *account, "MaxSubmitJobs=-1", "GrpTRES=gres/gpu=-1")
        slurm.run(*set_limits, *qos, "MaxJobsPerUser=-1", "MaxWall=-1")
    eventually(lambda: not refused(slurm, "--hold", "--array=0-3"))


def refused(slurm: Cluster, *options: str) -> bool:
    """Whether the limit of jobs in the queue keeps a job from being submitted."""
    try:
        sbatch(slurm, "true", *options)
    except ClusterError as error:
        return "AssocMaxSubmitJobLimit" in str(error)
    return False


def test_a_held_array_is_seen_element_by_element(slurm: Cluster, controller: SlurmClient) -> None:
    name = 'odd | "name"'
    array = sbatch(slurm, "true", "--hold", "--array=1-4000:3,9000-9300:7,20,30%3", f"--job-name={name}")
    elements = sorted({*range(1, 4001, 3), *range(9000, 9301, 7), 20, 30})
    table = controller.queue()
    mine = [job for job in table.rows if job.array == array]
    assert sorted(index for job in mine for index in job.elements or ()) == elements
    assert {(job.state, job.reason, job.name) for job in mine} == {("PENDING", "JobHeldUser", name)}


def test_an_array_is_seen_to_its_end_in_the_queue_and_later_in_the_accounts(
    slurm: Cluster, controller: SlurmClient
) -> None:
    array = sbatch(slurm, "exit $((SLURM_ARRAY_TASK_ID % 3))", "--array=0-5")
    ids = [f"{array}_{i}" for i in range(6)]
    ended = {i: "FAILED" if int(i[-1]) % 3 else "COMPLETED" for i in ids}
    eventually(lambda: {i: state(controller, i) for i in ids} == ended)

    def accounts() -> dict[str, PastJob]:
        table = controller.history(int(time.time()) - 3600)
        return {i: job for i, job in latest(table.rows).items() if i in ids}

    last = eventually(
        lambda: len(a := accounts()) == 6 and all(live_state(j.state) is None for j in a.values()) and a
    )
    assert {i: job.state for i, job in last.items()} == ended
    assert [last[i].exit_code for i in ids] == [0, 1, 2, 0, 1, 2]


def test_causes_of_an_end(slurm: Cluster, controller: SlurmClient) -> None:
    killed = sbatch(slurm, "kill -9 $$")
    code = sbatch(slurm, "exit 137")
    stopped = sbatch(slurm, "sleep 300")
    eventually(lambda: state(controller, stopped) == "RUNNING")
    slurm.run("scancel", stopped)

    def ends() -> list[PastJob]:
        last = [run for id in (killed, code, stopped) for run in runs(controller, id)[-1:]]
        return last if len(last) == 3 and all(live_state(run.state) is None for run in last) else []

    by_signal, by_code, by_user = eventually(ends)
    assert (by_signal.state, by_signal.exit_code, by_signal.signal) == ("FAILED", 0, 9)
    assert (by_code.state, by_code.signal) == ("FAILED", 0)
    assert by_code.exit_code in (9, 137)  # the first up to 24.11
    assert (by_user.state, by_user.cancelled_by) == ("CANCELLED", os.getuid())


def test_a_requeued_job_has_two_runs(slurm: Cluster, controller: SlurmClient) -> None:
    id = sbatch(slurm, "sleep 300", "--requeue")
    eventually(lambda: state(controller, id) == "RUNNING")
    slurm.run("scontrol", "requeue", id)
    eventually(lambda: state(controller, id) == "PENDING")
    eventually(lambda: [run.state for run in runs(controller, id)] == ["REQUEUED"])
    ended = latest(runs(controller, id))[id]
    assert live_state(ended.state) == State.QUEUED
    slurm.run("scontrol", "update", f"JobId={id}", "StartTime=now")  # it would wait for two minutes
    eventually(lambda: state(controller, id) == "RUNNING")
    eventually(lambda: [run.state for run in runs(controller, id)] == ["REQUEUED", "RUNNING"])
    assert latest(runs(controller, id))[id].state == "RUNNING"


def test_a_preempted_job_waits_to_run_again_while_the_accounts_call_it_ended(
    slurm: Cluster, controller: SlurmClient
) -> None:
    low = sbatch(slurm, "sleep 300", "--requeue", "--partition=low")
    eventually(lambda: state(controller, low) == "RUNNING")
    high = sbatch(slurm, "sleep 300", "--partition=high", "--nodes=2", "--exclusive")
    eventually(lambda: state(controller, high) == "RUNNING")
    eventually(lambda: state(controller, low) == "PENDING")
    eventually(lambda: [run.state for run in runs(controller, low)] == ["PREEMPTED"])
    assert live_state(latest(runs(controller, low))[low].state) is None
    assert (found := job(controller, low)) is not None
    assert live_state(found.state) == State.QUEUED


def test_a_dependency_that_can_never_be_satisfied(slurm: Cluster, controller: SlurmClient) -> None:
    first = sbatch(slurm, "false")
    second = sbatch(slurm, "true", f"--dependency=afterok:{first}")
    found = eventually(
        lambda: (j := job(controller, second)) and j.reason == "DependencyNeverSatisfied" and j
    )
    assert live_state(found.state) == State.QUEUED  # forever


def test_a_controller_that_does_not_answer(slurm: Cluster, controller: SlurmClient) -> None:
    id = sbatch(slurm, "true", "--hold")
    slurm.processes.send("slurmctld", signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(
            SlurmUnavailable, match=r"'squeue' got no answer within 1 s.*slurmctld.*Try again"
        ):
            SlurmClient(timeout=1).queue()
        assert time.monotonic() - began < 10  # a busy machine; Slurm itself would wait for minutes
    finally:
        slurm.processes.send("slurmctld", signal.SIGCONT)
    assert state(controller, id) == "PENDING"


def test_a_controller_that_is_down(slurm: Cluster, controller: SlurmClient) -> None:
    id = sbatch(slurm, "true", "--hold")
    slurm.processes.end("slurmctld")
    with pytest.raises(SlurmUnavailable, match=r"'scontrol'.*slurmctld.*down.*Try again"):
        SlurmClient(timeout=3).config()
    slurm.start_slurmctld()
    assert state(controller, id) == "PENDING"


def test_accounts_that_are_down(slurm: Cluster, controller: SlurmClient) -> None:
    id = sbatch(slurm, "true", "--hold")
    slurm.processes.end("slurmdbd")
    with pytest.raises(SlurmUnavailable, match=r"'sacct'.*slurmdbd.*down.*Try again") as error:
        SlurmClient(timeout=10).history(int(time.time()))
    assert not isinstance(error.value, NoAccounting)
    assert state(controller, id) == "PENDING"
    slurm.start_slurmdbd()
    assert controller.qos().rows


def test_without_accounting(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster(nodes=1, gpus=0, accounting=False, extra="MaxArraySize=101") as small:
        monkeypatch.setenv("SLURM_CONF", str(small.conf))
        controller = SlurmClient()
        assert not controller.config().accounting
        assert controller.config().max_array_size == 101
        for ask in (
            lambda: controller.history(int(time.time())),
            lambda: controller.associations("lab"),
            controller.qos,
        ):
            with pytest.raises(NoAccounting, match="has no accounting"):
                ask()
        id = sbatch(small, "exit 3")
        eventually(lambda: state(controller, id) == "FAILED")
        assert {group.gpus for group in controller.nodes().rows} == {()}
        said = doctor(small)
        assert re.search(r"^warning +no accounting: what ended is known for 300 s", said.stdout, re.MULTILINE)
        assert said.returncode == 0


def doctor(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    path = f"{TESTS.parent}:{TESTS}"
    return sor("doctor", "--runs", cluster.scratch / "runs", SLURM_CONF=str(cluster.conf), PYTHONPATH=path)


def test_doctor_on_a_cluster(slurm: Cluster, controller: SlurmClient) -> None:
    said = doctor(slurm)
    assert said.returncode == 0
    for line in (
        r"ok +Slurm \d+\.\d+\.\d+, cluster lab, answered in \d",
        r"ok +partition main \(the default\): 2 nodes, 8 h100 GPUs, at most 168 h per job",
        r"ok +limits of the cluster: array indices up to 100000",
        r"ok +account students: no limits; QOS normal",
    ):
        assert re.search(f"^{line}", said.stdout, re.MULTILINE), line


def test_where_slurm_is_not_set_up(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    with pytest.raises(NotSetUp, match=r"SLURM_CONF names .*none, which does not exist"):
        SlurmClient().queue()
    monkeypatch.delenv("SLURM_CONF")
    if not list(Path("/etc").glob("slurm*/slurm.conf")):  # on a cluster's own machine it is set up
        with pytest.raises(NotSetUp, match=r"found no slurm\.conf"):
            SlurmClient().queue()


def test_doctor_where_slurm_is_not_set_up(slurm: Cluster, tmp_path: Path) -> None:
    path = f"{TESTS.parent}:{TESTS}"
    said = sor("doctor", "--runs", tmp_path, SLURM_CONF=str(tmp_path / "none"), PYTHONPATH=path)
    assert said.returncode == 0
    assert re.search(r"^warning +SLURM_CONF names .*/none, which does not exist", said.stdout, re.MULTILINE)


DIES = """
from cluster import Cluster
with Cluster(nodes=1, gpus=0, accounting=False) as cluster:
    script = "echo $PPID > step; env -i sh -c 'echo $$ > running; sleep 300'"
    cluster.run("sbatch", f"--wrap={script}", f"--chdir={cluster.scratch}")
    print(cluster.scratch, flush=True)
    input()
"""


def test_the_cluster_of_a_process_that_was_killed_is_ended_and_removed(slurm: Cluster) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DIES], env={**os.environ, "PYTHONPATH": str(TESTS)}, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    scratch = Path(process.stdout.readline().strip())
    assert scratch.name.startswith(SCRATCH)
    wait_for(
        lambda: (scratch / "running").exists() and (scratch / "running").read_text(encoding="utf-8"),
        "the job",
    )
    files = (*(scratch / "pids").iterdir(), scratch / "running", scratch / "step")
    pids = [int(file.read_text(encoding="utf-8")) for file in files]
    remove_abandoned(but=slurm.scratch)
    assert scratch.exists()  # its process lives
    process.kill()
    process.wait()
    assert all(map(lives, pids))
    remove_abandoned(but=slurm.scratch)
    assert not scratch.exists()
    assert not any(map(lives, pids))
    assert slurm.processes.alive("slurmctld")


def test_by_hand_up_twice_after_a_crash_and_down(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen() -> Cluster:  # as another process sees it
        return Cluster(tmp_path / "c", nodes=1, gpus=0, accounting=False)

    try:
        assert up(seen()) == 0
        assert f"export SLURM_CONF={tmp_path}/c/slurm.conf" in capsys.readouterr().out
        assert seen().run("sinfo", "--noheader", "--partition=main", "--format=%D %T") == "1 idle"
        assert up(seen()) == 0
        assert "is up already" in capsys.readouterr().out
        assert up(Cluster(tmp_path / "c", like="lumi")) == 1
        assert capsys.readouterr().err == "another cluster is up: make slurm-down ends it\n"
        node = int((tmp_path / "c/pids/n1").read_text(encoding="utf-8"))
        seen().processes.end("slurmctld", sign=signal.SIGKILL)
        assert up(seen()) == 0
        assert not lives(node)
        assert seen().run("sinfo", "--noheader", "--partition=main", "--format=%D %T") == "1 idle"
    finally:
        assert down(seen()) == 0
    assert not (tmp_path / "c").exists()
    assert down(seen()) == 0
    assert "there is no cluster" in capsys.readouterr().out


@pytest.mark.parametrize("ci", ["", "true"])
def test_where_slurm_cannot_be_had_its_tests_are_skipped_with_the_reason_but_never_in_ci(
    ci: str, tmp_path: Path
) -> None:
    test = f"{__file__}::{test_doctor_on_a_cluster.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test], cwd=TESTS.parent,
        env={**os.environ, "PATH": str(tmp_path), "CI": ci}, check=False,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert re.search(r"no Slurm here: .*sbatch.* missing, and no apt-get: it is installed", done.stdout)
    assert ("1 error" if ci else "1 skipped") in done.stdout
    assert (done.returncode != 0) == bool(ci)
