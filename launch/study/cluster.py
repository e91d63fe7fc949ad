"""The cluster file: where jobs run, their sbatch options, and the machine figures for estimates.

Defines which options of sbatch are reserved for the toolkit; calls none of Slurm's programs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from jobs.core.gpus import PEAKS, gpu_memory, peak_flops
from jobs.core.unit import STAGES, Resources
from launch.study.header import OPTION, unusable, unusable_variables
from launch.study.presets import (
    CONFIGS,
    Count,
    Mistake,
    Name,
    OneOrMore,
    Positive,
    Strict,
    StudyError,
    is_file_name,
    known_names,
    located,
    read_yaml,
    validate,
)
from launch.study.templates import GIVEN, placeholders, render
from launch.study.textfile import is_file

# Environment variables that select one of several Slurm clusters, as sbatch reads them.
ELSEWHERE = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
ONE_CLUSTER = (
    "a study runs on one cluster, since its jobs wait for each other, and Slurm lets no job wait for one on "
    "another cluster: name one, for all stages, in 'sbatch'"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CLUSTER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
IN_GPU_OPTION = "say it in 'gpu_option'"
RESERVED = {  # options of sbatch that a cluster file must not set, and why
    **dict.fromkeys(("array", "job-name", "output", "error", "open-mode", "dependency", "signal", "wrap"),
                    "sor needs its own, to find its jobs again"),
    **dict.fromkeys(("parsable", "quiet", "test-only", "wait"), "it changes what sbatch answers"),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "cpus-per-task"),
                    "it comes from what each unit needs, which the study's models say"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"), IN_GPU_OPTION),
    "begin": "a job that waits for its time counts as one that was requeued",
    "time": "it comes from each unit's estimate, and 'max_hours' is its limit",
    "kill-on-invalid-dep": "jobs would vanish unexplained when one before them fails",
}  # fmt: skip


def _known_gpu(name: str) -> str:
    peak_flops(name, "bf16")
    return name


def _one_line(value: Any) -> str:
    """Return a YAML word or number as text; reject what could start a new line of a script."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a text or a number is needed, not {type(value).__name__}")
    if not str(value).isprintable():
        raise ValueError("line breaks and control characters are not possible here")
    return str(value)


def _option(value: Any) -> str | bool:
    return value if isinstance(value, bool) else False if value is None else _one_line(value)


def _words(value: Any) -> str | tuple[str, ...]:
    return tuple(_one_line(v) for v in value) if isinstance(value, list) else _one_line(value)


def _secret(value: Any) -> str:
    if not isinstance(value, str) or not VARIABLE.fullmatch(value):
        raise ValueError("the name of an environment variable is needed here, never a value")
    return value


def _memory(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare `off` as false


# The JSON Schemas say what the functions before them accept: pydantic knows only what they return.
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # options of sbatch; a job may have only one of them
Memory = Annotated[
    Literal["mem", "mem-per-cpu", "mem-per-gpu", "off"],
    BeforeValidator(_memory),
    WithJsonSchema({"enum": [*MEMORY, "off", False]}),
]
WORD = {"type": ["string", "number"]}
Options = Annotated[
    dict[str, Annotated[str | bool, BeforeValidator(_option)]],
    WithJsonSchema({
        "type": "object",
        "propertyNames": {"pattern": f"^{OPTION.pattern}$", "not": {"enum": list(RESERVED)}},
        "additionalProperties": {"type": [*WORD["type"], "boolean", "null"]},
    }),
]  # fmt: skip
Words = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [WORD, {"type": "array", "items": WORD}]}),
]
Secret = Annotated[
    str, BeforeValidator(_secret), WithJsonSchema({"type": "string", "pattern": f"^{VARIABLE.pattern}$"})
]
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


