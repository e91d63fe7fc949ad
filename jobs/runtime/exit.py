"""How a run of a unit ends: a line in attempts.jsonl, a requeue verdict for the job's script, an exit code.

The verdict says whether the job is to be requeued. The first rank to write it decides for the job, since the
other ranks often fail as a consequence. Slurm is called by sbatch_templates/again.bash, not here.
"""

from __future__ import annotations

import os
import socket
import sys
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

AGAIN = 75  # exit code that asks the script for a requeue when a full disk prevents writing the verdict
WORDLESS = "ended without an error message: killed, preempted without warning, or its node failed"
WARNING = 300.0  # earliest warning, in seconds before the time limit, that a job may get


@dataclass(frozen=True)
class Ending:
    """Records how one process's run ended."""

    ctx: Context
    verdict: Path | None  # file for the requeue verdict; None if no script reads one
    configured: int | None  # micro-batch of the unit as planned
    began: float = field(default_factory=time.monotonic)
    _failed: list[float] = field(default_factory=list)  # when the work failed, in seconds since the epoch

    def check_budget(self) -> None:
        """Record the end of the previous run if it could not, and end this run if it exceeds the budget."""
        ctx = self.ctx
        lines = journal.read(ctx.folder.attempts, ATTEMPT)
        before = (ctx.attempt, ctx.restart - 1, ctx.worker)
        ended = [e for e in lines if (e["attempt"], e["restart"], e["worker"]) == before]
        limit = self._killed_at()
        if ctx.restart and (not ended or (limit and all(e["cause"] != Cause.MEMORY for e in ended))):
            last = _last_progress(ctx.folder.progress)
            if "restart" in last:
                ours = (last["attempt"], last["restart"], 0) == before
            else:  # an older version's
                ours = ctx.worker == 0 and last["started"] > max((e["time"] for e in lines), default=0)
            silent = {
                "restart": ctx.restart - 1,
                "rank": 0,
                "host": None,
                "seconds": round(last["updated"] - last["started"], 1) if ours else None,
                "kept": last["kept"],
                "memory": last.get("memory") if ours else None,
                "asked": limit,
            }
            line = self._line(Cause.KILLED, WORDLESS)
            if limit:  # this precedes what the other ranks saw of the failure
                words = f"ran out of memory: killed at its limit of {limit} MiB per node"
                line |= {"cause": Cause.MEMORY, "error": words}
                line["time"] = min((e["time"] for e in ended), default=line["time"]) - 0.001
            lines.append({**line, **silent})
            journal.append(ctx.folder.attempts, lines[-1])
        failed = failures(lines, ctx.attempt, ctx.worker)
        if failed and not goes_on(failed, self.configured):
            cause, error = failed[-1].cause, f"not restarted: {failed[-1].error}"
            assert cause is not None
            print(error, flush=True)
            self.fail(cause, error)

    def succeed(self) -> None:
        """Record that the run succeeded."""
        journal.append(self.ctx.folder.attempts, self._line(None, None))

    @contextmanager
    def dated(self) -> Iterator[None]:
        """Note the time at which the work in this context fails.

        The delay from failure to record differs between ranks, and the first failure caused the others.
        """
        try:
            yield
        except BaseException:
            self._failed.append(time.time())
            raise

    def fail_with(self, error: BaseException) -> NoReturn:
        """End the process after an exception; after a signal, any exception is attributed to that signal.

        A superseded run records nothing and gives no requeue verdict.
        """
        if isinstance(error, Superseded):
            os._exit(0 if self.ctx.folder.done else 1)
        last = str(error) if isinstance(error, Interrupted) else self.ctx.preemption.reason
        if last is not None:
            cause = cause_of(last)
            if cause == Cause.TIME_LIMIT and not self._near_limit():
                cause = Cause.PREEMPTED  # some clusters announce preemption with the same signal
            self.fail(cause, last, interrupted=True)
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            words += f" ({sys.executable} lacks it; sor doctor checks the packages that sor needs)"
        self.fail(cause_of(error), words)

    def fail(self, cause: Cause, error: str, interrupted: bool = False) -> NoReturn:
        """Record the failure and the requeue verdict, and end the process immediately.

        Args:
            interrupted: Exit with 0 if there is a verdict: other ranks may still be saving, and a nonzero
                exit code would get them killed.
        """
        # Not by raising: a peer waiting for this rank, or a library's thread, would keep the process alive.
        if self.ctx.folder.done:
            os._exit(0)
        mine = self._line(cause, error)
        lines = [*self._written(), mine]
        again = goes_on(failures(lines, self.ctx.attempt, self.ctx.worker), self.configured)
        print(f"{cause}: {'continues in another run' if again else ANSWERS[cause].advice}", flush=True)
        with suppress(OSError, Damaged):  # the disk is full, or the path is not a regular file
            journal.append(self.ctx.folder.attempts, mine)
        verdict = "stop" if not again else "memory" if cause == Cause.MEMORY else "again"
        if self._leave(verdict) and interrupted:
            os._exit(0)
        os._exit(AGAIN if again else 1)

    def _written(self) -> list[dict[str, Any]]:
        """Return the recorded attempts; an empty list, with a printed message, if they cannot be read."""
        try:
            return journal.read(self.ctx.folder.attempts, ATTEMPT)
        except Damaged as error:
            print(error, flush=True)
            return []

    def _leave(self, verdict: str) -> bool:
        """Write the verdict unless another rank has; return whether there is one."""
        if self.verdict is None:
            return False
        with suppress(OSError), self.verdict.open("x", encoding="utf-8") as file:
            file.write(verdict)
        return self.verdict.exists()

    def _killed_at(self) -> int | None:
        """Return the memory limit in MiB at which the previous run was killed, or None.

        The script's note of it is removed.
        """
        if self.verdict is None:
            return None
        element = self.verdict.with_name(self.verdict.name.split(".")[0])
        limit = memory.noted(element)
        element.with_name(f"{element.name}.memory").unlink(missing_ok=True)
        return limit or None

    def _near_limit(self) -> bool:
        limit = self.ctx.unit.resources.hours * 3600  # the job's own limit, or a longer one of its array
        return time.monotonic() - self.began > limit - WARNING

    def _line(self, cause: Cause | None, error: str | None) -> dict[str, Any]:
        """Build the line for attempts.jsonl; `cause` and `error` are None on success."""
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
            "asked": memory.asked() if self.verdict else None,
        }


def _last_progress(progress: Path) -> dict[str, Any]:
    """Return the last progress record: what was kept, and when that run started and last wrote."""
    last: dict[str, Any] = {"kept": 0, "started": 0.0}
    with suppress(Damaged):  # this run overwrites the file anyway
        last |= read_progress(progress) or {}
    return last
