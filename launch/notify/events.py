"""Which news of a study to report, given its state and what was reported before. Pure.

A message covers many units at once: if a topic was reported recently, its news wait for an hour, unless
nothing else will come.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.core.causes import ANSWERS
from jobs.core.plain import plain
from jobs.core.wording import count
from launch.state.command_line import command
from launch.state.exit_code import Outlook, in_progress, lost, outlook
from launch.state.log_files import WIDEST
from launch.state.pending_reasons import Wait, in_words, meaning
from launch.state.states import State
from launch.state.status import StudyStatus, UnitStatus
from launch.state.waits import advice, held, stuck
from launch.submit.bad_nodes import WHILE, BadNode, Verdict

QUIET = 3600.0  # seconds between messages under a topic that may keep producing news
LONG = 3600.0  # seconds without an answer from Slurm that are worth a message
AGAIN = 600.0  # seconds before a message that the hook rejected is sent again
DAY = 24 * 3600.0


@dataclass(frozen=True)
class News:
    """One message.

    Args:
        topic: what messages that are not to be sent in quick succession have in common.
        keys: the items that it reports, each of which is reported once.
    """

    topic: str
    keys: tuple[str, ...]
    text: str

    @property
    def event(self) -> str:
        """Its kind: "done", "stage", "failed", "stalled", "held", "stuck", "nodes", "keeper", "waiting" or
        "silent"."""
        return self.topic.partition(" ")[0]


@dataclass(frozen=True)
class Sent:
    """What was reported, or was recently rejected by the hook.

    Args:
        keys: of all news.
        topics: when the last message under a topic was sent, in seconds since the epoch.
        at: now.
    """

    keys: frozenset[str]
    topics: Mapping[str, float]
    at: float

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], at: float) -> Sent:
        """Build from records of news; `told` is false in those that the hook rejected."""
        valid = [r for r in records if r["told"] or r["time"] > at - AGAIN]
        return cls(frozenset(k for r in valid for k in r["keys"]), {r["topic"]: r["time"] for r in valid}, at)

    def due(self, topic: str) -> bool:
        """Return whether another message under a topic may be sent."""
        return self.topics.get(topic, 0.0) <= self.at - QUIET


def news(now: StudyStatus, nodes: Verdict, sent: Sent, has_log: Callable[[UnitStatus], bool]) -> list[News]:
    """Return the messages to send now.

    Args:
        has_log: whether there is a log of a unit's last attempt; called only for units to report.
    """
    if now.units and outlook(now) == Outlook.DONE:
        found = [_all_done(now)]
    else:
        found = [*_stages(now, sent), *_problems(now, sent, has_log), *_left(now)]
    found += _nodes(nodes, sent)
    return [each for each in found if not sent.keys.issuperset(each.keys)]


def silence(since: float, sent: Sent) -> list[News]:
    """Return the message about an outage since a given time: at most one a day."""
    if sent.at - since < LONG:
        return []
    clock = time.strftime("%d %b %H:%M", time.localtime(since))
    text = f"no answer from Slurm or the file system since {clock}; jobs continue meanwhile"
    each = News("silent", (f"silent {since // DAY:.0f}",), text)
    return [] if sent.keys.issuperset(each.keys) else [each]


def _all_done(now: StudyStatus) -> News:
    """Return the final message, which covers stages not reported before."""
    ended = _ended(now)
    keys = (f"done {max(ended.values())}", *(f"stage {stage} {at}" for stage, at in ended.items()))
    return News("done", keys, f"all {len(now.units)} units are done")


def _stages(now: StudyStatus, sent: Sent) -> list[News]:
    new = {stage: key for stage, at in _ended(now).items() if (key := f"stage {stage} {at}") not in sent.keys}
    are = "are" if len(new) > 1 else "is"
    text = f"{', '.join(new)} {are} done, {len(now.of(State.DONE))} of {len(now.units)} units"
    return [News("stage", tuple(new.values()), text)] if new else []


def _ended(now: StudyStatus) -> dict[str, int]:
    """Return the stages that are done, and when their last attempts started: a rerun stage ends again."""
    unfinished, last = set[str](), dict[str, int]()
    for seen in now.units:
        stage = seen.unit.stage
        if seen.state != State.DONE:
            unfinished.add(stage)
        last[stage] = max(last.get(stage, 0), int(seen.attempt.started) if seen.attempt else 0)
    return {stage: at for stage, at in last.items() if stage not in unfinished}


def _problems(now: StudyStatus, sent: Sent, has_log: Callable[[UnitStatus], bool]) -> list[News]:
    """Report failed, stalled, held, damaged or stuck units, grouped by stage and cause."""
    groups = defaultdict[str, list[UnitStatus]](list)
    for seen in (*now.of(State.STALLED, State.DAMAGED), *lost(now), *held(now), *stuck(now)):
        if _key(seen) not in sent.keys:
            groups[f"{_state(seen)} {seen.unit.stage} {seen.cause or ''}"].append(seen)
    return [
        News(topic, tuple(map(_key, units)), _problem(units, now, has_log))
        for topic, units in groups.items()
        if sent.due(topic) or not in_progress(now)
    ]


def _state(seen: UnitStatus) -> str:
    if seen.live and seen.live.dead:
        return "stuck"
    return "held" if meaning(seen.reason or "").wait is Wait.PERSON else seen.state


def _key(seen: UnitStatus) -> str:
    return f"{_state(seen)} {seen.unit.id} {seen.attempt.number if seen.attempt else 0}"


def _problem(units: list[UnitStatus], now: StudyStatus, has_log: Callable[[UnitStatus], bool]) -> str:
    """Format as "3 evaluate units failed: out of memory, the first s-r0: …"."""
    first, cause, blocked = units[0], units[0].cause, len(now.of(State.BLOCKED))
    stage, name = first.unit.stage, first.unit.name
    many = len(units) > 1
    text = f"{len(units)} {stage} units {_state(first)}" if many else f"{stage} {name} {_state(first)}"
    text += f": {cause}" if cause else ""
    text += f", the first {name}" if many else ""
    text += f": {_words(in_words(first.reason or ''))}. "
    if _state(first) in ("held", "stuck"):
        return f"{text}What to do: {advice(units, now)}"
    text += f"What to do: {ANSWERS[cause].advice}. " if cause else ""
    text += f"Blocked by failures: {count(blocked, 'unit')}. " if blocked else ""
    if has_log(first):  # without a log, the command would fail
        text += f"Its log: {command(now.root, 'logs', first.unit.id)}"
    return text.rstrip()


def _left(now: StudyStatus) -> list[News]:
    """Report a study that no longer advances: its keeper gave up or is gone, or units wait without one."""
    attempt = now.keeper.attempt if now.keeper and not now.continued else None
    if attempt and attempt.ended in (None, "over"):
        why = _words(attempt.reason) if attempt.ended else f"the keeper, job {attempt.jobs[0].id}, is gone"
        return [News("keeper", (f"keeper {attempt.number}",), f"no keeper continues the study: {why}")]
    started = max((int(seen.attempt.started) for seen in now.units if seen.attempt), default=None)
    if started is None or in_progress(now) or lost(now):
        return []
    waiting = f"{len(now.of(State.WAITING))} of {len(now.units)} units wait"
    text = f"{waiting}, and none is queued or running. To continue: {command(now.root, 'submit')}"
    return [News("waiting", (f"waiting {started}",), text)]


def _nodes(nodes: Verdict, sent: Sent) -> list[News]:
    """Report nodes that are avoided, and too many bad ones: one message each, each node once a day."""
    kinds = {"avoided": nodes.avoid, "bad, but too many to avoid": nodes.many}
    found = []
    for what, bad in kinds.items():
        new = [node for node in bad if _day(what, node) not in sent.keys]
        if new and sent.due(f"nodes {what}"):
            names, error = ", ".join(node.name for node in new), _words(new[-1].error)
            text = f"nodes on which jobs fail at once are {what}: {names}. The last error: {error}"
            found.append(News(f"nodes {what}", tuple(_day(what, node) for node in new), text))
    return found


def _day(what: str, node: BadNode) -> str:
    return f"node {node.name} {what} {node.until // WHILE:.0f}"


def _words(text: str | None) -> str:
    return plain(text or "")[:WIDEST]
