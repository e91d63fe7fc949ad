"""Trainings with a budget of FLOPs: on any number of processes, interrupted, continued from one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_training import ALONE, ARCHITECTURE, KILLED, Study, load, losses, zero
from test_resume import same, step

from jobs.core.unit import CONTINUES, Unit
from jobs.store.rundir import read_json, read_jsonl
from jobs.training.schedule import Recipe, block_flops, scheduled, training_order

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow

MIXED = "shuffled"  # one phase
WSD = {"schedule": "wsd", "cooldown": 0.2, "epochs": None, "warmup": 0.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"), MIXED)


def cost(study: Study, blocks: int) -> float:
    """The FLOPs of the first so many blocks that a training reads."""
    order = training_order(study.blocks.phases, 100, 0)[:blocks]
    return float(block_flops(study.blocks, ARCHITECTURE)[order].sum())


def budget(study: Study, blocks: int) -> dict[str, Any]:
    """A recipe with the FLOPs of so many blocks; all have one warmup."""
    return {**WSD, "flops": cost(study, blocks), "warmup_flops": cost(study, 8)}


def linked(*units: Unit) -> list[Unit]:
    """Trainings, each of which continues from the one before it."""
    found = list(units)
    for number in range(1, len(found)):
        before, unit = found[number - 1], found[number]
        found[number - 1] = replace(
            before, execution=before.execution | {"continued_by": unit.as_input()._asdict()}
        )
        found[number] = replace(unit, inputs=(*unit.inputs, before.as_input(CONTINUES)))
    return found


def equal(study: Study, unit: Unit, whole: Unit) -> None:
    """Two students are the same to the last bit; of the one's FLOPs, another training did a part."""
    results = [read_json(study.root.unit(u).result) for u in (unit, whole)]
    for result in results:
        for key in ("seconds", "shared_flops"):
            result.pop(key)
    assert results[0] == results[1]
    weights = [load(study.root.unit(u).out) for u in (unit, whole)]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


def test_budgets_share_their_stable_part_and_nothing_else_changes(study: Study) -> None:
    sizes = (121, 202, 323)
    alone = [study.unit(f"alone-{n}", budget(study, n), {}) for n in sizes]
    chain = linked(*(study.unit(f"chain-{n}", budget(study, n), {}) for n in sizes))
    first, second, third = chain
    for unit in alone:
        assert study.run(unit, 1) == "done"
        assert not study.root.unit(unit).stable.exists(), "nobody continues from it"
    folders = [study.root.unit(unit) for unit in chain]
    stable = [scheduled(study.blocks, Recipe(**u.config["recipe"]), ARCHITECTURE).stable for u in chain]

    # Killed in its cooldown, the first one goes on from what it has saved: at least the state before that.
    assert study.run(first, 1, until=stable[0] + 3, event=KILLED) == "killed"
    assert [path.name for path in folders[0].stable.iterdir()] == [f"step-{stable[0]:08}"]
    assert study.run(first, 2) == "done"
    same(study, first, alone[0])

    # The second one continues from there, and is interrupted before and after its own cooldown has started.
    assert study.run(second, 1, until=stable[0] + 4) == "Interrupted"
    assert step(study, second) == stable[0] + 4
    assert study.run(second, 2, until=stable[1] + 2, event=KILLED) == "killed"
    assert study.run(second, 3) == "done"
    equal(study, second, alone[1])
    assert not folders[0].stable.exists(), "nobody needs it any more"

    assert study.run(third, 1) == "done"
    equal(study, third, alone[2])
    results = [read_json(folder.result) for folder in folders]
    shared = [result["shared_flops"] for result in results]
    assert shared == [0, *(round(cost(study, 4 * n)) for n in stable[:2])]
    took = sum(result["flops"] - result["shared_flops"] for result in results)
    assert took < 1.25 * results[2]["flops"] < sum(result["flops"] for result in results)
    curve = [line["step"] for line in read_jsonl(folders[2].out / "metrics.jsonl")]
    assert curve == sorted(set(curve))
    assert curve[0] == 1
    assert not any(folder.stable.exists() for folder in folders)


def test_a_state_that_is_gone_or_cannot_be_read_changes_no_result(study: Study) -> None:
    first, second = linked(
        study.unit("lost-41", budget(study, 41), {"micro_batch": 2, **zero(1)}),
        study.unit("lost-82", budget(study, 82), {}),
    )
    assert study.run(first, 1) == "done"
    assert study.root.unit(first).stable.exists()
    assert study.run(second, 1) == "done"  # it has no DeepSpeed to read that with
    alone = study.unit("lost-alone", budget(study, 82), {})
    assert study.run(alone, 1) == "done"
    assert read_json(study.root.unit(second).result)["shared_flops"] == 0
    equal(study, second, alone)
    # Made again, the smaller one keeps nothing for a training that is done.
    again = replace(first, name="lost-again", execution={**first.execution, **ALONE})
    assert study.run(again, 1) == "done"
    assert not study.root.unit(again).stable.exists()


@pytest.mark.parametrize("stage", [None, 2])
def test_more_processes_continue_and_have_nothing_to_read_at_the_end(study: Study, stage: int | None) -> None:
    execution = {"micro_batch": 1, **({} if stage is None else zero(stage))}
    small, large = budget(study, 4 * 3 + 1), budget(study, 4 * 5 + 1)  # a last step of one block
    first, second = linked(
        study.unit(f"few-{stage}", small, execution, 1), study.unit(f"more-{stage}", large, execution, 2)
    )
    alone = study.unit(f"alone-{stage}", large, {"micro_batch": 4})
    assert [study.run(unit, 1) for unit in (first, second, alone)] == ["done"] * 3
    folders = [study.root.unit(unit) for unit in (second, alone)]
    results = [read_json(folder.result) for folder in folders]
    assert results[0]["shared_flops"] == cost(study, 4 * 3)
    assert results[0]["passes"] == large["flops"] / cost(study, study.blocks.phases[0])
    for key, value in {"flops": large["flops"], "budget": large["flops"], "step": 6}.items():
        assert results[0][key] == results[1][key] == value
    assert losses(folders[0].out) == pytest.approx(losses(folders[1].out), rel=1e-5)
    weights = [load(folder.out) for folder in folders]
    for name, weight in weights[1].items():  # DeepSpeed saves tied ones twice
        assert torch.allclose(weight, weights[0][name], atol=1e-5), name
