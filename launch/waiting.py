"""`sor status --wait`: look at a study until nothing more comes of it by itself, or a person is needed."""

from __future__ import annotations

import sys
import time

from launch.observe import Snapshot
from launch.outlook import Outlook, outlook
from launch.project import Project
from launch.slurm import NotSetUp, SlurmUnavailable


def wait(project: Project, interval: float) -> Snapshot:
    """The study once its outlook is another one than that it goes on.

    Args:
        interval: seconds between two looks.

    Raises:
        NotSetUp: there is no Slurm here to wait for.
    """
    silent = False
    while True:
        try:
            now = project.look()
        except NotSetUp:
            raise
        except SlurmUnavailable as error:  # the study goes on without an answer, and so do we
            if not silent:
                _say(f"{error} It is asked until it answers")
            silent = True
        else:
            silent = False
            if outlook(now) != Outlook.GOES_ON:
                return now
        time.sleep(interval)


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} sor: {words}", file=sys.stderr, flush=True)
