"""The house: a forbidden import fails the check, and a login node loads no library of models."""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import environment

import analysis
import launch

ROOT = Path(launch.__file__).parent.parent
HEAVY = {"torch", "pandas", "numpy", "vllm", "transformers", "matplotlib", "lm_eval", "pyarrow", "datasets"}


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """The check of imports that `make lint` runs, on the code in a folder."""
    [command] = re.findall(r"\$\(BIN\)/(lint-imports.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    program, *options = command.split()
    return subprocess.run(
        [Path(sys.executable).with_name(program), *options], cwd=folder, capture_output=True,
        env=environment(PYTHONPATH=str(folder)), encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for package in ("launch", "jobs", "analysis"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_house_is_as_it_says(copy: Path) -> None:
    done = checked(copy)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("launch/study/plan.py", "import torch", "A login node loads no library of models or tables"),
        ("launch/state/status.py", "from launch.submit import arrays", "launch"),
        ("jobs/core/unit.py", "from jobs.store import rundir", "jobs"),
        ("jobs/core/causes.py", "from analysis import plots", "The login node stands on the analysis"),
        ("launch/commands/logs.py", "from jobs.stages import train", "Nobody outside of jobs"),
        ("launch/monitor/data/eta.py", "from launch.monitor.views import text", "The monitor"),
        ("analysis/results/collect.py", "from analysis.statistics import frontier", "analysis"),
    ],
)
def test_a_forbidden_import_is_found(copy: Path, file: str, line: str, broken: str) -> None:
    before = (copy / file).read_text(encoding="utf-8")
    try:
        (copy / file).write_text(f"{before}\n\ndef hidden() -> None:\n    {line}\n", encoding="utf-8")
        done = checked(copy)
    finally:
        (copy / file).write_text(before, encoding="utf-8")
    assert done.returncode == 1
    assert any(text.startswith(broken) and " BROKEN" in text for text in done.stdout.splitlines())
    assert file.removesuffix(".py").replace("/", ".") in done.stdout


def test_the_login_node_loads_no_model_libraries() -> None:
    names = [found.name for found in pkgutil.walk_packages(launch.__path__, "launch.")]
    assert len(names) > 80
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, encoding="utf-8", check=True
    )
    assert not HEAVY & set(done.stdout.split())


def test_what_a_notebook_finds_in_analysis() -> None:
    assert sorted(analysis.__all__) == analysis.__dir__()
    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing
    code = "import analysis, sys; analysis.train_flops; analysis.generate_flops; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, encoding="utf-8", check=True
    )
    assert not HEAVY & set(done.stdout.split())
