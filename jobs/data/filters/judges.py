"""Processes that compare answers with references, and are ended where one comparison takes too long."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, NamedTuple

from jobs.data.filters.correct import agrees
from jobs.data.pool import with_its_parent

STARTS = 300.0  # seconds in which a process imports math-verify, on a busy file system
PATIENCE = 60.0  # seconds for a comparison, within which math-verify's own limits are
AHEAD = 64  # comparisons that a process is given at once, so that it need not wait for the next one


class Claim(NamedTuple):
    """An answer and its reference."""

    answer: str
    reference: str


class Judges:
    """Several processes that judge claims, started when they are needed.

    Args:
        count: Processes.
        patience: Seconds for one comparison.
    """

    def __init__(self, count: int, patience: float = PATIENCE) -> None:
        self.count, self.patience = count, patience
        self._processes: list[_Process] = []

    def __enter__(self) -> Judges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._processes:
            each.end()
        self._processes.clear()

    def verdicts(self, claims: Sequence[Claim]) -> list[bool | None]:
        """Return whether each answer agrees with its reference; None where that took too long.

        Raises:
            RuntimeError: math-verify is not installed, or a process cannot start.
        """
        found: list[bool | None] = [None] * len(claims)
        left = deque(range(len(claims)))
        needed = min(self.count, -(-len(claims) // AHEAD))
        self._processes += [_Process() for _ in range(needed - len(self._processes))]
        while True:
            for each in self._processes:
                if left and not each.given:
                    each.give([left.popleft() for _ in range(min(AHEAD, len(left)))], claims)
            busy = {each.pipe: each for each in self._processes if each.given}
            if not busy:
                return found
            limit = min(each.since for each in busy.values()) + self.patience - time.monotonic()
            for pipe in wait(list(busy), max(0.0, limit)):
                busy[pipe].hear(found)  # type: ignore[index]
            for number, each in enumerate(self._processes):
                if each.given and time.monotonic() > each.since + self.patience:
                    left.extendleft(reversed(each.given[1:]))  # the first one stays without a verdict
                    each.end()
                    self._processes[number] = _Process()


class _Process:
    """One process, with the numbers of the claims that it has not judged yet."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # pyarrow's threads do not survive a fork
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_judge, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self.given: list[int] = []
        self.since = 0.0
        fault = f"it did not import math-verify within {STARTS:.0f} s"
        with suppress(EOFError):
            if self.pipe.poll(STARTS):
                fault = self.pipe.recv()
        if fault:
            self.end()
            raise RuntimeError(f"a process that compares answers with their references failed: {fault}")

    def give(self, numbers: list[int], claims: Sequence[Claim]) -> None:
        """Start to judge these claims."""
        self.given, self.since = numbers, time.monotonic()
        self.pipe.send([claims[number] for number in numbers])

    def hear(self, found: list[bool | None]) -> None:
        """Take the verdict that has come; of a process that has died, its time is over."""
        try:
            found[self.given[0]] = self.pipe.recv()
        except EOFError:
            self.since = float("-inf")
        else:
            del self.given[0]
            self.since = time.monotonic()

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _judge(pipe: Connection[Any, Any]) -> None:
    """Judge lists of claims until the other end is closed."""
    with_its_parent()
    with suppress(EOFError, BrokenPipeError):
        pipe.send(_import())
        while True:
            for claim in pipe.recv():
                pipe.send(_verdict(claim))


def _import() -> str:
    """Import math-verify, and return why that failed; empty if it did not."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        return (
            f"{sys.executable} cannot import math-verify ({error}). Install it: "
            f"{sys.executable} -m pip install 'scale-or-reason[eval]', or leave out filters.correct"
        )
    return ""


def _verdict(claim: Claim) -> bool:
    try:
        return agrees(*claim)
    except Exception:  # of sympy and its parsers, on what anybody wrote: RecursionError, OverflowError, …
        return False
