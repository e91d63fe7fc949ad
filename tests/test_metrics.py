"""What is written of a training while it runs: figures that mean what they say, also for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jobs.store.rundir import read_jsonl
from jobs.training.metrics import Metrics, figures, peak_of_all
from jobs.training.schedule import Totals

torch = pytest.importorskip("torch")
TOTALS = Totals(step=3, flops=6000, seconds=2.0)


def test_each_kind_of_row_has_the_loss_of_its_own_answers() -> None:
    found = figures(TOTALS, [0.5, 1.5], (10, 30), norm=None, peak=None)
    assert found == {"loss_plain": 2.0, "loss_reasoning": 2.0}
    assert figures(TOTALS, [0.5, 0.0], (10, 0), norm=None, peak=None) == {"loss_plain": 0.5}
    assert figures(TOTALS, [0.5, 0.0], (), norm=torch.tensor(2.5), peak=None) == {"gradient_norm": 2.5}


def test_utilization_is_the_share_of_what_all_gpus_could_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert figures(TOTALS, [], (), norm=None, peak=10_000.0) == {"mfu": 0.3}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_of_all(8, "bf16") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = {"NVIDIA A100-SXM4-80GB": 8 * 312e12, "NVIDIA A100-SXM4-40GB MIG 1g.5gb": None, "Some GPU": None}
    for name, expected in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert peak_of_all(8, "bf16") == expected


def test_without_tensorboard_lines_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it fails
    line = {"step": 1, "loss": 2.5}
    Metrics(tmp_path / "metrics.jsonl", tmp_path / "events", 0).write(line)
    assert list(read_jsonl(tmp_path / "metrics.jsonl")) == [line]
    assert not (tmp_path / "events").exists()


@pytest.mark.optional
def test_event_files_show_what_was_kept_of_interrupted_runs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file, events = tmp_path / "metrics.jsonl", tmp_path / "events"
    for kept, until, loss in ((0, 3, 5.0), (2, 4, 4.0)):  # the third step was not kept
        metrics = Metrics(file, events, kept)
        for step in range(kept + 1, until + 1):
            metrics.write({"step": step, "loss": loss - step, "loss_plain": 1.0})
    read = EventAccumulator(str(events))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["loss", "loss_plain"]
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 4.0), (2, 3.0), (3, 1.0), (4, 0.0)]
