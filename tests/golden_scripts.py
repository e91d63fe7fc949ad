"""The scripts that tests/golden/clusters holds: those of a study with all stages, for each cluster file.

They are what `sor submit --dry-run --out` writes on a machine without Slurm. `make golden` writes them again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from forked_sor import ForkedSor
from small_study import student, write_study

from jobs.core.unit import MODES
from launch.study.presets import known_names
from launch.study.shell_options import NAMES, variable

SCRIPTS = Path(__file__).parent / "golden" / "clusters"
PROFILES = [name for name in known_names("clusters") if name != "local"]
ACCOUNT = "project"  # the user's SBATCH_ACCOUNT
SHAPES = {
    "one": (1, 1),
    "two": (1, 2),
    "four": (1, 4),
    "sixteen": (2, 8),
}  # of trainings: nodes, GPUs of each
ALIKE = re.compile("array=|job-name=|open-mode=|output=|signal=")  # whatever the profile is
OWN = "trap : TERM "  # the last line of what comes before every template
Write = partial(Path.write_text, encoding="utf-8")


def golden_study(folder: Path, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> Path:
    """Write a study with all stages, and trainings of these shapes; return its file."""
    folder.mkdir(parents=True)
    serving = {"gpus": 1}
    students = {
        name: {**student(nodes=nodes, gpus_per_node=gpus), "serving": serving}
        for name, (nodes, gpus) in shapes.items()
    }
    teacher: dict[str, Any] = {**student(), "model": "@prepare/teacher", "serving": {**serving, "workers": 4}}
    for unused in ("init", "tokenizer", "training"):
        del teacher[unused]
    Write(folder / "teacher.yaml", yaml.safe_dump(teacher))
    file = write_study(
        folder, students, teacher="teacher.yaml", mixtures={"shares": [0.5]},
        prompts={"path": "@prepare/prompts.jsonl", "count": 100},
        modes={mode: {"chat_template_kwargs": {}, "max_tokens": 8} for mode in MODES},
        training={"epochs": 1, "batch": 16, "block": 64}, benchmarks=["easy.yaml"],
    )  # fmt: skip
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    del study["pairs"]
    Write(file, yaml.safe_dump(study))
    return file


@contextmanager
def writing(folder: Path) -> Iterator[ForkedSor]:
    """`sor` on a machine without Slurm, and with the study in the folder `study` of this one."""
    golden_study(folder / "study")
    (folder / "empty").mkdir()
    shell = {variable(name): ACCOUNT if name == "account" else "" for name in NAMES}
    sor = ForkedSor(PATH=str(folder / "empty"), PYTHONPATH=str(Path(__file__).parent), **shell)
    try:
        yield sor
    finally:
        sor.end()


def written(name: str, folder: Path, sor: ForkedSor) -> str:
    """Submit with a profile into `folder`; return its scripts as one text, without what differs by machine.

    Raises:
        RuntimeError: `sor` or bash rejected something.
    """
    out, runs = folder / "out" / name, folder / "runs" / name
    study = folder / "study" / "small.yaml"
    done = sor("submit", *map(str, (study, "--cluster", name, "--runs", runs, "--dry-run", "--out", out)))
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    scripts = {file.parent.name: _plain(file, out, runs) for file in sorted(out.glob("*/submit.sh"))}
    for file in (out / "submit_all.sh", *out.glob("*/submit.sh")):
        checked = subprocess.run(["bash", "-n", file], capture_output=True, encoding="utf-8")
        if checked.returncode:
            raise RuntimeError(f"{file}: {checked.stderr}")
    return _shown(scripts)


def _plain(file: Path, out: Path, runs: Path) -> str:
    """Return a script with names in place of paths, ids and estimates."""
    text = file.read_text(encoding="utf-8")
    for path, name in ((file.parent, "SUBMISSION"), (out, "OUT"), (runs, "RUNS"), (sys.executable, "PYTHON")):
        text = text.replace(str(path), name)
    for pattern, name in (
        (r"(?<=/code/)[0-9a-f]{12}", "CODE"), (r"(?<=^#SBATCH --time=)\d+$", "MINUTES"),
        (r"(?<=^#SBATCH --mem)(.*)=\d+M$", r"\1=MIB"),
    ):  # fmt: skip
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text


def _shown(scripts: Mapping[str, str]) -> str:
    """Return the options of all jobs, those of each kind of jobs in one line, and each body once."""
    options = {
        name: [line for line in re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE) if not ALIKE.match(line)]
        for name, text in scripts.items()
    }
    common = [line for line in next(iter(options.values())) if all(line in own for own in options.values())]
    jobs, bodies = [f"all: {' '.join(common)}"], list[str]()
    for name, own in options.items():
        jobs.append(f"{name.partition('-')[2]}: {' '.join(line for line in own if line not in common)}")
        body = scripts[name].partition(OWN)[2].splitlines()[1:]
        bodies.append("\n".join(line for line in body if line and not line.startswith("#")))
    return "\n\n".join(("\n".join(dict.fromkeys(jobs)), *dict.fromkeys(bodies))) + "\n"


def write_all() -> int:
    """Write the golden files; return their number."""
    shutil.rmtree(SCRIPTS, ignore_errors=True)
    SCRIPTS.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, writing(Path(folder)) as sor:
        for name in PROFILES:
            Write(SCRIPTS / f"{name}.txt", written(name, Path(folder), sor))
    return len(PROFILES)
