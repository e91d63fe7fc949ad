"""Secrets come from the environment or a file of the user's alone, and no message shows one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.core.secrets import SecretsError, load_secrets, missing_secrets, revealed


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of secrets in a home of its own; the environment is as before afterwards."""
    before = dict(os.environ)
    for name in ("SOR_SECRETS", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".config" / "scale-or-reason" / "secrets"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o600)
    yield file
    os.environ.clear()
    os.environ.update(before)


def test_the_file_fills_what_the_environment_lacks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("# mine\nHF_TOKEN=hf_file\nexport WANDB_API_KEY='w=1 #2'\n\nOTHER=o\n", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    monkeypatch.setenv("OTHER", "")
    load_secrets()
    found = [os.environ[name] for name in ("HF_TOKEN", "WANDB_API_KEY", "OTHER")]
    assert found == ["hf_environment", "w=1 #2", "o"]


def test_what_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("HF_TOKEN=hf_file\nEMPTY=\n", encoding="utf-8")
    monkeypatch.setenv("WANDB_API_KEY", "w")
    assert missing_secrets(["HF_TOKEN", "WANDB_API_KEY", "EMPTY", "NONE"]) == ["EMPTY", "NONE"]
    file.unlink()
    assert missing_secrets(["HF_TOKEN", "WANDB_API_KEY"]) == ["HF_TOKEN"]
    load_secrets()
    assert "HF_TOKEN" not in os.environ


def test_another_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("HF_TOKEN=hf_file\n", encoding="utf-8")
    monkeypatch.setenv("SOR_SECRETS", str(tmp_path / "other"))
    with pytest.raises(SecretsError, match=r"SOR_SECRETS names .*/other, which does not exist"):
        missing_secrets([])
    (tmp_path / "other").touch(mode=0o600)
    assert missing_secrets(["HF_TOKEN"]) == ["HF_TOKEN"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused_with_the_way_out(file: Path, mode: int) -> None:
    file.write_text("HF_TOKEN=hf_file\n", encoding="utf-8")
    file.chmod(mode)
    for ask in (load_secrets, lambda: missing_secrets(["HF_TOKEN"]), lambda: revealed("", ["HF_TOKEN"])):
        with pytest.raises(SecretsError) as error:
            ask()
        command = str(error.value).partition("chmod")
        assert "hf_file" not in str(error.value)
    os.system("".join(command[1:]))
    load_secrets()
    assert os.environ["HF_TOKEN"] == "hf_file"


def test_a_line_that_is_none_is_named_by_its_number_alone(file: Path) -> None:
    file.write_text("HF_TOKEN=hf_file\nhf_secret\n", encoding="utf-8")
    with pytest.raises(SecretsError, match=r"secrets, line 2: must be NAME=value$"):
        load_secrets()


def test_a_text_that_shows_a_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("HF_TOKEN=hf_file\nSHORT=1\n", encoding="utf-8")
    monkeypatch.setenv("WANDB_API_KEY", "environment")
    names = ["HF_TOKEN", "WANDB_API_KEY", "SHORT", "NONE"]
    assert revealed("export HF_TOKEN SHORT=1", names) == []
    assert revealed("a hf_file of the environment 1", names) == ["HF_TOKEN", "WANDB_API_KEY"]
