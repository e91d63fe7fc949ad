"""`sor submit` and `sor cancel`: reconcile a study under its lock, and submit what is missing.

Pure functions decide what to do (reconcile.py, arrays.py); this module orders the steps so that a crash at
any line loses nothing and starts nothing twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.prompt import Confirm

from jobs.core.plain import PlainConsole, say
from jobs.core.secrets import exposed
from jobs.store.rundir import write_json
from launch.commands.output import is_terminal
from launch.commands.run_local import run_here
from launch.local.stopping import Stopping
from launch.slurm.assumed import ASSUMED, AssumedClient
from launch.slurm.backend import Slurm
from launch.slurm.parse import NotSetUp, Refused
from launch.state import origin
from launch.state.command_line import command
from launch.state.lock import Lock
from launch.state.reconcile import Difference, reconcile
from launch.state.status import StudyStatus, UnitStatus
from launch.study_run import Project
from launch.submit import next_keeper, trust
from launch.submit.array_jobs import in_words, submit_arrays, write_out
from launch.submit.arrays import Array, ArrayPlan
from launch.submit.bad_nodes import verdict
from launch.submit.code_snapshot import snapshot, untracked
from launch.submit.endpoint_check import check_endpoints, unreachable
from launch.submit.gpu_check import check_engines, check_trainings
from launch.submit.hub_check import absent, check_hub
from launch.submit.limits import Refusal, refuse_resumes
from launch.submit.rounds import FULL
from launch.submit.steps import WITHDRAWN, arrays, ask_limits, set_aside, settled, withdraw, write_down
from launch.views import difference_view, held_view, nodes_view

PATIENCE = 60.0  # seconds that `sor cancel` of some units waits for a running submit


def submit(project: Project, *, yes: bool, only: str | None) -> int:
    """Reconcile a study and return the exit code; 1 if the user declines, 2 if nobody can be asked.

    Raises:
        Locked: another process is submitting it.
        Refusal: some units would never run on the cluster or its GPUs, could not resume, or would find no
            model or rows; or other users can write to the run directory.
        StudyError: the run directory belongs to another file's study.
        SlurmUnavailable: the cluster's scheduler does not answer.
    """
    console = PlainConsole()
    if project.file:
        origin.refuse_another(project.root, project.file)
    if not yes:
        trust.check(project.root)
        now = project.poll()
        difference = reconcile(now, only)
        _show(console, project, difference)
        sure = not any(s.unconfirmed for s in now.units)
        if sure and _idle(project, now, difference, console):
            return 0
        check_hub(project, [s.unit for s in difference.submit])  # before anybody is asked
        check_endpoints(project, [s.unit for s in difference.submit])
        if (refused := ask("Submit?", console)) is not None:
            return refused
    trust.prepare(project.root, _copied(project))
    if warning := trust.replaceable(project.root):
        console.print(f"note: {warning}", style="yellow", soft_wrap=True)
    with Stopping() as stopping, Lock(project.root.lock) as lock, ThreadPoolExecutor(1) as pool:
        project = replace(project, fence=lock.check)
        if project.file:  # another file's may have been submitted since
            origin.refuse_another(project.root, project.file)
        asked = None
        if isinstance(project.backend, Slurm) and len(project.ledger.attempts()) < len(project.units):
            asked = pool.submit(
                ask_limits, project
            )  # slow, and probably needed: some units were never submitted
        if lock.took_over:
            console.print(f"took over the lock of {lock.took_over}, which is no longer alive", style="yellow")
        now = settled(project, console)
        difference = reconcile(now, only)
        if yes:
            _show(console, project, difference)
        if _idle(project, now, difference, console):
            return 0
        refuse_resumes([s.unit for s in difference.submit if s.attempt], project.root)
        check_hub(project, [s.unit for s in difference.submit])
        check_endpoints(project, [s.unit for s in difference.submit])
        resolved = project.study.model_dump(mode="json")
        _refuse_secrets(resolved)
        planned = None
        if isinstance(project.backend, Slurm):
            # Made while the cluster's answer is pending.
            code = snapshot(project.root, keeper=project.cluster.slurm.keeper is not None)
            planned = arrays(project, now, difference, asked)
        project.fence()
        write_json(project.root.study, resolved)
        if project.file:
            origin.record(project.root, project.file)
        next_keeper.record(project, only, difference.submit)
        next_keeper.dismiss(project, now, "a person submitted the study again")
        withdraw(project, difference.withdraw, "withdrawn", WITHDRAWN)
        for seen in difference.outdated:
            set_aside(seen, project.ledger)
        if planned is None:
            return run_here(console, project, now, difference, stopping)
        return _apply(console, project, now, difference, planned, code)


def preview(project: Project, only: str | None, out: Path | None) -> int:
    """Show what `submit` would do, write its scripts to `out` if given, and return the exit code.

    Scripts can be written without Slurm, under assumptions that are printed.

    Raises:
        Refusal: some trainings cannot run as they are, or `out` is not empty.
        StudyError: the run directory belongs to another file's study.
        SlurmUnavailable: the cluster's scheduler does not answer.
    """
    if out is not None and project.cluster.backend == "local":
        raise Refusal("--out writes scripts for Slurm: name a cluster, for example --cluster generic")
    console = PlainConsole()
    if project.file:
        origin.refuse_another(project.root, project.file)
    if out is not None and _without_slurm(project):
        project = _assumed(project)
        console.print(ASSUMED, style="yellow", soft_wrap=True)
    now = project.poll()
    difference = reconcile(now, only)
    _show(console, project, difference)
    for check in (absent, unreachable):
        if lacking := check(project, [s.unit for s in difference.submit]):
            console.print(f"! {lacking}", style="yellow", soft_wrap=True)
    if out is None:
        return 0
    if now.submitting is not None:
        raise Refusal("this study is being submitted right now: write scripts once that has ended")
    trust.prepare(project.root, _copied(project))
    planned = arrays(project, now, difference)
    script = write_out(planned.arrays, project, out)
    console.print(held_view(planned.held))
    console.print(
        f"{len(planned.arrays)} scripts; run this one to submit all in order: {script}", soft_wrap=True
    )
    words = "until an array's first job starts, sor does not know of it, and would submit its units, too"
    console.print(words, soft_wrap=True)
    return 0


def _without_slurm(project: Project) -> bool:
    assert isinstance(project.backend, Slurm)
    try:
        project.backend.client.config()
    except NotSetUp:
        return True
    return False


def _assumed(project: Project) -> Project:
    """Return the project with a backend that answers in place of Slurm."""
    units = {(unit.stage, unit.resources) for unit in project.units}
    options = [project.cluster.sbatch_options(*unit).get("partition") for unit in sorted(units, key=str)]
    named = [name for option in options if option for name in str(option).split(",")]
    return replace(project, backend=Slurm(AssumedClient(dict.fromkeys(named or ["default"]))))


def _copied(project: Project) -> list[Path]:
    """Return the user's files that are copied into the run directory."""
    return [file for file in (project.file, project.cluster.file) if file]


