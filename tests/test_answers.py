"""What sbatch answers, as sites have it: an id, a refusal, or neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.slurm.answers import refusal, taken
from launch.slurm.client import SlurmClient
from launch.slurm.parse import Refused
from launch.state.errors import SlurmUnavailable
from launch.state.job_ids import JobId, parse_id
from launch.state.ledger import Ledger, Started

# As TACC prints it before every submission.
BANNER = """
-----------------------------------------------------------------
              Welcome to the Example 3 Supercomputer
-----------------------------------------------------------------
--> Verifying valid submit host (login1)...OK
--> Checking available allocation (PROJ123)...OK
"""


@pytest.mark.parametrize(
    ("stdout", "id"),
    [
        ("17\n", JobId("17")),
        ("17;other\n", JobId("17", "other")),
        (f"{BANNER}17\n", JobId("17")),
        (f"17;my-cluster.2\n{BANNER}", JobId("17", "my-cluster.2")),
        # CINECA's Marconi 100 (easybuild-framework, issue 4061)
        ("sbatch: no partition specified, using default partition m100_serial\n7787232\n", JobId("7787232")),
        ("17\n17\n", JobId("17")),
        ("", None),
        (BANNER, None),
        ("17\n18\n", None),
        ("0\n", None),
        ("-1\n", None),
        ("17_3\n", None),
        ("17;\n", None),
        ("17;a b\n", None),
        ("1" * 11, None),
        ("٣\n", None),
        # A wrapper that drops --parsable; with Unity's advice (batchtools, pull request 314)
        ("sbatch: INFO: Note that 128 GB\nbecause of overhead.\nSubmitted batch job 38139957\n", None),
    ],
)  # fmt: skip
def test_an_id_is_taken_only_from_a_line_of_its_own(stdout: str, id: JobId | None) -> None:
    assert taken(stdout) == id


def test_an_id_survives_the_ledger() -> None:
    for id in (JobId("17"), JobId("17", "other")):
        assert parse_id(str(id)) == id


PERSON = "QOSMinNode", "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        # Frontera (asgs, issue 552)
        (f"sbatch: error: {PERSON[0]}\nsbatch: error: Batch job submission failed: {PERSON[1]}\n", PERSON),
        (  # a filter's one line of explanation
            "sbatch: error: --> no project given: yours are p_alpha and p_beta\n"
            "sbatch: error: Batch job submission failed: Unspecified error\n",
            ("--> no project given: yours are p_alpha and p_beta",),
        ),
        ("sbatch: error: Batch job submission failed: Unspecified error\n", ("Unspecified error",)),
        (  # Stampede (tailseeker, issue 3)
            "[TACC]: Job submission is not allowed from this host. Please submit\n"
            "[TACC]: through one of the available login resources.\n",
            (
                "[TACC]: Job submission is not allowed from this host. Please submit",
                "[TACC]: through one of the available login resources.",
            ),
        ),
        (  # cime, issue 1270
            "sbatch: unrecognized option '--fio=16'\nTry \"sbatch --help\" for more information\n",
            ("unrecognized option '--fio=16'", 'Try "sbatch --help" for more information'),
        ),
        ("sbatch: error: \x1b[31mno\x07\n", ("[31mno",)),
        # A connection that an explanation speaks of is not the controller's.
        (
            "sbatch: error: no connection between account and project\n"
            "sbatch: error: Batch job submission failed: Invalid account\n",
            ("no connection between account and project", "Invalid account"),
        ),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", None),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", None),
        ("sbatch: error: Batch job submission failed: Slurm backup controller in standby mode", None),
        ("sbatch: error: Slurm controller not responding, sleeping and retrying.", None),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", None),
        ("", None),
        ("-------\n\n", None),
    ],
)  # fmt: skip
def test_a_refusal_keeps_all_its_lines_and_a_busy_controller_is_none(
    said: str, lines: tuple[str, ...] | None
) -> None:
    assert refusal(said) == lines


def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have PATH begin with an sbatch and a squeue of shell."""
    (folder / "bin").mkdir()
    row = r"77\x1fPENDING\x1fNone\x1fN/A\x1f\x1fmain\x1f\x1f\x1f"
    queue = f'[ -e {folder}/taken ] && printf "{row}%s\\n" prepare-a-1 || true'
    for name, lines in (("sbatch", script), ("squeue", queue)):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{lines}\n", encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr("launch.slurm.client.SHOWN", 0.0)


SCRIPT = Path("/runs/submissions/prepare-a-1/submit.sh")


def test_without_an_id_the_job_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch(tmp_path, monkeypatch, f"touch {tmp_path}/taken; echo Submitted batch job 77")
    assert SlurmClient().submit(SCRIPT) == JobId("77")
    (tmp_path / "taken").unlink()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Welcome to 24\n", encoding="utf-8")
    with pytest.raises(
        SlurmUnavailable, match=r"no line with a job's id.*prepare-a-1: .*sbatch printed: Welcome to 24"
    ):
        SlurmClient().submit(SCRIPT)


def test_refused_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch(tmp_path, monkeypatch, "echo '--> Verifying access...FAILED'; echo 'ask for it'; exit 1")
    with pytest.raises(Refused) as error:
        SlurmClient().submit(SCRIPT)
    assert error.value.args == ("--> Verifying access...FAILED", "ask for it")
    assert str(error.value) == "--> Verifying access...FAILED; ask for it"
    for lines in ("echo 77; exit 3", "kill -9 $$", "exit 1"):  # it may have been taken
        (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/bash\n{lines}\n", encoding="utf-8")
        with pytest.raises(SlurmUnavailable, match=r"exited with code .* it is unknown"):
            SlurmClient().submit(SCRIPT)


def test_what_sbatch_had_said_before_it_hung_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch(
        tmp_path,
        monkeypatch,
        "echo 'sbatch: error: Slurm temporarily unable to accept job' >&2; exec sleep 9",
    )
    with pytest.raises(SlurmUnavailable, match=r"no answer within 0\.5 s, and said: Slurm temp"):
        SlurmClient(timeout=0.5).submit(SCRIPT)


def test_what_is_no_id_in_a_ledger_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for name in "abc":
        ledger.intent(name, [Started(name, 1, 0)])
    ledger.submitted("b", "77;other")
    with (tmp_path / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "submitted", "time": 1, "submission": "a", "job": "---- Welcome"}\n')
        file.write('{"event": "submitted", "time": 1, "submission": "b", "job": "77; rm"}\n')
    found = {unit: attempt.jobs[0] for unit, attempt in ledger.attempts().items()}
    assert (found["a"].id, found["b"].id, found["c"].id) == (None, "77_0", None)
    assert (found["b"].array, found["b"].slurm_cluster) == ("77", "other")
    with pytest.raises(AssertionError):
        ledger.submitted("c", "Welcome")
