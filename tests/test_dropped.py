"""What was dropped in both modes stands in the report, by stage and reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import benchmark, evaluation
from small_study import publish
from test_report import LOOK, visited

from analysis.report import write_report
from analysis.results.collect import collect
from analysis.results.dropped import DROPPED, dropped, dropped_line
from analysis.results.filtered import FILTERED, contaminated, filtered, filtered_line
from jobs.core.unit import Unit
from jobs.store.rundir import StudyDir, write_json


def study(path: Path, sizes: dict[str, str], earlier: bool = False) -> None:
    """Two students of each size, whose rows were packed with this tokenizer.

    Args:
        earlier: by a stage of its own, as in earlier versions.
    """
    root = StudyDir(path)
    path.mkdir(parents=True)
    write_json(root.study, {})
    collated = Unit("collate", "rows", {"pairs": None})
    publish(root, collated, {"prompts": 3360, "dropped": {"truncated": 38, "unclosed": 0, "empty": 2}})
    for size, tokenizer in sizes.items():
        for share in (0.0, 1.0):
            packed = {"prompts": 3348, "dropped": {"stray_tags": 0, "too_long": 12}}
            made: dict[str, Any] = {"size": size, "share": share, "read": collated, "packed": packed}
            config: dict[str, Any] = {"block_size": 4096, "share": share}
            recipe = {"epochs": 1 if share else 2, "seed": 0}
            if earlier:
                pack = Unit("pack", f"r{share}", {**config, "tokenizer": tokenizer}, (collated.as_input(),))
                if not root.unit(pack).done:  # sizes may share it
                    publish(root, pack, packed)
                made |= {"read": pack, "packed": None, "trained": {"recipe": recipe}}
            else:
                made["trained"] = {"recipe": recipe, "model": {"tokenizer": tokenizer}, **config}
            evaluation(path, f"{size}-{share}", 10**9, [benchmark("b", 0.5)], **made)


@pytest.mark.parametrize("earlier", [False, True])
def test_counts_of_both_stages_are_in_the_report(
    tmp_path: Path, earlier: bool, recwarn: pytest.WarningsRecorder
) -> None:
    study(tmp_path / "s", {"1B": "org/tokens", "2B": "org/tokens"}, earlier)
    table = dropped(tmp_path / "s", collect(tmp_path / "s"))
    assert list(table.columns) == list(DROPPED)
    assert table.values.tolist() == [
        ["collate", "all", 3400, 3360, "empty", 2],
        ["collate", "all", 3400, 3360, "truncated", 38],
        ["collate", "all", 3400, 3360, "unclosed", 0],
        ["pack", "org/tokens, 4096", 3360, 3348, "stray_tags", 0],
        ["pack", "org/tokens, 4096", 3360, 3348, "too_long", 12],
    ]
    assert dropped_line(table) == (
        "in both modes alike: collate kept 3,360 of 3,400 prompts (38 truncated, 2 empty); "
        "pack for org/tokens, 4096 tokens kept 3,348 of 3,360 prompts (12 too long)"
    )
    assert not recwarn.list
    none = table.assign(dropped=0, kept=table["prompts"])
    assert dropped_line(none) == "dropped: none of the 3,400 prompts, in either mode"
    report = write_report(tmp_path / "s", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "dropped.csv")["dropped"].sum() == 52
    assert report.page
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.page.read_text(encoding="utf-8"), re.S)
    assert data
    assert json.loads(data[1])["dropped"][-1] == dict(zip(DROPPED, table.values.tolist()[-1], strict=True))


def test_each_tokenizer_has_its_own(tmp_path: Path) -> None:
    study(tmp_path / "s", {"1B": "a", "2B": "b"})
    table = dropped(tmp_path / "s", collect(tmp_path / "s"))
    assert table["rows"].unique().tolist() == ["all", "a, 4096", "b, 4096"]


def test_results_from_elsewhere_tell_of_nothing(tmp_path: Path) -> None:
    evaluation(tmp_path / "s", "m", 10**9, [benchmark("b", 0.5)])
    table = dropped(tmp_path / "s", collect(tmp_path / "s"))
    assert list(table.columns) == list(DROPPED)
    assert dropped_line(table) == ""


def test_the_arms_before_and_after_filters_are_in_the_report(tmp_path: Path) -> None:
    root = StudyDir(tmp_path / "s")
    root.path.mkdir()
    write_json(root.study, {})
    collated = Unit("collate", "rows", {"pairs": None})
    before = {
        "prompts": 100, "lengths": {"ift": 50.0, "reasoning": 900.4},
        "correct": {"prompts": 80, "ift": 0.5, "reasoning": 0.75},
    }  # fmt: skip
    after = {**before, "prompts": 60, "lengths": {"ift": 40.0, "reasoning": 700.0}}
    after["correct"] = {"prompts": 50, "ift": 1.0, "reasoning": 1.0}
    filters = {"before": before, "after": after, "contaminated": {"aime24": 2, "gsm8k": 12}, "late": 0}
    counts = {"contaminated": 13, "incorrect": 27}
    publish(root, collated, {"prompts": 60, "dropped": counts, "lengths_in": "tokens", "filters": filters})
    evaluation(tmp_path / "s", "m", 10**9, [benchmark("b", 0.5)], read=collated)
    results = collect(tmp_path / "s")
    table, hits = filtered(tmp_path / "s", results), contaminated(tmp_path / "s", results)
    assert list(table.columns) == list(FILTERED)
    assert table.values.tolist() == [
        ["ift", 100, 60, 50.0, 40.0, "tokens", 80, 0.5, 1.0],
        ["reasoning", 100, 60, 900.4, 700.0, "tokens", 80, 0.75, 1.0],
    ]
    assert hits.values.tolist() == [["gsm8k", 12], ["aime24", 2]]
    assert filtered_line(table, hits) == (
        "filters: ift 50 to 40 tokens an answer, 50.0% to 100.0% correct; "
        "reasoning 900 to 700 tokens an answer, 75.0% to 100.0% correct; "
        "prompts like items of gsm8k 12, aime24 2"
    )
    unjudged = table.assign(correct_before=float("nan"), correct=float("nan"))
    assert filtered_line(unjudged, hits[:0]).endswith("reasoning 900 to 700 tokens an answer")
    page = write_report(tmp_path / "s", tmp_path / "out").page
    assert page
    cells = visited(
        page, tmp_path, visit=LOOK.replace("#dropped", "#filtered-part td, #contaminated-part td")
    )
    assert cells["first"]["dropped"] == [
        "ift", "100 → 60", "50 → 40 tokens", "50.0 → 100.0",
        "reasoning", "100 → 60", "900 → 700 tokens", "75.0 → 100.0", "gsm8k", "12", "aime24", "2",
    ]  # fmt: skip
    assert len(pd.read_csv(tmp_path / "out" / "filtered.csv")) == 2
    assert pd.read_csv(tmp_path / "out" / "contaminated.csv")["prompts"].sum() == 14


def test_a_study_without_filters_tells_of_none(tmp_path: Path) -> None:
    study(tmp_path / "s", {"1B": "a"})
    results = collect(tmp_path / "s")
    table, hits = filtered(tmp_path / "s", results), contaminated(tmp_path / "s", results)
    assert table.empty
    assert hits.empty
    assert filtered_line(table, hits) == ""
