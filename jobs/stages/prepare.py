"""Run a study's own function that creates its models, prompts and benchmarks."""

from __future__ import annotations

import importlib

from jobs.runtime.context import Context


def run(ctx: Context) -> None:
    """Call the function named by the study and publish what it wrote."""
    module, _, function = ctx.unit.config["function"].partition(":")
    staged = ctx.staging()
    result = getattr(importlib.import_module(module), function)(staged, ctx.unit.config["args"], ctx.progress)
    ctx.publish(staged, result)
