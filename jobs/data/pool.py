"""A function of many items, computed by several processes: results in order, and few items held at a time."""

from __future__ import annotations

import ctypes
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # items of each process that are being computed, or wait for those before them
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def ordered(
    function: Callable[[T], R], items: Iterable[T], processes: int, preload: Sequence[str] = ()
) -> Iterator[R]:
    """Yield the function's results in the order of the items.

    Args:
        function: Can be pickled, as its items and results can.
        processes: How many compute; with one, it is this process.
        preload: Modules that the processes share, with all that these import, instead of importing them each.

    Raises:
        Exception: What the function raised, or reading the items.
    """
    if processes <= 1:
        yield from map(function, items)
        return
    # They are not forked from this process: it may have threads, whose locks a copy would wait for.
    context = get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    pool = ProcessPoolExecutor(processes, context, with_its_parent)
    waiting = deque[Future[Any]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def with_its_parent() -> None:
    """Leave signals of the job to the process that started this one, and end when that one ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
