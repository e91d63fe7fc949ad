"""How a run of a unit ends: a line in attempts.jsonl, a word to the job's script, an exit code.

The word says whether the job is to be begun again, and of those of all ranks the first counts: the others
often fail because one has. Nothing here calls Slurm; sbatch_templates/again.bash does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jobs.core import memory
from jobs.core.causes import ANSWERS, Cause, cause_of, failures, goes_on
from jobs.core.secrets import hide
from jobs.runtime.context import Context
from jobs.runtime.fence import Superseded
from jobs.runtime.signals import Interrupted
from jobs.store import journal
from jobs.store.progress import read_progress
from jobs.store.records import Damaged
from jobs.store.schema import ATTEMPT

AGAIN = 75  # the exit code that says "begin me again" to the script where a full disk takes no word
WORDLESS = "ended without a word: killed, preempted without warning, or its node failed"
WARNING = 300.0  # seconds before its time limit at which a job may be told of it, at the earliest


@dataclass(frozen=True)
class Ending:
    """What one process leaves of its run."""

    ctx: Context
    word: Path | None  # the file for the word to the script; None where no script waits for one
    configured: int | None  # the micro-batch of the unit as it was planned
    began: float = field(default_factory=time.monotonic)
    _failed: list[float] = field(default_factory=list)  # when the work did, in seconds since the epoch

    def check_budget(self) -> None:
        """Write down how the run before ended if it could not, and end this one if it is one too many."""
        ctx = self.ctx
        lines = journal.read(ctx.folder.attempts, ATTEMPT)
        before = (ctx.attempt, ctx.restart - 1, ctx.worker)
        ended = [e for e in lines if (e["attempt"], e["restart"], e["worker"]) == before]
        limit = self._killed_at()
        if ctx.restart and (not ended or (limit and all(e["cause"] != Cause.MEMORY for e in ended))):
            told = _last_told(ctx.folder.progress)
            if "restart" in told:
                ours = (told["attempt"], told["restart"], 0) == before
            else:  # an older version's
                ours = ctx.worker == 0 and told["started"] > max((e["time"] for e in lines), default=0)
            silent = {
                "restart": ctx.restart - 1,
                "rank": 0,
                "host": None,
                "seconds": round(told["updated"] - told["started"], 1) if ours else None,
                "kept": told["kept"],
                "memory": told.get("memory") if ours else None,
                "asked": limit,
            }
            line = self._line(Cause.KILLED, WORDLESS)
            if limit:  # which came before what other ranks saw of it
                words = f"ran out of memory: killed at its limit of {limit} MiB of a node"
                line |= {"cause": Cause.MEMORY, "error": words}
                line["time"] = min((e["time"] for e in ended), default=line["time"]) - 0.001
            lines.append({**line, **silent})
            journal.append(ctx.folder.attempts, lines[-1])
        failed = failures(lines, ctx.attempt, ctx.worker)
        if failed and not goes_on(failed, self.configured):
            cause, error = failed[-1].cause, f"not begun again: {failed[-1].error}"
            assert cause is not None
            print(error, flush=True)
            self.badly(cause, error)

    def well(self) -> None:
        """The run did what it was to do."""
        journal.append(self.ctx.folder.attempts, self._line(None, None))

    @contextmanager
    def dated(self) -> Iterator[None]:
        """Around the work: note when it fails. What is done between that and the record takes longer on one
        rank than on another, and the first failure is what led to the others."""
        try:
            yield
        except BaseException:
            self._failed.append(time.time())
            raise

    def by(self, error: BaseException) -> NoReturn:
        """An exception ended it. After a signal that is what any exception comes from.

        A run that a newer one has taken the place of has no say in what comes next.
        """
        if isinstance(error, Superseded):
            os._exit(0 if self.ctx.folder.done else 1)
        told = str(error) if isinstance(error, Interrupted) else self.ctx.preemption.reason
        if told is not None:
            cause = cause_of(told)
            if cause == Cause.TIME_LIMIT and not self._near_limit():
                cause = Cause.PREEMPTED  # where preemption is announced by the same signal
            self.badly(cause, told, interrupted=True)
        self.badly(cause_of(error), f"{type(error).__name__}: {error}")

    def badly(self, cause: Cause, error: str, interrupted: bool = False) -> NoReturn:
        """Leave what there is to say, and end the process at once.

        Args:
            interrupted: the others may be saving still, and an exit code would have them killed.
        """
        # Not by an exception: a peer that waits for this rank, or a library's thread, would keep it alive.
        if self.ctx.folder.done:
            os._exit(0)
        mine = self._line(cause, error)
        lines = [*self._written(), mine]
        again = goes_on(failures(lines, self.ctx.attempt, self.ctx.worker), self.configured)
        print(f"{cause}: {'goes on in another run' if again else ANSWERS[cause].advice}", flush=True)
        with suppress(OSError, Damaged):  # the disk is full, or something else has the name
            journal.append(self.ctx.folder.attempts, mine)
        word = "stop" if not again else "memory" if cause == Cause.MEMORY else "again"
        if self._leave(word) and interrupted:
            os._exit(0)
        os._exit(AGAIN if again else 1)

    def _written(self) -> list[dict[str, Any]]:
        """What runs so far left; nothing where that cannot be read, which a message says."""
        try:
            return journal.read(self.ctx.folder.attempts, ATTEMPT)
        except Damaged as error:
            print(error, flush=True)
            return []

    def _leave(self, word: str) -> bool:
        """Whether there is a word, of this rank or of one before it."""
        if self.word is None:
            return False
        with suppress(OSError), self.word.open("x", encoding="utf-8") as file:
            file.write(word)
        return self.word.exists()

    def _killed_at(self) -> int | None:
        """The limit at which the run before was killed for memory, by its script's note, which is removed."""
        if self.word is None:
            return None
        element = self.word.with_name(self.word.name.split(".")[0])
        limit = memory.noted(element)
        element.with_name(f"{element.name}.memory").unlink(missing_ok=True)
        return limit or None

    def _near_limit(self) -> bool:
        limit = self.ctx.unit.resources.hours * 3600  # the job's is this one, or a longer one of its array
        return time.monotonic() - self.began > limit - WARNING

    def _line(self, cause: Cause | None, error: str | None) -> dict[str, Any]:
        """The line of attempts.jsonl; `cause` and `error` are None if all went well."""
        ctx = self.ctx
        return {
            "attempt": ctx.attempt,
            "restart": ctx.restart,
            "worker": ctx.worker,
            "rank": ctx.rank,
            "host": socket.gethostname(),
            "time": self._failed[0] if self._failed and error is not None else time.time(),
            "seconds": round(time.monotonic() - self.began, 1),
            "cause": cause,
            "error": None if error is None else hide(error),
            "kept": 0 if ctx.preemption.lost else ctx.progress.kept,
            "micro_batch": ctx.unit.execution.get("micro_batch"),
            "memory": ctx.progress.memory.update(),
            "asked": memory.asked() if self.word else None,
        }


def _last_told(progress: Path) -> dict[str, Any]:
    """What the last run that wrote its progress had kept, and when it began and wrote last."""
    told: dict[str, Any] = {"kept": 0, "started": 0.0}
    with suppress(Damaged):  # it is replaced now
        told |= read_progress(progress) or {}
    return told
