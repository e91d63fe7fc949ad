"""Memory: estimated before a unit runs, asked for, held against nodes, measured, and raised after a kill."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from small_study import publish, unit

from jobs.core.causes import runs
from jobs.core.memory import Peak, asked
from jobs.core.unit import Resources, Unit
from jobs.store.rundir import StudyDir, append_jsonl
from launch.slurm.limits import Limits, Partition
from launch.slurm.parse import NodeGroup, parse_memory
from launch.slurm.text import SEPARATOR
from launch.state.backend import LiveJobs
from launch.state.exit_code import may_help
from launch.state.killed import limit_of, with_more
from launch.state.ledger import Attempt, Ledger, Started
from launch.state.status import poll
from launch.study import memory
from launch.study.cluster import Cluster, load_cluster
from launch.study.estimate import Lengths
from launch.study.model import Model
from launch.study.placement import placed
from launch.study.plan import plan
from launch.study.presets import CONFIGS, StudyError
from launch.study.schema import load_study
from launch.submit.fitting import NeverRuns, fitted
from launch.views import unit_view

# The most that each stage of the demo was measured to take of a node, in MiB, all ranks and the script.
MEASURED = {
    "prepare": 650, "generate": 1950, "collate": 150, "tokenize": 600, "train": 1330, "evaluate": 1950,
    "report": 250,
}  # fmt: skip
LIMIT = "ran out of memory: killed at its limit of {} MiB per node"
MAIN = Partition("main", True, "UP", 4, None, None)


def model(name: str, **training: Any) -> Model:
    student = next(s for s in load_study("scale-or-reason").students if s.name == name)
    assert student.training
    return student.model_copy(update={"training": student.training.model_copy(update=training)})


def trained(name: str, block: int, dtype: str, zero: dict[str, Any] | None, **training: Any) -> int:
    student = model(name, **training)
    assert student.training
    return memory.training(student, placed(student.training, load_cluster("generic")), block, dtype, zero)


def test_every_unit_of_the_demo_asks_for_more_than_it_was_measured_to_take_and_not_for_much_more() -> None:
    for u in plan(load_study("demo"), load_cluster("generic")):
        ranks = u.resources.tasks_per_node if u.stage == "train" else 2
        least = MEASURED[u.stage] * ranks / 2
        assert least < u.resources.memory < max(4 * least, 5000), (u.stage, u.name)


def test_gpu_stages_fit_nodes_that_centers_have() -> None:
    """Eight GPUs of 80 GB come with 1 TB and more, four with 512 GB, a share of a node with 60 GB a GPU."""
    for u in plan(load_study("scale-or-reason"), load_cluster("generic")):
        if gpus := u.resources.gpus_per_node:
            assert 8 * 1024 * gpus < u.resources.memory < 60 * 1024 * gpus, u.name


def test_training_on_a_cpu_counts_weights_states_and_ranks() -> None:
    on_cpu = {"gpus_per_node": 0, "nodes": 1, "micro_batch": 1, "gradient_checkpointing": True}
    parameters = 494_032_768  # of Qwen2.5-0.5B
    one = trained("qwen2.5-0.5b", 1024, "fp32", None, tasks_per_node=1, **on_cpu)
    assert one * 2**20 > 16 * parameters
    four = trained("qwen2.5-0.5b", 1024, "fp32", None, tasks_per_node=4, **on_cpu)
    assert 3 * one < four < 5 * one
    stages = [
        trained("qwen2.5-0.5b", 1024, "fp32", {"zero_optimization": {"stage": n}}, tasks_per_node=4, **on_cpu)
        for n in range(4)
    ]
    assert stages == sorted(stages, reverse=True)
    # Of short blocks, the gradients of the output layer take more than all activations.
    long, longer = (
        trained("qwen2.5-0.5b", n * 1024, "fp32", None, tasks_per_node=1, **on_cpu) for n in (16, 32)
    )
    assert 4 * 16_384 * 24 * 896 < (longer - long) * 2**20 < 4 * 16_384 * 151_936  # activations, no logits


def test_what_deepspeed_keeps_off_the_gpu_is_counted() -> None:
    zero = {"zero_optimization": {"stage": 3}}
    offload = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}
    usual, more = (trained("qwen2.5-7b", 4096, "bf16", z, nodes=1) for z in (zero, offload))
    assert (more - usual) * 2**20 > 16 * 7_600_000_000  # master weights, two moments and gradients, in fp32


def test_collating_and_tokenizing_take_the_same_memory_for_any_number_of_rows() -> None:
    few, many = Lengths(1000, 100, 200, 2000), Lengths(1_000_000, 100, 200, 2000)
    text = 1_000_000 * (2 * 100 + 200 + 2000) * 5
    assert memory.tokenizing(few, 1) == memory.tokenizing(many, 1) < 2000 < text / 2**20
    study = Lengths(3_000_000, 300, 650, 3450)  # 35 GB of text
    assert memory.collating(few, 1) == memory.collating(many, 1) < memory.collating(study, 8) < 4096
    assert memory.tokenizing(study, 1) < memory.tokenizing(study, 8) <= 4096 < 35 * 1024
    assert memory.tokenizing(Lengths(None, 100, 200, 2000), 1) == memory.tokenizing(many, 1)  # nobody knows


def write(folder: Path, **slurm: Any) -> Cluster:
    generic = yaml.safe_load((CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8"))
    (folder / "mine.yaml").write_text(yaml.safe_dump({**generic, "slurm": slurm}), encoding="utf-8")
    return load_cluster(str(folder / "mine.yaml"))


def test_the_cluster_file_says_how_memory_is_asked_for(tmp_path: Path) -> None:
    needs = Resources(tasks_per_node=2, cpus_per_task=4, gpus_per_node=2, memory=1001)
    assert write(tmp_path).memory_option("train", needs) == {"mem": "1001M"}
    per_cpu = write(tmp_path, memory="mem-per-cpu")
    assert per_cpu.memory_option("train", needs) == {"mem-per-cpu": "126M"}
    per_gpu = write(tmp_path, memory="mem-per-gpu")
    assert per_gpu.memory_option("train", needs) == {"mem-per-gpu": "501M"}
    assert per_gpu.memory_option("tokenize", Resources(memory=1001)) == {"mem": "1001M"}
    off = write(tmp_path, memory=False)  # `memory: off`, as YAML reads it
    assert (off.memory_option("train", needs), off.asks_memory("train", needs)) == ({}, False)
    own = write(tmp_path, stages={"train": {"mem-per-cpu": "4G"}, "evaluate": {"mem": False}})
    assert own.memory_option("train", needs) == own.memory_option("evaluate", needs) == {}
    assert own.sbatch_options("train", Resources()) == {"mem-per-cpu": "4G"}
    assert own.memory_option("tokenize", needs) == {"mem": "1001M"}
    with pytest.raises(StudyError, match="memory"):
        write(tmp_path, memory="lots")


def test_memory_is_held_against_the_nodes() -> None:
    nodes = [NodeGroup("main", 3, 8, (), 32_000), NodeGroup("main", 1, 8, (), 64_000)]
    small = fitted(Resources(memory=20_000), MAIN, nodes, Limits())
    assert (small.memory, small.raised) == (20_000, 40_000)
    large = fitted(Resources(memory=40_000), MAIN, nodes, Limits())
    assert (large.memory, large.raised) == (40_000, 64_000)
    assert fitted(Resources(memory=64_000), MAIN, nodes, Limits()).raised == 0
    with pytest.raises(
        NeverRuns, match=r"needs? 62\.6 GiB of memory on 1 node with 1 core, .* has only 62\.5"
    ):
        fitted(Resources(memory=64_100), MAIN, nodes, Limits())
    with pytest.raises(NeverRuns, match=r"2 nodes .* only 31\.2 GiB there.*mem: 32000M"):
        fitted(Resources(nodes=2, memory=40_000), MAIN, nodes, Limits())
    with pytest.raises(NeverRuns, match=r"only 7\.8 GiB"):
        fitted(Resources(memory=20_000), replace(MAIN, max_memory=8000), nodes, Limits())
    again = fitted(Resources(memory=20_000, raised=99_000), MAIN, nodes, Limits())  # of one that was killed
    assert (again.memory, again.raised) == (64_000, 0)
    assert fitted(Resources(raised=99_000), MAIN, nodes, Limits()) == Resources()


def test_the_peak_of_a_process_counts_those_that_it_started() -> None:
    peak = Peak()
    alone = peak.update()
    hold = "x = b'x' * (200 << 20); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert peak.update() > alone + 200
        child.communicate(b"\n")
    assert peak.update() > alone + 200


def test_what_slurm_grants_is_read_from_its_variables() -> None:
    assert asked({"SLURM_MEM_PER_NODE": "2000", "SLURM_CPUS_ON_NODE": "4"}) == 2000
    assert asked({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}) == 400
    assert asked({"SLURM_MEM_PER_GPU": "100", "SLURM_GPUS_ON_NODE": "2"}) == 200
    assert asked({"SLURM_MEM_PER_NODE": "0"}) is None
    assert asked({}) is None


def test_the_accounts_tell_what_was_asked_for_and_used() -> None:
    text = (  # of Slurm 22.05; the first run of 1_0 was requeued
        "1_0|300M|||1|train-a\n1_0.batch||12508K|1|1|batch\n1_0.0||501728K|1|1|python\n"
        "1_0|900M|||1|train-a\n1_0.batch||12220K|1|1|batch\n1_0.0||501568K|1|1|python\n"
        "2|4G|||2|train-b\n2.extern||0|2|2|extern\n2.0||1.5G|8|2|python\n3|4Gn|||1|old\n"
    )
    found = parse_memory(text.replace("|", SEPARATOR))
    assert found == {("train-a", "1_0"): (900, 489), ("train-b", "2"): (2048, 6144), ("old", "3"): (4096, 0)}


class Ended:
    """A machine on which nothing lives, and whose accounts say this of every job."""

    settle = 0.0

    def __init__(self, words: str | None) -> None:
        self.words = words

    def live(self, attempts: Any) -> dict[str, LiveJobs]:
        return {}

    def exit_reasons(self, attempts: Any) -> dict[str, str]:
        return dict.fromkeys(attempts, self.words) if self.words else {}

    def cancel(self, jobs: Any) -> None:
        raise AssertionError("nothing lives")


@pytest.fixture
def killed(tmp_path: Path) -> tuple[StudyDir, Unit, Path]:
    """A unit whose job ended and wrote nothing down; with what the names of its job's files begin with."""
    root, made = StudyDir(tmp_path / "s"), unit(tmp_path, "a")
    ledger = Ledger(root.ledger, "generic")
    ledger.intent("prepare-s-1", [Started(made.id, 1, 3)], memory=1024)
    ledger.submitted("prepare-s-1", "7")
    root.submission("prepare-s-1").mkdir(parents=True)
    return root, made, root.submission("prepare-s-1") / "7_3"


