"""Why a unit is in its state, in plain words, and when its job may start. Pure."""

from __future__ import annotations

from launch.state.pending_reasons import in_words
from launch.state.states import State
from launch.state.status import UnitStatus


def why(seen: UnitStatus, at: float) -> str:
    """Return why a unit is in its state, and when Slurm expects its job to start.

    Args:
        at: time of the poll, in seconds since the epoch.
    """
    words = in_words(seen.reason or "")
    start = seen.live.start if seen.live and seen.state in (State.QUEUED, State.PREEMPTED) else None
    if start is None or start <= at:
        return words
    return f"{words}{'; ' if words else ''}Slurm expects it to start in {_span((start - at) / 3600)}"


def _span(hours: float) -> str:
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
