"""Secrets: cluster files hold their names; the environment or a private file of the user holds their values.

Values never get into scripts, the ledger, records of how runs ended, or any output: `hide` removes them from
untrusted text.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

FILE = "~/.config/scale-or-reason/secrets"  # unless SOR_SECRETS names another file
LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(['\"]?)(.*)\2")
NAMES = "SOR_SECRET_NAMES"  # variables that a cluster file names as secrets, inherited by child processes
LEAST = 6  # characters; shorter values may occur in a text by chance
# Environment variables treated as secrets even if no cluster file names them.
USUAL = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|(API|ACCESS|SECRET)_?KEY)$", re.IGNORECASE
)


class SecretsError(ValueError):
    """The secrets file cannot be used as it is."""


def load_secrets() -> None:
    """Load the file's values into the environment, without overriding existing ones.

    Raises:
        SecretsError: Others can read the file, or a line is not NAME=value; also raised by the lookups below.
    """
    os.environ.update(_known())
    _hidden.cache_clear()


def name_secrets(names: Iterable[str]) -> None:
    """Make `hide` treat these variables' values as secrets, in this process and its children."""
    known = os.environ.get(NAMES, "").split()
    if new := [name for name in names if name not in known]:
        os.environ[NAMES] = " ".join([*known, *new])
        _hidden.cache_clear()


def secret(name: str) -> str | None:
    """Return the value of a secret; None if neither the environment nor the file has one."""
    return os.environ.get(name) or _file().get(name) or None


def missing_secrets(names: Iterable[str]) -> list[str]:
    """Return the names without a value."""
    known = _known()
    return [name for name in names if not known.get(name)]


def revealed(text: str, names: Iterable[str]) -> list[str]:
    """Return the names whose values occur in a text."""
    known = _known()
    return [name for name in names if len(known.get(name, "")) >= LEAST and known[name] in text]


def hide(text: str) -> str:
    """Replace known secret values in a text by their names in brackets.

    Known are the values in the user's file, and those of variables that a cluster file names as secrets or
    that are named like secrets. An unusable file is ignored here; functions that need it raise an error.
    """
    pattern, names = _hidden()
    return pattern.sub(lambda found: f"[{names[found[0]]}]", text) if pattern else text


def exposed(text: str) -> list[str]:
    """Return the names of known secrets whose values occur in a text; see `hide`."""
    pattern, names = _hidden()
    return sorted({names[value] for value in pattern.findall(text)}) if pattern else []


@cache
def _hidden() -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """Return a pattern that matches every known value, and the name of each value."""
    named = os.environ.get(NAMES, "").split()
    usual = {name: value for name, value in os.environ.items() if name in named or USUAL.search(name)}
    hook = os.environ.get("SOR_NOTIFY", "")
    usual |= {"SOR_NOTIFY": hook} if hook.startswith(("http://", "https://")) else {}
    with suppress(SecretsError, OSError):
        usual |= _file()
    names = {value: name for name, value in usual.items() if len(value) >= LEAST}
    longest_first = sorted(names, key=len, reverse=True)
    return (re.compile("|".join(map(re.escape, longest_first))) if names else None), names


def _known() -> dict[str, str]:
    """Return the values of the file and the environment, which takes precedence."""
    return _file() | {name: value for name, value in os.environ.items() if value}


def _file() -> dict[str, str]:
    named = os.environ.get("SOR_SECRETS")
    path = Path(named or FILE).expanduser()
    if not path.exists():
        if named:
            raise SecretsError(f"SOR_SECRETS names {path}, which does not exist")
        return {}
    if path.stat().st_mode & 0o077:
        raise SecretsError(f"others can read the secrets in {path}: chmod 600 {shlex.quote(str(path))}")
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = LINE.fullmatch(line.strip())
            if match is None:
                raise SecretsError(f"{path}, line {number}: must be NAME=value")  # without the line itself
            values[match[1]] = match[3]
    return values