def test_a_kill_that_nobody_wrote_down_is_known_by_note_log_or_accounts(
    killed: tuple[StudyDir, Unit, Path],
) -> None:
    root, made, element = killed

    def reason(words: str | None) -> tuple[str | None, str | None]:
        [seen] = poll([made], root, Ended(words)).units
        return seen.cause, seen.reason

    assert reason("was killed by signal 9") == ("killed", "was killed by signal 9")
    told = "ran out of memory: it requested 1024 MiB per node, and used 1020"
    assert reason(told) == ("out of memory", told)
    log = element.with_name("7_3_0_log.out")
    log.write_text("srun: error: n1: task 0: Out Of Memory\nsrun: gone\n", encoding="utf-8")
    said = "ran out of memory: srun: error: n1: task 0: Out Of Memory"
    assert reason("ended as FAILED by Slurm's account") == ("out of memory", said)
    assert reason("reached its time limit") == ("time limit", "reached its time limit")
    element.with_name("7_3.memory").write_text("2048\n", encoding="utf-8")
    assert reason(None) == ("out of memory", "ran out of memory: killed at its limit of 2048 MiB per node")


def test_the_next_attempt_asks_for_twice_what_was_not_enough(killed: tuple[StudyDir, Unit, Path]) -> None:
    root, made, element = killed
    [seen] = poll([made], root, Ended("ran out of memory")).units
    assert limit_of(seen) == 1024
    assert with_more(seen).resources.raised == 2048
    assert with_more(seen).id == made.id
    element.with_name("7_3.memory").write_text(
        "2048\n", encoding="utf-8"
    )  # the job had raised its request itself
    assert with_more(seen).resources.raised == 4096
    assert may_help(seen)
    assert isinstance(seen.attempt, Attempt)
    assert not may_help(seen._replace(attempt=seen.attempt._replace(memory=2048)))  # a keeper raises once
    [other] = poll([made], root, Ended("its node failed")).units
    assert with_more(other) == made
    publish(root, made)
    [done] = poll([made], root, Ended(None)).units
    assert with_more(done) == made


