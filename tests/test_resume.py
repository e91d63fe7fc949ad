"""A training that was interrupted goes on as if it had not been, whoever goes on."""

from __future__ import annotations

import signal

import pytest
from small_training import Study, load, zero

from jobs.rundir import read_json, read_jsonl
from jobs.unit import Unit

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def same(study: Study, unit: Unit, other: Unit) -> None:
    """Two students are the same to the last bit, and so is what is written of their training."""
    outs = [study.root.unit(u).out for u in (unit, other)]
    curves = [list(read_jsonl(out / "metrics.jsonl")) for out in outs]
    for line in (*curves[0], *curves[1], *(results := [read_json(out / "result.json") for out in outs])):
        for key in ("seconds", "tokens_per_second"):
            line.pop(key, None)
    assert curves[0] == curves[1]
    assert results[0] == results[1]
    weights = [load(out) for out in outs]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", [None, 2])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    study: Study, stage: int | None, processes: int
) -> None:
    execution = {"micro_batch": 2, **({} if stage is None else zero(stage))}
    units = [study.unit(f"{n}-{stage}-{processes}", {}, execution, processes) for n in ("whole", "parts")]
    assert study.run(units[0], 1) == "done"
    assert study.run(units[1], 1, until=3) == "Interrupted"
    assert [p.name for p in study.root.unit(units[1]).checkpoints.glob("step*")] == ["step-00000003"]
    assert study.run(units[1], 2, until=7, sign=signal.SIGTERM) == "Interrupted"
    assert study.run(units[1], 3) == "done"
    same(study, *units)
    assert not study.root.unit(units[1]).checkpoints.exists()
