"""Rows of text as people have them: read, or refused when the study is read, with file and line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_study import write_study
from test_cli import loaded_by

from jobs.data.prompts import load_prompts
from jobs.text.jsonrows import CHUNK, LONGEST, json_rows
from jobs.text.rowcheck import ROWS, check_rows
from launch.study.presets import StudyError
from launch.study.schema import load_study

TEXTS = ["What is 0+1?", "café", "two\nlines"]
LINES = "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in TEXTS)
ARRAY = json.dumps([{"prompt": text} for text in TEXTS])

READABLE: dict[str, bytes] = {  # name of the file: what it holds
    "plain.jsonl": LINES.encode(),
    "other.ndjson": LINES.encode(),
    "bom.jsonl": LINES.encode("utf-8-sig"),
    "blank.jsonl": f"\n \r\n{LINES}\n\n".replace('"}\n{', '"}\n\n{').encode(),
    "bom-and-blank.jsonl": f"\ufeff\n{LINES}".encode(),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "no-end.JSONL": LINES.rstrip().encode(),
    "escaped.jsonl": "".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS).encode(),
    "more-columns.jsonl": LINES.replace("{", '{"id": 1, "tags": ["a", {"b": null}], ').encode(),
    "some-without.jsonl": (LINES + '{"prompt": null}\n{"other": 3}\n').encode(),
    "lines.json": LINES.encode(),
    "array.json": ARRAY.encode(),
    "array.jsonl": ARRAY.encode(),
    "indented.json": json.dumps(json.loads(ARRAY), indent=2).encode("utf-8-sig"),
    "zipped.jsonl.gz": gzip.compress(LINES.encode()),
    "zipped.json.gz": gzip.compress(ARRAY.encode()),
}
REFUSED: dict[str, tuple[bytes, str]] = {  # what is said after the file's name
    "latin1.jsonl": (LINES.encode("latin-1"), ", line 2: not UTF-8: byte 0xe9; convert the file"),
    "latin1.json": (
        json.dumps(json.loads(ARRAY), indent=1, ensure_ascii=False).encode("latin-1"),
        ", line 6: not UTF-8: byte 0xe9",
    ),
    "utf16.jsonl": (LINES.encode("utf-16"), ": UTF-16 or UTF-32: save the file as UTF-8"),
    "cut.jsonl": (LINES.encode()[:-4], ", line 3: not JSON: Unterminated string"),
    "cut.json": (ARRAY.encode()[:-4], ", line 1: not JSON: Unterminated string"),
    "unclosed.json": (ARRAY.encode()[:-1], ", line 1: ']' is needed, found the end"),
    "twice.json": (ARRAY.encode() * 2, ", line 1: something follows the array"),
    "texts.jsonl": (b'"a"\n', ", line 1: a row is an object of columns, found a str"),
    "texts.json": (b'[\n{"prompt": "a"},\n"b"]', ", line 3: a row is an object of columns, found a str"),
    "indented.jsonl": (b'{\n"prompt": "a"\n}\n', ", line 1: not JSON: .*; a row is one object on one line"),
    "deep.jsonl": (b'{"prompt": "a"}\n' + b"[" * 100_000, ", line 2: (nested too deeply|not JSON)"),
    "deep.json": (b"[" * 100_000, ", line 1: not JSON: "),
    "digits.jsonl": (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", ", line 1: Exceeds the limit"),
    "null.jsonl": (b'{"prompt": "a"}\n\0\n', ", line 2: not JSON"),
    "half.jsonl": (b'{"prompt": "a\\ud800"}\n', ", line 1: column 'prompt' holds half of a surrogate pair"),
    "numbers.jsonl": (b'\n{"prompt": 3}\n', ", line 2: column 'prompt' must hold text or messages"),
    "chat.jsonl": (b'{"prompt": [{"role": "a"}]}\n', ", line 1: column 'prompt' holds a message of the role"),
    "column.jsonl": (b'{"text": "a", "id": 1}\n', ": no column 'prompt'; it has text, id"),
    "empty.jsonl": (b"", ": it has no rows"),
    "blank.jsonl": (b"\n\n", ": it has no rows"),
    "empty.json": (b"[]", ": it has no rows"),
    "bad.jsonl.gz": (LINES.encode(), ": not gzip, or cut off: "),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-12], ": not gzip, or cut off: "),
    "damaged.jsonl.gz": (gzip.compress(LINES.encode())[:12] + b"\xff" * 40, ": not gzip, or cut off: "),
    "text.parquet": (LINES.encode(), ": not Parquet, or damaged: "),
    "rows.csv": (b"prompt\na\n", r": rows are read from \*.parquet, \*.jsonl, \*.ndjson, \*.json"),
    "rows": (LINES.encode(), ": rows are read from"),
}  # fmt: skip


def prompts(file: Path) -> list[str]:
    """What a job reads."""
    return list(load_prompts([{"path": str(file), "column": "prompt"}])["prompt"].to_pylist())


def study(folder: Path, file: Path, **more: Any) -> Path:
    """A study that generates from a file of prompts."""
    answers = {"chat_template_kwargs": {}, "max_tokens": 8}
    return write_study(
        folder / "study", pairs=None, teacher="toy-teacher", prompts={"path": str(file), **more},
        modes={"ift": answers, "reasoning": answers},
    )  # fmt: skip


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(READABLE[name])
    load_study(str(study(tmp_path, file)))
    assert prompts(file) == TEXTS


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_the_study_and_by_the_job(name: str, tmp_path: Path) -> None:
    data, words = REFUSED[name]
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(StudyError, match=words) as error:
        load_study(str(study(tmp_path, file)))
    [mistake] = error.value.mistakes
    assert mistake.key == "prompts.path"
    assert mistake.message.startswith(str(file))
    with pytest.raises(ValueError, match=words if name not in ("rows.csv", "rows") else "rows are read from"):
        prompts(file)


def parquet(folder: Path, *columns: Any) -> Path:
    file = folder / "rows.parquet"
    pq.write_table(pa.table({"prompt": columns[0], "other": pa.array(range(len(columns[0])))}), file)
    return file


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
     pa.dictionary(pa.uint32(), pa.string())],
    ids=str,
)  # fmt: skip
def test_text_of_parquet_in_all_its_forms(kind: pa.DataType, tmp_path: Path) -> None:
    texts = pa.array([*TEXTS, None])
    column = texts.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else texts.cast(kind)
    file = parquet(tmp_path, column)
    assert pq.read_schema(file).field("prompt").type == kind
    load_study(str(study(tmp_path, file, count=4)))
    assert prompts(file) == TEXTS


@pytest.mark.parametrize(
    ("column", "more", "words"),
    [
        (pa.array([1, 2]), {}, "column 'prompt' must hold text or messages, and holds int64"),
        (pa.array([[1], [2]]), {}, "column 'prompt' must hold text or messages, and holds list"),
        (pa.array(["a", "b"]), {"column": "question"}, "no column 'question'; it has prompt, other"),
        (pa.array(["a", "b"]), {"count": 3}, "it has 2 rows, and 3 are wanted"),
        (pa.array([], pa.string()), {}, "it has no rows"),
    ],
)
def test_parquet_that_is_refused(column: Any, more: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = parquet(tmp_path, column)
    with pytest.raises(StudyError, match=words):
        load_study(str(study(tmp_path, file, **more)))


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9"]).view(pa.string())
    with pytest.raises(ValueError, match=r"rows\.parquet, row 1 or after: .*UTF8"):
        prompts(parquet(tmp_path, bad))


def test_pairs_need_all_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "reasonin": "b"}\n', encoding="utf-8")
    with pytest.raises(StudyError, match="no column 'reasoning', 'ift'; it has prompt, reasonin"):
        load_study(str(write_study(tmp_path / "study", pairs={"path": str(file)})))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    with pytest.raises(StudyError, match="no such file" if kind == "nothing" else "is no file"):
        load_study(str(study(tmp_path, file)))


def test_only_the_first_rows_are_read_for_a_study(tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(f'{{"prompt": "{i}"}}\n' for i in range(ROWS + 1))
        stream.write("no JSON\n")
        stream.truncate(50 << 30)  # of which the file system keeps nothing
    check_rows(file, ("prompt",))
    file.write_text("x" * 10 + "\n", encoding="utf-8")
    with file.open("r+b") as stream:
        stream.truncate(50 << 30)
    with pytest.raises(ValueError, match="line 1: not JSON"):
        check_rows(file, ("prompt",))
    with file.open("r+b") as stream:
        stream.write(b'{"prompt": "')
        stream.seek(LONGEST)
    with pytest.raises(ValueError, match="line 1: longer than 64 MB"):
        check_rows(file, ("prompt",))


@pytest.mark.parametrize("length", [1, CHUNK - 9, CHUNK, 3 * CHUNK])
def test_objects_of_an_array_lie_across_pieces(length: int, tmp_path: Path) -> None:
    file = tmp_path / "long.json"
    rows = [{"prompt": "é" * length + str(i)} for i in range(7)]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [(line, row) for line, row in json_rows(file)] == [(2 + 3 * i, row) for i, row in enumerate(rows)]


def test_a_folder_of_rows_without_what_systems_leave_there(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "._a.json", ".hidden.jsonl", "README.md"):
        (tmp_path / name).write_text(f'[{{"prompt": "{name}"}}]', encoding="utf-8")
    assert prompts(tmp_path) == ["a.json", "b.jsonl"]


def test_arrow_is_loaded_for_parquet_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(LINES, encoding="utf-8")
    call = f"from launch.study.schema import load_study; load_study({str(study(tmp_path, file))!r})"
    assert not loaded_by(call) & {"pyarrow", "numpy"}