def wrote(root: StudyDir, unit: Unit, cause: str, error: str) -> dict[str, Any]:
    """Have the only process of a unit's first attempt write down how it ended."""
    root.unit(unit).path.mkdir(parents=True, exist_ok=True)
    line = {
        "attempt": 1, "restart": 0, "worker": 0, "rank": 0, "host": "n1", "time": 1.0, "seconds": 2.0,
        "cause": cause, "error": error, "kept": 0, "micro_batch": None, "memory": 1000, "asked": 1024,
    }  # fmt: skip
    append_jsonl(root.unit(unit).attempts, line)
    return line


@pytest.mark.parametrize(
    ("cause", "error", "noted", "reason"),
    [
        ("out of memory", LIMIT.format(1024), None, LIMIT.format(1024)),
        ("out of memory", LIMIT.format(1024), 2048, LIMIT.format(2048)),  # its next run was killed, too
        ("code error", "ValueError: no", 2048, "ValueError: no"),
    ],
)
def test_of_a_unit_killed_for_memory_again_the_last_limit_is_reported(
    killed: tuple[StudyDir, Unit, Path], cause: str, error: str, noted: int | None, reason: str
) -> None:
    root, made, element = killed
    wrote(root, made, cause, error)
    if noted:
        element.with_name("7_3.memory").write_text(f"{noted}\n", encoding="utf-8")
    [seen] = poll([made], root, Ended(None)).units
    assert (seen.cause, seen.reason) == (cause, reason)


def test_status_shows_what_a_unit_asked_for_and_used(killed: tuple[StudyDir, Unit, Path]) -> None:
    root, made, _ = killed
    line = wrote(root, made, "out of memory", "ran out of memory")
    [seen] = poll([made], root, Ended(None)).units
    assert seen.to_json(None)["memory"] == {"asked": 1024, "used": 1000}
    console = Console(width=150)
    with console.capture() as shown:
        console.print(unit_view(seen, runs([line, {**line, "rank": 1}])))
    assert "requests 1 core, 1.0 GiB of memory per node" in shown.get()
    assert "2.0 of 1.0 GiB" in shown.get()  # its two ranks on one node together
