"""The plan: which units a study has, in which order, and what a change makes new."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_study import student, write_study

from jobs.core.unit import STAGES, Unit
from jobs.store.rundir import StudyDir
from launch.study import plan as planning
from launch.study.cluster import Cluster, load_cluster
from launch.study.estimate import CORES, Lengths
from launch.study.plan import gpu_hours, percent, plan, totals
from launch.study.presets import CONFIGS, WORD, StudyError
from launch.study.schema import Prepare, load_study

TEXT_STAGES = ("collate", "tokenize")


def planned(folder: Path, cluster: Cluster | None = None, **changes: Any) -> list[Unit]:
    return plan(load_study(str(write_study(folder, **changes))), cluster or load_cluster("local"))


def ids(units: list[Unit]) -> dict[str, str]:
    return {f"{u.stage} {u.name}": u.id for u in units}


def new(before: list[Unit], after: list[Unit]) -> set[str]:
    """Names of the units after a change that are not the same work as before; none may have come or gone."""
    old, now = ids(before), ids(after)
    assert old.keys() == now.keys()
    return {name for name in now if now[name] != old[name]}


def of_student(name: str) -> set[str]:
    """A student's units and what reads them."""
    trained = {f"train {name}-r{share}" for share in (0, 50)}
    evaluated = {f"evaluate {name}-r{share}.{group}" for share in (0, 50) for group in ("easy", "hard")}
    return trained | evaluated | {"report small"}


def test_units_of_a_study(tmp_path: Path) -> None:
    units = planned(tmp_path)
    assert Counter(u.stage for u in units) == {
        "prepare": 1, "collate": 1, "tokenize": 1, "train": 4, "evaluate": 8, "report": 1,
    }  # fmt: skip
    assert of_student("s") | of_student("m") < set(ids(units))
    by_name = {f"{u.stage} {u.name}": u for u in units}

    def reads(name: str) -> set[str]:
        return {f"{i.role}: {i.stage} {i.name}" for i in by_name[name].inputs}

    assert reads("collate small") == {"prepare: prepare small"}
    assert reads("tokenize tokenizer") == {"collate: collate small", "prepare: prepare small"}
    assert reads("train s-r50") == {"tokenize: tokenize tokenizer", "prepare: prepare small"}
    assert reads("evaluate s-r50.easy") == {"train: train s-r50"}
    evaluations = {n.removeprefix("evaluate ") for n in by_name if n.startswith("evaluate")}
    assert reads("report small") == {f"{e}: evaluate {e}" for e in evaluations}


def test_a_teacher_adds_its_generation(tmp_path: Path) -> None:
    mode = {"chat_template_kwargs": {}, "max_tokens": 9}
    (tmp_path / "t.yaml").write_text(
        yaml.safe_dump({**student(), "model": "org/teacher", "init": "pretrained"}), encoding="utf-8"
    )
    units = planned(
        tmp_path, pairs=None, teacher="t.yaml", prompts={"path": "@prepare/p.jsonl", "count": 10},
        modes={"ift": mode, "reasoning": mode},
    )  # fmt: skip
    generate = next(u for u in units if u.stage == "generate")
    collate = next(u for u in units if u.stage == "collate")
    assert generate.config["model"] == "org/teacher"
    assert [i.stage for i in generate.inputs] == ["prepare"]
    assert [i.id for i in collate.inputs] == [generate.id]
    assert collate.config["pairs"] is None


@pytest.mark.parametrize("name", ["scale-or-reason", "demo", "smollm"])
def test_inputs_come_first_and_names_are_unique(name: str) -> None:
    units = plan(load_study(name), load_cluster("local"))
    seen: set[str] = set()
    for unit in units:
        assert {i.id for i in unit.inputs} <= seen
        seen.add(unit.id)
    assert len({(u.stage, u.name) for u in units}) == len(units) == len(seen)
    assert [u.stage for u in units] == sorted((u.stage for u in units), key=STAGES.index)


def test_a_learning_rate_makes_its_student_new_and_nothing_else(tmp_path: Path) -> None:
    before = planned(tmp_path)
    changed = {"s": student(learning_rate=5e-4), "m": student()}
    assert new(before, planned(tmp_path, students=changed)) == of_student("s")