class Slurm(Strict):
    """How jobs are submitted; only with `backend: slurm`."""

    sbatch: Options = Field(default={})
    """Options of sbatch for all jobs, by their long names; `true` is an option without a value.
    Example: `{partition: gpu, account: mine, exclusive: true}`."""
    stages: dict[str, Options] = Field(
        default={}, json_schema_extra={"propertyNames": {"enum": list(STAGES)}}
    )
    """The same for the jobs of one stage, over those of `sbatch`; `false` drops an option.
    Example: `{pack: {partition: cpu, constraint: false}}`."""
    gpu_option: Annotated[str, Field(pattern=r"^[a-z-]+=.*\{gpus\}")] = "gpus-per-node={gpus}"
    """Option of sbatch that requests the GPUs of a node; `{gpus}` stands for their number.
    Example: `"gres=gpu:a100:{gpus}"`."""
    memory: Memory = "mem"
    """Option of sbatch that requests the estimated memory: by node, core or GPU, or `off` where jobs must not
    request any. One of these options in `sbatch` or `stages`, even as `false`, replaces the estimate."""
    template: Name = "plain"
    """Shell around a job, in sbatch_templates: plain, modules, apptainer, pyxis, or one of your own."""
    variables: dict[str, Words] = Field(default={})
    """Values of the template's own variables. Example: `{modules: [cuda/12.4]}`."""
    required: OneOrMore[str] = ()
    """Options of sbatch that must be set, here or in Slurm's variable SBATCH_NAME. Example: `[account]`."""
    max_jobs: Count | None = None
    """Jobs of a study that run at once, at most; without it, what Slurm allows. Example: `100`."""
    max_gpus: Count | None = None
    """GPUs that a study's jobs hold at once, at most; without it, what Slurm allows. Example: `64`."""
    secrets: OneOrMore[Secret] = ()
    """Names of environment variables with secrets that jobs need. Values come from the environment, or from
    ~/.config/scale-or-reason/secrets (mode 0600). Example: `[HF_TOKEN]`."""
    keeper: Count | None = None
    """Seconds between keepers, at least: jobs of one core that start when others have ended, and submit what
    did not fit into the queue or failed because of the infrastructure. They have the options of the stage
    `report`, and notify if SOR_NOTIFY is set. Only where jobs may submit jobs, which `sor doctor` checks.
    Example: `300`."""


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
    """GPUs of a node. Trainings get as many GPUs as their presets request, on nodes of this size; without it,
    on the nodes that presets name. Example: `4`."""
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
        return self

    def asks_memory(self, stage: str) -> bool:
        """Return whether the toolkit, rather than the cluster file, sets the memory of a stage's jobs."""
        own = {**self.slurm.sbatch, **self.slurm.stages.get(stage, {})}
        return self.slurm.memory != "off" and not any(name in own for name in MEMORY)

    def memory_option(self, stage: str, resources: Resources) -> dict[str, str | bool]:
        """Return the sbatch option that requests a job's memory; empty if the toolkit requests none."""
        if not resources.memory or not self.asks_memory(stage):
            return {}
        option = self.slurm.memory
        if option == "mem-per-gpu" and not resources.gpus_per_node:
            option = "mem"
        cores = resources.tasks_per_node * resources.cpus_per_task
        parts = {"mem-per-cpu": cores, "mem-per-gpu": resources.gpus_per_node}.get(option, 1)
        return {option: f"{math.ceil(resources.memory / parts)}M"}

    def sbatch_options(self, stage: str, gpus: int) -> dict[str, str | bool]:
        """Return the sbatch options of a stage's jobs with `gpus` per node, besides the toolkit's own.

        Raises:
            StudyError: a required option is set neither here nor in Slurm's variable for it, or an option
                would not be one line.
        """
        slurm = self.slurm
        own = slurm.stages.get(stage, {})
        options = {**slurm.sbatch, **own}
        keys = {name: f"slurm.{f'stages.{stage}' if name in own else 'sbatch'}.{name}" for name in options}
        wrong = [Mistake(self._file, variable, why) for variable, why in unusable_variables()]
        for name in slurm.required:
            variable = f"SBATCH_{name.upper().replace('-', '_')}"
            if not options.get(name):
                options[name], keys[name] = os.environ.get(variable, ""), variable
            if not options[name]:
                message = f"is needed here: export {variable}=…, or copy this file, add '{name}: …', and "
                wrong.append(Mistake(self._file, f"slurm.sbatch.{name}", f"{message}give --cluster the copy"))
        if gpus:
            name, _, value = slurm.gpu_option.partition("=")
            options[name], keys[name] = value.replace("{gpus}", str(gpus)), "slurm.gpu_option"
        named = {mistake.key for mistake in wrong}
        wrong += [
            Mistake(self._file, keys[name], why)
            for name, value in options.items()
            if keys[name] not in named and (why := unusable(name, value))
        ]
        if wrong:
            raise StudyError(wrong)
        return {name: value for name, value in options.items() if value}


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
    if mistakes := located(_crosscheck(cluster.slurm, file), document, file):
        raise StudyError(mistakes)
    return cluster if cluster.backend == "local" else _elsewhere(cluster, file)


