"""`sor status --wait`: poll a study until it is done or needs attention."""

from __future__ import annotations

import time

from jobs.core.plain import say
from launch.notify.hook import Notifier
from launch.slurm.parse import NotSetUp
from launch.state.errors import SlurmUnavailable
from launch.state.exit_code import Outlook, outlook
from launch.state.status import StudyStatus
from launch.study_run import Project
from launch.submit.bad_nodes import Verdict, verdict

INTERVALS = {"local": 5.0, "slurm": 30.0}  # seconds between polls, each of which asks Slurm once


def wait(project: Project, interval: float) -> StudyStatus:
    """Wait until the study is done or needs attention, and return its status.

    Args:
        interval: seconds between polls.

    Raises:
        NotSetUp: there is no Slurm here to wait for.
        SecretsError: the secrets file, which may hold the hook, cannot be used.
    """
    notifier = Notifier(project.root, _say)
    answered, silent = time.time(), False
    while True:
        try:
            now = project.poll()
            nodes = verdict(project) if notifier.on else Verdict()
        except NotSetUp:
            raise
        except SlurmUnavailable as error:  # the study continues during an outage, and so does the wait
            if not silent:
                _say(f"{error} Still waiting")
            silent = True
            notifier.silent(answered)
        else:
            answered, silent = time.time(), False
            over = outlook(now) != Outlook.CONTINUES
            if over:
                notifier.close()  # finish earlier messages, so that the last one is not skipped
            notifier.report(now, nodes)
            if over:
                notifier.close()
                return now
        time.sleep(interval)


def _say(words: str) -> None:
    say(f"{time.strftime('%H:%M:%S')} sor: {words}", error=True)
