"""Large files of rows are read once, and again when they may have changed."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from launch.study import digests


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, and as settled a second after its last change."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setattr(digests, "SETTLED", 0.05)
    file = tmp_path / "rows.jsonl"
    file.write_text("rows", encoding="utf-8")
    return file


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, each time."""
    reads, read = list[Path](), digests._read

    def counted(file: Path) -> str:
        reads.append(file)
        return read(file)

    monkeypatch.setattr(digests, "_read", counted)
    return reads


def asked_again(file: Path) -> str:
    """What another command would be told."""
    digests._digest.cache_clear()
    return digests.digest(file)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_large_file_is_read_once(file: Path, reads: list[Path]) -> None:
    time.sleep(0.1)
    assert asked_again(file) == asked_again(file) == sha256("rows")
    assert reads == [file]
    other = file.with_name("other.jsonl")
    other.write_text("more rows", encoding="utf-8")
    time.sleep(0.1)
    assert asked_again(other) == asked_again(other) == sha256("more rows")
    assert asked_again(file) == sha256("rows")
    assert reads == [file, other]


def test_the_same_size_and_time_with_other_contents(file: Path, reads: list[Path]) -> None:
    """As `cp -p` and rsync leave it."""
    os.utime(file, ns=(10**18, 10**18))
    time.sleep(0.1)
    assert asked_again(file) == sha256("rows")
    file.write_text("ROWS", encoding="utf-8")
    os.utime(file, ns=(10**18, 10**18))
    assert asked_again(file) == sha256("ROWS")
    other = file.with_name("other")
    other.write_text("Rows", encoding="utf-8")
    os.utime(other, ns=(10**18, 10**18))
    other.rename(file)
    assert asked_again(file) == sha256("Rows")
    assert len(reads) == 3


def test_what_has_just_changed_is_read_again(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 5)
    assert asked_again(file) == asked_again(file) == sha256("rows")
    assert reads == [file, file]


def test_what_changes_while_it_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time.sleep(0.1)
    read = digests._read

    def slowly(file: Path) -> str:
        found = read(file)
        file.write_text("rows and more", encoding="utf-8")
        return found

    monkeypatch.setattr(digests, "_read", slowly)
    assert asked_again(file) == sha256("rows")
    assert not (file.parent / "cache").exists()


def test_small_files_are_not_kept(file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LARGE", 5)
    time.sleep(0.1)
    assert asked_again(file) == asked_again(file) == sha256("rows")
    assert reads == [file, file]
    assert not (file.parent / "cache").exists()


@pytest.mark.parametrize("text", ["", "{}", "[[]]", "[1]", "[[1, 2, 3, 4, 5, 6]]", "null"])
def test_a_damaged_cache_is_made_again(file: Path, reads: list[Path], text: str) -> None:
    path = digests._path()
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    time.sleep(0.1)
    assert asked_again(file) == asked_again(file) == sha256("rows")
    assert reads == [file]


def test_a_home_that_cannot_be_written_to(file: Path, reads: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    time.sleep(0.1)
    assert asked_again(file) == asked_again(file) == sha256("rows")
    assert stat.S_ISREG((tmp_path / "cache").stat().st_mode)
    assert reads == [file, file]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert digests._path() == Path("/home/me/.cache/scale-or-reason/digests.json")
