"""`sor init FILE` in a terminal: its questions, a wrong answer, an interruption, and who is not asked."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from small_study import SOR, environment, listen, sor
from test_init import ROW
from tmux import PROMPT, terminal

STYLES = re.compile(r"\x1b\[[0-9;]*m")
LONG = 30.0  # seconds that no answer takes
SHIPPED = {"demo": "Students", "smollm": "Benchmarks", "pairs": "GPUs", "paper": "GPUs"}  # second questions


class Person:
    """Answers the questions of `sor init` in a terminal of 80 columns."""

    def __init__(self, folder: Path, *args: str, **variables: str) -> None:
        self.said = ""
        variables = {**environment(TERM="xterm"), **variables}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            variables.pop(name, None)
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            listen()
            os.chdir(folder)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execve(SOR, [str(SOR), "init", *args], variables)

    def sees(self, text: str) -> None:
        """Wait until a text was printed since the last answer."""
        until = time.monotonic() + LONG
        while text not in self.said:
            assert time.monotonic() < until, f"waited for {text!r}:\n{self.said}"
            assert self._reads() or text in self.said, f"it ended without {text!r}:\n{self.said}"

    def answers(self, question: str, answer: str | bytes = "") -> None:
        """Wait for a question and type an answer with Enter."""
        self.sees(f"\n{question} (")
        self.sees("): ")
        self.said = ""
        os.write(self._terminal, (answer.encode() if isinstance(answer, str) else answer) + b"\n")

    def presses(self, key: bytes) -> None:
        os.write(self._terminal, key)

    def ends(self) -> int:
        """Wait until the program ends; returns its exit code."""
        while self._reads():
            pass
        _, status = os.waitpid(self._pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)

    def _reads(self) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], LONG)
        assert ready, f"nothing came:\n{self.said}"
        with suppress(OSError):  # what Linux says when the other end is closed
            data = os.read(self._terminal, 4096)
            self.said += STYLES.sub("", data.decode(errors="replace")).replace("\r", "")
            return bool(data)
        return False


def same(folder: Path, said: str) -> None:
    """Check that the command that was printed writes the same file, which can be planned."""
    typed = said.partition("The same without questions: ")[2].splitlines()[0]
    words = shlex.split(typed)
    assert words[:3] == ["sor", "init", "mine.yaml"]
    asked = (folder / "mine.yaml").read_bytes()
    (folder / "mine.yaml").unlink()
    assert sor(*words[1:], cwd=folder).returncode == 0
    assert (folder / "mine.yaml").read_bytes() == asked
    planned = sor("plan", "mine.yaml", cwd=folder)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("start", SHIPPED)
def test_enter_takes_what_is_shipped(start: str, tmp_path: Path) -> None:
    person = Person(tmp_path, "mine.yaml")
    person.answers("Start from", start if start != "demo" else "")
    large = ["GPUs", "Students", "Rows", "Benchmarks"]
    questions = {"demo": ["Students"], "smollm": ["Benchmarks"], "pairs": large, "paper": large}
    for question in questions[start]:
        person.answers(question)
    assert person.ends() == 0
    assert "wrote mine.yaml. To see its units: sor plan mine.yaml\n" in person.said
    assert f"The same without questions: sor init mine.yaml --from {start}\n" in person.said
    same(tmp_path, person.said)


def test_every_question_refuses_what_cannot_be_and_takes_the_next_answer(tmp_path: Path) -> None:
    (tmp_path / "my rows.jsonl").write_text(ROW, encoding="utf-8")
    person = Person(tmp_path, "mine.yaml", HOME=str(tmp_path))
    for question, wrong, words, right in (
        ("Start from", "moon", "there are demo, pairs, paper, scale-or-reason, smollm", "pairs"),
        ("GPUs", "four", "found 'four'; a whole number is needed", ""),
        ("GPUs", "4", "\nsor init student.yaml --model Qwen/Qwen2.5-0.5B\n", "8"),
        ("Students", "9B", "configs/models holds qwen2.5-0.5b", ""),
        ("Students", "0.5b 3b", "qwen2.5-3b uses 16 GPUs: more than 8", "0.5b, 1.5B"),
        ("Rows", "rows.jsonl", "no such file: ", ""),
        ("Rows", "me/mine", "needs a 'revision'", "'~/my rows.jsonl'"),
        ("Benchmarks", "toy; maths", "configs/evals holds general-multiple-choice", "[math-open-ended]"),
    ):
        person.answers(question, wrong)
        person.sees(f"\n{question} (")
        assert words in re.sub(r" \n", " ", person.said)
        if right:
            person.answers(question, right)
    assert person.ends() == 0
    chosen = (
        f"--from pairs --sizes qwen2.5-0.5b,qwen2.5-1.5b --data '{tmp_path}/my rows.jsonl' --benchmarks "
        "math-open-ended"
    )
    assert f"sor init mine.yaml {chosen}\n" in person.said
    same(tmp_path, person.said)


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x04", 1)])
@pytest.mark.parametrize("start", [None, "paper"])
def test_an_interrupted_question_writes_nothing(
    key: bytes, code: int, start: str | None, tmp_path: Path
) -> None:
    person = Person(tmp_path, "mine.yaml")
    if start:
        person.answers("Start from", start)
    person.sees("): ")
    person.presses(key)
    assert person.ends() == code
    assert person.said.endswith("\nsor: mine.yaml was not written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_refused_before_any_question(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    for name, words in (
        ("mine.yaml", "exists already"), ("mine.txt", "ends in .yaml"), ("no/mine.yaml", "no such folder"),
        ("my study.yaml", "found 'my study'"),
    ):  # fmt: skip
        person = Person(tmp_path, name)
        assert person.ends() == 2
        assert person.said.startswith(f"sor: {name}: ")
        assert words in person.said
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_options_and_pipes_are_not_asked(tmp_path: Path) -> None:
    person = Person(tmp_path, "a.yaml", "--from", "smollm")
    assert person.ends() == 0
    assert person.said == "wrote a.yaml. To see its units: sor plan a.yaml\n"
    person = Person(tmp_path, "b.yaml", "--sizes", "toy-s")
    assert person.ends() == 0
    demo = sor("init", "demo.yaml", "--from", "demo", cwd=tmp_path)
    for name, ends in (("c", "< /dev/null"), ("d", "<&-"), ("e", ">&-"), ("f", "| cat")):
        shell = (
            f"exec '{SOR}' init {name}.yaml {ends}" if "|" not in ends else f"'{SOR}' init {name}.yaml {ends}"
        )
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment(), input="paper\n", encoding="utf-8",
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in ("", demo.stdout.replace("demo.yaml", f"{name}.yaml"))
        assert (tmp_path / f"{name}.yaml").read_text("utf-8") == (tmp_path / "demo.yaml").read_text("utf-8")


def test_a_closed_standard_input_is_no_terminal_to_any_command(tmp_path: Path) -> None:
    for command, code in (("submit demo", 2), ("cancel demo", 0), ("monitor demo", 0)):
        done = subprocess.run(
            ["bash", "-c", f"exec '{SOR}' {command} --runs '{tmp_path}/runs' <&-"], env=environment(),
            encoding="utf-8", capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.parametrize(
    ("answer", "start"),
    [
        ("  pairs \t", "pairs"),
        ("pairs\r", "pairs"),  # the lines of a file from Windows: the terminal makes two of each
        ("pairs\n4\n9B\n", "pairs"),  # several lines at once answer one question
        ("\x1b[Apairs\x1b[D", "pairs"),  # arrows
        ("\x1b[200~pairs\x1b[201~", "pairs"),  # what terminals put around a pasted text
        ("", "demo"),
    ],
)
def test_what_keyboards_and_clipboards_add_is_no_part_of_an_answer(
    answer: str, start: str, tmp_path: Path
) -> None:
    person = Person(tmp_path, "mine.yaml")
    person.answers("Start from", answer)
    person.sees(f"\n{SHIPPED[start]} (")
    time.sleep(0.3)
    assert "found" not in person.said
    assert person.said.count("): ") == 1
    person.presses(b"\x03")
    person.ends()


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"TERM": ""}]
)
def test_odd_terminals_and_letters_of_another_encoding(variables: dict[str, str], tmp_path: Path) -> None:
    name = "données.jsonl"
    (tmp_path / name).write_text(ROW, encoding="utf-8")
    person = Person(tmp_path, "mine.yaml", **variables)
    person.answers("Start from", b"d\xe9mo")  # as a terminal in Latin-1 sends it
    person.answers("Start from", "pairs")
    for question, answer in (("GPUs", ""), ("Students", ""), ("Rows", name), ("Benchmarks", "")):
        person.answers(question, answer)
    assert person.ends() == 0
    assert "Traceback" not in person.said
    same(tmp_path, person.said)


@pytest.mark.parametrize("typed", ["< /dev/null", "<<< ''", "<<< moon"])
def test_the_end_of_input_behind_a_terminal_ends_the_questions(typed: str, tmp_path: Path) -> None:
    """`script` and what starts programs like it pass on a pipe as a terminal."""
    command = f"timeout {LONG} script -qec \"'{SOR}' init mine.yaml\" /dev/null {typed}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), encoding="utf-8", capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, "Start from" in done.stdout) == (1, True)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_terminal_that_is_closed_leaves_nothing(tmp_path: Path) -> None:
    person = Person(tmp_path, "mine.yaml")
    person.answers("Start from", "paper")
    person.sees("): ")
    os.close(person._terminal)
    _, status = os.waitpid(person._pid, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGHUP, 128 + signal.SIGHUP, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_terminal_breaks_lines_between_words(tmp_path: Path) -> None:
    with terminal() as tmux:
        tmux.runs(f"cd {tmp_path}; clear")
        tmux.resize(40, 50)
        tmux.runs("sor init mine.yaml")
        first = tmux.sees("Start from (demo):")
        tmux.runs("pairs")
        tmux.sees("GPUs (16):")
        tmux.runs("")
        shown = tmux.sees("Students (", "3b):")
        assert "demo    tiny models on sums: two CPU\n        cores, about ten minutes\n" in first
        assert "Models to train: presets of\nconfigs/models, or .yaml files beside\nyours.\n" in shown
        assert all(len(line) <= 40 for line in shown.splitlines())
        tmux.presses("C-c")
        tmux.sees("sor: mine.yaml was not written", PROMPT)
