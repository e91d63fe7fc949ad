"""A newcomer's first study with real weights: written, planned, submitted, interrupted, continued, read.

The shipped study smollm with few questions and one student, as a person would cut it down to try it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from small_study import SOR, wait_for

from jobs.store.rundir import StudyDir, read_json, read_jsonl

pytestmark = pytest.mark.slow
NUMBERS = range(2, 22)
ASKED = [
    *(f"Is {n} pounds of iron heavier than {n + 3} pounds of hay? Answer Yes or No" for n in NUMBERS),
    *(f'What is the 3rd word in "She buys {n} apples"?' for n in NUMBERS),
]
EDITS = {  # of the file's lines
    'prompts: {path: "@prepare/prompts.jsonl", count: 279}': "prompts: {path: prompts.jsonl}",
    "mixtures: {shares: [0, 0.5, 1], order: sequential}": "mixtures: {shares: [0.5]}",
    "training: {epochs: 2,": "training: {epochs: 1,",
    "benchmarks: [smollm-heavier, smollm-word, smollm-ducks]": "benchmarks: smollm-word",
}


class Newcomer:
    """Types commands in an empty folder; the screen of each is kept there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._screens = 0
        self._variables = {**os.environ, "PATH": f"{SOR.parent}:{os.environ['PATH']}", "COLUMNS": "80"}
        self._variables.pop("SOR_RUNS", None)

    def types(self, command: str, code: int = 0) -> str:
        """Type a command; returns its screen."""
        return self._ended(self.begins(command), command, code)

    def begins(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(command), cwd=self.home, env=self._variables, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def interrupts(self, process: subprocess.Popen[str], command: str) -> str:
        """Press Ctrl-C; returns the command's screen."""
        process.send_signal(signal.SIGINT)
        return self._ended(process, command, 128 + signal.SIGINT)

    def _ended(self, process: subprocess.Popen[str], command: str, code: int) -> str:
        screen, _ = process.communicate()
        self._screens += 1
        kept = self.home / f"screen-{self._screens:02}.txt"
        kept.write_text(f"$ {command}\n{screen}[exit code {process.returncode}]\n", encoding="utf-8")
        assert process.returncode == code, kept.read_text(encoding="utf-8")
        assert "Traceback" not in screen
        return screen


def test_a_first_study_with_real_weights(tmp_path: Path) -> None:
    newcomer, root = Newcomer(tmp_path), StudyDir(tmp_path / "runs" / "mine")
    said = newcomer.types("sor init mine.yaml --from smollm")
    newcomer.types(said.partition("To see its units: ")[2])
    file = tmp_path / "mine.yaml"
    text = file.read_text(encoding="utf-8")
    for before, after in EDITS.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ASKED)
    (tmp_path / "prompts.jsonl").write_text(rows, encoding="utf-8")
    assert re.search(r"^train +1 ", newcomer.types("sor plan mine.yaml"), re.MULTILINE)
    assert "Add --yes" in newcomer.types("sor submit mine.yaml", code=2)  # nobody can be asked

    submit = "sor submit mine.yaml --yes"
    process = newcomer.begins(submit)
    generation = root.path / "generate"
    wait_for(lambda: list(generation.rglob("parts/*.jsonl")), "the teacher's first answer", 600)
    said = newcomer.interrupts(process, submit)
    assert said.splitlines()[-1].endswith("To continue: sor submit mine.yaml")
    assert "next: sor submit mine.yaml" in newcomer.types("sor status mine.yaml", code=4)
    assert newcomer.types(submit).splitlines()[-1].endswith("Its report: sor report mine.yaml")
    assert newcomer.types("sor status mine.yaml").startswith("mine: done")
    assert re.search(r"^report: .*report\.html$", newcomer.types("sor report mine.yaml"), re.MULTILINE)
    look = "import analysis; print(analysis.analyse('runs/mine').tables['frontier'].to_string())"
    assert "smollm2-135m-r50" in newcomer.types(f"{SOR.with_name('python')} -c {shlex.quote(look)}")
    check(root)


def check(root: StudyDir) -> None:
    """What the models did is sane."""
    [generated], [trained] = root.published("generate"), root.published("train")
    rows = [row for chunk in (generated.out / "chunks").glob("*.jsonl") for row in read_jsonl(chunk)]
    plain, thought = ([row for row in rows if row["mode"] == mode] for mode in ("ift", "reasoning"))
    assert len(plain) == len(thought) == len(ASKED)
    assert not any(row["reasoning"] for row in plain)
    assert sum(bool(row["reasoning"]) for row in thought) > len(ASKED) / 2, "the template asks for steps"
    losses = [line["loss"] for line in read_jsonl(trained.out / "metrics.jsonl")]
    assert losses[0] < 4  # nothing learnt would be ln(49152) = 10.8
    assert read_json(trained.result)["parameters"] == 134_515_008
    results = pd.read_csv(root.published("report")[0].out / "results.csv")
    assert list(results["benchmark"]) == ["word"]
    assert results["accuracy"].between(0, 1).all()
