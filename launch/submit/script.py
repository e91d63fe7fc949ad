"""A cluster, a stage and its needs -> the whole text of an sbatch script, by submitit's SlurmExecutor.

Nothing is written and no program of Slurm called: scripts can be made on machines without it.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from submitit import SlurmExecutor

from jobs.core.memory import KILLED
from jobs.core.secrets import NAMES, revealed
from jobs.core.unit import Resources
from launch.study.cluster import Cluster
from launch.study.header import check_header, unusable
from launch.study.presets import Mistake, StudyError
from launch.study.slurm_section import Slurm
from launch.study.templates import again, placeholders, render

# % and \ are special in Slurm's file names, a script's header consists of lines, and : and , separate
# PYTHONPATH and lists of mounts.
UNUSABLE = re.compile(r"[%\\:,\x00-\x1f\x7f]")


class _Writer(SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        return 2  # even without srun


def sbatch_script(
    cluster: Cluster,
    stage: str,
    resources: Resources,
    *,
    folder: Path,
    study: Path,
    code: Path,
    array: str | None,
    dependency: str | None,
    module: str = "jobs.runtime.array_task",
    begin: str | None = None,
    exclude: Collection[str] = (),
    once: bool = False,
    name: str | None = None,
) -> str:
    """Return the script of one submission.

    Args:
        folder: the submission's, for the logs and the work of the elements.
        study, code: the study's folder, and the snapshot of the code below it.
        array: the elements, as `0-99%8`; None: it is one job, without an array.
        dependency: as `afterok:12:13`.
        module: the program.
        begin: the earliest start, as `now+60`.
        exclude: nodes that it must not run on.
        once: never requeue it, whatever ends it.
        name: the job's; None: that of the folder.

    Raises:
        StudyError: an option is missing, a path cannot be used, or the script would contain a secret.
    """
    folder, study, code = (path.absolute() for path in (folder, study, code))
    if bad := UNUSABLE.search(str(folder)):
        message = f"Slurm's jobs cannot work in a folder with {bad[0]!r} in its name: give --runs another one"
        raise StudyError([Mistake(folder, "", message)])
    job = "%j" if array is None else "%A_%a"
    given = {
        "python": sys.executable,
        "code": str(code),
        "module": module,
        "submission": str(folder),
        "log": str(folder / f"{job}_%t_log.out"),
        "study": str(study),
    }
    variables = {**cluster.slurm.variables, **given, "environment": _environment(cluster.slurm)}
    body = _head(cluster.slurm) + render(cluster.slurm.template, variables)
    options = cluster.sbatch_options(stage, resources)
    options |= cluster.memory_option(stage, resources)
    if once:
        options["no-requeue"] = True
    else:
        raised = cluster.memory_option(stage, replace(resources, memory=resources.raised))
        body = again({**variables, "killed": KILLED, "raise": _update(raised)}) + "\n" + body
        if "no-requeue" not in options:
            options["requeue"] = True  # some clusters requeue only jobs that request it
    if exclude:
        own = options.get("exclude")
        options["exclude"] = ",".join([*([own] if isinstance(own, str) else []), *exclude])
    if begin:
        options["begin"] = begin
    options["output"] = str(folder / f"{job}_0_log.out")  # the script's own output, before that of rank 0
    if array is not None:
        options["array"] = array
    asked = {**options, "job-name": name or folder.name, **({"dependency": dependency} if dependency else {})}
    if wrong := [Mistake(cluster.file, f"--{n}", why) for n, v in asked.items() if (why := unusable(n, v))]:
        raise StudyError(wrong)
    executor = _Writer(folder)
    executor.update_parameters(
        job_name=name or folder.name,
        time=math.ceil(60 * resources.hours),
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        cpus_per_task=resources.cpus_per_task,
        dependency=dependency,
        stderr_to_stdout=True,
        use_srun=False,
        wckey=None,  # not submitit's own, which clusters with such keys refuse
        additional_parameters=options,
    )
    text = check_header(executor._make_submission_file_text(body, uid=folder.name))
    if shown := revealed(text, cluster.slurm.secrets):
        message = f"the script would contain the value of {', '.join(shown)}: remove it from the cluster file"
        raise StudyError([Mistake(Path(cluster.name), "slurm", message)])
    return text


def _environment(slurm: Slurm) -> list[str]:
    """Return the variables that templates export, as `NAME=value`."""
    # Logs, and files written by libraries, are UTF-8 even where a node's locale is not. And Python must not
    # import code from the working directory first.
    return ["PYTHONUTF8=1", "PYTHONSAFEPATH=1", *slurm.exported]


def _head(slurm: Slurm) -> str:
    """Return the lines before the template."""
    lines = []
    if slurm.secrets:  # jobs hide their values, wherever the cluster gets them from
        lines.append(f"export {NAMES}='{' '.join(slurm.secrets)}'")
    if slurm.host_suffix:
        lines.append(f'export SOR_MASTER_ADDR="$SLURMD_NODENAME"{slurm.host_suffix}')
    if "environment" not in placeholders(slurm.template):
        lines.append(f"export {shlex.join(_environment(slurm))}")
    return "".join(f"{line}\n" for line in lines)


def _update(options: Mapping[str, str | bool]) -> str:
    """Return the memory request as `scontrol update` takes it; empty if there is none that it can change."""
    names = {"mem": "MinMemoryNode", "mem-per-cpu": "MinMemoryCPU"}
    found = [f"{names[name]}={str(value).rstrip('M')}" for name, value in options.items() if name in names]
    return found[0] if found else ""
