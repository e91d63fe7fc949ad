"""`sor doctor --cluster` on a real Slurm: all well, each thing that can be wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster
from small_study import SOR, TESTS, environment, sor, wait_for

from jobs.runtime import node_check
from launch.commands import doctor_cluster
from launch.commands.doctor import examine
from launch.commands.doctor_cluster import broken_off, of_cluster, shared
from launch.study.cluster import load_cluster
from launch.study.presets import CONFIGS

CODE = f"{TESTS.parent}:{TESTS}"
TOKEN = "hf_a-value-that-nobody-may-see"


@pytest.fixture
def runs(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where run directories go, on a cluster that is left without a job and without a file."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", CODE)
    monkeypatch.setattr(doctor_cluster, "PAUSE", 0.2)
    folder = tmp_path / "my runs"
    yield folder
    left = slurm.run("squeue", "--noheader")
    slurm.run("scancel", "--me")
    assert left == ""
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.fixture
def cluster_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the shipped file for any Slurm with other settings of its 'slurm'; returns its path."""

    def write(slurm: dict[str, Any], **changes: Any) -> Path:
        data = yaml.safe_load((CONFIGS / "clusters" / "generic.yaml").read_text(encoding="utf-8"))
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(data | changes | {"slurm": data["slurm"] | slurm}), encoding="utf-8")
        return file

    return write


