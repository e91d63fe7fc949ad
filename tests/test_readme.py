"""What the README and the pages of docs/ say can be done, done: their study, their commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster
from small_study import publish, wait_for

from launch.study_run import open_project

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def block(language: str, having: str) -> str:
    """The first code block of a language that contains some text, in the README or docs/."""
    blocks = (fenced.partition("\n") for fenced in TEXT.split("```")[1::2])
    return next(text for name, _, text in blocks if name == language and having in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    (made / "mine.yaml").write_text(block("yaml", "teacher:"), encoding="utf-8")
    return made


def sor(folder: Path, *args: str, code: int = 0) -> str:
    command = [str(CHECKOUT / ".venv/bin/sor"), *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_study_of_the_readme_can_be_planned_and_submitted(folder: Path) -> None:
    commands = re.findall(r"^sor (\w+) mine.yaml", block("sh", "sor plan mine.yaml"), re.MULTILINE)
    assert commands == ["plan", "submit", "status", "report"]
    plan = json.loads(sor(folder, "plan", "mine.yaml", "--json"))
    assert sum(u["stage"] == "train" for u in plan["units"]) == 2 * 4
    assert "+ train 8" in sor(folder, "submit", "mine.yaml", "--dry-run")
    assert "waiting" in sor(folder, "status", "mine.yaml", code=4)
    assert not (folder / "runs").exists()


def test_the_command_of_the_docs_that_writes_a_study(tmp_path: Path) -> None:
    (command,) = re.findall(r"^sor (init .*)", block("sh", "sor init mine.yaml"), re.MULTILINE)
    sor(tmp_path, *command.split())
    assert re.search(r"^train +10 ", sor(tmp_path, "plan", "mine.yaml"), re.MULTILINE)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The files of docs/models-and-data.md, each under the name in its first line."""
    page = (CHECKOUT / "docs" / "models-and-data.md").read_text(encoding="utf-8")
    page = page.replace("/path/to/tasks", str(tmp_path / "tasks"))
    (tmp_path / "tasks").mkdir()
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = re.findall(r"```\n(\{.*?\n)```", page, re.DOTALL)
    (tmp_path / "tasks" / "capitals.jsonl").write_text(rows[0], encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text(rows[1], encoding="utf-8")
    return tmp_path


def test_a_study_with_a_model_a_benchmark_and_data_of_ones_own(own: Path) -> None:
    commands = re.findall(r"^sor (.*? own.yaml[^#]*)", block("sh", "own.yaml"), re.MULTILINE)
    assert commands[0].split() == ["plan", "own.yaml"]
    printed = [sor(own, *command.split()) for command in commands]
    assert re.search(r"train +3 ", printed[0])
    assert "+ evaluate 3: smollm2-360m-r0.capitals" in printed[1]


def test_lm_eval_scores_a_task_of_ones_own(own: Path) -> None:
    from jobs.evaluation.tasks import load_tasks, task_manager

    (task,) = load_tasks(
        task_manager(own / "tasks"), {"task": "capitals", "metric": "exact_match", "filter": "none"}
    )
    (first, *_) = task.test_docs()
    assert task.doc_to_text(first) == "What is the capital of Japan? Answer with its name only."
    assert task.process_results(first, ["tokyo"]) == {"exact_match": 1.0}
    assert task.process_results(first, ["Kyoto"]) == {"exact_match": 0.0}


def test_the_contract_names_the_keys_that_are_printed(folder: Path) -> None:
    for verb in ("plan", "status"):
        described = block("", f'"{"totals" if verb == "plan" else "stages"}"')
        printed = json.loads(sor(folder, verb, "mine.yaml", "--json", code=4 if verb == "status" else 0))
        keys = {
            *printed,
            *printed["units"][0],
            *(printed["totals"] if verb == "plan" else printed["stages"][0]),
        }
        assert keys <= set(re.findall(r'"(\w+)"', described))


def test_the_commands_for_scripts_wait_and_tell(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", f"{CHECKOUT / '.venv/bin'}:{os.environ['PATH']}")
    project = open_project(str(folder / "mine.yaml"), None, tmp_path / "runs")
    publish(project.root, project.units[0])
    commands = f"cd {tmp_path} && cp {folder}/mine.yaml .\n{block('sh', 'SOR_NOTIFY')}"
    done = subprocess.run(["bash", "-e", "-c", commands], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.endswith("it needs me\n")
    assert (tmp_path / "told.txt").read_text(
        encoding="utf-8"
    ) == f"mine: prepare is done, 1 of {len(project.units)} units\n"


def test_every_shipped_study_is_named() -> None:
    shipped = {p.stem for p in (CHECKOUT / "configs/studies").glob("*.yaml")}
    assert shipped == set(
        re.findall(r"^\| `([\w-]+)` \|", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_doctor_finds_the_machine_fit(folder: Path) -> None:
    printed = sor(folder, "doctor")
    assert "problem" not in printed
    assert "torch 2." in printed


def test_the_study_of_the_readme_goes_to_slurm(
    folder: Path, tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = block("sh", "--cluster generic").splitlines()
    commands = [line.partition("#")[0].split() for line in lines]
    assert [words[1] for words in commands] == ["doctor", "submit", "status", "submit"]
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("SOR_RUNS", str(tmp_path))
    printed = [
        sor(folder, *words[1:], *["--yes"][: words[1] == "submit"], code=3 if words[1] == "status" else 0)
        for words in commands[1:]
    ]
    assert "you can log out" in printed[0]
    assert "queued" in printed[1]
    assert printed[2].splitlines()[-1] == "nothing to submit: the rest is queued or running"
    assert "prepare mine" in sor(folder, "cancel", "mine.yaml", "--yes")
    wait_for(lambda: slurm.run("squeue", "--noheader") == "", "the queue to be empty")
