"""How long the teacher's answers are, and how many were cut off, stands in the report, by mode."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from made_results import benchmark, evaluation
from small_study import publish

from analysis.report import print_report, write_report
from analysis.results.collect import collect
from analysis.results.teacher import TEACHER, teacher_answers, teacher_line
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir, write_json


def study(path: Path, length: int) -> None:
    root = StudyDir(path)
    path.mkdir(parents=True)
    write_json(root.study, {})
    modes = {"ift": {"max_tokens": 4096}, "reasoning": {"max_tokens": 16384}}
    generated = Unit("generate", "big", {"modes": modes})
    counts = {"prompt": 9, "reasoning": 0, "answer": 1234 * 1000}
    thought = {"prompt": 9, "reasoning": 4000 * 1000, "answer": 500 * 1000}
    finish = {"ift": {"stop": 1000, "length": 0}, "reasoning": {"stop": 1000 - length, "length": length}}
    result = {"tokens": {"ift": counts, "reasoning": thought}, "finish": finish}
    publish(root, generated, result)
    collated = Unit("collate", "rows", {"pairs": None}, (generated.as_input(),))
    publish(root, collated, {"prompts": 1000 - length, "dropped": {"truncated": length}})
    evaluation(path, "1B-0", 10**9, [benchmark("b", 0.5)], read=collated, size="1B", share=0.0)


def test_lengths_and_the_answers_cut_off_are_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path / "s", 38)
    table = teacher_answers(tmp_path / "s", collect(tmp_path / "s"))
    assert list(table.columns) == list(TEACHER)
    assert table.values.tolist() == [
        ["big", "ift", 1000, 1234.0, 4096, 0],
        ["big", "reasoning", 1000, 4500.0, 16384, 38],
    ]
    said = (
        "the teacher's answers: plain 1,234 tokens in the mean, 0.0% of 1,000 cut off at 4,096; "
        "reasoning 4,500 tokens in the mean, 3.8% of 1,000 cut off at 16,384"
    )
    assert teacher_line(table) == said
    report = write_report(tmp_path / "s", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "teacher.csv")["cut_off"].tolist() == [0, 38]
    assert report.page
    text = report.page.read_text(encoding="utf-8")
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)
    assert data
    assert json.loads(data[1])["teacher"][1]["cut_off"] == 38
    print_report(report)
    assert said.split("; ")[1] in " ".join(capsys.readouterr().out.split())


def test_results_from_elsewhere_have_no_teacher(tmp_path: Path) -> None:
    evaluation(tmp_path / "s", "m", 10**9, [benchmark("b", 0.5)])
    table = teacher_answers(tmp_path / "s", collect(tmp_path / "s"))
    assert list(table.columns) == list(TEACHER)
    assert teacher_line(table) == ""
