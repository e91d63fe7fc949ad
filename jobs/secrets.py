"""Secrets: cluster files hold their names, the environment or a file of the user's alone their values.

A value never gets into a script, a log, the ledger or a message.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

FILE = "~/.config/scale-or-reason/secrets"  # unless SOR_SECRETS names another
LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(['\"]?)(.*)\2")
LEAST = 6  # characters; a shorter value may be in a script by chance


class SecretsError(ValueError):
    """The file of secrets cannot be used as it is."""


def load_secrets() -> None:
    """Put the file's values into the environment, where it has none.

    Raises:
        SecretsError: others can read the file, or a line is no NAME=value. So do all of these functions.
    """
    os.environ.update(_known())


def secret(name: str) -> str | None:
    """The value of a secret; None: neither the environment nor the file has one."""
    return os.environ.get(name) or _file().get(name) or None


def missing_secrets(names: Iterable[str]) -> list[str]:
    """The names without a value."""
    known = _known()
    return [name for name in names if not known.get(name)]


def revealed(text: str, names: Iterable[str]) -> list[str]:
    """The names whose values stand in a text."""
    known = _known()
    return [name for name in names if len(known.get(name, "")) >= LEAST and known[name] in text]


def _known() -> dict[str, str]:
    """The file's values, and those of the environment, which count first."""
    return _file() | {name: value for name, value in os.environ.items() if value}


def _file() -> dict[str, str]:
    named = os.environ.get("SOR_SECRETS")
    path = Path(named or FILE).expanduser()
    if not path.exists():
        if named:
            raise SecretsError(f"SOR_SECRETS names {path}, which is not there")
        return {}
    if path.stat().st_mode & 0o077:
        raise SecretsError(f"others can read the secrets in {path}: chmod 600 {shlex.quote(str(path))}")
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = LINE.fullmatch(line.strip())
            if match is None:
                raise SecretsError(f"{path}, line {number}: NAME=value is needed")  # never the line itself
            values[match[1]] = match[3]
    return values
