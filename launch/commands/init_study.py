"""`sor init FILE`: a shipped study to start from, with the user's students, rows and benchmarks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from launch.commands.init import refuse, write_new
from launch.study.model import Model
from launch.study.presets import CONFIGS, Mistake, StudyError, known_names, shown
from launch.study.schema import Study, load_study, read_study
from launch.study.textfile import Unusable
from launch.study.yamlfile import Document, parse_yaml

ALIASES = {"paper": "scale-or-reason"}
OPTIONS = {"students": "--sizes", "benchmarks": "--benchmarks", "prompts": "--data", "pairs": "--data"}
DATASET = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
FILES = (".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".txt", ".arrow")  # no names of datasets
ROWS = "   # correct 'expect' for these rows; estimates also need their number, as in count: 1000"


@dataclass(frozen=True)
class Choice:
    """What a study file is made of; empty: as in the shipped study.

    Args:
        start: a shipped study, or an alias.
        sizes: students, by preset or by their size in the shipped study.
        data: a file of rows, or ORG/NAME@REVISION on the hub.
        gpus: that one job may use; students that need more are left out, or refused if they are named.
    """

    start: str = "demo"
    sizes: tuple[str, ...] = ()
    data: str = ""
    benchmarks: tuple[str, ...] = ()
    gpus: int | None = None

    @property
    def shipped(self) -> str:
        """Name of the shipped study."""
        return ALIASES.get(self.start, self.start)


def names_in(text: str) -> tuple[str, ...]:
    """Split a list as people type it: with commas, blanks, or as in the file."""
    return tuple(re.findall(r"[^\s,\[\]'\"]+", text))


def starts() -> list[str]:
    """Return the names that a study can start from."""
    return sorted({*known_names("studies"), *ALIASES})


@cache
def shipped_study(choice: str) -> Study:
    """Return a shipped study by its name or alias.

    Raises:
        StudyError: there is none of that name.
    """
    name = ALIASES.get(choice, choice)
    if name not in known_names("studies"):
        words = f"no such study as {shown(choice)}; there are {', '.join(starts())}"
        raise StudyError([Mistake(Path("--from"), "", words)])
    return load_study(str(CONFIGS / "studies" / f"{name}.yaml"))


def rows_key(study: Study) -> str | None:
    """Return the key of a study whose rows the user may replace; None if its `prepare` makes them."""
    return None if study.prepare else "pairs" if study.pairs else "prompts"


def gpus_of(model: Model) -> int:
    """Return the GPUs of a model's largest job."""
    training = model.training.nodes * model.training.gpus_per_node if model.training else 0
    return max(training, model.serving.nodes * model.serving.gpus)


def complete(choice: Choice) -> Choice:
    """Return a choice with the students' presets by name, and with those that its GPUs allow.

    Raises:
        StudyError: no student runs on so few GPUs.
    """
    students = shipped_study(choice.start).students
    names = {student.size.lower(): student.name for student in students}
    sizes = tuple(names.get(size.lower(), size) for size in choice.sizes)
    if choice.gpus is not None and not sizes:
        sizes = tuple(student.name for student in students if gpus_of(student) <= choice.gpus)
        if not sizes:
            least = min(students, key=gpus_of)
            words = (
                f"{choice.gpus} are too few: {least.name} uses {gpus_of(least)}. For less, write a preset:"
                f"\nsor init student.yaml --model {least.model}"
            )
            raise StudyError([Mistake(Path("--gpus"), "", words)])
    return replace(choice, sizes=() if sizes == tuple(s.name for s in students) else sizes)


def study_text(choice: Choice) -> str:
    """Return the text of the study file, without the line that names its schema.

    Raises:
        StudyError: a choice that does not fit the study it starts from.
    """
    key = rows_key(shipped_study(choice.start))
    choice = complete(choice)
    text = (CONFIGS / "studies" / f"{choice.shipped}.yaml").read_text(encoding="utf-8")
    own = text.partition("\n")[2]  # its first line names the schema by a path from configs/studies
    changed = dict[str, str]()
    if choice.sizes:
        changed["students"] = _flow(list(choice.sizes))
    if choice.benchmarks:
        changed["benchmarks"] = _flow(list(choice.benchmarks))
    if choice.data:
        if key is None:
            words = f"{choice.start} makes its own rows; choose --from pairs or paper for yours"
            raise StudyError([Mistake(Path("--data"), "", words)])
        changed[key] = _flow(_source(choice.data)) + ROWS
    for name, value in changed.items():
        own = _replaced(own, name, value)
    other = f"; changed: {', '.join(changed)}" if changed else ""
    return f"# A copy of the shipped study {choice.shipped}, to edit{other}.\n{own}"


def check(choice: Choice, file: Path) -> Study:
    """Return the study that a file would hold, checked as `sor plan` does.

    Raises:
        StudyError: with all mistakes, each by the option that causes it.
    """
    try:
        document = parse_yaml(study_text(choice))
    except Unusable as error:
        raise StudyError([Mistake(file, ".".join(error.key), error.message)]) from None
    try:
        study = read_study(Document({"name": file.stem, **document.data}), file)
    except StudyError as error:
        raise StudyError([_by_option(mistake, file) for mistake in error.mistakes]) from None
    models = [*study.students, *([study.teacher] if study.teacher else [])]
    if large := [m for m in models if choice.gpus is not None and gpus_of(m) > choice.gpus]:
        words = ", ".join(f"{model.name} uses {gpus_of(model)} GPUs" for model in large)
        raise StudyError([Mistake(Path("--gpus"), "", f"{words}: more than {choice.gpus}")])
    return study


def write_study(file: Path, choice: Choice) -> str:
    """Write a study file and return the command that comes next.

    Raises:
        StudyError: the choice has a mistake, or the file exists.
    """
    refuse(file)
    check(choice, file)
    write_new(file, "study", study_text(choice))
    return f"wrote {file}. To see its units: {shlex.join(['sor', 'plan', str(file)])}"


def command(file: Path, choice: Choice) -> str:
    """Return the command that writes the same file without a question."""
    choice = complete(choice)
    typed = ["sor", "init", str(file), "--from", choice.start]
    for option, value in (
        ("--sizes", ",".join(choice.sizes)),
        ("--data", choice.data),
        ("--benchmarks", ",".join(choice.benchmarks)),
    ):
        typed += [option, value] if value else []
    return shlex.join(typed)


def _by_option(mistake: Mistake, file: Path) -> Mistake:
    """Return a mistake of a file that does not exist yet as one of the option that causes it."""
    option = OPTIONS.get(mistake.key.partition(".")[0])
    return Mistake(Path(option), "", mistake.message) if option and mistake.file == file else mistake


def _source(data: str) -> dict[str, Any]:
    """Return a source of rows as a study file has it."""
    named = DATASET.fullmatch(data)
    if named is None or data.endswith(FILES) or Path(data).is_file():
        return {"path": data}
    revision = {"revision": named[2]} if named[2] else {}
    return {"dataset": named[1], **revision}


def _replaced(text: str, key: str, value: str) -> str:
    """Replace the value of a top-level key, with its indented lines."""
    found, count = re.subn(rf"(?m)^{key}:.*\n(?: .*\n)*", lambda _: f"{key}: {value}\n", text, count=1)
    assert count == 1, key
    return found


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=100_000, allow_unicode=True)
    return str(text).strip()
