"""The cluster file: where jobs run, their sbatch options, and the machine figures for estimates.

Calls none of Slurm's programs. What options of sbatch may say is in sbatch_options.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PrivateAttr, WithJsonSchema, model_validator

from jobs.core.gpus import PEAKS, gpu_memory, peak_flops
from jobs.core.unit import Resources
from launch.study import sbatch_options
from launch.study.header import unusable
from launch.study.presets import (
    CONFIGS,
    Count,
    Mistake,
    Name,
    Positive,
    Strict,
    StudyError,
    is_file_name,
    known_names,
    located,
    read_yaml,
    validate,
)
from launch.study.sbatch_options import (
    GPUS,
    Given,
    When,
)
from launch.study.shell_options import ACCOUNT, in_shell, variable, with_shell, wrong_in_shell
from launch.study.slurm_section import MEMORY, ONE_CLUSTER, Slurm, crosscheck, is_one_cluster
from launch.study.textfile import is_file

# Environment variables that select one of several Slurm clusters, as sbatch reads them.
ELSEWHERE = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")


def _known_gpu(name: str) -> str:
    peak_flops(name, "bf16")
    return name


Gpu = Annotated[
    str,
    AfterValidator(_known_gpu),
    WithJsonSchema({"anyOf": [{"enum": list(PEAKS)}, {"type": "string"}]}),
]


class Efficiency(Strict):
    """Shares of the GPU's peak FLOP/s that the stages reach."""

    generate: Positive
    """Generation by the teacher. Example: `0.1`."""
    train: Positive
    """Training. Example: `0.35`."""
    evaluate: Positive
    """Evaluation. Example: `0.1`."""


class Cluster(Strict):
    """A cluster: where jobs run, and the machine's figures for estimates, which become time limits."""

    name: Name
    """Name of the cluster: up to 60 letters, digits, `.`, `_` and `-`. Without it, the file's name."""
    backend: Literal["local", "slurm"]
    """Jobs of Slurm, or processes of this machine."""
    gpu: Gpu
    """GPU, by its name in jobs/core/gpus.py, or as Slurm or torch calls it. Examples: `a100`, `h100-pcie`."""
    gpu_memory: Positive | None = None
    """Memory of a GPU in GiB, which datasheets call GB. Without it, that of `gpu` in jobs/core/gpus.py: the
    smallest variant's if the name does not say which, as `a100-80gb` does. Example: `64`."""
    efficiency: Efficiency
    cpu_gflops: Positive
    """Rate of one core, in GFLOP/s, for stages without a GPU. Example: `15`."""
    cpus_per_gpu: Count
    """Cores requested with each GPU. Example: `8`."""
    gpus_per_node: Count | None = None
    """GPUs of a node. Trainings and engines get as many GPUs as their presets request, on nodes of this size;
    without it, on the nodes that presets name. Example: `4`."""
    max_hours: Positive
    """Hours that a job requests, at most; no more than the partition allows. Example: `24`."""
    mtbf_hours: Positive = 24.0
    """Mean hours between failures without warning; lower values give more checkpoints."""
    slurm: Slurm = Slurm()
    _file: Path = PrivateAttr(default=Path())

    @property
    def file(self) -> Path:
        """The cluster file."""
        return self._file

    @property
    def source(self) -> str:
        """What `load_cluster` finds it by from any directory: its name, or the path of the user's file."""
        shipped = self._file.parent == CONFIGS / "clusters"
        return self.name if shipped else str(self._file.absolute())

    def to_json(self) -> dict[str, Any]:
        """Return the data from which `restored` rebuilds the cluster."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def memory_of_gpu(self) -> tuple[float, str]:
        """The memory of a GPU in GiB, and a clause that says so."""
        if self.gpu_memory is not None:
            return self.gpu_memory, f"a GPU of cluster {self.name} has {self.gpu_memory:g}"
        found, certain = gpu_memory(self.gpu)
        more = "" if certain else " or more (if so, set 'gpu_memory' in the cluster file)"
        return found, f"{self.gpu} has {found:g}{more}"

    @property
    def slurm_cluster(self) -> str | None:
        """The one of several Slurm clusters that jobs run on; None: this machine's."""
        return str(self.slurm.sbatch["clusters"]) if "clusters" in self.slurm.sbatch else None

    def on(self, slurm_cluster: str | None) -> Cluster:
        """Return the same cluster, with jobs that run on this one of several Slurm clusters."""
        if slurm_cluster is None or self.backend == "local":
            return self
        sbatch = {**self.slurm.sbatch, "clusters": slurm_cluster}
        return self.model_copy(update={"slurm": self.slurm.model_copy(update={"sbatch": sbatch})})

    @model_validator(mode="after")
    def _one_backend(self) -> Cluster:
        if self.backend == "local" and "slurm" in self.model_fields_set:
            raise ValueError("'slurm' is for 'backend: slurm'")
        if not self.slurm.gpu_option and self.gpus_per_node is None:
            raise ValueError(
                "'gpu_option: false' needs 'gpus_per_node': Slurm does not say how many GPUs such nodes have"
            )
        return self

    def asks_memory(self, stage: str, resources: Resources) -> bool:
        """Return whether the toolkit, rather than the cluster file, sets the memory of a stage's jobs."""
        own = self._given(stage, resources)
        return self.slurm.memory != "off" and not any(name in own for name in MEMORY)

    def memory_option(self, stage: str, resources: Resources) -> dict[str, str | bool]:
        """Return the sbatch option that requests a job's memory; empty if the toolkit requests none."""
        option = self.slurm.memory
        if option == "cores" or not resources.memory or not self.asks_memory(stage, resources):
            return {}
        if option == "mem-per-gpu" and not resources.gpus_per_node:
            option = "mem"
        cores = resources.tasks_per_node * resources.cpus_per_task
        parts = {"mem-per-cpu": cores, "mem-per-gpu": resources.gpus_per_node}.get(option, 1)
        return {option: f"{math.ceil(resources.memory / parts)}M"}

    def with_cores(self, stage: str, resources: Resources) -> Resources:
        """Return the resources with as many cores as their memory takes, where it comes with cores.

        More memory after a kill for memory is part of it, since a job in the queue cannot get more cores.
        """
        if self.slurm.core_memory is None or not self.asks_memory(stage, resources):
            return resources
        memory = max(resources.memory, resources.raised)
        cores = math.ceil(memory / 1024 / self.slurm.core_memory / resources.tasks_per_node)
        return replace(resources, memory=memory, raised=0, cpus_per_task=max(cores, resources.cpus_per_task))

    def sbatch_options(self, stage: str, resources: Resources) -> dict[str, str | bool]:
        """Return the sbatch options of a stage's jobs with these resources, besides the toolkit's own.

        Raises:
            StudyError: an option is missing, or would not be one line.
        """
        found, wrong = self._given(stage, resources), list[Mistake]()
        for name in self.slurm.required:
            if not (name in found and found[name].value):
                found[name] = Given("", f"slurm.sbatch.{name}")
        for name, (value, key) in found.items():
            if value == "" or ACCOUNT in str(value):
                exported = variable("account" if value else name)
                message = f"is needed here: export {exported}=…, or copy this file, add '{name}: …', and "
                wrong.append(Mistake(self._file, key, f"{message}give --cluster the copy"))
            elif why := unusable(name, value):
                wrong.append(Mistake(self._file, key, why))
        if wrong:
            raise StudyError(wrong)
        return {name: value for name, (value, _) in found.items() if value}

    def _given(self, stage: str, resources: Resources) -> dict[str, Given]:
        """Return the options of a stage's jobs, each with the key that sets it."""
        slurm = self.slurm
        found = sbatch_options.merged(slurm.sbatch, slurm.stages, slurm.when, stage, resources)
        if resources.gpus_per_node:
            for option in slurm.gpu_option:
                name, _, value = option.partition("=")
                value = value.replace(GPUS, str(resources.gpus_per_node))
                found[name] = Given(value, "slurm.gpu_option")
        return found

    def with_shell(self, environment: Mapping[str, str]) -> Cluster:
        """Return the cluster with the options of sbatch that a shell's variables set.

        Raises:
            StudyError: a variable would not be one line of a script.
        """
        shell = in_shell(self.slurm.required, environment)
        if wrong := wrong_in_shell(shell):
            raise StudyError([Mistake(self._file, name, why) for name, why in wrong])
        if not shell:
            return self
        slurm = self.slurm
        when = [entry.model_dump(mode="json", exclude_unset=True) for entry in slurm.when]
        filled = with_shell({"sbatch": slurm.sbatch, "stages": slurm.stages, "when": when}, shell)
        filled["when"] = tuple(When.model_validate(entry) for entry in filled["when"])
        changed = {key: value for key, value in filled.items() if value != getattr(slurm, key)}
        return self.model_copy(update={"slurm": slurm.model_copy(update=changed)})


