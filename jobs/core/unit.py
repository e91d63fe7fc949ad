"""The unit of work: one thing that is done, running, or still to do.

Its identity is a hash over everything that changes its result and nothing else, so that the same work never
runs twice and changed work is never mistaken for the old. This module holds data only: no file access, no
heavy imports.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

# The stages in data-flow order, each with the version of its recipe. Raise it when a code change alters the
# stage's output; every unit of the stage, and after it, is then new.
RECIPES = {"prepare": 1, "generate": 1, "collate": 3, "tokenize": 1, "train": 2, "evaluate": 2, "report": 1}
STAGES = tuple(RECIPES)
# Stages of earlier versions, whose units no study has any more. Records of them, and of what was made from
# them, can still be read.
RETIRED = {"pack": 2}

_ROLE_AND_ID = attrgetter("role", "id")
# JSON text independent of key order, from which identities are hashed.
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

MODES = ("ift", "reasoning")  # plain answers, and answers with their reasoning
CONTINUES = "continues"  # role of an input that saves work, but changes no result and no identity
PREPARED = "@prepare/"  # prefix of a study's path that refers to the prepare stage's result


@dataclass(frozen=True)
class Resources:
    """Resources that a unit requests; they never change a result and are not part of the identity."""

    nodes: int = 1
    tasks_per_node: int = 1  # one task per GPU, if there are GPUs
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    workers: int = 1  # independent copies that share the unit's work (generation)
    hours: float = 1.0
    memory: int = 0  # MiB per node; 0 requests none
    raised: int = 0  # MiB per node to request after a run was killed for its memory limit; 0: no more

    @property
    def gpus(self) -> int:
        """GPUs that the unit holds while all its workers run."""
        return self.nodes * self.gpus_per_node * self.workers

    @property
    def world_size(self) -> int:
        """Number of processes per worker."""
        return self.nodes * self.tasks_per_node


class Input(NamedTuple):
    """A published result that a unit reads; `role` is the name by which the stage looks it up."""

    role: str
    stage: str
    name: str
    id: str

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"


def _recipe(stage: str) -> int:
    return RETIRED[stage] if stage in RETIRED else RECIPES[stage]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work, identified by stage, config and inputs."""

    stage: str  # one of STAGES
    name: str  # for users; unique within its stage
    config: dict[str, Any]  # everything that changes the result, as JSON values
    inputs: tuple[Input, ...] = ()  # units whose results it reads
    execution: dict[str, Any] = field(default_factory=dict)  # how it is run: micro-batch, ZeRO stage …
    resources: Resources = Resources()  # requested resources
    flops: int | None = None  # an estimate; None if no model is run
    id: str = field(init=False)  # 12 hexadecimal digits over stage, recipe, config and the inputs' identities

    def __post_init__(self) -> None:
        inputs = [[i.role, i.id] for i in sorted(self.made_from, key=_ROLE_AND_ID)]
        what = canonical([self.stage, _recipe(self.stage), self.config, inputs])
        object.__setattr__(self, "id", hashlib.sha256(what.encode()).hexdigest()[:12])

    @property
    def made_from(self) -> tuple[Input, ...]:
        """The inputs that are in the result: all but one that only saves work."""
        return tuple(i for i in self.inputs if i.role != CONTINUES)

    def as_input(self, role: str | None = None) -> Input:
        """Return this unit as an input of another one; the role defaults to its stage."""
        return Input(role or self.stage, self.stage, self.name, self.id)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `unit.json`."""
        return {
            "id": self.id,
            "stage": self.stage,
            "name": self.name,
            "inputs": [i._asdict() for i in self.inputs],
            "execution": self.execution,
            "resources": vars(self.resources),
            "flops": self.flops,
            "config": self.config,
        }

    def to_line(self, **beside: str | int | list[str]) -> str:
        """Return a line of JSON with the keys `beside` first and `to_json` as "unit" last."""
        return json.dumps({**beside, "unit": self.to_json()}) + "\n"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """Build a unit from the output of `to_json`.

        The config's keys are put in canonical order: key order is not part of the identity, so it must not
        affect the result.
        """
        data = {k: v for k, v in data.items() if k != "id"}
        data["config"] = json.loads(canonical(data["config"]))
        data["inputs"] = tuple(Input(**i) for i in data["inputs"])
        data["resources"] = Resources(**data["resources"])
        return cls(**data)
