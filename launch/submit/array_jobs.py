"""Submit arrays to Slurm, or write them out for a person to submit.

One array after another, in this order: the folder with everything that the jobs read, the intent in the
ledger, sbatch, the id in the ledger. The next submit can recover from a crash between any two.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.core.unit import Unit
from jobs.runtime.array_task import BY_HAND, ELEMENTS, line
from jobs.store.by_hand import NOTE
from jobs.store.rundir import write_json
from launch.slurm.backend import Slurm
from launch.slurm.parse import Refused
from launch.state.ledger import Job, Started, new_name
from launch.state.lock import Lost
from launch.study_run import Project
from launch.submit.array_options import array_spec, dependency
from launch.submit.arrays import Array
from launch.submit.code_snapshot import snapshot
from launch.submit.limits import Refusal
from launch.submit.script import sbatch_script

SCRIPT = "submit.sh"
HEADER = """\
#!/bin/bash
# Submits what the folders beside this script hold, each array after those that it waits for. They are read by
# the jobs, and their logs go there. 'sor' learns of an array when the first of its jobs starts.
set -euo pipefail
cd "$(dirname "$0")"
# The environment of another job must not change these, nor defaults of the shell, which they hold already.
for name in ${!SBATCH_@} ${!SLURM_@}; do
  [ "$name" = SLURM_CONF ] || unset "$name"
done

submit() {  # set `id`: the one line of what sbatch says that is an id, or an id and the name of a cluster
  local said
  said=$(sbatch --parsable "$@") || { echo "$said" >&2; exit 1; }
  id=$(grep -xE '[0-9]+(;[A-Za-z0-9_.-]+)?' <<< "$said" | cut -d ';' -f 1) || true
  [[ $id =~ ^[0-9]+$ ]] && return
  printf '%s\\n' "$said" "sbatch printed no job id: check with squeue --me whether the job exists" >&2
  exit 1
}
"""


def submit_arrays(
    arrays: Sequence[Array],
    project: Project,
    code: Path,
    avoid: Sequence[str],
    report: Callable[[str, Array], None],
) -> None:
    """Submit arrays, in an order in which each comes after those that it waits for.

    Args:
        code: the snapshot of the code that the jobs run.
        avoid: nodes that no job may run on.
        report: called with each array that Slurm has accepted, after its job id.

    Raises:
        Refused: Slurm rejected an array; those before stay.
        SlurmUnavailable: no answer; the next poll finds out whether that array was accepted.
    """
    numbers, ids = _numbers(project), list[str]()
    for array in arrays:
        name = new_name(f"{array.stage}-{project.study.name}")
        folder = project.root.submission(name)
        _write(array, project, folder, code, numbers, dependency(array, ids), avoid)
        started = [
            Started(e.unit.id, numbers[e.unit.id], None if array.plain else e.index) for e in array.elements
        ]
        asked = project.cluster.asks_memory(array.stage, array.resources)
        ids.append(submit_one(project, name, started, (array.resources.memory or None) if asked else None))
        report(ids[-1], array)


def submit_one(project: Project, name: str, started: Sequence[Started], memory: int | None = None) -> str:
    """Submit the contents of a submission's folder and return the job's id. Raises what `submit_arrays` does.

    Args:
        memory: MiB per node that each of its jobs requests.
    """
    assert isinstance(project.backend, Slurm)
    project.ledger.intent(name, started, memory)
    project.fence()  # a process that took over meanwhile did not see that line
    try:
        id = project.backend.client.submit(project.root.submission(name) / SCRIPT)
    except Refused as error:
        why = f"Slurm refused it: {error}"
        project.ledger.ended("refused", {(b.unit, b.attempt, why) for b in started})
        raise
    try:
        project.ledger.submitted(name, str(id))
    except Lost:
        _take_back(project, Job(name, id.array, socket.gethostname(), None, id.cluster), started)
        raise
    return id.array


def _take_back(project: Project, job: Job, started: Sequence[Started]) -> None:
    """Cancel jobs whose attempts another process had ended or replaced, unaware of the submission."""
    attempts = project.ledger.attempts()
    over = [b for b in started if (a := attempts.get(b.unit)) and (a.number > b.attempt or a.ended)]
    project.backend.cancel([job._replace(element=b.index) for b in over])


def write_out(arrays: Sequence[Array], project: Project, out: Path) -> Path:
    """Write what `submit_arrays` would submit, for a person to submit; return the script that does so.

    Raises:
        Refusal: the folder is not empty, and jobs may be reading its files.
    """
    if out.exists() and any(out.glob("[!.]*")):
        raise Refusal(f"--out {out}: not empty: name an empty or new folder")
    out.mkdir(parents=True, exist_ok=True)
    # From now on 'sor submit' takes its numbers there.
    project.root.by_hand.mkdir(parents=True, exist_ok=True)
    lines = HEADER.splitlines()
    code, numbers, readers = snapshot(project.root), _numbers(project), _readers(project.units)
    for number, array in enumerate(arrays):
        folder = out.absolute() / f"{number:03}-{array.stage}"
        name = new_name(f"{array.stage}-{project.study.name}")
        _write(array, project, folder, code, {}, None, (), name)
        units = {e.unit.id for e in array.elements}
        note = {
            "name": name,
            "cluster": project.cluster.source,
            "slurm_cluster": project.cluster.slurm_cluster,
            "numbers": {id: numbers[id] - 1 for id in units},
            "readers": {id: readers[id] for id in units},
        }
        write_json(folder / NOTE, note)
        after = dependency(array, [f"${{a{i}}}" for i in range(number)])
        option = f' --dependency="{after}"' if after else ""
        lines.append(f'submit{option} {folder.name}/{SCRIPT}; a{number}=$id; echo "{in_words(array)}: $id"')
    script = out / "submit_all.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)
    return script


def in_words(array: Array) -> str:
    """Return a description of an array for a person."""
    return f"{array.stage}, {len(array.elements)} jobs"


def _numbers(project: Project) -> dict[str, int]:
    """Return the number of each unit's next attempt, by unit id."""
    attempts = project.ledger.attempts()
    return {u.id: attempts[u.id].number + 1 if u.id in attempts else 1 for u in project.units}


