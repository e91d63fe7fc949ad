"""What is told of a study, to whom, and that it is told once, whatever becomes of who tells it."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from small_study import publish, runs, sor, start, wait_for, write_study
from test_status import A, B, keeper, seen

from jobs.core.causes import Cause
from jobs.core.unit import Unit
from jobs.store import journal
from jobs.store.rundir import StudyDir
from jobs.store.schema import NOTE
from launch.notify import hook
from launch.notify.events import AGAIN, DAY, LONG, QUIET, News, Sent, news, silence
from launch.notify.hook import HOOK, Notifier
from launch.state.backend import LiveJobs
from launch.state.ledger import Attempt, Job
from launch.state.lock import Held, Lock
from launch.state.log_files import has_log
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.study.cluster import load_cluster
from launch.study.plan import plan
from launch.study.schema import load_study
from launch.submit.bad_nodes import WHILE, BadNode, Verdict

URL = "http://127.0.0.1:{port}/services/T0/{secret}"
SECRET = "a-value-that-nobody-may-see"
AT = 1_800_000_000.0  # a now


class Memory:
    """Tells, and remembers it as the file of a study does."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def told(self, at: float) -> Sent:
        return Sent.of(self.records, at)

    def tell(self, found: list[News], at: float = AT, told: bool = True) -> list[str]:
        for each in found:
            self.records.append({"time": at, "told": told, "topic": each.topic, "keys": each.keys})
        return [f"{each.event}: {each.text}" for each in found]

    def news(
        self,
        *units: UnitStatus,
        at: float = AT,
        nodes: Verdict | None = None,
        logs: bool = True,
        **more: Any,
    ) -> list[str]:
        now = StudyStatus(StudyDir(Path("s")), units, **more)
        return self.tell(news(now, nodes or Verdict(), self.told(at), lambda seen: logs), at)


def evaluations(count: int, state: State, **more: Any) -> list[UnitStatus]:
    return [seen(Unit("evaluate", f"e{i}", {"i": i}), state, **more) for i in range(count)]


FULL: dict[str, Any] = {"reason": "ran out of memory", "written": {"cause": Cause.MEMORY}}


def test_the_end_of_each_stage_and_of_all() -> None:
    memory = Memory()
    a, b, c = (Unit(stage, "s", {}) for stage in ("prepare", "collate", "train"))
    queued = [seen(u, State.QUEUED) for u in (a, b, c)]
    assert memory.news(*queued) == []
    started = [seen(a, State.DONE), seen(b, State.DONE), queued[2]]
    assert memory.news(*started) == ["stage: prepare, collate are done, 2 of 3 units"]
    assert memory.news(*started, at=AT + 9 * DAY) == []
    done = [seen(u, State.DONE) for u in (a, b, c)]
    assert memory.news(*done) == ["done: all 3 units are done"]
    assert memory.news(*done) == []
    assert memory.news(*done[:2], queued[2]) == []  # its result was removed, and is made again
    assert memory.news(*done[:2], seen(c, State.DONE, started=200.0)) == ["done: all 3 units are done"]


def test_units_that_fail_are_told_of_together_and_not_one_after_another() -> None:
    memory, b = Memory(), seen(Unit("report", "r", {}), State.BLOCKED)
    units = evaluations(40, State.RUNNING)
    failed = evaluations(40, State.FAILED, **FULL)
    said = [memory.news(*failed[:i], *units[i:], b, at=AT + 60 * i) for i in range(40)]
    assert [len(each) for each in said] == [int(i == 1) for i in range(40)]
    id = failed[0].unit.id
    assert said[1] == [
        "failed: evaluate e0 failed: out of memory: ran out of memory. What to do: the next submit requests "
        "twice as much; the cluster file can set more (stages: {STAGE: {mem: …}}). Blocked by failures: "
        f"1 unit. Its log: sor logs s {id}"
    ]
    [later] = memory.news(*failed[:39], units[39], b, at=AT + 60 + QUIET)
    assert later.startswith(
        "failed: 38 evaluate units failed: out of memory, the first e1: ran out of memory. "
    )
    [last] = memory.news(*failed, b, at=AT + 61 + QUIET)  # nothing else will come
    assert last.startswith("failed: evaluate e39 failed: out of memory: ")
    assert memory.news(*failed, b, at=AT + 9 * DAY) == []


def test_only_a_log_that_exists_is_named() -> None:
    [failed] = evaluations(1, State.FAILED, **FULL)
    blocked = seen(Unit("report", "r", {}), State.BLOCKED)
    for logs, end in ((True, f" unit. Its log: sor logs s {failed.unit.id}"), (False, " unit.")):
        [said] = Memory().news(failed, blocked, logs=logs)
        assert said.endswith(f"Blocked by failures: 1{end}")


