"""Options of sbatch in variables of the user's shell, as SBATCH_ACCOUNT: read once, with the cluster file.

They stand over `sbatch` of the cluster file, and under its `stages` and `when`: sbatch itself would let a
variable override a job's own account. So it is called without them, and a keeper does not need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from launch.study.header import unusable

ACCOUNT = "{account}"  # in an option's value: what SBATCH_ACCOUNT says
NAMES = ("account", "partition", "qos", "constraint", "reservation")  # options that a shell may set
Options = Mapping[str, str | bool]


def variable(option: str) -> str:
    """Return the variable that sbatch reads an option from."""
    return f"SBATCH_{option.upper().replace('-', '_')}"


def in_shell(required: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the options that the shell sets, of NAMES and those that the cluster file requires."""
    found = {name: environment.get(variable(name), "") for name in (*NAMES, *required)}
    return {name: value for name, value in found.items() if value}


def wrong_in_shell(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that could not be one line of a script, each with the reason."""
    return [(variable(name), why) for name, value in options.items() if (why := unusable(name, value))]


def with_shell(slurm: Mapping[str, Any], shell: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections `sbatch`, `stages` and `when` with the options of the shell in them.

    Args:
        slurm: these sections, as plain data.
        shell: the options of `in_shell`.
    """
    sbatch, stages, when = slurm["sbatch"], slurm["stages"], slurm["when"]
    everywhere = (sbatch, *stages.values(), *(entry["set"] for entry in when))
    patterns = [str(value) for options in everywhere for value in options.values() if ACCOUNT in str(value)]
    fill = _filler(patterns, shell.get("account"))
    own = {name: value for name, value in shell.items() if name != "account" or not _uses(sbatch)}
    return {
        "sbatch": {**fill(sbatch), **own},
        "stages": {stage: fill(options) for stage, options in stages.items()},
        "when": [{**entry, "set": fill(entry["set"])} for entry in when],
    }


def _uses(options: Options) -> bool:
    return ACCOUNT in str(options.get("account", ""))


def _filler(patterns: Iterable[str], account: str | None) -> Callable[[Options], dict[str, str | bool]]:
    """Return a function that puts the account into options.

    A suffix that one of the patterns adds is taken off first, so that both `abc` and `abc@h100` may be
    exported where a cluster file has `{account}@h100` for some stages and `{account}@cpu` for others.
    """
    if account is None:
        return dict
    suffixes = {pattern.partition(ACCOUNT)[2] for pattern in patterns} - {""}
    added = [suffix for suffix in suffixes if account.lower().endswith(suffix.lower())]
    base = account[: len(account) - max(map(len, added))] if added else account

    def fill(options: Options) -> dict[str, str | bool]:
        return {n: v.replace(ACCOUNT, base) if isinstance(v, str) else v for n, v in options.items()}

    return fill