def _elsewhere(cluster: Cluster, file: Path) -> Cluster:
    """Return the cluster with jobs on the Slurm cluster that the environment selects, if any."""
    variable = next((name for name in ELSEWHERE if os.environ.get(name)), None)
    if variable is None:
        return cluster
    wanted, own = os.environ[variable], cluster.slurm_cluster
    if own and own != wanted:
        words = f"is {wanted!r}, and the cluster file says 'clusters: {own}': unset the variable"
        raise StudyError([Mistake(file, variable, words)])
    if not _is_one_cluster(wanted):
        raise StudyError([Mistake(file, variable, f"found {wanted!r}; {ONE_CLUSTER}")])
    return cluster.on(wanted)


def restored(saved: dict[str, Any], source: str) -> Cluster:
    """Rebuild a cluster as `to_json` saved it, whatever its file (`source`) says now."""
    cluster = Cluster.model_validate(saved)
    cluster._file = _file_of(source)
    return cluster


def _is_one_cluster(value: str | bool) -> bool:
    return isinstance(value, str) and bool(CLUSTER_NAME.fullmatch(value)) and value != "all"


def _file_of(name: str) -> Path:
    return Path(name) if is_file_name(name) else CONFIGS / "clusters" / f"{name}.yaml"


def _crosscheck(slurm: Slurm, file: Path) -> Iterator[Mistake]:
    """Yield mistakes across keys: reserved options, stages and variables that do not exist."""
    lists: dict[str, Collection[str]] = {"required": slurm.required, "sbatch": slurm.sbatch}
    for stage, options in slurm.stages.items():
        lists[f"stages.{stage}"] = options
        if stage not in STAGES:
            yield Mistake(file, f"slurm.stages.{stage}", f"no such stage; there are {', '.join(STAGES)}")
    gpu_option, _, value = slurm.gpu_option.partition("=")
    if why := unusable(gpu_option, value):
        yield Mistake(file, "slurm.gpu_option", why)
    reserved = next((o for o in RESERVED if o.startswith(gpu_option)), None)
    if reserved and RESERVED[reserved] != IN_GPU_OPTION:
        yield Mistake(file, "slurm.gpu_option", f"'--{reserved}' asks for no GPU: {RESERVED[reserved]}")
    for key, names in lists.items():
        for name in names:
            reserved = next((o for o in RESERVED if o.startswith(name)), None)  # sbatch accepts prefixes
            if not OPTION.fullmatch(name):
                words = "an option's long name is needed, without dashes before it, as 'mem-per-cpu'"
                yield Mistake(file, f"slurm.{key}.{name}", words)
            elif name == "clusters" and not (key == "sbatch" and _is_one_cluster(slurm.sbatch[name])):
                yield Mistake(file, f"slurm.{key}.{name}", ONE_CLUSTER)
            elif reserved:
                words = f"'--{reserved}' cannot be set here: {RESERVED[reserved]}"
                yield Mistake(file, f"slurm.{key}.{name}", words)
    try:
        used = placeholders(slurm.template)
        for name in slurm.variables:
            if name in GIVEN or name not in used:
                free = ", ".join(n for n in used if n not in GIVEN) or "none"
                words = f"no variable of the template {slurm.template!r}; it has {free}"
                yield Mistake(file, f"slurm.variables.{name}", words)
        if slurm.keeper is not None and "module" not in used:
            words = f"the template {slurm.template!r} runs one module alone: write {{{{module}}}} for it"
            yield Mistake(file, "slurm.keeper", words)
        render(slurm.template, {**slurm.variables, **dict.fromkeys(GIVEN, "")})
    except StudyError as error:
        yield from error.mistakes
