"""`sor export`: the pairs of a study as a dataset folder, its students as model folders, and their upload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from jobs.core.plain import PlainConsole
from jobs.core.wording import count
from launch.columns import Columns
from launch.commands.output import complain
from launch.commands.prefetch import in_bytes, not_installed
from launch.commands.submit import ask
from launch.export.cards import named
from launch.export.pairs import export_pairs
from launch.export.students import Student, export_student
from launch.export.upload import prepare, upload
from launch.state.command_line import command
from launch.state.lock import Lock
from launch.state.states import State
from launch.study_run import Project
from launch.submit.limits import Refusal

LOCK = ".sor-export.lock"
BUSY = "this folder is being written", "Wait until that ends"
SHOWN = 8  # names in a message


@dataclass(frozen=True)
class Wanted:
    """What is to be exported; all of a study if neither is named.

    Args:
        pairs: Whether the pairs are named.
        students: Names of students, or patterns as in `*-r100`.
    """

    pairs: bool = False
    students: tuple[str, ...] = ()

    @property
    def has_pairs(self) -> bool:
        return self.pairs or not self.students

    def has(self, student: str) -> bool:
        """Return whether a student is wanted."""
        patterns = self.students or (() if self.pairs else ("*",))
        return any(fnmatchcase(student, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Exported:
    """A folder that was exported."""

    path: Path
    is_dataset: bool
    what: str  # was done with it: "written", "updated" or "unchanged"


def export(project: Project, out: Path | None, wanted: Wanted, namespace: str | None, *, yes: bool) -> int:
    """Export what is done of a study, and upload it if a namespace of the hub is given.

    Returns:
        0 if something was exported, and uploaded if that was asked for; 1 if nothing is done, an upload
        failed, or the user declines; 2 if nobody can be asked.

    Raises:
        Refusal: A student is not of the study, a folder has other contents, or nothing can be uploaded.
        Locked: Another process writes the folders.
    """
    console, out = PlainConsole(), out or project.root.exported
    _check(project, wanted)
    if namespace is not None:
        _check_hub(project, wanted, namespace)
    try:
        with Lock(out / LOCK, busy=BUSY):
            folders = []
            for each in _export(project, out, wanted, console):
                folders.append(each)
                console.print(f"{each.what:<9}  {each.path}", soft_wrap=True)
            if folders and namespace is not None:
                return _push(namespace, folders, console, yes=yes)
    except ValueError as error:
        raise Refusal(str(error)) from None
    if not folders:
        complain(f"nothing to export is done yet. Its state: {command(project.root, 'status')}")
        return 1
    return 0


def _check(project: Project, wanted: Wanted) -> None:
    """Check that each name or pattern is that of a student.

    Raises:
        Refusal: One is not.
    """
    names = [unit.name for unit in project.units if unit.stage == "train"]
    for pattern in wanted.students:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise Refusal(f"{pattern!r} is no student of this study, which has {listed(names)}")


def _check_hub(project: Project, wanted: Wanted, namespace: str) -> None:
    """Check, before anything is written, that uploads are possible.

    Raises:
        Refusal: They are not; the message says what helps.
    """
    if find_spec("huggingface_hub") is None:
        raise Refusal(not_installed("huggingface_hub", "huggingface_hub"))
    students = [unit.name for unit in project.units if unit.stage == "train" and wanted.has(unit.name)]
    names = [*(["pairs"] if wanted.has_pairs else []), *students]
    if why := prepare(namespace, [f"{project.root.path.name}-{name}" for name in names]):
        raise Refusal(why)


def _export(project: Project, out: Path, wanted: Wanted, console: Console) -> Iterator[Exported]:
    """Write the folders of what is done, yield each, and name what is not done."""
    root, units = project.root, project.units
    done = {seen.unit.id for seen in project.poll().units if seen.state is State.DONE}
    missing = []
    if wanted.has_pairs:
        [collated] = [unit for unit in units if unit.stage == "collate"]
        generated = next((unit for unit in units if unit.stage == "generate"), None)
        folder = out / f"{root.path.name}-pairs"
        if collated.id in done:
            with console.status("writing the pairs"):
                what = export_pairs(root, collated, generated, folder)
            yield Exported(folder, True, what)
        else:
            missing.append("the pairs")
    for student in _students(project, done):
        folder = out / f"{root.path.name}-{student.name}"
        if student.trained.id in done and wanted.has(student.name):
            yield Exported(folder, False, export_student(root, student, folder))
        elif wanted.has(student.name):
            missing.append(student.name)
    if missing:
        console.print(f"not done yet, and skipped: {listed(missing)}", style="yellow", soft_wrap=True)


def _students(project: Project, done: set[str]) -> Iterator[Student]:
    units = project.units
    teacher = next((unit.config for unit in units if unit.stage == "generate"), None)
    words = named(teacher["model"], teacher["revision"]) if teacher else None
    for trained in (unit for unit in units if unit.stage == "train"):
        of_it = [unit for unit in units if unit.stage == "evaluate" and trained.as_input() in unit.inputs]
        missing = [unit.config["group"]["name"] for unit in of_it if unit.id not in done]
        yield Student(trained, [unit for unit in of_it if unit.id in done], missing, words)


def _push(namespace: str, folders: Sequence[Exported], console: Console, *, yes: bool) -> int:
    """Upload the folders, print their addresses, and return the exit code."""
    table = Columns(("to upload", "", "size"), numbers=("size",))
    for each in folders:
        size = sum(path.stat().st_size for path in each.path.rglob("*") if path.is_file())
        kind = "dataset" if each.is_dataset else "model"
        table.add(f"{namespace}/{each.path.name}", kind, in_bytes(size))
    console.print(table)
    folders_in_words = count(len(folders), "folder")
    question = f"Upload {folders_in_words}? Repositories that are not there yet are made, private."
    if not yes and (refused := ask(question, console)) is not None:
        return refused
    for number, each in enumerate(folders):
        url, why = upload(namespace, each.path, dataset=each.is_dataset)
        if why:
            complain(f"{why}\n{number} of {folders_in_words} uploaded; run this command again for the rest")
            return 1
        console.print(f"uploaded  {url}", soft_wrap=True)
    return 0


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of further ones."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
