"""Grids: lists in a study's `training` and `mixtures`, from the file to the tables of the analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_results import benchmark, evaluation
from small_study import student, write_study

from analysis.report import analyse
from analysis.results.collect import collect
from analysis.statistics.frontier import trained_on
from jobs.core.recipe_words import recipe_words, varied
from launch.monitor.data.students import places
from launch.study.cluster import load_cluster
from launch.study.estimate import Lengths
from launch.study.plan import plan, settings_varied, variants
from launch.study.presets import StudyError
from launch.study.recipes import suffix
from launch.study.schema import Study, load_study


def study(folder: Path, **changes: Any) -> Study:
    return load_study(str(write_study(folder, **changes)))


def names(found: Study) -> list[str]:
    return [variant.name for variant in variants(found)]


def test_lists_are_crossed(tmp_path: Path) -> None:
    grid = {"epochs": [1, 2], "batch": 2, "block": [64, 128]}
    found = study(tmp_path, students={"s": student()}, mixtures={"shares": [0]}, training=grid)
    assert [(r.epochs, r.batch, r.block) for r in found.recipes] == [
        (1, 2, 64), (1, 2, 128), (2, 2, 64), (2, 2, 128),
    ]  # fmt: skip
    assert names(found) == ["s-r0", "s-r0-block128", "s-r0-epochs2", "s-r0-epochs2-block128"]


def test_a_list_of_mappings_is_zipped(tmp_path: Path) -> None:
    grid = [{"epochs": 1, "batch": 2}, {"epochs": 2, "batch": 4}, {"epochs": [1, 2], "batch": 2}]
    found = study(tmp_path, students={"s": student()}, mixtures={"shares": [0]}, training=grid)
    # The first combination of the last mapping is that of the first one: it is trained once.
    assert [(r.epochs, r.batch) for r in found.recipes] == [(1, 2), (2, 4), (2, 2)]
    assert names(found) == ["s-r0", "s-r0-epochs2-batch4", "s-r0-epochs2"]


def test_a_learning_rate_that_is_the_presets_is_not_trained_twice(tmp_path: Path) -> None:
    students = {"s": student(learning_rate=2e-5), "m": student(learning_rate=3e-5)}
    grid = {"learning_rate": [None, 2e-5]}
    found = study(tmp_path, students=students, mixtures={"shares": [0]}, training=grid)
    assert names(found) == ["s-r0", "m-r0", "m-r0-lr2e-05"]
    assert len(places(found, plan(found, load_cluster("local"))).rows) == 3
    turned = study(
        tmp_path, students=students, mixtures={"shares": [0]}, training={"learning_rate": [2e-5, None]}
    )
    assert names(turned) == ["s-r0", "m-r0", "m-r0-lr-preset"]


def test_every_setting_has_a_place_in_names(tmp_path: Path) -> None:
    first, other = (
        study(tmp_path, training=training).recipes[0]
        for training in (
            {},
            {
                "learning_rate": 1e-5, "epochs": 2, "batch": 8, "block": 512, "warmup": 0.1,
                "schedule": "linear", "weight_decay": 0.1, "betas": [0.8, 0.99], "clip": 0.5, "dtype": "fp32",
            },
        )
    )  # fmt: skip
    assert suffix(other, first) == (
        "-lr1e-05-epochs2-batch8-block512-warmup0.1-linear-decay0.1-betas0.8-0.99-clip0.5-fp32"
    )
    assert suffix(first, other)[: len("-lr-preset")] == "-lr-preset"
    assert suffix(first, first) == ""


def test_mixtures_in_a_list_have_their_own_orders(tmp_path: Path) -> None:
    mixed = [{"shares": [0, 0.5, 1]}, {"shares": [0, 0.5], "order": "shuffled"}]
    assert names(study(tmp_path, students={"s": student()}, mixtures=mixed)) == [
        "s-r0", "s-r50", "s-r100", "s-r50-shuffled",
    ]  # fmt: skip


def test_rows_are_tokenized_once_whatever_the_recipe(tmp_path: Path) -> None:
    grid = {"epochs": [1, 3], "learning_rate": [None, 1e-4], "block": [64, 128]}
    found = study(tmp_path, students={"s": student()}, mixtures={"shares": [0]}, training=grid)
    units = plan(found, load_cluster("local"), Lengths(100, 5, 3, 9))
    assert [u.name for u in units if u.stage == "tokenize"] == ["tokenizer"]
    trained = {u.name: u for u in units if u.stage == "train"}
    assert len(trained) == 8
    for name, unit in trained.items():
        assert [i.name for i in unit.inputs if i.stage == "tokenize"] == ["tokenizer"]
        assert unit.config["block_size"] == (128 if "block128" in name else 64)
        assert unit.config["recipe"]["learning_rate"] == (1e-4 if "lr" in name else 1e-3)
        assert unit.config["recipe"]["epochs"] == (3 if "epochs3" in name else 1)
    assert trained["s-r0-epochs3"].flops == 3 * (trained["s-r0"].flops or 0)
    assert settings_varied(units) == {
        "learning_rate": [1e-3, 1e-4], "epochs": [1, 3], "block": [64, 128],
    }  # fmt: skip


def test_learning_rates_of_presets_are_no_grid(tmp_path: Path) -> None:
    students = {"s": student(), "m": {**student(learning_rate=5e-4), "size": "2K"}}
    assert settings_varied(plan(study(tmp_path, students=students), load_cluster("local"))) == {}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"training": {"epochs": [1, 0]}}, "training.epochs.1", "found 0"),
        ({"training": {"epochs": [2, 2]}}, "training.epochs", "named more than once: 2"),
        ({"training": [{"epochs": 1}, {"epoch": 2}]}, "training.1.epoch", "did you mean 'epochs'?"),
        ({"training": []}, "training", "at least 1 item"),
        ({"training": {"batch": []}}, "training.batch", "at least 1 item"),
        ({"training": {"learning_rate": [0]}}, "training.learning_rate.0", "found 0"),
        ({"mixtures": [{"shares": 0}, {"shares": [0.5, 0.5]}]}, "mixtures.1.shares", "more than once: 0.5"),
        (
            {"mixtures": {"shares": 0.5, "order": ["shuffled", "shuffled"]}},
            "mixtures.order",
            "more than once",
        ),
    ],
)
def test_mistakes_in_lists(tmp_path: Path, changes: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(tmp_path, **changes)
    (mistake,) = caught.value.mistakes
    assert (mistake.key, words in mistake.message) == (key, True)
    assert mistake.at is not None


def test_the_monitors_grid_has_a_row_for_each_recipe(tmp_path: Path) -> None:
    found = study(tmp_path, training={"epochs": [1, 2]}, seeds=[0, 1])
    laid = places(found, plan(found, load_cluster("local")))
    assert [row.partition(", ")[2] for row in laid.rows] == ["epochs 1", "epochs 2"] * 2
    assert all(len(trainings) == 2 for _, trainings, _ in laid.cells.values())  # the seeds
    assert len(laid.cells) == 4 * len(found.mixed)


def test_words_name_what_differs() -> None:
    recipes = [
        {"epochs": 1, "betas": [0.9, 0.95]},
        {"epochs": 2, "betas": [0.9, 0.99], "learning_rate": None},
    ]
    assert varied([*recipes, recipes[0]]) == {"epochs": [1, 2], "betas": [[0.9, 0.95], [0.9, 0.99]]}
    assert recipe_words(recipes[1], ["epochs", "betas", "learning_rate"]) == (
        "epochs 2, betas 0.9 and 0.99, learning rate of the preset"
    )


def published(root: Path, name: str, epochs: int, accuracy: float, block: int = 64, **other: Any) -> None:
    """Publish a made-up evaluation, with the records of its training and its rows."""
    recipe = {"epochs": epochs, "learning_rate": 1e-3, "seed": other.get("seed", 0)}
    evaluation(
        root, name, 10**18 * epochs, [benchmark("b", accuracy)], 
        trained={"recipe": recipe, "block_size": block}, **other,
    )  # fmt: skip


def test_tables_tell_recipes_apart_and_compare_like_with_like(tmp_path: Path) -> None:
    for share, of_one, of_two in ((0.0, 0.3, 0.4), (0.5, 0.4, 0.6), (1.0, 0.5, 0.8)):
        for epochs, accuracy in ((1, of_one), (2, of_two)):
            for seed in (0, 1):
                name = f"s-r{100 * share:.0f}" + ("-epochs2" if epochs == 2 else "") + ("-s1" if seed else "")
                published(tmp_path, name, epochs, accuracy, share=share, seed=seed)
    table = collect(tmp_path)
    assert set(table["recipe"]) == {"epochs 1", "epochs 2"}  # not the seeds, which differ as well
    assert set(trained_on(table)) >= {"plain answers, epochs 1", "50 % reasoning, epochs 2"}
    tables = analyse(tmp_path).tables
    points = tables["frontier"][tables["frontier"]["kind"] == "benchmark"]
    assert dict(zip(points["student"], points["seeds"], strict=True)) == dict.fromkeys(
        (f"s-r{share}{end}" for share in (0, 50, 100) for end in ("", "-epochs2")), 2
    )
    kept = tables["kept"]
    own = kept[kept["kind"] == kept["kind"].iloc[0]]
    # With like recipes the mixture keeps 0.1 of 0.2, and 0.2 of 0.4.
    assert own["gain"].round(9).tolist() == [0.3]
    assert own["sizes"].tolist() == [2]


def test_one_recipe_has_no_words_and_learning_rates_by_size_are_none(tmp_path: Path) -> None:
    published(tmp_path, "s-r0", 1, 0.4, size="1B")
    published(tmp_path, "m-r0", 2, 0.5, size="2B")
    assert set(collect(tmp_path)["recipe"]) == {""}


def test_records_that_are_lost_leave_the_recipe_unknown(tmp_path: Path) -> None:
    published(tmp_path, "s-r0", 1, 0.4)
    published(tmp_path, "s-r0-epochs2", 2, 0.5)
    published(tmp_path, "s-r0-epochs4", 4, 0.5)
    (lost,) = tmp_path.rglob("train/s-r0-epochs4*/unit.json")
    lost.unlink()
    table = collect(tmp_path).set_index("student")
    assert table["recipe"].to_dict() == {"s-r0": "epochs 1", "s-r0-epochs2": "epochs 2", "s-r0-epochs4": ""}


def test_blocks_are_a_part_of_the_recipe(tmp_path: Path) -> None:
    published(tmp_path, "s-r0", 1, 0.4)
    published(tmp_path, "s-r0-block128", 1, 0.5, block=128)
    assert set(collect(tmp_path)["recipe"]) == {"block 64", "block 128"}
