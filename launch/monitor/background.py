"""Background calls for the event loop, which must not block on the file system or on Slurm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """Runs one call at a time in a daemon thread.

    Args:
        back: called in that thread when the call finishes.
    """

    def __init__(self, back: Callable[[], None]) -> None:
        self._back = back
        self._future: Future[T] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a call whose result has not been taken."""
        return self._future is not None

    def start(self, call: Callable[[], T]) -> None:
        """Start a call; there must be none."""
        assert self._future is None
        self._future = Future()
        threading.Thread(target=self._run, args=(self._future, call), daemon=True).start()

    def take(self, wait: bool = False) -> T | None:
        """Take the call's result, once, or raise its error.

        Args:
            wait: block until the call finishes.

        Returns:
            None if there is no result yet.
        """
        future = self._future
        if future is None or not (wait or future.done()):
            return None
        try:
            return future.result()
        finally:
            self._future = None

    def _run(self, future: Future[T], call: Callable[[], T]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        self._back()
