"""The key `filters` of a study: which prompts leave both modes before any student learns from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from launch.study.presets import Real, Strict, Whole

if TYPE_CHECKING:
    from launch.study.schema import EvalGroup


class Filters(Strict):
    """Filters of prompts, each off unless it is given. A prompt leaves both modes or neither."""

    duplicates: bool = False
    """Whether prompts that differ from an earlier one in case, white space and Unicode forms only leave;
    `near_duplicates` includes it."""
    near_duplicates: Annotated[Real, Field(ge=0.5, le=1)] | None = None
    """Similarity from which the later of two prompts leaves: the runs of five words that both have, as a
    share of those that either has. Example: `0.8`."""
    decontaminate: Annotated[Whole, Field(ge=5, le=50)] | None = None
    """Words of a run for which a prompt leaves if it, or an answer to it, shares one with an item of the
    study's benchmarks. Example: `13`."""
    correct: Literal["report", "require"] | None = None
    """Compare answers of both modes with the column `reference` of their source. With `report`, the shares
    of correct ones are stated; with `require`, a prompt also leaves if either answer is wrong. Prompts
    without a reference stay."""

    @model_validator(mode="after")
    def _some(self) -> Filters:
        if not any(value for _, value in self):
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        return self


def filters_config(filters: Filters, benchmarks: Iterable[EvalGroup], sources: list[dict[str, Any]]) -> Any:
    """Return what a collate unit's config has for filters.

    Args:
        sources: The sources of prompts or pairs that name a column `reference`, as in a unit's config.
    """
    found: dict[str, Any] = {"filters": filters.model_dump(mode="json", exclude_defaults=True)}
    if filters.decontaminate:
        found["benchmarks"] = [
            {"include": group.include, "tasks": [{"task": task.task} for task in group.tasks]}
            for group in benchmarks
        ]
    if filters.correct:
        found["references"] = sources
    return found
