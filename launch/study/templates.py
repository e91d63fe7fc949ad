"""sbatch_templates: shell templates that users may edit -> the body of a job's script.

A placeholder is a name in double braces, with words after `=` for when the cluster file gives it no value.
Values are quoted for the shell; a list becomes quoted words.
Nothing here depends on clusters or Slurm.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from jobs.core.paths import DATA
from launch.study.presets import Mistake, StudyError
from launch.study.textfile import Position, Unusable, is_file, position, read_text

FOLDER = DATA / "sbatch_templates"
AGAIN = FOLDER / "again.bash"  # prepended to every template
PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*(?:=\s*(.*?)\s*)?\}\}")
FORMER = "jobs.element"  # the program's name in templates of earlier versions
GIVEN = (  # variables that the toolkit sets for every template
    "python",  # the interpreter that runs sor
    "code",  # the folder with the job's copy of the code
    "module",  # the program, a module of that code: jobs.runtime.array_task, or launch.commands.keeper
    "submission",  # the folder that lists the units of the job
    "log",  # a file for each rank, as srun's --output takes it
    "study",  # the folder that holds everything that jobs write
    "environment",  # variables of the cluster file and the toolkit, as NAME=value
)


def placeholders(name: str, needed: bool = False) -> dict[str, Position]:
    """Return the names in a template, each with the first place it occurs at.

    Args:
        needed: only those without words of their own.

    Raises:
        StudyError: there is no such template.
    """
    found: dict[str, Position] = {}
    text = _read(name)
    for match in PLACEHOLDER.finditer(text):
        if not (needed and match[2] is not None):
            found.setdefault(match[1], position(text, match.start()))
    return found


def mentions(name: str, word: str) -> bool:
    """Return whether a template contains a word, such as the name of a variable.

    Raises:
        StudyError: there is no such template.
    """
    return word in _read(name)


def render(name: str, variables: Mapping[str, str | Sequence[str]]) -> str:
    """Fill in a template: each placeholder has a text or a list of words as its value.

    Raises:
        StudyError: there is no such template, or a placeholder has no value.
    """
    known = f"give it one in the cluster file's 'slurm.variables'; known are {', '.join(variables)}"
    text = _read(name)
    mistakes = [
        Mistake(FOLDER / f"{name}.sh", "", f"{{{{{placeholder}}}}} has no value: {known}", at)
        for placeholder, at in placeholders(name, needed=True).items()
        if placeholder not in variables
    ]
    mistakes += [
        Mistake(
            FOLDER / f"{name}.sh",
            "",
            f"{FORMER} is called jobs.runtime.array_task now: write {{{{module}}}}",
            position(text, match.start()),
        )
        for match in re.finditer(re.escape(FORMER), text)
    ]
    if mistakes:
        raise StudyError(mistakes)
    return _filled(text, variables)


def again(variables: Mapping[str, str | Sequence[str]]) -> str:
    """Fill in what is prepended to every template (see again.bash)."""
    return _filled(AGAIN.read_text(encoding="utf-8"), variables)


def _filled(text: str, variables: Mapping[str, str | Sequence[str]]) -> str:
    def quoted(match: re.Match[str]) -> str:
        if match[1] not in variables:
            return match[2] or ""
        value = variables[match[1]]
        return shlex.join([value] if isinstance(value, str) else value)

    return PLACEHOLDER.sub(quoted, text)


def _read(name: str) -> str:
    file = FOLDER / f"{name}.sh"
    if not is_file(file):
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("[!.]*.sh")))
        raise StudyError([Mistake(file, "", f"no such template; there are {known}")])
    try:
        return read_text(file)
    except Unusable as error:
        raise StudyError([Mistake(file, "", error.message, error.at)]) from None
