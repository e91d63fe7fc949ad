"""The scripts for each shipped cluster file, compared with tests/golden/clusters (`make golden`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from golden_scripts import PROFILES, SCRIPTS, writing, written

from jobs.core.unit import STAGES


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    folder = tmp_path_factory.mktemp("golden")
    with writing(folder) as sor:
        yield lambda name: written(name, folder, sor)


@pytest.mark.parametrize("name", PROFILES)
def test_the_scripts_of_a_profile_are_as_they_were_reviewed(name: str, scripts: Callable[[str], str]) -> None:
    found = scripts(name)
    assert found == (SCRIPTS / f"{name}.txt").read_text(encoding="utf-8"), (
        "if this change is meant: make golden, and review git diff"
    )
    assert all(f"\n{stage}: " in found for stage in STAGES)


def test_no_golden_file_is_left_of_a_former_profile() -> None:
    assert sorted(file.stem for file in SCRIPTS.iterdir()) == PROFILES
