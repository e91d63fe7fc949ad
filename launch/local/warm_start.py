"""The process of jobs/runtime/warm_start.py, seen from `sor`: what it has imported, the jobs it starts."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.runtime.warm_start import PROGRAM

LONGEST = 30.0  # seconds that a fork may take


class WarmStart:
    """Starts jobs as copies of a process that has imported what they need.

    Once anything fails, `broken` is true: jobs are then to be started as programs of their own, and will
    tell themselves what is wrong with an import.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.broken = False
        self._imported: set[str] = set()
        self._importing: str | None = None
        # In a session of its own: Ctrl-C must not reach it. It ends when its input is closed.
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", PROGRAM], env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ready(self, stage: str) -> bool:
        """Return whether a stage's jobs can be started now; if not, what they need is imported meanwhile."""
        if self._importing and (answer := self._answer(0)):
            self._imported.add(answer["imported"])
            self._importing = None
        if not self._importing and stage not in self._imported and self._ask({"import": stage}):
            self._importing = stage
        return self.broken or (self._importing is None and stage in self._imported)

    def fork(self, submission: Path, log: Path) -> str | None:
        """Start a job whose stage is `ready`.

        Returns:
            Its ID; None if there was no answer. The process is ended then, and starts no job any more: it may
            have started this one, which its title shows, or have been about to, which dies untitled.
        """
        if self._ask({"fork": str(submission), "log": str(log)}) and (answer := self._answer(LONGEST)):
            return answer["job"]
        self.broken = True
        self._process.kill()
        self._process.wait()
        return None

    def close(self) -> None:
        """End the process; its jobs go on."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, request: dict[str, str]) -> bool:
        """Send a request; return whether it could be sent."""
        assert self._process.stdin
        try:
            if not self.broken:
                os.write(self._process.stdin.fileno(), f"{json.dumps(request)}\n".encode())
        except OSError:
            self.broken = True
        return not self.broken

    def _answer(self, seconds: float) -> dict[str, str] | None:
        """Return the next answer, or None if there is none yet, or never will be."""
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            return None
        line = self._process.stdout.readline()
        answer = json.loads(line or '{"failed": "it has ended"}')
        if "failed" in answer:
            self.broken = True
            return None
        return {key: str(value) for key, value in answer.items()}