def _refuse_secrets(resolved: dict[str, Any]) -> None:
    """Refuse a study that contains a secret, which would be copied into the run directory for all to read."""
    if shown := exposed(json.dumps(resolved, ensure_ascii=False)):
        raise Refusal(
            f"the study contains the value of {', '.join(shown)}, and would be copied into the run "
            "directory: remove the value from the study and its presets. Jobs get it from the environment"
        )


def _show(console: Console, project: Project, difference: Difference) -> None:
    """Print what is about to be done.

    Raises:
        Refusal: some trainings or engines cannot run as they are.
    """
    console.print(difference_view(difference, project.cluster.name))
    chosen = {seen.unit.id for seen in difference.submit}
    warnings = check_trainings(project.units, chosen, project.cluster)
    for words in warnings + check_engines(project.study, project.units, chosen, project.cluster):
        console.print(f"! {words}", style="yellow", soft_wrap=True)


def ask(question: str, console: Console) -> int | None:
    """Ask for confirmation.

    Returns:
        None if the user agrees; the exit code otherwise: 1 if declined, 2 if there is no terminal to ask.
    """
    if not is_terminal(sys.stdin):
        say("sor: nothing was done: there is no terminal to ask for confirmation. Add --yes", error=True)
        return 2
    return None if Confirm.ask(question, console=console, default=False) else 1


