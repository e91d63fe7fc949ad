"""Something that may take long, done beside the loop: it waits for no file system and for no controller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Errand(Generic[T]):
    """One call at a time, in a thread that nobody waits for at the end.

    Args:
        back: is called in that thread once the call has an outcome.
    """

    def __init__(self, back: Callable[[], None]) -> None:
        self._back = back
        self._future: Future[T] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a call, the outcome of which was not taken."""
        return self._future is not None

    def start(self, call: Callable[[], T]) -> None:
        """Begin a call; there must be none."""
        assert self._future is None
        self._future = Future()
        threading.Thread(target=self._run, args=(self._future, call), daemon=True).start()

    def take(self, wait: bool = False) -> T | None:
        """What the call came to, once, or the error that it raised; None while there is nothing.

        Args:
            wait: until there is.
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
