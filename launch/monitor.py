"""`sor monitor`: the view of `sor status`, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from launch.observe import Snapshot
from launch.show import status_view
from launch.states import ACTIVE, State


def watch(look: Callable[[], Snapshot], interval: float) -> None:
    """Show a study until all is done, or nothing more will happen, or a person stops it.

    Args:
        interval: seconds between two looks.
    """
    with Live(console=Console(), auto_refresh=False) as live:
        try:
            while True:
                now = look()
                live.update(status_view(now), refresh=True)
                if not now.of(*ACTIVE) and not now.of(State.WAITING):
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            return
