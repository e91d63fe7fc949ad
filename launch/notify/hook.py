"""Sends news of a study to the user's hook, each once, whichever program finds it.

The hook is SOR_NOTIFY, in the environment or the secrets file, so that every program that polls a study has
it, keepers included: a command, or the URL of a webhook (webhook.py), which is as secret as a password and
appears in no message. A program never waits for the hook or fails because of it. events.py decides what to
report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from jobs.core.secrets import secret
from jobs.store import journal
from jobs.store.rundir import Damaged, StudyDir
from jobs.store.schema import NOTE
from launch.notify import webhook
from launch.notify.events import News, Sent, news, silence
from launch.notify.webhook import LIMIT, HookError
from launch.state.lock import Lock, Locked
from launch.state.log_files import has_log
from launch.state.status import StudyStatus
from launch.submit.bad_nodes import Verdict

HOOK = "SOR_NOTIFY"


class Notifier:
    """Sends the news of one study, if there is a hook.

    Args:
        say: called from another thread with a message when sending fails, once until it succeeds again.

    Raises:
        SecretsError: the secrets file cannot be used.
    """

    def __init__(self, root: StudyDir, say: Callable[[str], object]) -> None:
        self._root, self._say = root, say
        self._hook = secret(HOOK)
        self._thread: threading.Thread | None = None
        self._failing = False

    @property
    def on(self) -> bool:
        """Whether there is a hook."""
        return self._hook is not None

    def report(self, now: StudyStatus, nodes: Verdict) -> None:
        """Send news in the background; what is new while a send is running waits for the next call."""
        self._start(lambda sent: news(now, nodes, sent, has_log))

    def silent(self, since: float) -> None:
        """Report in the background that there was no answer since a time, in seconds since the epoch."""
        self._start(lambda sent: silence(since, sent))

    def close(self) -> None:
        """Wait until messages are sent, at most as long as a few may take."""
        if self._thread:
            self._thread.join(3 * LIMIT)

    def _start(self, find: Callable[[Sent], list[News]]) -> None:
        if self._hook and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._work, args=(self._hook, find), daemon=True)
            self._thread.start()

    def _work(self, hook: str, find: Callable[[Sent], list[News]]) -> None:
        def found() -> list[News]:
            records, bad = journal.survey(self._root.notified, NOTE)
            if bad:  # what is on such a line may be sent again
                self._say(f"{HOOK}: {bad[0].why}. Remove the line")
            return find(Sent.of(records, time.time()))

        try:
            if not found():
                return
            with Lock(self._root.notified_lock):
                sent = True
                for each in found():  # another program may have sent it meanwhile
                    sent = sent and self._send(hook, each)
                    self._note(each, sent)
        except Locked:  # another program is sending; what it leaves is found at the next poll
            return
        except Exception as error:  # no error in here may stop the calling program
            self._complain(str(error) if isinstance(error, OSError | Damaged) else type(error).__name__)

    def _send(self, hook: str, each: News) -> bool:
        try:
            send(hook, self._root.path.name, each)
        except HookError as error:
            self._complain(str(error))
            return False
        self._failing = False
        return True

    def _note(self, each: News, sent: bool) -> None:
        record = {"told": sent, "event": each.event, "topic": each.topic, "keys": each.keys}
        journal.append(self._root.notified, record)

    def _complain(self, why: str) -> None:
        if not self._failing:
            self._say(f"{HOOK}: notification not sent: {why}. It is sent again in some minutes")
        self._failing = True


def send(hook: str, study: str, each: News) -> None:
    """Send one message to a hook.

    Raises:
        HookError: the hook did not accept it.
    """
    text = f"{study}: {each.text}"
    said = {"study": study, "event": each.event, "text": text}
    if hook.startswith(("http://", "https://")):
        webhook.send(hook, webhook.post(hook, study, each.event, text))
    else:
        _run(hook, json.dumps(said), text)


def _run(command: str, said: str, text: str) -> None:
    process = subprocess.Popen(
        command, shell=True, env={**os.environ, "SOR_MESSAGE": text}, start_new_session=True,
        encoding="utf-8", errors="replace",
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.communicate(said, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise HookError(f"the command took more than {LIMIT:.0f} s") from None
    if process.returncode:
        raise HookError(f"the command ended with exit code {process.returncode}")
