"""Estimates of rates and remaining time, each with its uncertainty. Pure.

A running unit is judged by its own speed in the current run; a pending one by the plan's estimate times the
median ratio of actual to estimated hours over the finished units of its stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from jobs.core.unit import Resources, Unit
from launch.study import estimate
from launch.study.cluster import Cluster
from launch.study.plan import MARGIN

POINTS = 32  # maximum number of points of a track; beyond it, every other one is dropped
MANY = 10  # ratios needed for meaningful deciles


@dataclass(frozen=True)
class Span:
    """An estimate and its likely range."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.mid * factor, self.high * factor)

    def at_least(self, other: Span) -> Span:
        """Return the larger of both, bound by bound."""
        return Span(max(self.low, other.low), max(self.mid, other.mid), max(self.high, other.high))


ZERO = Span(0, 0, 0)
BY_PLAN = Span(1 / MARGIN, 1, MARGIN)  # the ratio while nothing is done and only the plan is known


@dataclass(frozen=True)
class Track:
    """The progress of one run of a unit.

    Args:
        run: its start, in seconds since the epoch.
        points: (time, share of the unit done, count in the unit's own terms), oldest first; the first is the
            start of the work if the run reports it, else of the run.
    """

    run: float
    points: tuple[tuple[float, float, int], ...]

    @property
    def share(self) -> float:
        return self.points[-1][1]


def ratio(real_to_estimated: Sequence[float]) -> Span | None:
    """Return the factor by which to multiply estimates.

    The range is from the first to the last decile, or from the smallest to the largest of a few ratios. With
    fewer than three, it is at least a factor of 2 either way.

    Returns:
        None while nothing is done.
    """
    if not real_to_estimated:
        return None
    found, middle = sorted(real_to_estimated), median(real_to_estimated)
    if len(found) >= MANY:
        tenths = quantiles(found, n=10)
        return Span(tenths[0], middle, tenths[-1])
    if len(found) < 3:
        return Span(min(found[0], middle / 2), middle, max(found[-1], middle * 2))
    return Span(found[0], middle, found[-1])


def expected_hours(stage: str, flops: int | None, needs: Resources, cluster: Cluster) -> float:
    """Return a unit's estimated hours without the margin of its time limit; 0 for negligible stages."""
    if stage in ("prepare", "collate", "report"):
        return 0.0
    return needs.hours / MARGIN if flops is None else estimate.hours(flops, stage, needs, cluster)


def share_done(unit: Unit, done: float, total: float, kept: float = 0) -> float:
    """Return the share of a unit that is done, from 0 to 1.

    An evaluation counts the requests of one benchmark at a time, and has `kept` benchmarks done.
    """
    part = done / total if total else 0.0
    if unit.stage == "evaluate" and (tasks := unit.config.get("group", {}).get("tasks")):
        part = (kept + min(part, 1.0)) / len(tasks)
    return min(max(part, 0.0), 1.0)


def follow(before: Track | None, unit: Unit, progress: dict[str, Any], kept: int = 0) -> Track:
    """Return the track extended by a unit's latest progress report.

    Args:
        kept: the count saved by the previous run, from which this one resumed.
    """
    run, when, done, total = (progress[key] for key in ("started", "updated", "done", "total"))
    since = progress.get("working_since")  # loading a model is not part of the work
    if before is None or before.run != run or (len(before.points) == 1 and before.points[0][0] != since):
        count = 0 if unit.stage == "evaluate" else kept
        before = Track(run, ((since or run, share_done(unit, count, total, kept), count),))
    if progress.get("outside") and since is None:
        return before
    points = before.points
    if when <= points[-1][0]:
        return before
    if len(points) >= POINTS:
        points = (points[0], *points[1:-1:2], points[-1])
    return Track(run, (*points, (when, share_done(unit, done, total, progress.get("kept", 0)), done)))


def speed(track: Track) -> Span | None:
    """Return the share of the unit done per second.

    With enough points, the time before the first heartbeat, in which a model is loaded, is left out. The
    range comes from the first and the second half of the run.

    Returns:
        None without progress.
    """
    points = track.points[1:] if len(track.points) > 2 else track.points
    overall = _slope(points[0], points[-1])
    if overall <= 0:
        return None
    if len(points) < 3:
        return Span(overall, overall, overall)
    half = points[len(points) // 2]
    halves = (_slope(points[0], half), _slope(half, points[-1]), overall)
    return Span(max(min(halves), overall / 4), overall, max(halves))  # a pause is temporary


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else 0.0


def own_left(track: Track) -> Span | None:
    """Return the seconds until a running unit is done, by its own speed."""
    found, rest = speed(track), 1 - track.share
    return Span(rest / found.high, rest / found.mid, rest / found.low) if found else None


def count_rate(track: Track) -> float | None:
    """Return the unit's count per second since the count last restarted.

    Returns:
        None without progress.
    """
    points = track.points[1:] if len(track.points) > 2 else track.points
    last = points[-1]
    first = last
    for point in reversed(points):
        if point[2] > first[2]:
            break
        first = point
    rate = (last[2] - first[2]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
    return rate or None


def stage_left(
    at_work: Sequence[Span], to_come: Sequence[float], found: Span | None, parallel: float | None
) -> Span | None:
    """Return the seconds until a stage is done.

    Args:
        at_work: seconds left of each running unit.
        to_come: estimated hours of the others.
        found: the stage's ratio.
        parallel: how many units run at once.

    Returns:
        None if unknown.
    """
    if not at_work and not to_come:
        return ZERO
    if (any(to_come) and found is None) or (not parallel and (at_work or any(to_come))):
        return None
    parallel = parallel or 1.0
    rest = (found or ZERO) * (3600 * sum(to_come))
    longest = (found or ZERO) * (3600 * max(to_come, default=0.0))
    for own in at_work:
        rest, longest = rest + own, longest.at_least(own)
    return (rest * (1 / parallel)).at_least(longest)