def test_the_hook_is_told_of_a_log_once_the_attempt_has_one(
    root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told"
    monkeypatch.setenv(HOOK, f'printf "%s\\n" "$SOR_MESSAGE" >> {shlex.quote(str(file))}')
    logs = root.submission("s")
    for number in (1, 2):
        attempt = Attempt(number, 100.0, "generic", (Job("s", "1", "here", 0),))
        failed = seen(A, State.FAILED, **FULL, attempt=attempt)._replace(root=root)
        notifier = Notifier(root, lambda words: None)
        notifier.report(StudyStatus(root, (failed,)), Verdict())
        notifier.close()
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "1_0_0_log.out").write_text("a line\n", encoding="utf-8")
    said = file.read_text(encoding="utf-8").splitlines()
    assert ["Its log: sor logs" in line for line in said] == [False, True]


def test_other_causes_and_other_attempts_are_news() -> None:
    memory = Memory()
    failed = evaluations(2, State.FAILED, **FULL)
    other: dict[str, Any] = {"reason": "x", "written": {"cause": Cause.CODE}}
    assert len(memory.news(*failed[:1], seen(B, State.RUNNING))) == 1
    code = seen(failed[1].unit, State.FAILED, **other)
    assert [each.split(": ")[2] for each in memory.news(failed[0], code)] == ["code error"]
    attempt = failed[0].attempt
    assert attempt is not None
    again = failed[0]._replace(attempt=attempt._replace(number=2))
    assert len(memory.news(again, code)) == 1


def test_what_a_keeper_repeats_is_no_news_before_it_gives_up() -> None:
    memory, [failed] = Memory(), evaluations(1, State.FAILED, **FULL)
    assert memory.news(failed, keeper=keeper()) == []
    said = memory.news(failed, keeper=keeper("over", lives=False))
    assert [each.split(":")[0] for each in said] == ["failed", "keeper"]
    assert said[1] == "keeper: no keeper continues the study: why"


def test_keepers_that_go() -> None:
    a, b = seen(A, State.DONE), seen(B, State.WAITING)
    gone = [*Memory().news(a, b, keeper=keeper(None, lives=False)), *Memory().news(a, b, keeper=keeper())]
    assert gone[1:] == ["keeper: no keeper continues the study: the keeper, job 9, is gone", *gone[2:]]
    memory = Memory()
    dismissed = memory.news(a, b, keeper=keeper("cancelled", lives=False))
    assert dismissed[1:] == [
        "waiting: 1 of 2 units wait, and none is queued or running. To continue: sor submit s"
    ]
    assert memory.news(a, b) == []
    assert [e.split(":")[0] for e in Memory().news(a, seen(B, State.DONE), keeper=keeper("over", False))] == [
        "done"
    ]
    assert Memory().news(seen(A, State.WAITING, attempt=None)) == []  # nobody has submitted it yet


def test_what_stands_still_once_an_attempt() -> None:
    memory = Memory()
    still: dict[str, Any] = {"reason": "no heartbeat for 20 minutes"}
    said = memory.news(seen(A, State.STALLED, **still), seen(B, State.RUNNING))
    assert said[0].startswith("stalled: train a stalled: no heartbeat for 20 minutes. Its log: sor logs s ")
    assert memory.news(seen(A, State.RUNNING), seen(B, State.RUNNING)) == []
    assert memory.news(seen(A, State.STALLED, **still), seen(B, State.RUNNING), at=AT + 2 * QUIET) == []


def test_what_is_held_until_somebody_lets_it_go() -> None:
    memory, stuck = Memory(), seen(A, State.QUEUED, reason="JobHeldAdmin")
    [said] = memory.news(stuck, seen(B, State.QUEUED))
    assert said.startswith("held: train a held: an administrator holds it. What to do: ask an ")
    assert memory.news(stuck, seen(B, State.QUEUED)) == []


def test_what_can_never_start() -> None:
    why = "requests more time than its partition allows: gpu"
    live = LiveJobs(State.QUEUED, (), why, dead=True, again=False, advice="name another one")
    reason = f"its job {why}: it is canceled and resubmitted with the next submit"
    memory, stuck = Memory(), seen(A, State.WAITING, live=live, in_vain=True, reason=reason)
    [said] = memory.news(stuck, seen(B, State.RUNNING))
    assert said.startswith(f"stuck: train a stuck: its job {why}: ")
    assert said.endswith("What to do: name another one; then: sor submit s")
    assert memory.news(stuck, seen(B, State.RUNNING)) == []
    [said] = Memory().news(stuck, seen(B, State.RUNNING), submitting=Held(1.0, "somebody"))
    assert said.endswith("another one; then, once the submit in progress has ended: sor submit s")


