"""Options of sbatch as a cluster file gives them: for all jobs, for a stage, and by what a job requests.

Pure. Defines which options are reserved for the toolkit. What else a cluster file holds is in cluster.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from jobs.core.unit import STAGES, Resources
from launch.study.header import OPTION
from launch.study.presets import OneOrMore, Strict

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
NUMBER = r"\d+(?:\.\d+)?"
BOUND = re.compile(rf"(?P<sign><=|>=|<|>|=)?\s*(?P<number>{NUMBER})|(?P<low>{NUMBER})-(?P<high>{NUMBER})")
GPUS = "{gpus}"  # stands for the number of GPUs of a node
GPU_OPTION = re.compile(r"[a-z-]+=.+")


def one_line(value: Any) -> str:
    """Return a YAML word or number as text; reject what could start a new line of a script."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a text or a number is needed, not {type(value).__name__}")
    if not str(value).isprintable():
        raise ValueError("line breaks and control characters are not possible here")
    return str(value)


def _option(value: Any) -> str | bool:
    return value if isinstance(value, bool) else False if value is None else one_line(value)


def _bound(value: Any) -> str:
    text = one_line(value)
    if not BOUND.fullmatch(text):
        raise ValueError(f"found {text!r}; a number, a range or a bound is needed, as 4, 1-4, '<=2' or '>4'")
    return text


def _gpu_options(value: Any) -> tuple[str, ...]:
    """Return the options that request GPUs; none if GPUs come with the nodes."""
    if value is False or value == []:
        return ()
    found = tuple(one_line(v) for v in (value if isinstance(value, list | tuple) else [value]))
    wrong = [option for option in found if not GPU_OPTION.fullmatch(option)]
    if wrong or not any(GPUS in option for option in found):
        words = f"found {(wrong or list(found))[0]!r}; an option with its value is needed"
        raise ValueError(f"{words}, as 'gres=gpu:a100:{GPUS}', or false where no option requests GPUs")
    return found


WORD = {"type": ["string", "number"]}
Options = Annotated[
    dict[str, Annotated[str | bool, BeforeValidator(_option)]],
    WithJsonSchema({
        "type": "object",
        "propertyNames": {"pattern": f"^{OPTION.pattern}$", "not": {"enum": list(RESERVED)}},
        "additionalProperties": {"type": [*WORD["type"], "boolean", "null"]},
    }),
]  # fmt: skip
Bound = Annotated[
    str,
    BeforeValidator(_bound),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^({BOUND.pattern})$"}]}
    ),
]
_ONE_GPU_OPTION = {"type": "string", "pattern": rf"^{GPU_OPTION.pattern}$"}
GpuOptions = Annotated[
    tuple[str, ...],
    BeforeValidator(_gpu_options),
    WithJsonSchema({"anyOf": [
        {"type": "string", "pattern": r"^[a-z-]+=.*\{gpus\}"},
        {"type": "array", "items": _ONE_GPU_OPTION, "contains": {"pattern": r"\{gpus\}"}},
        {"const": False},
    ]}),
]  # fmt: skip


class When(Strict):
    """Options of sbatch for jobs that meet all of these conditions."""

    stage: Annotated[OneOrMore[str], WithJsonSchema({
        "anyOf": [{"enum": list(STAGES)}, {"type": "array", "items": {"enum": list(STAGES)}, "minItems": 1}]
    })] = Field(default=())  # fmt: skip
    """Stages of the jobs. Example: `[prepare, tokenize]`."""
    gpus: Bound | None = None
    """GPUs of a job, on all of its nodes. Examples: `0`, `"<=2"`, `1-4`."""
    nodes: Bound | None = None
    """Nodes of a job. Example: `">4"`."""
    hours: Bound | None = None
    """Time limit of a job. Example: `">20"`."""
    set: Options
    """These jobs' options, over those of `sbatch` and `stages`; `false` drops an option.
    Example: `{qos: shared}`."""

    @model_validator(mode="after")
    def _conditions(self) -> When:
        if not self.stage and self.gpus is self.nodes is self.hours is None:
            raise ValueError("a condition is needed: stage, gpus, nodes or hours; or put 'set' into 'sbatch'")
        return self

    def holds(self, stage: str, resources: Resources) -> bool:
        """Return whether jobs of this stage that request these resources meet all conditions."""
        r = resources
        found = (self.gpus, r.nodes * r.gpus_per_node), (self.nodes, r.nodes), (self.hours, r.hours)
        return (not self.stage or stage in self.stage) and all(
            bound is None or within(number, bound) for bound, number in found
        )


def within(number: float, bound: str) -> bool:
    """Return whether a number is within a bound: `4`, `1-4`, `<=2`, `>4`."""
    match = BOUND.fullmatch(bound)
    assert match, bound
    if match["low"]:
        return float(match["low"]) <= number <= float(match["high"])
    limit = float(match["number"])
    return {
        "<=": number <= limit, ">=": number >= limit, "<": number < limit, ">": number > limit,
    }.get(match["sign"], number == limit)  # fmt: skip


class Given(NamedTuple):
    """The value of an option, and the key of the cluster file that sets it."""

    value: str | bool
    key: str


def merged(
    sbatch: Mapping[str, str | bool],
    stages: Mapping[str, Mapping[str, str | bool]],
    when: tuple[When, ...],
    stage: str,
    resources: Resources,
) -> dict[str, Given]:
    """Return the options of a stage's jobs with these resources: the later of these sources wins."""
    found = {name: Given(value, f"slurm.sbatch.{name}") for name, value in sbatch.items()}
    for name, value in stages.get(stage, {}).items():
        found[name] = Given(value, f"slurm.stages.{stage}.{name}")
    for number, entry in enumerate(when):
        if entry.holds(stage, resources):
            for name, value in entry.set.items():
                found[name] = Given(value, f"slurm.when.{number}.set.{name}")
    return found
