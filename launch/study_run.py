"""A study opened on one machine: its plan, its run directory, and the backend that its jobs run on.

Every command starts here; the rest of each is in its own module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from jobs.core.secrets import name_secrets
from jobs.core.unit import MODES, Unit
from jobs.store.records import COUNT, TEXT, check
from jobs.store.rundir import Damaged, StudyDir, UnitDir, read_json
from jobs.store.schema import HANDED_OVER
from launch.local.backend import Local
from launch.slurm.backend import Slurm
from launch.slurm.client import SlurmClient
from launch.slurm.shared import SharedClient
from launch.state.backend import Backend
from launch.state.cache import StatusCache
from launch.state.command_line import command, note_typed
from launch.state.ledger import Attempt, Ledger, unfenced
from launch.state.origin import moved_from
from launch.state.status import StudyStatus, poll
from launch.study.cluster import Cluster, load_cluster, restored
from launch.study.estimate import Lengths
from launch.study.plan import collating, plan
from launch.study.presets import Mistake, StudyError
from launch.study.schema import Study, find_study, load_study
from launch.study.textfile import is_file


@dataclass(frozen=True)
class Project:
    """A study, where it runs, and its units."""

    study: Study
    cluster: Cluster
    root: StudyDir
    units: list[Unit]
    backend: Backend
    fence: Callable[[], None] = unfenced  # of the lock that is held while the study is changed
    file: Path | None = None  # that the study was read from; None: as it was last submitted

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root.ledger, self.cluster.source, self.cluster.slurm_cluster, self.fence)

    def poll(self, cache: StatusCache | None = None) -> StudyStatus:
        """Poll the study; see `status.poll`."""
        return poll(self.units, self.root, self.backend, cache)


def open_project(study_name: str, cluster_name: str | None, runs: Path) -> Project:
    """Read a study and everything that it refers to.

    Args:
        study_name: a YAML file, a name in configs/studies, or the name or the run directory of a study that
            was submitted.
        cluster_name: where it runs; None: where it was last submitted, this machine before the first time.

    Raises:
        StudyError: the study or the cluster has errors, or its jobs are elsewhere.
    """
    file, before = find_study(study_name), None
    if file is None:
        folders = [Path(study_name), *([runs / study_name] if Path(study_name).name == study_name else [])]
        before = next((root for root in map(StudyDir, folders) if is_file(root.study)), None)
        if before is None and (moved := moved_from(runs, Path(study_name))):
            note_typed(moved, moved.path.name, cluster_name)
            words = "no such file any more. What was submitted from it opens by its name:"
            raise StudyError([Mistake(Path(study_name), "", f"{words} {command(moved, 'status')}")])
    study = last_submitted(before) if before else load_study(study_name)
    root = before or StudyDir(runs / study.name)
    note_typed(root, study_name, cluster_name)
    return replace(_where_it_runs(study, root, cluster_name), file=file)


def last_submitted(root: StudyDir) -> Study:
    """Return the study as it was last submitted.

    Raises:
        StudyError: another version of this program wrote it.
        Damaged, FileNotFoundError: it cannot be read, or was never submitted.
    """
    try:
        return Study.model_validate(read_json(root.study))
    except ValidationError as error:
        words = "another version of sor wrote this: submit the study's YAML file again"
        raise StudyError([Mistake(root.study, "", words)]) from error


def started_projects(runs: Path, cluster_name: str | None) -> tuple[list[Project], list[str]]:
    """Return all studies with a run directory, as last submitted, the latest first.

    Returns:
        The projects, and why others cannot be opened.

    Raises:
        StudyError: there is none.
    """
    found, troubles = [], []
    with suppress(FileNotFoundError):
        os.listdir(runs)  # raises if unreadable, where a glob only finds nothing
    for file in sorted(runs.glob("*/study.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        root = StudyDir(file.parent)
        try:
            found.append(_where_it_runs(last_submitted(root), root, cluster_name))
        except (ValueError, OSError) as error:
            troubles.append(f"skipped {root.path}: {error}")
    if not found:
        why = "; ".join(troubles) or "no study was submitted here: name one, or give --runs DIR"
        raise StudyError([Mistake(runs, "", why)])
    return found, troubles


def _where_it_runs(study: Study, root: StudyDir, cluster_name: str | None) -> Project:
    attempts = Ledger(root.ledger).attempts()
    last = max(attempts.values(), key=lambda a: a.started, default=None)
    return _project(study, load_cluster(cluster_name or (last.cluster if last else "local")), root, attempts)


def reopen_project(root: StudyDir) -> Project:
    """Return a study as a person last submitted it, whatever its files contain now.

    Raises:
        StudyError: its jobs are on another cluster.
    """
    submitted = read_json(root.submitted, HANDED_OVER)
    cluster = restored(submitted["cluster"], submitted["source"])
    study = Study.model_validate(read_json(root.study))
    return _project(study, cluster, root, Ledger(root.ledger).attempts())


def planned_again(project: Project, study: Study) -> Project:
    """Return a project whose study was edited, or whose rows were counted, since it was opened."""
    return _project(study, project.cluster, project.root, Ledger(project.root.ledger).attempts())


def _project(study: Study, cluster: Cluster, root: StudyDir, attempts: Mapping[str, Attempt]) -> Project:
    endpoint = study.teacher and study.teacher.endpoint
    name_secrets([*cluster.slurm.secrets, *([endpoint["key"]] if endpoint and endpoint["key"] else [])])
    if cluster.slurm_cluster is None:  # nor does the environment name one: use the one where it already runs
        cluster = cluster.on(_last_slurm_cluster(attempts, cluster.source))
    collated = root.unit(collating(study, cluster))
    # Real lengths make better estimates.
    rows = measured(collated, Lengths.expected(study)) if collated.done else None
    project = Project(study, cluster, root, plan(study, cluster, rows), backend_of(cluster, root))
    _refuse_elsewhere(project, attempts)
    return project


def backend_of(cluster: Cluster, root: StudyDir) -> Backend:
    """Return the backend that runs a study's jobs."""
    return Local(root) if cluster.backend == "local" else Slurm(SlurmClient(cluster=cluster.slurm_cluster))


