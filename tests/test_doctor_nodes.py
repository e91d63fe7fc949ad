"""What `sor doctor` finds in Slurm's tables and file systems before any job: architecture, memory, files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from jobs.runtime import node_check
from jobs.runtime.node_check import few_files
from launch.commands import doctor


def test_a_file_system_or_quota_with_room_for_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert few_files(Path("/proc")) is None  # which has no number of files
    free = os.statvfs(tmp_path).f_favail
    monkeypatch.setattr(node_check, "MINIMUM_FILES", free // 2)
    assert few_files(tmp_path) is None
    assert [found.verdict for found in doctor._folder(tmp_path)] == ["ok", "ok"]
    monkeypatch.setattr(node_check, "MINIMUM_FILES", 2 * free)
    said = few_files(tmp_path)
    number = re.fullmatch(r"there is room for only ([\d,]+) more files", str(said))
    assert number
    assert abs(int(number[1].replace(",", "")) - free) < free / 2  # others make files meanwhile
    _, _, few = doctor._folder(tmp_path)
    assert few.verdict == "warning"
    assert few.text.startswith(f"{tmp_path}: there is room for only ")
    cache = node_check._room(tmp_path / "hub", offline=False)
    assert cache.verdict == "warning"
    assert cache.text.endswith("more files: set HF_HOME to a folder elsewhere, or remove files")
