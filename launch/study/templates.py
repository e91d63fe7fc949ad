"""sbatch_templates: shell that a person may read and edit -> the body of a job's script.

A placeholder is a name in double braces. Its value is quoted for the shell when it is put in; a list becomes
quoted words. Nothing here knows clusters or Slurm.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from jobs.core.paths import DATA
from launch.study.presets import Mistake, StudyError
from launch.study.textfile import Unusable, is_file, read_text

FOLDER = DATA / "sbatch_templates"
AGAIN = FOLDER / "again.bash"  # stands before every template
PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
FORMER = "jobs.element"  # how templates of earlier versions name the program
GIVEN = (  # what the toolkit gives to every template
    "python",  # the interpreter that sor was called with
    "code",  # the folder with the copy of the code that the job is to run
    "module",  # the program, a module of that code: jobs.runtime.array_task, or launch.commands.keeper
    "submission",  # the folder that says which units the job is to run
    "log",  # a file for each rank, as srun's --output takes it
    "study",  # the folder which everything that jobs write is in
)


def placeholders(name: str) -> dict[str, int]:
    """The names in a template, each with the first line that it stands in.

    Raises:
        StudyError: there is no such template.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(_read(name).splitlines(), 1):
        for match in PLACEHOLDER.finditer(line):
            found.setdefault(match[1], number)
    return found


def render(name: str, variables: Mapping[str, str | Sequence[str]]) -> str:
    """A template with its values put in: a text, or a list of words, for every placeholder.

    Raises:
        StudyError: there is no such template, or a placeholder has no value.
    """
    known = f"give it one in the cluster file's 'slurm.variables'; known are {', '.join(variables)}"
    mistakes = [
        Mistake(FOLDER / f"{name}.sh", "", f"{{{{{placeholder}}}}} has no value: {known}", line)
        for placeholder, line in placeholders(name).items()
        if placeholder not in variables
    ]
    mistakes += [
        Mistake(
            FOLDER / f"{name}.sh",
            "",
            f"{FORMER} is called jobs.runtime.array_task now: write {{{{module}}}}",
            n,
        )
        for n, line in enumerate(_read(name).splitlines(), 1)
        if FORMER in line
    ]
    if mistakes:
        raise StudyError(mistakes)
    return _filled(_read(name), variables)


def again(variables: Mapping[str, str | Sequence[str]]) -> str:
    """What stands before every template, see the file, with its values put in."""
    return _filled(AGAIN.read_text(encoding="utf-8"), variables)


def _filled(text: str, variables: Mapping[str, str | Sequence[str]]) -> str:
    def quoted(match: re.Match[str]) -> str:
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
        raise StudyError([Mistake(file, "", error.message, error.line)]) from None
