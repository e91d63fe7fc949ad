"""Handing arrays over to Slurm, or writing them down for a person to do so.

In this order, one array after another: the folder with all that the jobs read, the intent in the ledger,
sbatch, the id in the ledger. A crash between any two leaves something that the next submit understands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.element import ELEMENTS, line
from launch.admission import Refusal
from launch.arrays import Array, array_spec, dependency
from launch.header import WELCOME
from launch.ledger import Begun, new_name
from launch.on_slurm import Slurm
from launch.project import Project
from launch.script import sbatch_script
from launch.slurm import Refused
from launch.snapshot import snapshot

SCRIPT = "submit.sh"
HEADER = """\
#!/bin/bash
# Submits what the folders beside this script hold, each array after those that it waits for. They are read by
# the jobs, and their logs go there. 'sor submit' knows nothing of these jobs before they are done.
set -euo pipefail
cd "$(dirname "$0")"
# As 'sor submit' does, whatever the shell has set for other jobs.
for name in ${!SBATCH_@} ${!SLURM_@}; do
  [[ " %s " == *" $name "* ]] || unset "$name"
done
"""


def hand_over(
    arrays: Sequence[Array],
    project: Project,
    code: Path,
    avoid: Sequence[str],
    tell: Callable[[str, str], None],
) -> None:
    """Submit arrays, in an order in which each comes after those that it waits for.

    Args:
        code: the snapshot of the code that the jobs run.
        avoid: nodes that no job may run on.
        tell: is called with the id of each job that Slurm has taken, and what it is.

    Raises:
        Refused: Slurm said no; those before stay.
        SlurmUnavailable: no answer; whether that array was taken, the next look finds out.
    """
    numbers, ids = _numbers(project), list[str]()
    for array in arrays:
        name = new_name(f"{array.stage}-{project.study.name}")
        folder = project.root.submission(name)
        _write(array, project, folder, code, numbers, dependency(array, ids), avoid)
        begun = [Begun(e.unit.id, numbers[e.unit.id], e.index) for e in array.elements]
        ids.append(hand_in(project, name, begun))
        tell(ids[-1], in_words(array))


def hand_in(project: Project, name: str, begun: Sequence[Begun]) -> str:
    """Submit what a submission's folder holds; returns the job's id. It raises what `hand_over` does."""
    assert isinstance(project.backend, Slurm)
    project.ledger.intent(name, begun)
    try:
        id = project.backend.controller.submit(project.root.submission(name) / SCRIPT)
    except Refused as error:
        why = f"Slurm refused it: {error}"
        project.ledger.ended("refused", {(b.unit, b.attempt, why) for b in begun})
        raise
    project.ledger.submitted(name, str(id))
    return id.array


def write_out(arrays: Sequence[Array], project: Project, out: Path) -> Path:
    """Write what `hand_over` would submit, to be submitted by hand; returns the script that submits all.

    Raises:
        Refusal: the folder holds something, which jobs may be reading.
    """
    if out.exists() and any(out.iterdir()):
        raise Refusal(f"--out {out}: there is something in it: name a folder that is empty, or not there yet")
    out.mkdir(parents=True, exist_ok=True)
    lines = (HEADER % " ".join(WELCOME)).splitlines()
    code, numbers = snapshot(project.root), _numbers(project)
    for number, array in enumerate(arrays):
        folder = out.absolute() / f"{number:03}-{array.stage}"
        _write(array, project, folder, code, numbers, None, ())
        after = dependency(array, [f"${{a{i}}}" for i in range(number)])
        option = f' --dependency="{after}"' if after else ""
        lines.append(f"a{number}=$(sbatch --parsable{option} {folder.name}/{SCRIPT} | cut -d';' -f1)")
        lines.append(f'echo "{in_words(array)}: $a{number}"')
    script = out / "submit_all.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)
    return script


def in_words(array: Array) -> str:
    """What an array is, for a person."""
    return f"{array.stage}, {len(array.elements)} jobs"


def _numbers(project: Project) -> dict[str, int]:
    """The number of each unit's next attempt, by its id."""
    attempts = project.ledger.attempts()
    return {u.id: attempts[u.id].number + 1 if u.id in attempts else 1 for u in project.units}


def _write(
    array: Array,
    project: Project,
    folder: Path,
    code: Path,
    numbers: Mapping[str, int],
    after: str | None,
    avoid: Sequence[str],
) -> None:
    """Write one submission's folder."""
    root = project.root.path.absolute()
    script = sbatch_script(
        project.cluster, array.stage, array.resources, folder=folder, study=root, code=code,
        array=array_spec(array), dependency=after, exclude=avoid,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ELEMENTS).open("w", encoding="utf-8") as file:
        for e in array.elements:
            asked = {"memory": array.resources.memory, "raised": array.resources.raised}
            unit = replace(e.unit, resources=replace(e.unit.resources, **asked))
            file.write(line(e.index, unit, root, numbers[e.unit.id], e.worker))
    (folder / SCRIPT).write_text(script, encoding="utf-8")
