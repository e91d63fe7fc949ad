"""A process that imports what jobs need once, and forks this machine's jobs.

Importing PyTorch, transformers, vLLM and lm-eval takes longer than a small job's work. This process does it
while it has no threads of its own and has touched no device; each job is then a copy of it. It ends when its
standard input closes, which its jobs outlive.

    python -m jobs.runtime.warm_start

It reads lines of JSON, {"import": STAGE} and {"fork": SUBMISSION, "log": FILE}, and answers each with a line:
{"imported": STAGE}, {"job": PID}, or {"failed": REASON}, after which jobs are better started without it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from jobs.core.trust import private_umask
from jobs.runtime import local_job
from jobs.runtime.run import STAGE_MODULES

PROGRAM = "jobs.runtime.warm_start"


def main() -> None:
    """Answer requests until standard input closes."""
    private_umask()
    local_job.entitle(f"python -m {PROGRAM}")  # it must find the arguments before variables are set
    signal.signal(signal.SIGCHLD, _reap)
    answers = os.dup(1)  # not inheritable by programs, and closed by jobs
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        answer = json.dumps(_answer(json.loads(line), answers))
        os.write(answers, f"{answer}\n".encode())


def _answer(request: dict[str, str], answers: int) -> dict[str, Any]:
    try:
        if "import" in request:
            _imported(request["import"])
            return {"imported": request["import"]}
        return {"job": _fork(Path(request["fork"]), Path(request["log"]), answers)}
    except Exception as error:  # a library that cannot be imported may raise anything; the job will tell
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def _reap(*_: object) -> None:
    """Let the jobs that have ended go; until then they would still be found. Importing has other children."""
    for pid in list(_jobs):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _jobs.remove(pid)


_jobs = set[int]()  # process IDs


@cache
def _imported(stage: str) -> None:
    """Import what a stage's jobs need, and leave this process's variables as they are for other stages."""
    before = dict(os.environ)
    try:
        module = importlib.import_module(STAGE_MODULES[stage])
        getattr(module, "imports", lambda: None)()  # a study's own preparation may need anything
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fork(submission: Path, log: Path, answers: int) -> int:
    """Start a job; returns its process ID once the job can be found by its title."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(answers)
        _job(submission, log, writing)
    os.close(writing)
    try:
        named = os.read(reading, 1)
    finally:
        os.close(reading)
    _jobs.add(pid)
    _reap()  # it may have ended before it was known here
    if not named:
        raise RuntimeError(f"the job of {submission} ended as it started")
    return pid


def _job(submission: Path, log: Path, named: int) -> NoReturn:
    """Be the supervisor of a job, in a session of its own."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        local_job.redirect(log)
        local_job.entitle(f"{local_job.NAME} {submission}")
        os.write(named, b"1")  # fails if nobody waits for this job any more: another has taken its place
        os.close(named)
        local_job.Watcher(submission, local_job.Forked).run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