def load_cluster(name: str) -> Cluster:
    """Read a cluster file: a name in configs/clusters, or the path of a YAML file.

    Raises:
        StudyError: there is no such file, or it has mistakes.
    """
    file = _file_of(name)
    if not is_file(file):
        known = ", ".join(known_names("clusters"))
        raise StudyError([Mistake(file, "", f"no such cluster; known are {known}, or a path of a YAML file")])
    document = read_yaml(file)
    cluster = validate(Cluster, document, file)
    cluster._file = file
    if mistakes := located(crosscheck(cluster.slurm, file), document, file):
        raise StudyError(mistakes)
    if cluster.backend == "local":
        return cluster
    return _elsewhere(cluster.with_shell(os.environ), file)


def _elsewhere(cluster: Cluster, file: Path) -> Cluster:
    """Return the cluster with jobs on the Slurm cluster that the environment selects, if any."""
    variable = next((name for name in ELSEWHERE if os.environ.get(name)), None)
    if variable is None:
        return cluster
    wanted, own = os.environ[variable], cluster.slurm_cluster
    if own and own != wanted:
        words = f"is {wanted!r}, and the cluster file says 'clusters: {own}': unset the variable"
        raise StudyError([Mistake(file, variable, words)])
    if not is_one_cluster(wanted):
        raise StudyError([Mistake(file, variable, f"found {wanted!r}; {ONE_CLUSTER}")])
    return cluster.on(wanted)


def restored(saved: dict[str, Any], source: str) -> Cluster:
    """Rebuild a cluster as `to_json` saved it, whatever its file (`source`) says now."""
    cluster = Cluster.model_validate(saved)
    cluster._file = _file_of(source)
    return cluster


def _file_of(name: str) -> Path:
    return Path(name) if is_file_name(name) else CONFIGS / "clusters" / f"{name}.yaml"