def test_how_it_runs_makes_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned(tmp_path)
    training = {"micro_batch": 4, "zero": 2, "nodes": 2, "gpus_per_node": 8, "gradient_checkpointing": True}
    training |= {"sequence_parallel": 1}
    serving = {"engine": "transformers", "gpus": 2, "workers": 5, "cpus": 3, "max_model_len": 99}
    changed = {name: {**student(**training), "serving": serving} for name in ("s", "m")}
    monkeypatch.setattr(planning, "MARGIN", 5.0)
    cluster = load_cluster("local").model_copy(update={"max_hours": 1000, "cpus_per_gpu": 3})
    after = planned(tmp_path, cluster, students=changed, expect={"prompt": 9, "ift": 9, "reasoning": 900})
    assert new(before, after) == set()
    assert [u.to_json() for u in before] != [u.to_json() for u in after], "the change changed nothing at all"
    study = load_study(str(write_study(tmp_path)))
    assert new(before, plan(study, load_cluster("local"), Lengths(10**9, 100, 100, 9000))) == set()


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"prepare": {"function": "small_study:prepare", "args": {"folder": "elsewhere"}}}, "prepare"),
        ({"pairs": {"path": "@prepare/pairs.jsonl", "count": 3}}, "collate"),
        ({"training": {"block": 128}}, "train"),
        ({"training": {"epochs": 2}}, "train"),
    ],
)
def test_a_change_makes_new_what_depends_on_it(tmp_path: Path, changes: dict[str, Any], first: str) -> None:
    before = planned(tmp_path)
    made_new = {name.split()[0] for name in new(before, planned(tmp_path, **changes))}
    assert made_new == {u.stage for u in before if STAGES.index(u.stage) >= STAGES.index(first)}


@pytest.mark.parametrize(
    "more",
    [
        {"students": {name: student() for name in ("l", "s", "m")}},
        {"students": {"s": student(), "m": student(), "l": {**student(), "tokenizer": "org/other"}}},
        {"mixtures": {"shares": [1, 0, 0.5]}},
        {"mixtures": {"shares": [0, 0.5], "order": ["sequential", "shuffled"]}},
        {"seeds": [0, 1]},
        {"training": [{}, {"epochs": [1, 2], "learning_rate": 1e-4}]},
    ],
    ids=["student", "student with a tokenizer of its own", "share", "order", "seed", "recipe"],
)
def test_a_study_that_grows_finds_all_it_has_done(tmp_path: Path, more: dict[str, Any]) -> None:
    before = planned(tmp_path)
    after = planned(tmp_path, **more)
    root = StudyDir(tmp_path)
    folders = {root.unit(u).path for u in after}
    assert {u.name for u in before if root.unit(u).path not in folders} == {"small"}, "more than the report"
    assert len(after) > len(before)


def test_benchmark_change_leaves_training_alone(tmp_path: Path) -> None:
    before = planned(tmp_path)
    write_study(tmp_path)
    group = tmp_path / "hard.yaml"
    group.write_text(
        group.read_text(encoding="utf-8").replace("max_tokens: 8", "max_tokens: 16"), encoding="utf-8"
    )
    after = plan(load_study(str(tmp_path / "small.yaml")), load_cluster("local"))
    expected = {f"evaluate {s}-r{share}.hard" for s in "sm" for share in (0, 50)} | {"report small"}
    assert new(before, after) == expected


def test_orders_and_seeds_are_told_apart(tmp_path: Path) -> None:
    units = planned(
        tmp_path, students={"s": student()}, seeds=[0, 1],
        mixtures={"shares": [0, 0.5, 1], "order": ["sequential", "shuffled"]},
    )  # fmt: skip
    trained = [u.name for u in units if u.stage == "train"]
    # Without a mixture there is no order: the pure students are trained once a seed.
    assert sorted(trained) == sorted(
        f"s-{mixture}{seed}" for seed in ("", "-s1") for mixture in ("r0", "r50", "r50-shuffled", "r100")
    )


def test_each_tokenizer_has_its_tokens(tmp_path: Path) -> None:
    students = {"s": student(), "m": student(), "l": {**student(), "tokenizer": "org/other"}}
    units = planned(tmp_path, students=students)
    made = {u.name: u.config["tokenizer"] for u in units if u.stage == "tokenize"}
    assert made == {"tokenizer": "@prepare/tokenizer", "other": "org/other"}
    read = {(u.config["model"]["name"][0], i.name) for u in units for i in u.inputs if i.stage == "tokenize"}
    assert read == {("s", "tokenizer"), ("m", "tokenizer"), ("l", "other")}


