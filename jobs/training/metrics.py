"""What one watches of a training: a line of figures now and then, in JSON Lines and for TensorBoard.

TensorBoard's event files are written where its package is installed, which nothing here needs. These figures
decide nothing: a training is the same without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.core.gpus import peak_flops
from jobs.store.rundir import append_jsonl
from jobs.training.schedule import Totals

MIB = 1 << 20
KINDS = ("plain", "reasoning")  # of rows, in the order of `Blocks.answers`


class Metrics:
    """Where a training's figures go; for the main process only.

    Args:
        file: JSON Lines, with what an interrupted run has kept.
        events: Folder of TensorBoard's event files; None writes none.
        step: Steps that are kept. Later ones in event files are from interrupted runs, and not shown.
    """

    def __init__(self, file: Path, events: Path | None, step: int) -> None:
        self._file, self._events = file, None if events is None else _writer(events, step)

    def write(self, line: Mapping[str, float]) -> None:
        """Write one line of figures, of which "step" is one."""
        append_jsonl(self._file, dict(line))
        if self._events is not None:
            for key in line.keys() - {"step"}:
                self._events.add_scalar(key, line[key], line["step"])
            self._events.flush()


def figures(
    totals: Totals, parts: Sequence[float], answers: Sequence[int], norm: Any, peak: float | None
) -> dict[str, float]:
    """Return what a line tells besides totals, learning rate and speed.

    Args:
        parts: Loss of each of KINDS, per answer token of the global batch.
        answers: Answer tokens of each; none where blocks do not say which rows are which.
        norm: The gradient's norm; None if unknown.
        peak: FLOP/s that all GPUs could do; None if unknown.

    Returns:
        The loss per answer token of each kind of row that is there, the gradient's norm, the peak memory of
        this GPU in MiB, and model FLOPs utilization (MFU): FLOPs of the model that are done per second, of
        those that the GPUs could do (A. Chowdhery et al., PaLM, arXiv:2204.02311, appendix B).
    """
    import torch

    found: dict[str, float] = {
        f"loss_{kind}": part * sum(answers) / tokens
        for kind, part, tokens in zip(KINDS, parts, answers, strict=False)
        if tokens
    }
    if norm is not None:
        found["gradient_norm"] = float(norm)
    if torch.cuda.is_available():
        found["gpu_memory"] = torch.cuda.max_memory_allocated() // MIB
    if peak is not None:
        found["mfu"] = totals.flops / totals.seconds / peak
    return found


def peak_of_all(processes: int, dtype: str) -> float | None:
    """Return the FLOP/s that the GPUs of all processes could do; None without GPUs, or with unknown ones."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        return processes * peak_flops(torch.cuda.get_device_name(), dtype)
    except ValueError:
        return None


def _writer(folder: Path, step: int) -> Any:
    """Return TensorBoard's writer; None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