def sharing(project: Project, clients: dict[str | None, SharedClient]) -> Project:
    """Return the project with a Slurm backend that shares its answers with other projects.

    Args:
        clients: by cluster; a missing one is added.
    """
    if not isinstance(project.backend, Slurm):
        return project
    cluster = project.backend.client.cluster
    return replace(project, backend=Slurm(clients.setdefault(cluster, SharedClient(cluster))))


def _refuse_elsewhere(project: Project, attempts: Mapping[str, Attempt]) -> None:
    """Refuse units with jobs on another cluster, which this one cannot see and would start again."""
    here = project.cluster.source, project.cluster.slurm_cluster
    if all(_place(a) == here for a in attempts.values()):
        return
    started = {
        u.id: a
        for u in project.units
        if (a := attempts.get(u.id)) and a.ended is None and _place(a) != here
        if not project.root.unit(u).done
    }
    local = {id for id, a in started.items() if a.cluster == "local"}
    lost = local - Local(project.root).live(started).keys()
    elsewhere = sorted({_place(a) for id, a in started.items() if id not in lost}, key=str)
    if elsewhere:
        file, slurm_cluster = elsewhere[0]
        cancel, but = command(project.root, "cancel", "--cluster", file), ""
        if slurm_cluster:
            cancel = f"SLURM_CLUSTERS={slurm_cluster} {cancel}"
        elif file == here[0]:  # and another of its clusters is named now
            cancel, but = f"env -u SLURM_CLUSTERS {cancel}", " (without 'clusters' in that file)"
        names = ", ".join(f"{file} (Slurm cluster {other})" if other else file for file, other in elsewhere)
        raise StudyError([Mistake(
            project.root.path, "",
            f"units of this study were submitted to {names}, and no end of these jobs is recorded: "
            f"continue there, or cancel them{but}: {cancel}",
        )])  # fmt: skip


def _place(attempt: Attempt) -> tuple[str, str | None]:
    """Return where an attempt was submitted: the cluster file, and which of Slurm's several clusters."""
    return attempt.cluster, next((job.slurm_cluster for job in attempt.jobs), None)


def _last_slurm_cluster(attempts: Mapping[str, Attempt], source: str) -> str | None:
    """Return the one of Slurm's several clusters to which this cluster file last sent jobs."""
    sent = [a for a in attempts.values() if a.cluster == source]
    return _place(max(sent, key=lambda a: a.started))[1] if sent else None


def measured(collated: UnitDir, expected: Lengths) -> Lengths | None:
    """Return the counts and lengths that the collate stage found; prompts' lengths stay as expected.

    Returns:
        None if its result cannot be read: polling the unit reports that.
    """
    try:
        found = check(collated.read_result(), {"prompts": COUNT, "lengths_in": TEXT}, str(collated.result))
        if found["lengths_in"] != "tokens":
            return Lengths(found["prompts"], expected.prompt, expected.ift, expected.reasoning)
        means = {mode: round(found["lengths"][mode]["mean"]) for mode in MODES}
    except (Damaged, FileNotFoundError, KeyError, TypeError, OverflowError):
        return None
    return Lengths(found["prompts"], expected.prompt, **means)
