"""Watchdog of one rank: when it hangs, dump the stacks of all its threads and end the run.

A rank sends a heartbeat at every step of its work (store/progress.py). The allowed silence is learned from
the rank's own heartbeats; before and after the work, while models load and save, the limit is long. Other
ranks are not watched: if one hangs, those waiting for it hang as well, and their own watchdogs end them.
"""

from __future__ import annotations

import faulthandler
import itertools
import sys
import threading
import time
from collections.abc import Callable

from jobs.store.progress import Progress

POLL = 1.0  # seconds between checks
MEASURED = 5  # checks between memory measurements
PATIENCE = 7200.0  # allowed silence in seconds outside the work, or with too few heartbeats to learn from
ENOUGH = 20  # heartbeats
FLOOR = 600.0  # seconds of silence always allowed within the work
FACTOR = 10.0  # times the longest silence so far; anything longer is a hang, not a slow step
PEERS = 10.0  # seconds for other ranks to dump their stacks before the end of this rank kills them


def limit(beats: int, within: bool, longest: float, floor: float) -> float:
    """Return the allowed silence of a rank in seconds.

    Args:
        beats: Number of heartbeats so far.
        within: Whether the rank is within its work.
        longest: Longest silence of its work so far, in seconds.
        floor: Silence that is always allowed, in seconds.
    """
    if within and beats >= ENOUGH:
        return max(floor, FACTOR * longest)
    return max(floor, PATIENCE)


class Watchdog(threading.Thread):
    """Thread that watches the heartbeats of one rank.

    Args:
        hung: Called with a description of the hang; must end the process.
        floor: Seconds of silence that are always allowed.
    """

    def __init__(self, progress: Progress, hung: Callable[[str], object], floor: float = FLOOR) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._progress, self._hung, self._floor = progress, hung, floor

    def run(self) -> None:
        progress = self._progress
        beats, within, longest = progress.beats, progress.within, 0.0
        silence, polled = 0.0, time.monotonic()
        for poll in itertools.count():
            if poll % MEASURED == 0:
                progress.memory.update()
            time.sleep(POLL)
            now = time.monotonic()
            silence += min(now - polled, 2 * POLL)  # time spent suspended does not count as silence
            polled = now
            if progress.beats != beats:
                longest = max(longest, silence) if within else longest
                beats, within, silence = progress.beats, progress.within, 0.0
                continue
            allowed = limit(beats, within, longest, self._floor)
            words = f"for {silence:.0f} s at {progress}"
            if silence > allowed / 2:
                progress.stalled(
                    f"no progress at {progress} for {silence:.0f} s; it is ended after {allowed:.0f} s"
                )
            if silence > allowed:
                print(f"no progress {words}; all stacks:", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(PEERS)
                if progress.beats == beats:
                    self._hung(f"no progress {words}; its stacks are in the log")
