"""The unit of work: one thing that is done, running, or still to do.

Its identity is a hash over everything that changes its result and nothing that does not, so that the
same work is never run twice and changed work is never mistaken for the old. This module holds data
only; it must not touch files or import anything heavy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

# The stages in the order in which data flows. The number is the version of a stage's recipe: raise it
# when its code changes what it makes, and every unit of it (and after it) is new.
RECIPES = {"prepare": 1, "generate": 1, "collate": 2, "pack": 2, "train": 1, "evaluate": 2, "report": 1}
STAGES = tuple(RECIPES)

_ROLE_AND_ID = attrgetter("role", "id")
# JSON text that does not depend on the order of keys: what identities are made of.
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

MODES = ("ift", "reasoning")  # plain answers, and answers with their reasoning
PREPARED = "@prepare/"  # begins a path of a study that names a file of the prepare stage's result


@dataclass(frozen=True)
class Resources:
    """What a unit asks the machine for. It never changes a result, hence not an identity."""

    nodes: int = 1
    tasks_per_node: int = 1  # one task a GPU where there are GPUs
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    workers: int = 1  # independent copies that share the unit's work (generation)
    hours: float = 1.0
    memory: int = 0  # MiB of each node; 0 asks for none
    raised: int = 0  # MiB of each node to ask for once a run was killed for its memory limit; 0: no more

    @property
    def gpus(self) -> int:
        """GPUs that the unit holds while all its workers run."""
        return self.nodes * self.gpus_per_node * self.workers

    @property
    def world_size(self) -> int:
        """Processes of one worker."""
        return self.nodes * self.tasks_per_node


class Input(NamedTuple):
    """A published result that a unit reads; `role` is the name by which its stage asks for it."""

    role: str
    stage: str
    name: str
    id: str

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: stage, config and inputs make its identity."""

    stage: str  # one of STAGES
    name: str  # what people call it, unique within its stage
    config: dict[str, Any]  # all that changes the result, as JSON values
    inputs: tuple[Input, ...] = ()  # whose results it reads
    execution: dict[str, Any] = field(default_factory=dict)  # how it is run: micro-batch, ZeRO stage …
    resources: Resources = Resources()  # what it asks the machine for
    flops: int | None = None  # an estimate; None where nothing is computed with a model
    id: str = field(init=False)  # 12 hexadecimal digits over stage, recipe, config and the inputs' identities

    def __post_init__(self) -> None:
        inputs = [[i.role, i.id] for i in sorted(self.inputs, key=_ROLE_AND_ID)]
        what = canonical([self.stage, RECIPES[self.stage], self.config, inputs])
        object.__setattr__(self, "id", hashlib.sha256(what.encode()).hexdigest()[:12])

    def as_input(self, role: str | None = None) -> Input:
        """This unit, as an input of another one; its role is its stage unless told."""
        return Input(role or self.stage, self.stage, self.name, self.id)

    def to_json(self) -> dict[str, Any]:
        """The unit as `unit.json` holds it."""
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
        """A line of JSON with what is `beside` it first and the same as "unit" last."""
        return json.dumps({**beside, "unit": self.to_json()}) + "\n"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """The reverse of `to_json` and of `to_line`.

        The config's keys come in the order of its canonical text: as their order has no part in the identity,
        it must have none in the result.
        """
        data = {k: v for k, v in data.items() if k != "id"}
        data["config"] = json.loads(canonical(data["config"]))
        data["inputs"] = tuple(Input(**i) for i in data["inputs"])
        data["resources"] = Resources(**data["resources"])
        return cls(**data)
