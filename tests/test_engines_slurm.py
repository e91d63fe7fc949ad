"""One engine over two nodes of a real Slurm, and several engines in one job."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster import Cluster
from small_slurm import by_hand, write_cluster
from small_study import logs, wait_for

from jobs.core.unit import Resources, Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir, UnitDir, read_jsonl, write_jsonl
from jobs.store.schema import ATTEMPT
from launch.commands.submit import submit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cluster")]
PROMPTS = 800
LOAD = 400.0  # seconds for vLLM to load, on a busy machine


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path / "runs" / "engines")


def unit(folder: Path, name: str, resources: Resources, **execution: Any) -> Unit:
    """A generation whose answers depend on nothing but the model."""
    mode = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24}
    modes = {
        "ift": {**mode, "chat_template_kwargs": {"enable_thinking": False}},
        "reasoning": {**mode, "chat_template_kwargs": {"enable_thinking": True}},
    }
    config = {
        "model": str(folder / "model"), "revision": None, "modes": modes, "seed": ord(name[0]),
        "thinking": {"open": "<think>", "close": "</think>"},
        "prompts": [{"path": str(folder / "p.jsonl"), "column": "q", "count": None, "seed": 0}],
    }  # fmt: skip
    return Unit("generate", name, config, (), {"max_model_len": 128, **execution}, resources)


def answered(folder: UnitDir) -> dict[tuple[str, str], str]:
    """The answers of a unit so far, by prompt and mode; no row is there twice."""
    out = folder.out if folder.done else folder.work
    files = [*out.glob("parts/*.jsonl"), *out.glob("chunks/*.jsonl")]
    rows = [row for file in files for row in read_jsonl(file)]
    found = {(row["prompt"], row["mode"]): row["text"] for row in rows}
    assert len(found) == len(rows) or not folder.done
    return found


def processes(job: str, rank: int) -> list[int]:
    """The processes of one rank of a job, without its script."""
    wanted = {f"SLURM_JOB_ID={job.partition('_')[0]}", "SLURM_STEP_ID=0", f"SLURM_PROCID={rank}"}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if wanted <= set(environ.split("\0")):
            found.append(int(process.name))
    return found


def test_an_engine_on_two_nodes_answers_like_others_and_outlives_a_node(
    slurm: Cluster, tmp_path: Path, root: StudyDir
) -> None:
    tiny.save(tmp_path / "model")
    write_jsonl(tmp_path / "p.jsonl", [{"q": f"{i}*{i + 1}=?"} for i in range(PROMPTS)])
    split = {"tensor_parallel_size": 2, "pipeline_parallel_size": 1}
    spread = unit(
        tmp_path,
        "spread",
        Resources(nodes=2, memory=6000, hours=0.5),
        engine="vllm",
        nodes=2,
        gpus=0,
        vllm=split,
    )
    beside = unit(
        tmp_path, "beside", Resources(tasks_per_node=2, gpus_per_node=4, memory=6000, hours=0.5),
        engine="transformers", nodes=1, gpus=2,
    )  # fmt: skip
    project = by_hand([spread, beside], write_cluster(tmp_path / "cluster.yaml"), root)
    assert submit(project, yes=True, only=None) == 0

    one = root.unit(beside)
    wait_for(lambda: one.done, "the engines side by side", LOAD)
    said = [log.read_text(encoding="utf-8") for log in logs(root, beside)]
    assert sorted(re.search(r"GPUs (\d+,\d+)\b", text)[1] for text in said) == ["0,1", "2,3"]  # type: ignore[index]
    owners = {claim.read_text(encoding="utf-8") for claim in (one.work / "claims").glob("[0-9]*.[0-9]*")}
    assert len(owners) == 2, "one of them did all the work"

    two = root.unit(spread)
    wait_for(lambda: answered(two), "first answers of the engine on two nodes", LOAD)
    before = answered(two)
    assert len(before) < 2 * PROMPTS, "it was over before it could be killed"
    job = project.poll().units[0].jobs[0].id or ""
    for pid in processes(job, rank=0):
        os.kill(pid, signal.SIGKILL)
    state = ("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    wait_for(lambda: slurm.run(*state) == "PENDING", "the job to be requeued", LOAD)
    slurm.run("scontrol", "update", f"job={job}", "StartTime=now")  # Slurm lets it wait for two minutes
    wait_for(lambda: two.done, "the job to go on from its rows", LOAD)
    after = answered(two)
    assert after == answered(one)
    assert before.items() <= after.items()
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "both nodes to end")
    ends = journal.read(two.attempts, ATTEMPT)
    assert sorted((e["rank"], e["error"]) for e in ends if e["restart"] == 1) == [(0, None), (1, None)]