def test_flops_grow_with_what_is_done(tmp_path: Path) -> None:
    study = load_study("scale-or-reason")
    units = {(u.stage, u.name): u for u in plan(study, load_cluster("local"))}
    for smaller, larger in (("0.5b", "1.5b"), ("1.5b", "3b"), ("3b", "7b"), ("7b", "14b")):
        a, b = (units["train", f"qwen2.5-{size}-r100"].flops or 0 for size in (smaller, larger))
        assert a < b
    shares = [units["train", f"qwen2.5-7b-r{share}"].flops or 0 for share in (0, 25, 50, 75, 100)]
    assert shares == sorted(shares)
    assert len(set(shares)) == 5
    # 6·N·D of the paper's largest student on reasoning alone, and attention besides.
    rule = 6 * 14.77e9 * 1_142_707 * 3450
    assert rule < (units["train", "qwen2.5-14b-r100"].flops or 0) < 1.2 * rule


def test_filters_make_what_follows_them_new_and_no_answers(tmp_path: Path) -> None:
    mode = {"chat_template_kwargs": {}, "max_tokens": 9}
    (tmp_path / "t.yaml").write_text(
        yaml.safe_dump({**student(), "model": "org/teacher", "init": "pretrained"}), encoding="utf-8"
    )
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1", "a": 2, "b": [2]}\n', encoding="utf-8")
    source = {"path": str(tmp_path / "p.jsonl")}

    def units(filters: dict[str, Any] | None = None, **of_source: str) -> list[Unit]:
        return planned(
            tmp_path, pairs=None, teacher="t.yaml", prompts={**source, **of_source}, filters=filters,
            modes={"ift": mode, "reasoning": mode},
        )  # fmt: skip

    before = units()
    assert not new(before, units(reference="a")), "nothing reads them"
    judged = units({"correct": "report"}, reference="a")
    made = {name for name in ids(before) if not name.startswith(("prepare", "generate"))}
    assert new(before, judged) == made
    collate = next(u for u in judged if u.stage == "collate")
    (told,) = collate.config["references"]
    assert told["reference"] == "a"
    assert collate.execution["files"] == {told["path"]: source["path"]}
    assert "benchmarks" not in collate.config
    with pytest.raises(StudyError, match="column 'b' holds a list of something else than messages"):
        units({"correct": "report"}, reference="b")
    with pytest.raises(StudyError, match="no column 'c'"):
        units({"correct": "report"}, reference="c")
    clean = units({"decontaminate": 8})
    collate = next(u for u in clean if u.stage == "collate")
    assert collate.config["benchmarks"][0]["tasks"] == [{"task": "easy"}]
    assert collate.config["filters"] == {"decontaminate": 8}
    least = next(u for u in before if u.stage == "collate").resources
    assert collate.resources.memory > least.memory


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({}, "name at least one of duplicates, near_duplicates, decontaminate, correct"),
        ({"near_duplicates": 0.2}, "greater than or equal to 0.5"),
        ({"decontaminate": 3}, "greater than or equal to 5"),
        ({"correct": "require"}, "filters.correct: no source of prompts or pairs names the column"),
        ({"corect": "require"}, "did you mean 'correct'"),
    ],
)
def test_filters_that_cannot_be(filters: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=words):
        planned(tmp_path, filters=filters)


def test_sharing_long_blocks_changes_neither_identities_nor_estimates(tmp_path: Path) -> None:
    names, cluster = ("qwen2.5-7b", "qwen2.5-14b"), load_cluster("generic")
    presets = {n: yaml.safe_load((CONFIGS / f"models/{n}.yaml").read_text(encoding="utf-8")) for n in names}
    recipe = {"batch": 32, "block": 32768}
    usual = planned(tmp_path, cluster, students=presets, training=recipe)
    for preset in presets.values():
        preset["training"]["sequence_parallel"] = 4
    shared = planned(tmp_path, cluster, students=presets, training=recipe)
    trained = [u for u in shared if u.stage == "train"]
    assert {u.execution["sequence_parallel"] for u in trained} == {4}
    assert {u.resources.world_size for u in trained} == {32, 64}
    assert [replace(u, execution={}) for u in shared] == [replace(u, execution={}) for u in usual]


def test_totals_add_up_and_say_when_they_do_not_know(tmp_path: Path) -> None:
    units = plan(load_study("scale-or-reason"), load_cluster("local"))
    sums = totals(units)
    assert sums["units"] == len(units)
    assert sums["flops"] == sum(u.flops or 0 for u in units)
    assert sums["gpu_hours"] == pytest.approx(sum(gpu_hours(u) for u in units), abs=0.1)
    assert 500 < sums["gpu_hours"] < 50_000
    unknown = planned(tmp_path, pairs={"path": "@prepare/pairs.jsonl"})
    assert totals(unknown)["flops"] is None
    known = planned(tmp_path, pairs={"path": "@prepare/pairs.jsonl", "count": 10})
    assert totals(known)["flops"] > 0


