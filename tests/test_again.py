"""What a job's script does after its work (again.bash), where Slurm's programs give rare answers.

With the real ones: test_again_slurm.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import wait_for

from jobs.core.memory import KILLED, killed_for_memory, noted
from launch.study.templates import again

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a script whose work ends with an exit code, where squeue and scontrol are these shell lines."""

    def start(
        code: int,
        *,
        squeue: str,
        scontrol: str = "",
        restarts: int = 0,
        raised: str = "",
        work: str = "",
        **more: str,
    ) -> subprocess.Popen[bytes]:
        for name, lines in (("squeue", squeue), ("scontrol", scontrol)):
            program = tmp_path / name
            program.write_text(
                f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/asked\n{lines}\n', encoding="utf-8"
            )
            program.chmod(0o755)
        script = tmp_path / "script"
        text = again({"submission": str(tmp_path), "killed": KILLED, "raise": raised})
        script.write_text(f"{text}\n{work}\n(exit {code})\n", encoding="utf-8")
        job = {
            "SLURM_JOB_ID": "7",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_JOB_NAME": "mine",
        }
        environment = {**os.environ, **job, **more, "SLURM_RESTART_COUNT": str(restarts)}
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        return subprocess.Popen(["bash", script], env=environment, start_new_session=True)

    return start


