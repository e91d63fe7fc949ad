"""Each line of a script's header is one option, whoever says what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clusters import mistakes, write

from jobs.core.unit import Resources
from launch.study.cluster import load_cluster
from launch.study.header import OPTION, unusable
from launch.study.presets import StudyError
from launch.submit.script import sbatch_script

SHELL = "x\ntouch /tmp/sor-executed"


def script(folder: Path, cluster: str, **more: Any) -> str:
    needs = Resources(hours=1, gpus_per_node=2)
    return sbatch_script(
        load_cluster(cluster), "train", needs, folder=folder / "s" / "train-a-1", study=folder, code=folder,
        array="0", dependency=None, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("slurm", "key"),
    [
        ({"gpu_option": f"gres=gpu:{{gpus}}{SHELL}"}, "gpu_option"),
        ({"gpu_option": "gres=gpu:{gpus}\r"}, "gpu_option"),
        ({"gpu_option": "gres=gpu:{gpus}\u2028x"}, "gpu_option"),
        ({"gpu_option": "output=/dev/{gpus}"}, "gpu_option"),
        ({"gpu_option": "outp={gpus}"}, "gpu_option"),
        ({"gpu_option": "wrap=sleep {gpus}"}, "gpu_option"),
        ({"gpu_option": "-x={gpus}"}, "gpu_option"),
        ({"sbatch": {"account": SHELL}}, "sbatch.account"),
        ({"sbatch": {"comment": "\x1b[2J"}}, "sbatch.comment"),
        ({"sbatch": {"comment\n": "x"}}, "sbatch.comment\n"),
        ({"stages": {"train": {"comment": "a\x00b"}}}, "stages.train.comment"),
    ],
)  # fmt: skip
def test_a_cluster_file_is_refused_with_its_key(slurm: dict[str, Any], key: str, tmp_path: Path) -> None:
    assert list(mistakes(tmp_path, **slurm)) == [key]


@pytest.mark.parametrize("name", ["SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_COMMENT"])
def test_a_variable_is_refused_with_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required = ["comment"] if name == "SBATCH_COMMENT" else ["account"]
    monkeypatch.setenv("SBATCH_ACCOUNT", "a")
    monkeypatch.setenv(name, SHELL)
    with pytest.raises(StudyError) as error:
        load_cluster(write(tmp_path, required=required))
    [mistake] = error.value.mistakes
    assert (mistake.file.parent, mistake.key) == (tmp_path, name)
    assert mistake.message.startswith(r"found 'x\ntouch /tmp/sor-executed'; line breaks and control")


def test_what_the_run_directory_says_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--exclude: found 'n1,n2\\nx'; line breaks"):
        script(tmp_path, write(tmp_path), exclude=("n1", "n2\nx"))


def test_usual_values_stand_in_one_line_each(tmp_path: Path) -> None:
    options = {
        "account": "abc@h100",
        "constraint": "[a|b]&c",
        "comment": 'it\'s "10 %" # über',
        "exclusive": True,
    }
    text = script(tmp_path, write(tmp_path, sbatch=options, gpu_option="gres=gpu:h100:{gpus}"))
    lines = text.splitlines()
    assert {"#SBATCH --account=abc@h100", "#SBATCH --exclusive", "#SBATCH --gres=gpu:h100:2"} <= set(lines)
    assert sum(line.startswith("#SBATCH --comment=") for line in lines) == 1


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=6), st.text(max_size=9))
def test_whatever_is_let_through_is_one_option(name: str, value: str) -> None:
    if unusable(name, value) is None:
        assert OPTION.fullmatch(name)
        assert len(f"#SBATCH --{name}={value}".splitlines()) == 1
        assert not any(ord(c) < 32 or ord(c) == 127 for c in name + value)