def test_bad_nodes() -> None:
    memory, at_work = Memory(), seen(A, State.RUNNING)
    one, two = (BadNode(name, "gpu", ("u",), "RuntimeError: no", AT + WHILE) for name in ("n1", "n2"))
    words = "nodes on which jobs fail at once are avoided: n1. The last error: RuntimeError: no"
    assert memory.news(at_work, nodes=Verdict((one,))) == [f"nodes: {words}"]
    assert memory.news(at_work, nodes=Verdict((one,)), at=AT + QUIET) == []
    assert len(memory.news(at_work, nodes=Verdict((), (one, two)))) == 1
    assert len(memory.news(at_work, nodes=Verdict((one, two)), at=AT + QUIET)) == 1


def test_a_long_silence_once_a_day() -> None:
    memory = Memory()
    since = AT - AT % DAY + 60

    def silent(seconds: float) -> list[str]:
        return memory.tell(silence(since, memory.told(since + seconds)), since + seconds)

    assert silent(LONG - 1) == []
    assert silent(LONG)[0].startswith("silent: no answer from Slurm or the file system since ")
    assert silent(LONG + 1) == silent(9 * DAY) == []


def test_what_was_not_taken_is_news_again_after_a_while() -> None:
    memory, now = Memory(), StudyStatus(StudyDir(Path("s")), (seen(A, State.DONE),))
    found = news(now, Verdict(), memory.told(AT), has_log)
    memory.tell(found, told=False)
    assert news(now, Verdict(), memory.told(AT + AGAIN - 1), has_log) == []
    assert news(now, Verdict(), memory.told(AT + AGAIN + 1), has_log) == found
    memory.tell(found, AT + AGAIN + 1)
    assert news(now, Verdict(), memory.told(AT + 9 * AGAIN), has_log) == []


# Hooks


@pytest.fixture(autouse=True)
def _no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own hook is told, and no proxy asked."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SOR_SECRETS", raising=False)
    monkeypatch.delenv(HOOK, raising=False)
    monkeypatch.setenv("no_proxy", "*")


class Webhook:
    """A web server that is told things."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.code = 200
        self.hold = threading.Event()
        self.hold.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.hold.wait()
                hook.said.append({**said, "path": self.path, "type": self.headers["Content-Type"]})
                self.send_response(hook.code)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = URL.format(port=self.server.server_port, secret=SECRET)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.hold.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def root(tmp_path: Path) -> StudyDir:
    root = StudyDir(tmp_path / "runs" / "mine")
    root.path.mkdir(parents=True)
    return root


def told(root: StudyDir, said: list[str] | None = None, state: State = State.DONE) -> Notifier:
    """Tell, with a fresh memory but the disk's, and wait until it is told."""
    notifier = Notifier(root, (said if said is not None else []).append)
    notifier.report(StudyStatus(root, (seen(A, state),)), Verdict())
    notifier.close()
    return notifier