def test_time_limits_stay_within_the_cluster(tmp_path: Path) -> None:
    limit = load_cluster("local").max_hours
    for unit in plan(load_study("scale-or-reason"), load_cluster("local")):
        assert 0 < unit.resources.hours <= limit


def test_stages_without_flops_ask_for_time_by_what_they_read(tmp_path: Path) -> None:
    cluster = load_cluster("jean-zay")

    def hours(prompts: int, **more: Any) -> dict[str, float]:
        study = load_study("scale-or-reason")
        prepare = Prepare(function="jobs.toy:prepare", **more)
        rows = replace(Lengths.expected(study), prompts=prompts)
        units = plan(study.model_copy(update={"prepare": prepare}), cluster, rows)
        return {u.stage: u.resources.hours for u in units}

    few, many = hours(1000), hours(10**8, hours=3)
    assert (few["prepare"], few["collate"], few["report"]) == (1, 0.5, 0.5)
    assert (many["prepare"], many["report"]) == (3, 0.5)
    assert 1 < many["collate"] <= cluster.max_hours
    assert hours(1000, hours=500)["prepare"] == cluster.max_hours


def test_the_time_of_prepare_makes_nothing_new(tmp_path: Path) -> None:
    study = load_study("demo")
    assert study.prepare
    longer = study.model_copy(update={"prepare": study.prepare.model_copy(update={"hours": 9.0})})
    cluster = load_cluster("local")
    assert [u.id for u in plan(longer, cluster)] == [u.id for u in plan(study, cluster)]


def test_tokenizing_asks_for_time_by_its_tokens() -> None:
    cluster = load_cluster("generic")
    few, many = (
        next(u.resources for u in plan(load_study(name), cluster) if u.stage == "tokenize")
        for name in ("demo", "scale-or-reason")
    )
    assert (few.cpus_per_task, few.hours) == (1, 0.5)
    assert many.cpus_per_task == min(cluster.cpus_per_gpu, CORES)
    here = [u for u in plan(load_study("scale-or-reason"), load_cluster("local")) if u.stage in TEXT_STAGES]
    assert {u.resources.cpus_per_task for u in here} == {min(CORES, len(os.sched_getaffinity(0)))}
    tokens = 1_142_707 * (150 + 650 + 3300)
    assert many.hours * 3600 * many.cpus_per_task * 100_000 > tokens  # at twice the speed that was seen


def test_measured_lengths_change_estimates(tmp_path: Path) -> None:
    study, cluster = load_study("demo"), load_cluster("local")
    short, long = (plan(study, cluster, Lengths(100, 10, 2, n)) for n in (20, 40))
    for a, b in zip(short, long, strict=True):
        if a.stage == "train" and a.config["share"] > 0:
            assert (a.flops or 0) < (b.flops or 0)
        if a.stage == "train" and a.config["share"] == 0:
            assert a.flops == b.flops


@pytest.mark.parametrize(
    ("shares", "names"),
    [
        ([0, 0.25, 0.5, 0.75, 1], ["r0", "r25", "r50", "r75", "r100"]),
        ([0.1, 0.07, 0.125, 0.29], ["r10", "r7", "r12.5", "r29"]),
        ([0.1234567891, 0.1234567892], ["r12.34567891", "r12.34567892"]),
        ([1 / 3, 1e-9, 5e-324], ["r33.33333333333333", "r1E-7", "r5E-322"]),
    ],
)
def test_no_two_shares_have_one_name(shares: list[float], names: list[str]) -> None:
    assert [f"r{percent(share)}" for share in shares] == names


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True))
def test_names_of_shares_differ(shares: list[float]) -> None:
    first, second = map(percent, shares)
    assert first != second
    assert WORD.fullmatch(f"r{first}")
    assert Decimal(first) / 100 == Decimal(repr(shares[0]))


def test_a_tokenizer_of_any_name_names_a_folder(tmp_path: Path) -> None:
    odd = {**student(), "tokenizer": "@prepare/a b:é" + "x" * 300 + "/"}
    made = [u.name for u in planned(tmp_path, students={"s": odd}) if u.stage == "tokenize"]
    assert made == ["a-b--" + "x" * 55]