def _idle(project: Project, now: StudyStatus, difference: Difference, console: Console) -> bool:
    """Return whether there is nothing to submit or, on this machine, to wait for; print that if so."""
    if not difference.nothing or (difference.active and project.cluster.backend == "local"):
        return False
    if next_keeper.wanted(project, difference) != (now.kept is not None):
        console.print("- keeper" if now.kept else "+ keeper")
        return False
    console.print(
        "nothing to submit: the rest is queued or running" if difference.active else "nothing to do"
    )
    return True


def _apply(
    console: Console,
    project: Project,
    now: StudyStatus,
    difference: Difference,
    planned: ArrayPlan,
    code: Path,
) -> int:
    """Submit the arrays, then the keeper if wanted, and print each."""
    submitted = list[tuple[str, Array]]()

    def report(id: str, array: Array) -> None:
        submitted.append((id, array))
        console.print(f"  {id:>10}  {in_words(array)}")

    if missing := untracked():
        words = f"! jobs run without {', '.join(missing)}, which git does not track: git add what they need"
        console.print(words, style="yellow")
    nodes = verdict(project)
    console.print(nodes_view(nodes))
    try:
        submit_arrays(planned.arrays, project, code, nodes.names, report)
        if next_keeper.wanted(project, difference):
            number = now.keeper.attempt.number + 1 if now.keeper else 1
            live, room = next_keeper.in_queue(difference, submitted), next_keeper.waits_for_room(planned.held)
            id = next_keeper.submit_next(project, number, live, code, room, nodes.names)
            console.print(f"  {id:>10}  keeper")
    except Refused as error:
        why = ["Slurm refused a submission:", *(f"  {line}" for line in error.args)]
        why.append(f"Jobs submitted before that stay. To submit the rest: {command(project.root, 'submit')}")
        if FULL.search(str(error)) and (advice := next_keeper.advice(project, now)):
            why.append(advice)
        say("\n".join(f"sor: {line}" for line in why), error=True)
        return 1
    console.print(held_view(planned.held))
    if next_keeper.waits_for_room(planned.held) and (advice := next_keeper.advice(project, now)):
        console.print(advice, soft_wrap=True)
    if planned.arrays:
        watch = f"submitted: you can log out. To watch: {command(project.root, 'monitor')}"
        console.print(watch, soft_wrap=True)
    return 0


def cancel(project: Project, now: StudyStatus, units: Sequence[UnitStatus] | None) -> list[str]:
    """Cancel the jobs of these units, or all, and record what ended before.

    Returns:
        What was canceled, in words.

    Raises:
        Refusal: other users can write to the run directory.
        Locked: only some units are given, and a running submit does not end.
    """
    if not project.root.path.exists():
        return []
    trust.check(project.root)
    if units is None:
        # A running submit stops at its next step, and itself cancels what Slurm accepts after this poll.
        with Lock(project.root.lock, seize="'sor cancel'") as lock:
            project = replace(project, fence=lock.check)
            return _cancel(project, project.poll(), None)
    if project.cluster.backend == "local":  # a submit that runs the study here notices by itself
        return _cancel(project, now, units)
    with Lock(project.root.lock, patience=PATIENCE) as lock:
        project = replace(project, fence=lock.check)
        chosen = {seen.unit.id for seen in units}
        now = project.poll()  # the submit that was waited for may have submitted them
        return _cancel(project, now, [seen for seen in now.units if seen.unit.id in chosen])


def _cancel(project: Project, now: StudyStatus, units: Sequence[UnitStatus] | None) -> list[str]:
    write_down(project, now)
    ended = []
    if units is None:
        next_keeper.forget(project)
        ended += [f"'sor keep' of {now.keeping.who}, which ends at its next round"] if now.keeping else []
        if next_keeper.dismiss(project, now, "cancelled"):
            ended.append("the keeper")
            now = project.poll()  # the keeper may have submitted something meanwhile
    chosen = now.units if units is None else units
    ended += [f"{u.stage} {u.name}" for u in withdraw(project, chosen, "cancelled", "cancelled")]
    if units is None:
        project.backend.cancel(now.former)
        ended += [f"job {job.id} of a unit that the study no longer has" for job in now.former]
    return ended
