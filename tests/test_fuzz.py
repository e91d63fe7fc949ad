"""Damaged and odd input of every kind: the program answers in words, and does nothing else.

Each test tries new examples each time; the blob that a failure prints repeats it. FUZZ_EXAMPLES says how many
all tests try together: 500, or 5,000 in `make fuzz`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutated import Files, changed, study_with_presets
from watched import Answer, call

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
SHARES = {"yaml": 1.0}  # of the examples, by test
OWN = "raise SystemExit('this was run')\ndef make(staged, args, progress): ...\n"
CONTROLS = {chr(c) for c in (*range(32), *range(127, 160))} - {"\n"}


def some(kind: str) -> settings:
    """How many examples a test tries; each has a time limit of its own (watched.py)."""
    return settings(
        max_examples=max(1, round(EXAMPLES * SHARES[kind])),
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),
    )


def check(answer: Answer) -> None:
    """That an answer is one of those that a person can use, and that nothing else was done."""
    assert answer.code in (0, 2), answer
    assert answer.deeds == []
    assert not CONTROLS & set(answer.out + answer.err)
    lines = answer.err.splitlines()
    assert all(line.startswith("sor: ") and len(line) > len("sor: ") for line in lines), lines
    assert bool(lines) == (answer.code == 2), answer


BASES = [
    study_with_presets(study, cluster)
    for study in ("demo", "smollm", "scale-or-reason")
    for cluster in ("local", "generic", "jean-zay")
]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """All modules, before anything is watched: loading some reads and writes caches."""
    with tempfile.TemporaryDirectory() as folder:
        for more in ([], ["--json"]):
            assert call(Path(folder), "plan", "demo", "--runs", "runs", *more).code == 0


@some("yaml")
@given(changed(BASES), st.booleans())
def test_files_that_people_write(files: Files, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        (folder / "own.py").write_text(OWN, encoding="utf-8")
        before = set(os.listdir(folder))
        more = ["--json"] if as_json else []
        check(call(folder, "plan", "study.yaml", "--runs", "runs", "--cluster", "cluster.yaml", *more))
        assert set(os.listdir(folder)) == before
        assert "own" not in sys.modules
