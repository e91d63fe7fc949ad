"""Validates what becomes a script's `#SBATCH --name=value` line.

Whatever a cluster file, a variable or a file of the run directory says must be one option on one line: a line
break would start another option, or shell that every job runs.
"""

from __future__ import annotations

import re

OPTION = re.compile(r"[a-z][a-z0-9-]+", re.ASCII)
SHOWN = 80  # characters of a value in a message


def unusable(name: str, value: object) -> str | None:
    """Return why an option of sbatch cannot be one line of a script's header.

    Args:
        value: a text or a number; True for an option without a value.

    Returns:
        None if it can.
    """
    if not OPTION.fullmatch(name):
        return "an option's long name is needed, without dashes before it, as 'mem-per-cpu'"
    if value is True or str(value).isprintable():
        return None
    return f"found {str(value)[:SHOWN]!r}; line breaks and control characters are not possible here"


def check_header(script: str) -> str:
    """Return the script after asserting that its header holds only options, each on its own line."""
    header = script.partition("\n# command\n")[0].splitlines()
    plain = ("#!/bin/bash", "", "# Parameters")
    for line in header:
        assert line in plain or re.match(r"#SBATCH --[a-z][a-z0-9-]*(=|$)", line), line
    return script
