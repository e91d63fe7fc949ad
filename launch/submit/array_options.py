"""Options of sbatch that say what an array is: --array and --dependency. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from launch.submit.arrays import Array


def dependency(array: Array, ids: Sequence[str]) -> str | None:
    """Return the value of sbatch's --dependency; `ids` are the job ids of the plan's arrays so far.

    Returns:
        None if the array waits for nothing.
    """
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for condition in array.after:
        id = condition.array if isinstance(condition.array, str) else ids[condition.array]
        jobs = [id] if condition.indices is None else [f"{id}_{i}" for i in condition.indices]
        kinds[condition.kind] += jobs
    if array.any:  # jobs after a single kind would all be required
        return "?".join(f"{kind}:{job}" for kind, jobs in kinds.items() for job in jobs)
    return ",".join(f"{kind}:{':'.join(jobs)}" for kind, jobs in kinds.items()) or None


def array_spec(array: Array) -> str | None:
    """Return the value of sbatch's --array.

    Returns:
        None for a job without an array.
    """
    if array.plain:
        return None
    parts = []
    indices = sorted(element.index for element in array.elements)
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        first, *rest = (index for _, index in run)
        parts.append(f"{first}-{rest[-1]}" if rest else str(first))
    return ",".join(parts) + (f"%{array.throttle}" if array.throttle < len(indices) else "")