def _readers(units: Sequence[Unit]) -> dict[str, list[str]]:
    """Return the folders, below the study's, of the direct and indirect readers of each unit, by unit id."""
    readers: dict[str, list[str]] = {unit.id: [] for unit in units}
    read = dict[str, set[str]]()  # by each unit
    for unit in units:
        made_from = unit.made_from
        read[unit.id] = {i.id for i in made_from}.union(*(read.get(i.id, ()) for i in made_from))
        for id in read[unit.id] & readers.keys():
            readers[id].append(f"{unit.stage}/{unit.name}-{unit.id}")
    return readers


def _write(
    array: Array,
    project: Project,
    folder: Path,
    code: Path,
    numbers: Mapping[str, int],
    after: str | None,
    avoid: Sequence[str],
    job: str | None = None,
) -> None:
    """Write one submission's folder.

    Args:
        numbers: of the units' attempts; a job of a unit without one takes one when it starts.
        job: its name; None: that of the folder.
    """
    root = project.root.path.absolute()
    script = sbatch_script(
        project.cluster, array.stage, array.resources, folder=folder, study=root, code=code,
        array=array_spec(array), dependency=after, exclude=avoid, name=job,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ELEMENTS).open("w", encoding="utf-8") as file:
        for e in array.elements:
            asked = {"memory": array.resources.memory, "raised": array.resources.raised}
            unit = replace(e.unit, resources=replace(e.unit.resources, **asked))
            file.write(line(e.index, unit, root, numbers.get(e.unit.id, BY_HAND), e.worker))
    (folder / SCRIPT).write_text(script, encoding="utf-8")
