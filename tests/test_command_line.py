"""Commands that are printed to a person, and studies opened by the name that they use."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import debian
import pytest
from small_study import SOR, TESTS, publish, watched_study, write_study

from jobs.store.rundir import StudyDir, write_json
from launch.state.command_line import command, note_typed
from launch.study.presets import StudyError
from launch.study_run import open_project


def test_a_command_names_the_run_directory_of_a_study_that_nobody_named(tmp_path: Path) -> None:
    assert command(StudyDir(Path("runs/demo")), "submit") == "sor submit runs/demo"
    assert command(StudyDir(Path("my runs/demo")), "logs", "a b") == "sor logs 'my runs/demo' 'a b'"


def test_a_command_repeats_what_the_user_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOR_RUNS", "SOR_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    own, other = StudyDir(Path("runs/small")), StudyDir(Path("my runs/small"))
    note_typed(own, "dir with space/small.yaml", None)
    assert command(own, "submit") == "sor submit 'dir with space/small.yaml'"
    note_typed(other, "small.yaml", "lab.yaml")
    assert command(other, "status") == "sor status small.yaml --cluster lab.yaml --runs 'my runs'"
    elsewhere = "sor cancel small.yaml --cluster b.yaml --runs 'my runs'"
    assert command(other, "cancel", "--cluster", "b.yaml") == elsewhere
    monkeypatch.setenv("SOR_RUNS", "my runs")
    monkeypatch.setenv("SOR_CLUSTER", "lab.yaml")
    assert command(other, "status") == "sor status small.yaml"
    assert command(own, "status") == "sor status 'dir with space/small.yaml' --runs runs"
    absolute = StudyDir(tmp_path / "my runs/small")
    note_typed(absolute, "small.yaml", "lab.yaml")
    assert command(absolute, "status") == "sor status small.yaml"


def test_a_submitted_study_is_opened_by_its_name_as_it_was_last_submitted(tmp_path: Path) -> None:
    runs, file = tmp_path / "runs", write_study(tmp_path / "study")
    first = open_project(str(file), None, runs)
    with pytest.raises(StudyError, match="no such study"):
        open_project("small", None, runs)
    publish(first.root, first.units[0])
    write_json(first.root.study, first.study.model_dump(mode="json"))
    file.unlink()
    again = open_project("small", None, runs)
    assert (again.file, again.study, again.units) == (None, first.study, first.units)
    assert command(again.root, "status") == shlex.join(["sor", "status", "small", "--runs", str(runs)])
    assert command(StudyDir(first.root.path), "plan").startswith("sor plan small")
    same = open_project(str(first.root.path), None, tmp_path / "other runs")
    assert (same.root, same.units) == (first.root, first.units)
    assert command(same.root, "status") == f"sor status {first.root.path}"
    with pytest.raises(StudyError, match="no such study"):
        open_project("../runs/small", None, runs)
    write_json(first.root.study, {"name": "small", "former": 1})
    with pytest.raises(StudyError, match="another version of sor wrote this"):
        open_project("small", None, runs)


LONG = "a folder for run directories whose name does not fit into one line of a terminal"
COMMAND = re.compile(
    r"\bsor (?:plan|prefetch|submit|status|monitor|logs|cancel|report|export|doctor)\b"
    r"(?:'[^'\n]*'|[^'\n,;|])*"
)


def test_every_command_that_a_session_prints_works_when_pasted(tmp_path: Path) -> None:
    printed, tried = list[str](), set[str]()

    def run(line: str, codes: tuple[int, ...] = (0, 3, 4)) -> str:
        words = shlex.split(line.replace("sor", str(SOR), 1))
        width = "600" if "monitor" in words else "80"  # a screen cuts its lines off, other output does not
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": width}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode in codes, (line, said)
        printed.append(said)
        return said

    with watched_study(tmp_path / "my study") as file:
        study = f"'{file.relative_to(tmp_path)}' --runs '{LONG}'"
        (file.parent / "study.fail").touch()
        run(f"sor submit {study} --yes", codes=(1,))
        for verb in ("status", "plan", "monitor --once", "logs --failed", "submit", "submit --dry-run"):
            name, *options = verb.split()
            run(f"sor {name} {study} {' '.join(options)}", codes=(2,) if verb == "submit" else (0, 3, 4))
        run(f"sor report {study}", codes=(1,))
        run(f"sor logs {study} nobody", codes=(2,))
        for said in list(printed):
            for line in COMMAND.findall(said):
                line = line.partition("   ")[0].strip()
                if line not in tried and "[OPTIONS]" not in line:
                    tried.add(line)
                    asks = line.startswith("sor submit") and not line.endswith("-h")
                    done = run(line.replace("sor monitor", "sor monitor --once"), (2,) if asks else (0, 3, 4))
                    assert not asks or "there is no terminal to ask" in done
    verbs = {line.split()[1] for line in tried}
    assert verbs >= {"submit", "status", "logs", "plan"}, tried
    bad = [
        line for line in tried if not line.endswith(" -h") and (LONG not in line or "my study" not in line)
    ]
    assert bad == []


def completed(shell: str, line: str, folder: Path) -> list[str]:
    """What `sor` completes the last word of a line with, in one of the two ways in which shells ask."""
    words = {"complete_bash": {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}}.get(
        shell, {"_TYPER_COMPLETE_ARGS": line}
    )
    environment = {**os.environ, "_SOR_COMPLETE": shell, "PYTHONPATH": str(TESTS), **words}
    done = subprocess.run(
        [str(SOR)], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    return [word for word in re.findall(r"[\w./-]+", done.stdout) if word != "_files"]


@pytest.mark.parametrize("shell", ["complete_bash", "complete_zsh"])
def test_shells_complete_commands_studies_clusters_and_units(shell: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "runs/done-before").mkdir(parents=True)
    write_json(tmp_path / "runs/done-before/study.json", {})
    assert "status" in completed(shell, "sor sta", tmp_path)
    assert "demo" in completed(shell, "sor status de", tmp_path)
    assert "done-before" in completed(shell, "sor status do", tmp_path)
    assert "small.yaml" in completed(shell, "sor plan sm", tmp_path)
    assert "leonardo" in completed(shell, "sor plan demo --cluster leo", tmp_path)
    assert {"train/s-r0", "train/s-r50"} <= set(completed(shell, "sor logs small.yaml train/s", tmp_path))
    assert completed(shell, "sor logs no-such-study train/", tmp_path) == []


def test_a_real_bash_completes(tmp_path: Path) -> None:
    script = (
        "source <(sor --show-completion bash); COMP_WORDS=(sor status scale); COMP_CWORD=2; "
        '_sor_completion sor; echo "${COMPREPLY[*]}"'
    )
    environment = {**os.environ, "PATH": f"{SOR.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.split() == ["scale-or-reason"]


def test_a_real_fish_completes(tmp_path: Path) -> None:
    if why := debian.install("fish", ["fish"], ["fish"]):
        pytest.skip(why)
    write_study(tmp_path)
    environment = {
        **os.environ, "PATH": f"{SOR.parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "PYTHONPATH": str(TESTS),
    }  # fmt: skip
    environment.pop("XDG_CONFIG_HOME", None)

    def fish(script: str) -> list[str]:
        done = subprocess.run(
            ["fish", "-c", script], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8",
            check=True,
        )  # fmt: skip
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert "fish completion installed" in fish("sor --install-completion")[0]
    for line, words in (
        ("sor sta", ["status"]), ("sor init mine.yaml --from p", ["pairs", "paper"]),
        ("sor logs small.yaml train/s-", ["train/s-r0", "train/s-r50"]),
    ):  # fmt: skip
        assert fish(f"source .config/fish/completions/sor.fish; complete --do-complete '{line}'") == words


def test_studies_are_listed_with_their_state(tmp_path: Path) -> None:
    with watched_study(tmp_path / "study") as file:

        def sor(*words: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "PYTHONPATH": str(TESTS), "SOR_RUNS": "runs"}
            return subprocess.run(
                [str(SOR), *words], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8",
                check=False,
            )  # fmt: skip

        before = sor("studies")
        assert (before.returncode, before.stdout.splitlines()[0]) == (0, "no study was submitted in runs")
        assert re.search(r"^demo +Tiny models", before.stdout, re.MULTILINE)
        (file.parent / "study.fail").touch()
        sor("submit", str(file), "--yes")
        after = sor("studies")
        assert after.returncode == 0
        assert re.match(r"small: needs attention: 0 of \d+ units done, .*1 failed", after.stdout)
        (tmp_path / "runs/broken").mkdir()
        write_json(tmp_path / "runs/broken/study.json", {"name": "broken"})
        broken = sor("studies")
        assert broken.returncode == 1
        assert "skipped runs/broken" in broken.stdout
        shutil.rmtree(tmp_path / "runs/small")
        alone = sor("studies")
        assert (alone.returncode, "skipped runs/broken" in alone.stdout) == (1, True)


def test_the_version_is_printed() -> None:
    done = subprocess.run([str(SOR), "--version"], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == f"sor {version('scale-or-reason')}\n"
