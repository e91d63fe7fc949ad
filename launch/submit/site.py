"""What a site would do with jobs that no table decides: `sbatch --test-only` of each kind of job.

Asked where the site has plugins, which may refuse jobs, choose partitions or rename accounts, and where no
partition is the default one. The answers are part of the limits, and deciding by them is limits.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from jobs.core.unit import Unit
from launch.slurm.answers import Answer
from launch.slurm.client import SlurmClient
from launch.state.errors import SlurmUnavailable
from launch.study.plan import MARGIN
from launch.submit.limits import ClusterLimits, Request
from launch.submit.script import sbatch_script

AT_ONCE = 4  # calls of sbatch, out of consideration for the controller


def ask_site(
    limits: ClusterLimits, units: Sequence[Unit], client: SlurmClient, folder: Path
) -> ClusterLimits:
    """Return the limits with the site's answers for those units that need one.

    Requests that differ in time and memory alone share one call, with the most of each; only where that is
    refused, each is asked about. A site that does not answer leaves its question open.

    Args:
        folder: named in the scripts; nothing is written there.
    """
    alike = defaultdict[tuple[object, ...], list[Request]](list)
    for request in dict.fromkeys(limits.request(unit) for unit in units):
        if limits.is_open(request):
            bare = replace(request.resources, hours=1, memory=0, raised=0)
            options = limits.cluster.sbatch_options(*request)
            alike[request.stage, bare, tuple(sorted(options.items(), key=str))].append(request)
    largest = {group[0]: _largest(group) for group in alike.values()}
    found = _answers(limits, list(largest.values()), client, folder)
    answers, rest = dict[Request, Answer](), list[Request]()
    for group in alike.values():
        answer = found[largest[group[0]]]
        if answer.refused and len(group) > 1:
            rest += group
        else:
            answers |= dict.fromkeys(group, answer)
    answers |= _answers(limits, rest, client, folder)
    shapes = {request.shape: answer for request, answer in answers.items() if not answer.refused}
    return replace(limits, answers={**limits.answers, **shapes, **answers})


def _largest(group: Sequence[Request]) -> Request:
    needs = [request.resources for request in group]
    hours, memory = max(n.hours for n in needs), max(n.memory for n in needs)
    return Request(group[0].stage, replace(needs[0], hours=hours, memory=memory, raised=0))


def _answers(
    limits: ClusterLimits, requests: Sequence[Request], client: SlurmClient, folder: Path
) -> dict[Request, Answer]:
    def ask(request: Request) -> Answer:
        try:
            return _would(limits, request, client, folder)
        except SlurmUnavailable:
            return Answer()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(requests, pool.map(ask, requests), strict=True))


def _would(limits: ClusterLimits, request: Request, client: SlurmClient, folder: Path) -> Answer:
    """Ask with the full time limit and, if that is too long, with the estimate alone."""

    def ask(hours: float) -> Answer:
        return client.would(sbatch_script(
            limits.cluster, request.stage, replace(request.resources, hours=hours), folder=folder / "test",
            study=folder, code=folder, array=None, dependency=None, once=True,
        ))  # fmt: skip

    answer = ask(request.resources.hours)
    return ask(request.resources.hours / MARGIN) if answer.too_long else answer
