"""Notices that this rank stands still: dumps the stacks of all its threads, and has the run end.

A rank beats at every step of its work (store/progress.py). How long it may be silent is learned from its own
beats; before and after its work, where models are loaded and saved, it may be silent for long. The watch
decides nothing else, and never looks at other ranks: where one waits forever, so do those that wait for it.
"""

from __future__ import annotations

import faulthandler
import itertools
import sys
import threading
import time
from collections.abc import Callable

from jobs.store.progress import Progress

POLL = 1.0  # seconds between two looks
MEASURED = 5  # looks from one measurement of memory to the next
PATIENCE = 7200.0  # seconds of silence outside the work, or before there are enough beats to learn from
ENOUGH = 20  # beats
FLOOR = 600.0  # seconds of silence within the work that are never too long
FACTOR = 10.0  # of the longest silence so far: a longer one is no slow step
PEERS = 10.0  # seconds for the others to dump their stacks, before the end of this rank ends them, too


def limit(beats: int, within: bool, longest: float, floor: float) -> float:
    """For how many seconds a rank may be silent, after so many beats, the longest silence of its work so far,
    and within its work or not."""
    if within and beats >= ENOUGH:
        return max(floor, FACTOR * longest)
    return max(floor, PATIENCE)


class Watchdog(threading.Thread):
    """Watches the beats of one rank.

    Args:
        hung: is called with what happened, in words, and is to end the process.
        floor: seconds of silence that are never too long.
    """

    def __init__(self, progress: Progress, hung: Callable[[str], object], floor: float = FLOOR) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._progress, self._hung, self._floor = progress, hung, floor

    def run(self) -> None:
        progress = self._progress
        beats, within, longest = progress.beats, progress.within, 0.0
        silence, looked = 0.0, time.monotonic()
        for look in itertools.count():
            if look % MEASURED == 0:
                progress.memory.update()
            time.sleep(POLL)
            now = time.monotonic()
            silence += min(now - looked, 2 * POLL)  # a job that was suspended did not stand still meanwhile
            looked = now
            if progress.beats != beats:
                longest = max(longest, silence) if within else longest
                beats, within, silence = progress.beats, progress.within, 0.0
                continue
            allowed = limit(beats, within, longest, self._floor)
            words = f"for {silence:.0f} s at {progress}"
            if silence > allowed / 2:
                progress.stalled(
                    f"stands still at {progress} for {silence:.0f} s; after {allowed:.0f} s it ends"
                )
            if silence > allowed:
                print(f"stood still {words}; all stacks:", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(PEERS)
                if progress.beats == beats:
                    self._hung(f"stood still {words}; its stacks are in the log")
