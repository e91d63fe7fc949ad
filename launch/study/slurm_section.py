"""The section `slurm` of a cluster file: how jobs are submitted, and what can be wrong in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from jobs.core.unit import STAGES
from launch.study.header import OPTION, unusable
from launch.study.presets import Count, Mistake, Name, OneOrMore, Positive, Strict, StudyError
from launch.study.sbatch_options import IN_GPU_OPTION, RESERVED, WORD, GpuOptions, Options, When, one_line
from launch.study.templates import GIVEN, placeholders, render

ONE_CLUSTER = (
    "a study runs on one cluster, since its jobs wait for each other, and Slurm lets no job wait for one on "
    "another cluster: name one, for all stages, in 'sbatch'"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CLUSTER_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _words(value: Any) -> str | tuple[str, ...]:
    return tuple(one_line(v) for v in value) if isinstance(value, list) else one_line(value)


def _exported(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"names and values are needed, not {type(value).__name__}")
    for name in value:
        if not (isinstance(name, str) and VARIABLE.fullmatch(name)):
            raise ValueError(f"found {str(name)[:80]!r}; the name of an environment variable is needed")
    return {name: one_line(text) for name, text in value.items()}


def _secret(value: Any) -> str:
    if not isinstance(value, str) or not VARIABLE.fullmatch(value):
        raise ValueError("the name of an environment variable is needed here, never a value")
    return value


def _memory(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare `off` as false


# The JSON Schemas say what the functions before them accept: pydantic knows only what they return.
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # options of sbatch; a job may have only one of them
Memory = Annotated[
    Literal["mem", "mem-per-cpu", "mem-per-gpu", "cores", "off"],
    BeforeValidator(_memory),
    WithJsonSchema({"enum": [*MEMORY, "cores", "off", False]}),
]
Words = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [WORD, {"type": "array", "items": WORD}]}),
]
Secret = Annotated[
    str, BeforeValidator(_secret), WithJsonSchema({"type": "string", "pattern": f"^{VARIABLE.pattern}$"})
]
Exported = Annotated[
    dict[str, str],
    BeforeValidator(_exported),
    WithJsonSchema({
        "type": "object",
        "propertyNames": {"pattern": f"^{VARIABLE.pattern}$"},
        "additionalProperties": WORD,
    }),
]  # fmt: skip
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:^=-]+$")]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")]
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Slurm(Strict):
    """How jobs are submitted; only with `backend: slurm`."""

    sbatch: Options = Field(default={})
    """Options of sbatch for all jobs, by their long names; `true` is an option without a value. The
    shell's SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_CONSTRAINT and SBATCH_RESERVATION replace
    them. `{account}` in a value, here or below, stands for SBATCH_ACCOUNT.
    Example: `{partition: gpu, account: "{account}_g", exclusive: true}`."""
    stages: dict[str, Options] = Field(
        default={}, json_schema_extra={"propertyNames": {"enum": list(STAGES)}}
    )
    """The same for the jobs of one stage, over those of `sbatch`; `false` drops an option.
    Example: `{tokenize: {partition: cpu, constraint: false}}`."""
    when: tuple[When, ...] = ()
    """Options by what a job requests, over those of `sbatch` and `stages`; later entries over earlier ones.
    Example: `[{gpus: "<=2", set: {qos: shared}}, {nodes: ">4", set: {partition: large}}]`."""
    gpu_option: GpuOptions = ("gpus-per-node={gpus}",)
    """Option of sbatch, or several, of jobs with GPUs; `{gpus}` stands for the number of a node. `false`
    where no option requests GPUs, since they come with the nodes; that needs `gpus_per_node`.
    Examples: `"gres=gpu:a100:{gpus}"`, `["gres=gpu:{gpus}", constraint=a100]`."""
    memory: Memory = "mem"
    """Option of sbatch that requests the estimated memory: by node, core or GPU. `cores` where jobs must not
    request any, and get it with their cores: they request as many cores as that takes, by `core_memory`.
    `off` where it comes with the node or its GPUs. One of these options in `sbatch`, `stages` or `when`, even
    as `false`, replaces the estimate."""
    core_memory: Positive | None = None
    """Memory in GiB that comes with a core, for `memory: cores`. Example: `4`."""
    template: Name = "plain"
    """Shell around a job, in sbatch_templates: plain, modules, apptainer, pyxis, uenv, edf, or your own."""
    variables: dict[str, Words] = Field(default={})
    """Values of the template's own variables. Example: `{modules: [cuda/12.4]}`."""
    environment: Exported = Field(default={})
    """Variables of all jobs, exported after the template has loaded modules.
    Example: `{NCCL_DEBUG: WARN}`."""
    offline: bool = False
    """Whether compute nodes have no internet: jobs then read models and data from the hub's cache alone
    (HF_HUB_OFFLINE, HF_DATASETS_OFFLINE and TRANSFORMERS_OFFLINE), which `sor prefetch` fills."""
    network: Interface | None = None
    """Network interface for traffic between nodes (NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME).
    Examples: `ib0`, `hsn0`."""
    host_suffix: Suffix | None = None
    """What a node's name ends with on that network, for the address at which the processes of several nodes
    find each other. Example: `i`."""
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
    `report`, and notify if SOR_NOTIFY is set. Only where jobs may submit jobs, which `sor doctor` checks;
    elsewhere, `sor keep` does the same on a login node. Example: `300`."""

    @model_validator(mode="after")
    def _memory_of_cores(self) -> Slurm:
        if (self.memory == "cores") != (self.core_memory is not None):
            raise ValueError("'memory: cores' and 'core_memory', in GiB, are given together")
        return self

    @property
    def exported(self) -> list[str]:
        """The variables of all jobs, as `NAME=value`; later ones replace earlier ones."""
        found = dict.fromkeys(OFFLINE, "1") if self.offline else {}
        if self.network:
            found |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), self.network)
        return [f"{name}={value}" for name, value in {**found, **self.environment}.items()]


def is_one_cluster(value: str | bool) -> bool:
    return isinstance(value, str) and bool(CLUSTER_NAME.fullmatch(value)) and value != "all"


def crosscheck(slurm: Slurm, file: Path) -> Iterator[Mistake]:
    """Yield mistakes across keys: reserved options, stages and variables that do not exist."""
    lists: dict[str, Options] = {"required": dict.fromkeys(slurm.required, ""), "sbatch": slurm.sbatch}
    for stage, options in slurm.stages.items():
        lists[f"stages.{stage}"] = options
        if stage not in STAGES:
            yield Mistake(file, f"slurm.stages.{stage}", f"no such stage; {_instead(stage)}")
    for number, entry in enumerate(slurm.when):
        lists[f"when.{number}.set"] = entry.set
        for stage in entry.stage:
            if stage not in STAGES:
                yield Mistake(file, f"slurm.when.{number}.stage", f"no stage {stage!r}; {_instead(stage)}")
    for option in slurm.gpu_option:
        yield from _gpu_option(option, file)
    for key, names in lists.items():
        for name, value in names.items():
            reserved = next((o for o in RESERVED if o.startswith(name)), None)  # sbatch accepts prefixes
            if not OPTION.fullmatch(name):
                words = "an option's long name is needed, without dashes before it, as 'mem-per-cpu'"
                yield Mistake(file, f"slurm.{key}.{name}", words)
            elif name == "clusters" and not (key == "sbatch" and is_one_cluster(value)):
                yield Mistake(file, f"slurm.{key}.{name}", ONE_CLUSTER)
            elif reserved:
                words = f"'--{reserved}' cannot be set here: {RESERVED[reserved]}"
                yield Mistake(file, f"slurm.{key}.{name}", words)
    yield from _of_template(slurm, file)


def _instead(stage: str) -> str:
    """Return which stages there are, for one that there is not."""
    if stage == "pack":  # of earlier versions
        return "'tokenize' has taken its place, and trainings pack their rows themselves: write 'tokenize'"
    return f"there are {', '.join(STAGES)}"


def _gpu_option(option: str, file: Path) -> Iterator[Mistake]:
    name, _, value = option.partition("=")
    if why := unusable(name, value):
        yield Mistake(file, "slurm.gpu_option", why)
    reserved = next((o for o in RESERVED if o.startswith(name)), None)
    if reserved and RESERVED[reserved] != IN_GPU_OPTION:
        yield Mistake(file, "slurm.gpu_option", f"'--{reserved}' asks for no GPU: {RESERVED[reserved]}")


def _of_template(slurm: Slurm, file: Path) -> Iterator[Mistake]:
    """Yield the variables that the template lacks, and what it lacks of the cluster file."""
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
