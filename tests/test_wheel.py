"""The wheel, installed without this checkout: it plans, runs and copies its code from an empty directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import TESTS, student, write_study

CHECKOUT = TESTS.parent
LIST = "import importlib.metadata as m; print(*m.files('scale-or-reason'), sep='\\n')"
COPY = """
from pathlib import Path
from jobs.store.rundir import StudyDir
from launch.submit.code_snapshot import snapshot
print(snapshot(StudyDir(Path("runs/x")), keeper=True))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the wheel of the tracked files is installed; what it needs is in this one."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, encoding="utf-8", check=True
    )
    for name in tracked.stdout.splitlines():
        if (CHECKOUT / name).is_file():  # not one that is deleted and not committed yet
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / "source" / name)
    made, uv = folder / "environment", Path(sys.executable).with_name("uv")
    venv.create(made)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(made)}))
    others = [path for path in sys.path if path.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    build = (uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    subprocess.run([*build, folder / "source"], check=True, capture_output=True)
    install = (uv, "pip", "install", "--offline", "--no-deps", "--python", made / "bin/python")
    subprocess.run([*install, *folder.glob("*.whl")], check=True, capture_output=True)
    return made


@pytest.fixture
def run(wheel: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a program of the environment in an empty directory; it must succeed."""
    where = tmp_path / "empty"
    where.mkdir()

    def run(program: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [wheel / "bin" / program, *arguments], cwd=where, env=environment, check=False,
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_nothing_collides_with_other_distributions(run: Callable[..., str]) -> None:
    folders = {name.partition("/")[0] for name in run("python", "-c", LIST).splitlines()}
    own = {"launch", "jobs", "analysis", "scale_or_reason"}
    assert {f for f in folders if not f.endswith(".dist-info")} - {".."} == own


@pytest.mark.parametrize("study", ["demo", "pairs", "smollm", "scale-or-reason"])
def test_it_plans_what_it_ships(run: Callable[..., str], study: str) -> None:
    ours = subprocess.run(
        [Path(sys.executable).with_name("sor"), "plan", study, "--json", "--runs", "/nowhere"],
        capture_output=True, encoding="utf-8", check=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert json.loads(run("sor", "plan", study, "--json"))["units"] == json.loads(ours.stdout)["units"]


def test_it_runs_a_study(run: Callable[..., str], tmp_path: Path) -> None:
    study = str(write_study(tmp_path / "study", {"s": student()}))
    for stage in ("prepare", "collate"):
        run("sor", "submit", study, "--yes", "--only", stage)
    units = json.loads(run("sor", "plan", study, "--json"))["units"]
    assert [u["state"] for u in units if u["stage"] in ("prepare", "collate")] == ["done", "done"]


def test_its_code_is_copied_like_that_of_a_checkout(run: Callable[..., str], tmp_path: Path) -> None:
    copy = tmp_path / "empty" / run("python", "-c", COPY).strip()
    names = (
        "jobs/runtime/run.py",
        "launch/cli.py",
        "configs/studies/demo.yaml",
        "configs/schema/study.json",
        "configs/evals/tasks/_letter",
    )
    page = (f"analysis/page/{name}" for name in ("page.html", "style.css", "charts.js"))
    for name in (*names, "sbatch_templates/again.bash", *page):
        assert (copy / name).read_bytes() == (CHECKOUT / name).read_bytes()
    assert not (copy / "scale_or_reason").exists()
