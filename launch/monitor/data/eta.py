"""How fast work goes and how long the rest will take: pure estimates, each with its uncertainty.

A unit at work is judged by its own speed in this run; one to come by the plan's estimate, times the median
ratio of real to estimated hours of those units of its stage that are done.
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

POINTS = 32  # of a track; then every other one is left out
MANY = 10  # ratios whose tenths say something


@dataclass(frozen=True)
class Span:
    """An estimate, and between what it most probably lies."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.mid * factor, self.high * factor)

    def at_least(self, other: Span) -> Span:
        """The larger of both, bound by bound."""
        return Span(max(self.low, other.low), max(self.mid, other.mid), max(self.high, other.high))


ZERO = Span(0, 0, 0)
BY_PLAN = Span(1 / MARGIN, 1, MARGIN)  # as a ratio: where nothing is done yet, and the plan is all there is


@dataclass(frozen=True)
class Track:
    """How one run of a unit went so far.

    Args:
        run: when it began, in seconds since the epoch.
        points: (when, share of the unit that is done, count in the unit's own words), the oldest first.
    """

    run: float
    points: tuple[tuple[float, float, int], ...]

    @property
    def share(self) -> float:
        return self.points[-1][1]


def ratio(real_to_estimated: Sequence[float]) -> Span | None:
    """What estimates have to be multiplied by; None while nothing is done.

    From the first to the last tenth of the ratios seen, or from the least to the largest of a few. Fewer than
    three say little of their spread: then at least a factor of 2 either way.
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
    """Hours that a unit was estimated to take, without the margins of its time limit; 0 where the plan has no
    estimate, since it hardly counts."""
    if stage in ("prepare", "collate", "report"):
        return 0.0
    return needs.hours / MARGIN if flops is None else estimate.hours(flops, stage, needs, cluster)


def share_done(unit: Unit, done: float, total: float, kept: float = 0) -> float:
    """How much of a unit is done, from 0 to 1, by what it counts.

    An evaluation counts the requests of one benchmark after the other, and has `kept` so many benchmarks.
    """
    part = done / total if total else 0.0
    if unit.stage == "evaluate" and (tasks := unit.config.get("group", {}).get("tasks")):
        part = (kept + min(part, 1.0)) / len(tasks)
    return min(max(part, 0.0), 1.0)


def follow(before: Track | None, unit: Unit, progress: dict[str, Any], kept: int = 0) -> Track:
    """The track with what a unit told last added to it.

    Args:
        kept: what the run before this one had kept, for this one to go on from.
    """
    run, when, done, total = (progress[key] for key in ("started", "updated", "done", "total"))
    if before is None or before.run != run:
        begun = share_done(unit, 0 if unit.stage == "evaluate" else kept, total, kept)
        before = Track(run, ((run, begun, 0),))
    points = before.points
    if when <= points[-1][0]:
        return before
    if len(points) >= POINTS:
        points = (points[0], *points[1:-1:2], points[-1])
    return Track(run, (*points, (when, share_done(unit, done, total, progress.get("kept", 0)), done)))


def speed(track: Track) -> Span | None:
    """Share of the unit that is done in a second; None where nothing has moved yet.

    Once there is enough to tell, without the time before the first heartbeat, in which a model is loaded.
    The interval comes from the first and the second half of the run.
    """
    points = track.points[1:] if len(track.points) > 2 else track.points
    overall = _slope(points[0], points[-1])
    if overall <= 0:
        return None
    if len(points) < 3:
        return Span(overall, overall, overall)
    half = points[len(points) // 2]
    halves = (_slope(points[0], half), _slope(half, points[-1]), overall)
    return Span(max(min(halves), overall / 4), overall, max(halves))  # a pause is not forever


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else 0.0


def own_left(track: Track) -> Span | None:
    """Seconds until a unit at work is done, by its own speed."""
    found, rest = speed(track), 1 - track.share
    return Span(rest / found.high, rest / found.mid, rest / found.low) if found else None


def count_rate(track: Track) -> float | None:
    """What the unit counts, a second, since its count last began anew; None where nothing has moved yet."""
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
    """Seconds until a stage is done; None if nobody knows.

    Args:
        at_work: seconds left of each unit that is.
        to_come: estimated hours of the others.
        found: the stage's ratio.
        parallel: how many units are at work at once.
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