def doctor(*args: str | Path, **more: str) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and verdicts with texts."""
    done = sor("doctor", *args, cwd=None, PYTHONPATH=CODE, **more)
    assert not done.stderr
    return done.returncode, findings(done.stdout)


def findings(printed: str) -> list[tuple[str, str]]:
    parts = re.split(r"^(ok|warning|problem) +", printed, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True))


def one(found: list[tuple[str, str]], verdict: str) -> str:
    """The only text with this verdict."""
    [text] = [text for kind, text in found if kind == verdict]
    return text


def test_all_is_well(runs: Path, cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub"
    cache.mkdir(parents=True)
    more = {"HF_HOME": str(cache.parent), "HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN, "TOO": TOKEN + "2"}
    # A GPU with 9 cores is nowhere, so that the job asks for none.
    file = cluster_file({"secrets": ["HF_TOKEN", "TOO"], "keeper": 300}, cpus_per_gpu=9)
    code, found = doctor("--cluster", file, "--runs", runs, "--patience", "90", **more)
    said = "\n".join(text for _, text in found)
    assert {verdict for verdict, _ in found} == {"ok"}, found
    assert code == 0
    for line in (
        r"account students: no limits",
        r"cluster mine: .* template is 'plain'",
        r"no GPU \(.*needs 1 node with 9 cores and 1 GPU.*\)",
        r"submitted job \d+.*: waiting up to 90 s for it",
        re.escape(f"{runs}: what a compute node writes is seen here"),
        r"\S+ sees files created here, and exclusive create and rename work there",
        rf"Python 3\.\d+\.\d+ at {re.escape(sys.executable)}",
        *(rf"\b{name} \d+\.\d+" for name in node_check.STACK),
        r"a C\+\+ compiler",
        r"jobs may submit jobs, which the keeper does",
        r"HF_HUB_OFFLINE is set",
        r"hub credentials: in HF_TOKEN",
        rf"the hub's cache {cache}: \d+ GB free",
        rf"{cache} is one folder here and there",
    ):
        assert re.search(line, said), line
    assert TOKEN not in said


def test_a_template_whose_shell_fails(runs: Path, cluster_file: Callable[..., Path]) -> None:
    file = cluster_file({"template": "modules", "variables": {"modules": ["no-such/1.2"]}})
    code, found = doctor("--cluster", file, "--runs", runs)
    assert code == 1
    assert re.search(
        r"a job ended as FAILED .*template.*last words:(\n +.+)*\n +.*module", one(found, "problem")
    )
    assert ("ok", f"{runs}: what a compute node writes is seen here") in found


def test_a_python_that_is_not_there(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone" / "python"))
    assert examine(runs, load_cluster("generic")) == 1
    problem = one(findings(capsys.readouterr().out), "problem")
    assert re.search(r"last words:\n(.*\n)*.*gone/python.*No such file", problem)


def test_a_package_that_ends_the_process(runs: Path, tmp_path: Path) -> None:
    """What was found before it is told, and the last words say which it was."""
    (tmp_path / "torch.py").write_text("import os\nos.kill(os.getpid(), 9)\n", encoding="utf-8")
    done = sor("doctor", "--cluster", "generic", "--runs", runs, PYTHONPATH=f"{CODE}:{tmp_path}")
    found = findings(done.stdout)
    assert done.returncode == 1
    assert any(re.match(r"Python 3", text) for _, text in found)
    assert re.search(r"last words:\n(.*\n)*.*importing torch\n(.*\n)*.*Killed", one(found, "problem"))


def test_a_full_queue(runs: Path, cluster_file: Callable[..., Path], slurm: Cluster) -> None:
    cluster, queue, told = load_cluster(str(cluster_file({"sbatch": {"hold": True}}))), set[str](), []
    runs.mkdir()

    def tell(text: str) -> None:
        told.append(text)
        queue.add(slurm.run("squeue", "--noheader", "--format=%P %T %b %C %l"))

    found = [(f.verdict, f.text) for f in of_cluster(cluster, runs, tell, patience=1.0)]
    warning = one(found, "warning")
    busy = r"queue is busy: job \d+ waited 1 s \(JobHeldUser\) .*nothing was tested.*"
    assert re.search(rf"{busy}again later, with --patience 10 .*boot", warning)
    assert found[-1] == ("warning", warning)
    assert "problem" not in dict(found)
    assert re.fullmatch(r"job \d+ is queued \(JobHeldUser\): 0 s", told[0])
    assert queue == {"main PENDING gres:gpu:1 8 10:00"} or queue == {"main PENDING gres/gpu:1 8 10:00"}


def test_ctrl_c_cancels_the_job(runs: Path, cluster_file: Callable[..., Path], slurm: Cluster) -> None:
    file = cluster_file({"sbatch": {"hold": True}})
    process = subprocess.Popen(
        [SOR, "doctor", "--cluster", file, "--runs", runs], env=environment(PYTHONPATH=CODE),
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: slurm.run("squeue", "--noheader"), "the job")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to Slurm's programs as well
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_runs_that_compute_nodes_do_not_see(
    runs: Path, cluster_file: Callable[..., Path], slurm: Cluster, tmp_path: Path
) -> None:
    """The folder is taken away before the job starts, and newer versions of Slurm are kept from making it."""
    runs.mkdir()
    released = list[str]()

    def take_away(told: str) -> None:
        if not released:
            released.append(told.split()[1].partition("_")[0])
            runs.rename(tmp_path / "elsewhere")
            runs.touch()
            slurm.run("scontrol", "release", released[0])

    cluster = load_cluster(str(cluster_file({"sbatch": {"hold": True}})))
    found = [(f.verdict, f.text) for f in of_cluster(cluster, runs, take_away)]
    runs.unlink()
    assert re.search(
        r"my runs: nothing that a job wrote is seen here.*FAILED.* as --runs$", one(found, "problem")
    )


def test_what_a_job_left_is_judged() -> None:
    assert shared(Path("runs"), "COMPLETED", True).verdict == "ok"
    assert shared(Path("runs"), "FAILED", False).verdict == "problem"
    assert "was not through after 300 s" in broken_off("RUNNING", "a\n\nb\n").text
    text = broken_off("TIMEOUT", "\n".join(str(n) for n in range(99))).text
    assert [line.strip() for line in text.splitlines()[1:]] == [str(n) for n in range(91, 99)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"secrets": ["NOWHERE_SET"]}, r"the secret NOWHERE_SET has no value: export it"),
        ({"sbatch": {"partition": "none"}}, r"no partition 'none'; available: main, low"),
        ({"sbatch": {"account": "none"}}, r"account 'none' is not one of yours .*students"),
        ({"required": ["constraint"]}, r"slurm.sbatch.constraint: is needed here: export SBATCH_CONSTRAINT"),
    ],
)
def test_what_needs_no_job_comes_first(
    settings: dict[str, Any], said: str, runs: Path, cluster_file: Callable[..., Path], slurm: Cluster
) -> None:
    code, found = doctor("--cluster", cluster_file(settings), "--runs", runs)
    assert code == 1
    assert re.search(said, one(found, "problem"))
    assert found[-1] == ("warning", "no compute node was tested: fix the problems above first")
    assert not any("submitted job" in text for _, text in found)


def test_a_path_that_jobs_cannot_use(runs: Path, tmp_path: Path) -> None:
    code, found = doctor("--cluster", "generic", "--runs", tmp_path / "a,b")
    assert code == 1
    assert "in a folder with ',' in its name: give --runs another one" in one(found, "problem")


def test_without_a_cluster_it_says_how_to_test_one(runs: Path) -> None:
    said = sor("doctor", "--runs", runs, PYTHONPATH=CODE).stdout
    assert "sor doctor --cluster generic" in said.splitlines()[-1]
    assert "submitted job" not in said


# What runs in the job


def looked_at(code: str, **more: str) -> list[tuple[str, str]]:
    """What a part of the probe finds in a process of its own."""
    found = f"json.dumps([vars(finding) for finding in {code}])"
    program = f"import sys, json\nfrom jobs.runtime import node_check\nprint({found})"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": CODE, **more}, encoding="utf-8",
        capture_output=True, check=True,
    )  # fmt: skip
    return [(f["verdict"], f["text"]) for f in json.loads(done.stdout.splitlines()[-1])]


def test_packages_that_are_missing_or_broken(tmp_path: Path) -> None:
    for name, text in (
        ("torch", "nn = 1"),
        ("vllm", "import triton_of_old"),
        ("datasets", "raise OSError('a\\nb')"),
    ):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    absent = "sys.modules.update(dict.fromkeys(['deepspeed', 'accelerate', 'transformers', 'lm_eval']))"
    found = looked_at(
        f"({absent}, *node_check._packages())[1:]", PYTHONPATH=f"{CODE}:{tmp_path}", PATH="/none"
    )
    problems = [text for verdict, text in found if verdict == "problem"]
    assert [text.split(". ")[0] for text in problems] == [
        "transformers is not installed there",
        "accelerate is not installed there",
        "deepspeed is not installed there",
        "lm_eval is not installed there",
        "datasets cannot be imported: OSError: a b",
        "vllm cannot be imported: ModuleNotFoundError: No module named 'triton_of_old'",
        "no C++ compiler, which DeepSpeed needs: load a module that provides one",
    ]
    assert [text for verdict, text in found if verdict == "ok"][1].startswith("torch ")
    only = looked_at("(sys.modules.update(vllm=None), *node_check._packages())[1:]", PYTHONPATH=CODE)
    assert one(only, "warning") == node_check.NO_VLLM


GPU = """
class cuda:
    device_count = staticmethod(lambda: {count})
    @staticmethod
    def get_device_name(number):
        {name}