def test_a_command_is_told_once(root: StudyDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shlex.quote(str(tmp_path / "told"))
    monkeypatch.setenv(HOOK, f'cat >> {out}; echo " $SOR_MESSAGE" >> {out}; echo to nobody')
    for _ in range(3):
        told(root)
    [line] = (tmp_path / "told").read_text(encoding="utf-8").splitlines()
    said, end = json.JSONDecoder().raw_decode(line)
    assert said == {"study": "mine", "event": "done", "text": "mine: all 1 units are done"}
    assert line[end:] == " mine: all 1 units are done"


def test_a_webhook_is_told_and_its_url_stays_a_secret(
    root: StudyDir, webhook: Webhook, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".config" / "scale-or-reason" / "secrets"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o600)
    file.write_text(f"{HOOK}='{webhook.url}'\n", encoding="utf-8")
    webhook.code = 500
    said = list[str]()
    notifier = told(root, said)
    assert said == [
        f"{HOOK}: notification not sent: the webhook answered 500. It is sent again in some minutes"
    ]
    past(root)
    notifier.report(StudyStatus(root, (seen(A, State.DONE),)), Verdict())
    notifier.close()
    assert len(said) == 1  # it is said once
    past(root)
    webhook.code = 204
    told(root, said)
    told(root, said)
    text = "mine: all 1 units are done"
    message = {
        "study": "mine", "event": "done", "text": text, "content": text, "type": "application/json",
        "path": f"/services/T0/{SECRET}", "allowed_mentions": {"parse": []},
    }  # fmt: skip
    assert webhook.said == [message] * 3
    for words in (URL.format(port=1, secret=SECRET), f"http://127.0.0.1:x/{SECRET}", f"https:// {SECRET}"):
        file.write_text(f"{HOOK}={words}\n", encoding="utf-8")
        past(root, told=True)
        told(root, said)
    assert said[1].startswith(
        f"{HOOK}: notification not sent: the webhook cannot be reached: Connection refused."
    )
    assert len(said) == 4
    written = "".join(path.read_text(encoding="utf-8") for path in root.path.rglob("*") if path.is_file())
    assert SECRET not in "".join([*said, written, *capfd.readouterr()])


def past(root: StudyDir, told: bool = False) -> None:
    """Let as much time go by as has what was not taken told again; with `told`, forget what was told, too."""
    records = [{**r, "time": r["time"] - 2 * AGAIN} for r in journal.read(root.notified, NOTE)]
    journal.own(root.notified).unlink()
    for record in [] if told else records:
        journal.append(root.notified, record)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 7", "the command ended with exit code 7"),
        ("sleep 60 & sleep 60", "the command took more than 1 s"),
        ("exec < /dev/null; exit 0", None),
    ],
)
def test_commands_that_fail_hang_or_do_not_listen(
    root: StudyDir, monkeypatch: pytest.MonkeyPatch, command: str, why: str | None
) -> None:
    monkeypatch.setattr(hook, "LIMIT", 1.0)
    monkeypatch.setenv(HOOK, command)
    said = list[str]()
    told(root, said)
    assert [words.split(": ")[2].split(".")[0] for words in said] == ([why] if why else [])


def test_who_watches_does_not_wait_for_a_hook(
    root: StudyDir, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, webhook.url)
    webhook.hold.clear()
    notifier = Notifier(root, print)
    now = StudyStatus(root, (seen(A, State.DONE), seen(B, State.RUNNING)))
    for _ in range(3):
        notifier.report(now, Verdict())  # returns, though the hook holds the first one
    assert webhook.said == []
    webhook.hold.set()
    notifier.close()
    assert [said["event"] for said in webhook.said] == ["stage"]


def test_several_programs_at_once_tell_it_once(
    root: StudyDir, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, webhook.url)
    notifiers, said = list[Notifier](), list[str]()
    now = StudyStatus(root, (seen(A, State.DONE),))
    with Lock(root.notified_lock):  # another program tells something: who finds it so leaves it alone
        told(root, said)
    assert (len(webhook.said), said) == (0, [])
    webhook.hold.clear()
    for _ in range(8):
        notifiers.append(Notifier(root, said.append))
        notifiers[-1].report(now, Verdict())
    time.sleep(0.3)
    webhook.hold.set()
    for notifier in notifiers:
        notifier.close()
    assert (len(webhook.said), said) == (1, [])


def test_a_folder_that_cannot_be_written_breaks_nothing(
    root: StudyDir, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, webhook.url)
    root.notified.mkdir()
    said = list[str]()
    told(root, said)
    assert webhook.said == []
    assert "a folder, not a file" in said[0]


def test_a_silent_controller_is_told_of(
    root: StudyDir, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, webhook.url)
    for seconds in (LONG / 2, LONG + 1, LONG + 1):
        notifier = Notifier(root, print)
        notifier.silent(time.time() - seconds)
        notifier.close()
    assert [said["event"] for said in webhook.said] == ["silent"]


def test_without_a_hook_nothing_is_written(root: StudyDir) -> None:
    assert not told(root).on
    assert list(root.path.iterdir()) == []


# The program


def test_waiting_tells_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out, told = write_study(tmp_path / "study"), tmp_path / "out", tmp_path / "told"
    monkeypatch.setenv(HOOK, f'echo "$SOR_MESSAGE" >> {shlex.quote(str(told))}')
    hold = study.parent / "study.hold"
    hold.touch()
    submit = start("submit", study, "--runs", out, "--yes", "--only", "prepare")
    wait_for(lambda: runs(study.parent), "the job to run")
    waiting = start("status", study, "--runs", out, "--wait", "--interval", "1")
    for unit in plan(load_study(str(study)), load_cluster("local"))[1:]:
        publish(StudyDir(out / "small"), unit, {"prompts": 4, "lengths_in": "characters"})
    hold.unlink()
    waiting.communicate(timeout=60)
    submit.communicate(timeout=60)
    assert waiting.returncode == 0
    assert sor("status", study, "--runs", out, "--wait").returncode == 0
    assert told.read_text(encoding="utf-8").splitlines()[-1] == "small: all 16 units are done"
    assert told.read_text(encoding="utf-8").count("all 16") == 1
