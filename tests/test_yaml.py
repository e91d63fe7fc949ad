"""Whatever a YAML file holds, its reader answers with data or with one line: file, place, key, reason."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import sor

from launch.study.cluster import load_cluster
from launch.study.presets import CONFIGS, StudyError, read_yaml
from launch.study.schema import load_study
from launch.study.yamlfile import DEPTH

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
UNREADABLE: dict[str, tuple[bytes, tuple[int, int] | None, str, str]] = {  # place, key, words
    "nothing": (b"", None, "", "found nothing"),
    "only comments": (b"# later\n", None, "", "found nothing"),
    "a list": (b"- 1\n", None, "", "found a list"),
    "a text": (b"students\n", None, "", "found a single value"),
    "latin-1": ("a: 1\nb: é\n".encode("latin-1"), (2, 4), "", "not UTF-8: byte 0xe9"),
    "utf-16": ("a: 1\n".encode("utf-16"), None, "", "UTF-16"),
    "null byte": (b"a: 1\nb: \0\n", (2, 4), "", "a control character, U+0000"),
    "null byte, escaped": (b'a: 1\nb: {c: "\\0"}\n', (2, 8), "b.c", "a null byte"),
    "terminal escape": (b"a: \x1b[31m\n", (1, 4), "", "a control character, U+001B"),
    "tab": (b"a:\n\tb: 1\n", (2, 1), "", "spaces, not tabs"),
    "open bracket": (b"a: [1\n", (2, 1), "", "not YAML: while parsing a flow sequence"),
    "twice": (b"a: 1\nb: {c: 1,\n  d: 2, c: 3}\n", (3, 9), "b.c", "given twice, first in line 2"),
    "twice, in quotes": (b"1: a\n'1': b\n", (2, 1), "1", "given twice"),
    "tag of Python": (b"a: !!python/object/apply:os.system [id]\n", (1, 4), "a", "the tag !!python/object/"),
    "tag of a date": (b"a: !!timestamp 2020-01-01\n", (1, 4), "a", "the tag !!timestamp is not allowed"),
    "tag of one's own": (b"a: !env HOME\n", (1, 4), "a", "the tag !env is not allowed"),
    "two documents": (b"a: 1\n---\nb: 2\n", (2, 1), "", "a second document"),
    "unknown alias": (b"a: *b\n", (1, 4), "a", "*b is nothing"),
    "recursion": (b"a: 1\nb: &b [1, *b]\n", (2, 11), "b.1", "&b contains itself"),
    "recursion by a key": (b"b: &b {c: {d: *b}}\n", (1, 15), "b.c.d", "&b contains itself"),
    "alias bomb": (BOMB.encode(), (5, 45), "a4.7", "more than 100,000 values"),
    "deep list": (b"a: " + b"[" * 60, (1, 53), "a.0.0", f"nested more than {DEPTH} deep"),
    "very deep list": (b"a: " + b"[" * 100_000, (1, 1003), "", "not YAML"),
    "deep mapping": (b"{a: " * 100_000, (1, 201), "a.a.a", f"nested more than {DEPTH} deep"),
    "list as a key": (b"? [a]\n: 1\n", (1, 3), "", "a key must be a single word"),
    "merge of a text": (b"<<: a\n", (1, 1), "<<", "takes a mapping"),
    "infinity": (b"a: 1\nb: .inf\n", (2, 4), "b", "found .inf; a finite number"),
    "not a number": (b"a: [1, .NaN]\n", (1, 8), "a.1", "found .NaN; a finite number"),
    "too large for a float": (b"a: 1e999\n", (1, 4), "a", "found 1e999; a finite number"),
    "too long for a number": (b"a: " + b"9" * 5000 + b"\n", (1, 4), "a", "more than 20 digits"),
    "latin-1 after a byte order mark": (b"\xef\xbb\xbfa: \xe9\n", (1, 4), "", "not UTF-8: byte 0xe9"),
    "columns count characters": ("é: ü\nüé: [ß, {é: !env x}]\n".encode(), (2, 13), "üé.1.é", "the tag !env"),
    "too much": (b"#" * (1 << 21), None, "", "larger than 1 MB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_one_mistake(kind: str, tmp_path: Path) -> None:
    data, at, key, words = UNREADABLE[kind]
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    with pytest.raises(StudyError) as error:
        read_yaml(file)
    (found,) = error.value.mistakes
    assert (found.file, found.at, found.key) == (file, at, key)
    assert words in found.message
    assert len(str(found).splitlines()) == 1


def test_what_can_be_read(tmp_path: Path) -> None:
    text = """\
        numbers: [1, -2, 1_000, 0x10, 0o10, 1.5, .5, 5., 1e-5, 1E3, -0]
        texts: [1:30, 010, 2020-13-45, 2020-01-01, 1.2.3, 'no', "1", !!str 1, =, 12e, é]
        booleans: [yes, No, on, OFF, true, False]
        nothing: [~, null, ]
        base: &base {a: 1, b: 2}
        more: {<<: *base, b: 3}
        1: key
        on: key
    """
    file = tmp_path / "mine.yaml"
    file.write_text(text, "utf-8-sig")
    assert read_yaml(file).data == {
        "name": "mine",
        "numbers": [1, -2, 1000, 16, 8, 1.5, 0.5, 5.0, 1e-5, 1000.0, 0],
        "texts": ["1:30", "010", "2020-13-45", "2020-01-01", "1.2.3", "no", "1", "1", "=", "12e", "é"],
        "booleans": [True, False, True, False, True, False],
        "nothing": [None, None],
        "base": {"a": 1, "b": 2},
        "more": {"a": 1, "b": 3},
        "1": "key",
        "on": "key",
    }


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("[!d]*/*.yaml")), ids=lambda f: f.stem)
def test_shipped_files_read_as_pyyaml_reads_them(file: Path) -> None:
    ours, theirs = read_yaml(file).data, {"name": file.stem, **yaml.safe_load(file.read_text("utf-8"))}

    def plain(value: Any) -> Any:  # PyYAML takes 3e-3 for a text, and keys that are numbers for numbers
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return float(value) if isinstance(value, str) and value in ("3e-3", "2e-5", "1e-5", "2e-4") else value

    assert ours == plain(theirs)


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device", "loop", "null byte", "long name"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(file))
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "null byte":
        file = tmp_path / "a\0b.yaml"
    else:
        file = tmp_path / ("x" * 300 + ".yaml")
    for read in (read_yaml, lambda f: load_study(str(f)), lambda f: load_cluster(str(f))):
        with pytest.raises(StudyError) as error:
            read(file)
        assert len(error.value.mistakes) == 1
        assert len(str(error.value).splitlines()) == 1
        assert "\0" not in str(error.value)


STUDY: dict[str, Any] = {
    "pairs": {"dataset": "a/b", "revision": "main"},
    "students": ["qwen2.5-0.5b"],
    "mixtures": {"shares": [0, 1]},
    "benchmarks": ["math-open-ended"],
    "expect": {"prompt": 1, "ift": 1, "reasoning": 1},
}
VALUES = {  # what stands after a key of `training`, or elsewhere: key, words
    "epochs: yes": ("training.epochs", "a number is needed, without quotes (YAML reads yes as true"),
    "epochs: '3'": ("training.epochs", "found '3'; a number is needed, without quotes"),
    "epochs: 1:30": ("training.epochs", "found '1:30'; a number"),
    "epochs: 2020-13-45": ("training.epochs", "found '2020-13-45'; a number"),
    "warmup: on": ("training.warmup", "YAML reads on as true"),
    "schedule: no": ("training.schedule", "YAML reads no as false: put quotes around a text"),
    "batch: 10_000_000_000_000": ("training.batch", "less than or equal to 1000000000000"),
    "clip: -1": ("training.clip", "greater than 0"),
    "clip: 0": ("training.clip", "greater than 0"),
    "betas: [0.9, 1]": ("training.betas.1", "less than 1"),
}


@pytest.mark.parametrize("value", VALUES)
def test_values_of_another_kind(value: str, tmp_path: Path) -> None:
    key, words = VALUES[value]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(STUDY) + f"training:\n  {value}\n", encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    (found,) = error.value.mistakes
    column = value.index("1]") + 3 if value.startswith("betas") else 3
    assert (found.file, found.key) == (file, key)
    assert found.at == (len(file.read_text(encoding="utf-8").splitlines()), column)
    assert words in found.message


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"seeds": -1}, "seeds", "greater than or equal to 0"),
        ({"seeds": [0, 2**40]}, "seeds.1", "less than 4294967296"),
        ({"mixtures": {"shares": [0, -0.0]}}, "mixtures.shares", "more than once: 0.0"),
        ({"pairs": {"dataset": "a/b", "revision": 1234567}}, "pairs.revision", "put quotes around it"),
        ({"pairs": {"dataset": "a/b\n", "revision": "main"}}, "pairs.dataset", "line breaks"),
        ({"students": "x" * 300}, "students", "has no preset"),
        ({"students": "x" * 300 + ".yaml"}, "students", "has no preset"),
        ({"students": "a\nb.yaml"}, "students", "has no preset"),
        ({"students": {"a": 1}}, "students", "has no preset"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], key: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(file))
    (found,) = error.value.mistakes
    assert (found.file, found.key) == (file, key)
    assert words in found.message
    assert found.at is not None
    assert len(str(found).splitlines()) == 1


def test_a_line_of_a_preset_is_that_of_the_preset(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("size: 1B\n\n\nmodel: no\narchitecture: {}\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, "students": "mine.yaml"}), encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(str(tmp_path / "study.yaml"))
    found = [m for m in error.value.mistakes if m.key == "model"]
    assert [str(m) for m in found] == [
        f"{preset}:4:1: model: found False; input should be a valid string (YAML reads no as false: put "
        "quotes around a text)"
    ]


def test_the_program_answers_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"students: toy-s\nstudents: \xc3\xa9caf\xe9\n")
    done = sor("plan", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sor: {file}:2:15: not UTF-8: byte 0xe9; save the file as UTF-8\n"
