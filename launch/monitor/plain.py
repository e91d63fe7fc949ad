"""`sor monitor`: the view of `sor status`, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from launch.observe import Snapshot
from launch.outlook import in_hand
from launch.show import status_view
from launch.slurm import SlurmUnavailable
from launch.states import State

INTERVALS = {"local": 5.0, "slurm": 30.0}  # seconds between two looks, each of which asks Slurm once


def watch(look: Callable[[], Snapshot], interval: float, only_jobs: bool = False) -> int:
    """Show a study until all is done, or nothing more will happen, or a person stops it.

    Args:
        interval: seconds between two looks.
        only_jobs: until no job has a unit in hand; else units that wait are waited for, too, since somebody
            may submit them.

    Returns:
        The exit code: 1 if a unit failed.
    """
    with Live(console=Console(), auto_refresh=False) as live:
        try:
            view: RenderableType = ""
            while True:
                try:
                    now = look()
                except SlurmUnavailable as error:  # the study goes on without an answer, and so do we
                    live.update(
                        Group(view, Text(f"\n{time.strftime('%H:%M:%S')} {error}", "yellow")), refresh=True
                    )
                    time.sleep(interval)
                    continue
                view = status_view(now)
                live.update(view, refresh=True)
                if not in_hand(now) and (only_jobs or not now.of(State.WAITING)):
                    return int(bool(now.of(State.FAILED)))
                time.sleep(interval)
        except KeyboardInterrupt:
            return 0