class version:
    cuda, hip = "13.0", None
"""


def test_gpus(tmp_path: Path) -> None:
    look = "(__import__('torch'), *node_check._gpus({}))[1:]"
    [(verdict, said)] = looked_at(look.format(1))  # what the tests are run with
    assert verdict == "problem"
    assert re.match(r"torch \S+\+cpu is a CPU build, and a GPU is allocated", said)
    assert looked_at(look.format(0)) == []
    for count, name, expected in (
        (1, "return 'H100'", ("ok", "torch sees the allocated GPU: H100")),
        (
            1,
            "raise RuntimeError('driver too old')",
            ("problem", "torch cannot use the GPU: RuntimeError: driver"),
        ),
        (0, "pass", ("problem", "torch sees no GPU, although one is allocated: check the driver")),
    ):
        (tmp_path / "torch.py").write_text(GPU.format(count=count, name=name), encoding="utf-8")
        [(verdict, said)] = looked_at(
            look.format(1), PYTHONPATH=f"{CODE}:{tmp_path}", PYTHONDONTWRITEBYTECODE="1"
        )
        assert verdict == expected[0]
        assert said.startswith(expected[1])


def test_jobs_that_may_not_submit(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n#SBATCH --partition=none\n", encoding="utf-8")
    [found] = node_check._submits(str(script), keeper=False)
    assert found.verdict == "warning"
    assert re.match(
        r"jobs cannot submit jobs \(.*partition.*\): 'slurm.keeper' does not.*'sor keep'", found.text
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    [found] = node_check._submits(str(script), keeper=True)
    assert found.verdict == "problem"
    assert re.search(r"\(no sbatch there\): remove 'slurm.keeper' from the cluster file", found.text)


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)  # an answer, too

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hub(hub: str, tmp_path: Path) -> None:
    home, off = tmp_path / "hf", {"HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
    found = looked_at("node_check._hub()", **off, HF_HOME=str(home), HF_ENDPOINT=hub)
    assert found[0] == ("ok", f"{hub} can be reached from there")
    assert found[1][0] == "warning"
    assert re.match(r"no hub credentials, .*'hf auth login', or HF_TOKEN in ~", found[1][1])
    assert found[2][0] == "ok"
    assert re.fullmatch(rf"the hub's cache {home}/hub: \d+ GB free; made by the first download", found[2][1])

    home.mkdir()
    (home / "token").write_text(TOKEN, encoding="utf-8")
    found = looked_at("node_check._hub()", **off, HF_HOME=str(home), HF_ENDPOINT="http://127.0.0.1:9")
    assert found[0][0] == "warning"
    assert re.search(
        r":9 cannot be reached .*Connection refused.*set 'offline: true' under 'slurm'", found[0][1]
    )
    assert found[1] == ("ok", "hub credentials: in the hub's own file")

    found = looked_at("node_check._hub()", **{**off, "HF_HUB_OFFLINE": "1"}, HF_HOME=str(home))
    assert found[-1][0] == "warning"
    assert re.search(r"but not there, and nothing is fetched offline: set HF_HOME", found[-1][1])


def test_a_cache_that_is_another_folder_on_the_node(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    [found] = doctor_cluster._cache((str(here), node_check.mark(there)))
    assert found.verdict == "warning"
    assert "another folder here than on the node: set HF_HOME" in found.text