def asked(folder: Path) -> list[str]:
    file = folder / "asked"
    return (
        [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


def put_back(process: subprocess.Popen[bytes], folder: Path, times: int = 1) -> None:
    """See the script ask to be put back, and end it as Slurm does then."""
    wait_for(lambda: asked(folder).count("scontrol") == times, "it to ask")
    assert "scontrol requeue 7_3" in (folder / "asked").read_text(encoding="utf-8")
    wait_for(lambda: _sleeps(process.pid), "it to wait for its end")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(10) != 0


def _sleeps(pid: int) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return any(b"sleep\x00600" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


@pytest.mark.parametrize("code", [75, 137])
def test_what_says_so_by_its_exit_code_is_put_back(start: Start, tmp_path: Path, code: int) -> None:
    put_back(start(code, squeue="echo RUNNING mine"), tmp_path)


@pytest.mark.parametrize("code", [0, 1])
def test_what_ended_by_itself_is_not(start: Start, tmp_path: Path, code: int) -> None:
    assert start(code, squeue="echo RUNNING mine").wait(10) == code
    assert asked(tmp_path) == []


OOM = "slurmstepd-n1: error: StepId=5.0 exceeded memory limit (513769472 > 314572800), being killed\n"
MESSAGES = (  # of Slurm 22.05 without and with cgroups, of older and newer ones
    OOM,
    "slurmstepd: error: Detected 1 oom-kill event(s) in step 1.0 cgroup. Some of your processes",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks",
    "slurmstepd: error: Some of the step tasks have been OOM Killed.",
    "srun: error: n1: task 0: Out Of Memory",
    "slurmstepd: error: Job 7 exceeded memory limit (2049044 > 2048000), being killed",
    "slurmstepd: error: Exceeded step memory limit at some point.",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_kill_for_the_memory_limit_is_read_from_the_end_of_the_log(message: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{'x' * 20_000}\n{message}\nsrun: launch/slurm: terminating\n", encoding="utf-8")
    assert killed_for_memory(log) == message.rstrip("\n")
    grep: list[str | Path] = ["grep", "--extended-regexp", KILLED, log]
    found = subprocess.run(grep, capture_output=True, encoding="utf-8", check=False)
    assert found.stdout.strip() == message.strip()
    log.write_text(f"the model says: {message}", encoding="utf-8")
    assert killed_for_memory(log) is None


def test_killed_for_memory_the_request_is_raised_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "7_3_0_log.out").write_text("", encoding="utf-8")
    more = {"squeue": "echo RUNNING mine", "raised": "MinMemoryNode=2000"}
    log = f"echo '{OOM.strip()}' >> {tmp_path}/7_3_0_log.out"
    process = start(137, work=log, SLURM_MEM_PER_NODE="1000", **more)
    put_back(process, tmp_path, times=2)
    assert "scontrol update job=7_3 MinMemoryNode=2000" in (tmp_path / "asked").read_text(encoding="utf-8")
    assert noted(tmp_path / "7_3") == 1000
    (tmp_path / "asked").unlink()
    assert start(137, work=log, SLURM_MEM_PER_NODE="2000", **more).wait(10) == 137
    assert (
        start(137, work=log, SLURM_MEM_PER_NODE="1000", squeue="echo RUNNING mine").wait(10) == 137
    )  # not asked for
    assert asked(tmp_path) == []
    assert noted(tmp_path / "7_3") == 1000


def test_a_request_is_raised_although_the_requeue_ended_the_first_try(start: Start, tmp_path: Path) -> None:
    """Slurm's TERM may reach a subshell between its start and its trap."""
    (tmp_path / "7_3_0_log.out").write_text("", encoding="utf-8")
    log = f"echo '{OOM.strip()}' >> {tmp_path}/7_3_0_log.out"
    ended = f'[ "$1" != update ] || [ $(grep -c "scontrol update" {tmp_path}/asked) -gt 1 ] || exit 143'
    more = {"squeue": "echo RUNNING mine", "raised": "MinMemoryNode=2000", "SLURM_MEM_PER_NODE": "1000"}
    put_back(start(137, work=log, scontrol=ended, **more), tmp_path, times=3)
    asked_for = (tmp_path / "asked").read_text(encoding="utf-8")
    assert asked_for.count("scontrol update job=7_3 MinMemoryNode=2000") == 2


def test_a_request_that_slurm_does_not_raise_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    (tmp_path / "7_3_0_log.out").write_text("", encoding="utf-8")
    log = f"echo '{OOM.strip()}' >> {tmp_path}/7_3_0_log.out"
    more = {"work": log, "squeue": "echo RUNNING mine", "raised": "MinMemoryNode=2000"}
    refused = '[ "$1" != update ]'
    process = start(137, scontrol=refused, SLURM_MEM_PER_NODE="1000", **more)
    put_back(process, tmp_path, times=2)
    (tmp_path / "asked").unlink()
    assert start(137, restarts=1, SLURM_MEM_PER_NODE="1000", **more).wait(10) == 137
    assert asked(tmp_path) == []


def test_what_an_earlier_run_was_killed_for_is_not_taken_for_the_end_of_this_one(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "7_3_0_log.out").write_text(OOM, encoding="utf-8")
    put_back(
        start(137, squeue="echo RUNNING mine", raised="MinMemoryNode=2000", SLURM_MEM_PER_NODE="1"), tmp_path
    )
    assert noted(tmp_path / "7_3") is None


def test_a_word_counts_more_than_the_exit_code(start: Start, tmp_path: Path) -> None:
    word = tmp_path / "7_3.2.verdict"
    word.write_text("stop", encoding="utf-8")
    assert (
        start(0, squeue="echo RUNNING mine", restarts=2).wait(10) == 1
    )  # what waits for its success must not start
    assert asked(tmp_path) == []
    word.write_text("again", encoding="utf-8")
    put_back(start(0, squeue="echo RUNNING mine", restarts=2), tmp_path)
    assert not word.exists()


def test_what_is_killed_again_and_again_is_left(start: Start, tmp_path: Path) -> None:
    assert start(137, squeue="echo RUNNING mine", restarts=20).wait(10) == 137
    assert asked(tmp_path) == []


def test_a_controller_without_an_answer_is_asked_again(start: Start, tmp_path: Path) -> None:
    first = f"[ $(wc -l < {tmp_path}/asked) -lt 3 ] && exit 1; echo RUNNING mine"
    put_back(start(75, squeue=first), tmp_path)
    assert asked(tmp_path) == ["squeue"] * 3 + ["scontrol"]


def test_a_refusal_is_not_the_last_word(start: Start, tmp_path: Path) -> None:
    once = f"[ $(grep -c scontrol {tmp_path}/asked) -ge 2 ]"
    put_back(start(75, squeue="echo RUNNING mine", scontrol=once), tmp_path, 2)
    assert asked(tmp_path) == ["squeue", "scontrol"] * 2


def test_told_to_end_while_it_asks_it_ends_at_once(start: Start, tmp_path: Path) -> None:
    assert start(75, squeue="echo RUNNING mine", scontrol="kill -TERM $PPID").wait(10) == 1
    assert asked(tmp_path) == ["squeue", "scontrol"]


def test_where_slurm_never_puts_a_job_back_it_ends_soon(start: Start, tmp_path: Path) -> None:
    assert start(75, squeue="echo RUNNING mine", scontrol="exit 1").wait(20) == 1
    assert asked(tmp_path) == ["squeue", "scontrol"] * 3


def test_what_slurm_ends_already_stays_so(start: Start, tmp_path: Path) -> None:
    assert start(75, squeue="echo COMPLETING mine").wait(10) == 1
    assert asked(tmp_path) == ["squeue"]


def test_a_second_signal_does_not_end_the_question(start: Start, tmp_path: Path) -> None:
    process = start(75, squeue=f"touch {tmp_path}/asking; sleep 1; echo RUNNING mine")
    wait_for((tmp_path / "asking").exists, "squeue to be asked")
    os.killpg(process.pid, signal.SIGTERM)
    put_back(process, tmp_path)
