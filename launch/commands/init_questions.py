"""Questions of `sor init FILE` in a terminal: few, each with a default; an answer is checked at once."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.prompt import InvalidResponse, PromptBase
from rich.table import Table
from rich.text import Text, TextType

from jobs.core.plain import PlainConsole, plain, say
from launch.commands.init import refuse
from launch.commands.init_study import (
    Choice,
    check,
    command,
    complete,
    gpus_of,
    names_in,
    rows_key,
    shipped_study,
    write_study,
)
from launch.study.presets import StudyError, shown

STARTS = {
    "demo": "tiny models on sums: two CPU cores, about ten minutes",
    "smollm": "a small pretrained model on real questions: two CPU cores",
    "pairs": "students of 0.5B to 3B on rows with both answers: nodes with 8 GPUs, about 380 GPU hours",
    "paper": "the paper's study, with its teacher: nodes with 8 GPUs, about 2,500 GPU hours",
}
INTERRUPTED, DECLINED = 130, 1


def ask_study(file: Path) -> int:
    """Ask what a study is made of, write its file, and return the exit code.

    Returns:
        130 after Ctrl-C and 1 after Ctrl-D at a question; nothing is written then.

    Raises:
        StudyError: the file exists, or cannot hold a study.
    """
    refuse(file)
    check(Choice(), file)
    try:
        choice = ask_choice(file, PlainConsole(highlight=False))
    except (KeyboardInterrupt, EOFError) as end:
        say(f"\nsor: {file} was not written", error=True)
        return INTERRUPTED if isinstance(end, KeyboardInterrupt) else DECLINED
    print(write_study(file, choice))
    print(f"The same without questions: {command(file, choice)}")
    return 0


def ask_choice(file: Path, console: Console) -> Choice:
    """Ask the questions that apply to the study that the user starts from.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
        EOFError: the user pressed Ctrl-D, or the terminal is gone.
    """
    console.print("Enter takes the answer in parentheses; Ctrl-C ends this, and nothing is written.")
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, costs in STARTS.items():
        table.add_row(name, costs)
    console.print(table)

    choice = Choice()

    def ask(title: str, explained: str, default: str, made: Callable[[str], Choice]) -> Choice:
        """Return the choice that an answer makes; an empty one leaves it as it is."""
        if explained:
            console.print(f"\n{explained}", style="dim")

        def checked(answer: str) -> Choice:
            check(found := made(answer), file)
            return found

        return _Question(title, default, choice, checked, console)(default=choice)

    choice = ask("Start from", "", choice.start, Choice)
    study = shipped_study(choice.start)
    if largest := max(map(gpus_of, study.students)):
        explained = (
            "GPUs that one training may use, over all its nodes. Students that need more are left out."
        )
        choice = ask("GPUs", explained, str(largest), lambda answer: replace(choice, gpus=_whole(answer)))
    if len(study.students) > 1:
        names = ", ".join(complete(choice).sizes or (student.name for student in study.students))
        explained = "Models to train: presets of configs/models, or .yaml files beside yours."
        choice = ask("Students", explained, names, lambda answer: replace(choice, sizes=names_in(answer)))
    if key := rows_key(study):
        columns = "columns prompt, reasoning and ift" if key == "pairs" else "column prompt"
        explained = f"A JSON Lines or Parquet file with the {columns}, or ORG/NAME@REVISION of the hub."
        choice = ask("Rows", explained, "the paper's", lambda answer: replace(choice, data=_path(answer)))
    if len(study.benchmarks) > 1:
        names = ", ".join(group.name for group in study.benchmarks)
        explained = "Groups of benchmarks: names in configs/evals, or .yaml files beside yours."
        choice = ask(
            "Benchmarks", explained, names, lambda answer: replace(choice, benchmarks=names_in(answer))
        )
    return choice


class _Question(PromptBase[Choice]):
    """A question that is asked again until the answer can be used.

    Args:
        shown: the default, in words.
        unchanged: what an empty answer means.
        checked: turns an answer into a choice, or raises an error that says what is possible.
    """

    def __init__(
        self, title: str, shown: str, unchanged: Choice, checked: Callable[[str], Choice], console: Console
    ) -> None:
        super().__init__(Text(title), console=console)
        self._shown, self._unchanged, self._checked = shown, unchanged, checked

    def make_prompt(self, default: object) -> Text:
        """Return the prompt with its default."""
        return Text.assemble(self.prompt, " ", (f"({self._shown})", "prompt.default"), ": ", end="")

    @classmethod
    def get_input(
        cls, console: Console, prompt: TextType, password: bool, stream: TextIO | None = None
    ) -> str:
        """Return the typed line, and drop lines that came with it: a pasted text is one answer.

        Raises:
            EOFError: the input has ended, also behind such lines.
        """
        answer = super().get_input(console, prompt, password, stream)
        terminal = sys.stdin.fileno()
        while select.select([terminal], [], [], 0)[0]:  # a terminal is readable by whole lines
            if not os.read(terminal, 4096):
                raise EOFError
        return answer

    def process_response(self, value: str) -> Choice:
        """Return the choice that an answer makes."""
        answer = plain(value).strip()
        if not answer:
            return self._unchanged
        try:
            return self._checked(answer)
        except StudyError as error:
            raise InvalidResponse("\n".join(mistake.message for mistake in error.mistakes)) from None
        except ValueError as error:
            raise InvalidResponse(str(error)) from None

    def on_validate_error(self, value: str, error: InvalidResponse) -> None:
        """Print what is wrong with an answer."""
        for line in str(error).splitlines():  # a command stays whole, to be copied
            self.console.print(line, style="prompt.invalid", soft_wrap=line.startswith("sor "))


def _whole(answer: str) -> int:
    if not answer.isdecimal() or len(answer) > 9:
        raise ValueError(f"found {shown(answer)}; a whole number is needed")
    return int(answer)


def _path(answer: str) -> str:
    """Return the name of a file as the shell would have passed it on."""
    if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"":
        answer = answer[1:-1]
    return str(Path(answer).expanduser()) if answer.startswith("~") else answer
